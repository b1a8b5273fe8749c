//! Snapshots: create, list, get by UUID and by name, delete, compare; and rolling a volume back.

use crate::{
    app::{App, Caller, body_bytes},
    error::{ApiError, ApiResult},
    fields::Fields,
    volumes::{self, Params, Segments, check_project_exists, expected_revision, named_project},
    wire,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::HeaderMap,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use dolmen_cluster::{
    Error, Kind,
    model::{Life, SnapshotView},
    plane::DiffPart,
    snapshot::{DiffSpec, SnapshotSpec},
    volume::{DEFAULT_PROJECT, VolumeKey},
};
use dolmen_security::Level;
use dolmen_types::limits::BLOCK_BYTES;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// Snapshots of one page at most, and by default. Count.
const MAX_PAGE: usize = 1000;

/// Ranges of one comparison at most. Count.
const MAX_RANGES: usize = 10_000;

/// Ranges that the store lists for one answer: each can spread over the windows that it touches. Count.
const LISTED_RANGES: usize = 4000;

/// Logical blocks of one range of a comparison; ranges begin at a multiple of it.
const WINDOW: u64 = 64;

/// A UUID or a name, the UUID wins.
fn either(fields: &Fields, uuid: &str, names: &[&str]) -> Result<Option<VolumeKey>, Error> {
    if let Some(text) = fields.nonempty(uuid)? {
        let parsed = text.parse().map_err(|why| Error::invalid(uuid, format!("'{text}' is {why}")))?;
        return Ok(Some(VolumeKey::Uuid(parsed)));
    }
    for name in names {
        if let Some(name) = fields.nonempty(name)? {
            return Ok(Some(VolumeKey::Name(name)));
        }
    }
    Ok(None)
}

/// The snapshot that a volume is to be made from.
pub(crate) fn source(fields: &Fields) -> Result<Option<VolumeKey>, Error> {
    either(fields, "sourceSnapshotUUID", &["sourceSnapshotName"])
}

/// A duration as the API spells it: `"3600s"`, or a bare number of seconds. Milliseconds; nothing for 0.
pub(crate) fn duration_ms(fields: &Fields, name: &str) -> Result<Option<u64>, Error> {
    let Some(text) = fields.nonempty(name)? else { return Ok(None) };
    let wrong = || Error::invalid(name, format!("'{text}' is not a duration such as 3600s"));
    let number = text.trim().strip_suffix('s').unwrap_or(text.trim());
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let seconds: u64 = whole.parse().map_err(|_| wrong())?;
    let digits: String = part.chars().chain("000".chars()).take(3).collect();
    let millis: u64 = digits.parse().map_err(|_| wrong())?;
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let ms = seconds.checked_mul(1000).and_then(|ms| ms.checked_add(millis)).ok_or_else(wrong)?;
    Ok((ms > 0).then_some(ms))
}

/// `POST /projects/{projectName}/snapshots`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let project = named_project(&path, &fields)?.unwrap_or_else(|| DEFAULT_PROJECT.into());
    caller.project(&project, Level::Admin)?;
    check_project_exists(&project)?;
    let volume = either(&fields, "sourceVolumeUUID", &["sourceVolumeName"])?
        .ok_or_else(|| Error::invalid("sourceVolumeUUID", "a volume's UUID or name is needed"))?;
    let spec = SnapshotSpec {
        name: fields.nonempty("name")?.unwrap_or_default(),
        project,
        volume,
        description: fields.text("description")?.unwrap_or_default(),
        retention_ms: duration_ms(&fields, "retentionTime")?,
        policy: None,
    };
    let made = app.cluster.create_snapshots(vec![spec]).await?;
    let made = made.first().ok_or_else(|| ApiError::new(Kind::Internal, "no snapshot came back"))?;
    Ok(Json(wire::snapshot(&app.cluster, made)))
}

/// `POST /dolmen/v1/snapshots`: of several volumes at one instant. The name of each is the one given, a dash and the
/// volume's name.
pub(crate) async fn create_together(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    fields.only(&["projectName", "volumes", "name", "description", "retentionTime"])?;
    let project = fields.nonempty("projectName")?.unwrap_or_else(|| DEFAULT_PROJECT.into());
    caller.project(&project, Level::Admin)?;
    check_project_exists(&project)?;
    let names =
        fields.texts("volumes")?.ok_or_else(|| Error::invalid("volumes", "names of volumes are needed"))?;
    let prefix = fields.nonempty("name")?.unwrap_or_default();
    let (description, retention_ms) =
        (fields.text("description")?.unwrap_or_default(), duration_ms(&fields, "retentionTime")?);
    let spec = |volume: String| SnapshotSpec {
        name: format!("{prefix}-{volume}"),
        project: project.clone(),
        volume: VolumeKey::Name(volume),
        description: description.clone(),
        retention_ms,
        policy: None,
    };
    let made = app.cluster.create_snapshots(names.into_iter().map(spec).collect()).await?;
    let made: Vec<Value> = made.iter().map(|view| wire::snapshot(&app.cluster, view)).collect();
    Ok(Json(json!({ "snapshots": made })))
}

/// `GET /projects/{projectName}/snapshots`. Filters: UUID, Name, offsetUUID, limit, showAll.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let project = named_project(&path, &fields)?;
    if let Some(project) = &project {
        caller.project(project, Level::Viewer)?;
    }
    let uuid = |name: &str| match either(&fields, name, &[]) {
        Ok(Some(VolumeKey::Uuid(uuid))) => Ok(Some(uuid)),
        Ok(_) => Ok(None),
        Err(why) => Err(why),
    };
    let (only, after) = (uuid("UUID")?, uuid("offsetUUID")?);
    let name = fields.nonempty("Name")?;
    let limit = match fields.number("limit")? {
        None | Some(0) => MAX_PAGE,
        Some(n) => usize::try_from(n).unwrap_or(MAX_PAGE).min(MAX_PAGE),
    };
    let show_all = fields.flag("showAll")?.unwrap_or(false);
    let all = app.cluster.snapshots(after).await?;
    let selected = all.iter().filter(|view| {
        let d = &view.descriptor;
        (show_all || view.life != Life::Deleting)
            && project.as_ref().is_none_or(|p| d.project == *p)
            && only.is_none_or(|only| d.uuid == only)
            && name.as_ref().is_none_or(|name| d.name == *name)
            && caller.sees(&d.project)
    });
    let snapshots: Vec<Value> = selected.take(limit).map(|view| wire::snapshot(&app.cluster, view)).collect();
    Ok(Json(json!({ "snapshots": snapshots })))
}

/// The snapshot that an item URL means, if the caller may do this with it.
async fn target(
    app: &App,
    caller: &Caller,
    path: &HashMap<String, String>,
    fields: &Fields,
    level: Level,
) -> ApiResult<SnapshotView> {
    let project = named_project(path, fields)?;
    let key = match path.get("uuid").filter(|text| !text.is_empty()) {
        Some(text) => {
            let uuid = text.parse().map_err(|why| Error::invalid("UUID", format!("'{text}' is {why}")))?;
            VolumeKey::Uuid(uuid)
        }
        None => either(fields, "UUID", &["Name", "name"])?
            .ok_or_else(|| Error::invalid("UUID", "a UUID in the path or a Name in the query is needed"))?,
    };
    let view = app.cluster.snapshot(project, key).await?;
    let holder = &view.descriptor.project;
    if !caller.sees(holder) {
        let text = format!("snapshot {} does not exist", view.descriptor.uuid);
        return Err(ApiError::new(Kind::NotFound, text));
    }
    caller.project(holder, level)?;
    Ok(view)
}

/// `GET /projects/{projectName}/snapshots/{UUID}` and `.../snapshots/?Name=N`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let view = target(&app, &caller, &path, &fields, Level::Viewer).await?;
    Ok(Json(wire::snapshot(&app.cluster, &view)))
}

/// `DELETE /projects/{projectName}/snapshots/{UUID}` and `.../snapshots/?Name=N`
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let view = target(&app, &caller, &path, &fields, Level::Admin).await?;
    let expected = expected_revision(&headers)?;
    app.cluster.delete_snapshot(None, VolumeKey::Uuid(view.descriptor.uuid), expected).await?;
    Ok(Json(json!({})))
}

/// `PUT /volumes/{UUID}/rollback`; the volume by `Name` where the path has no UUID.
pub(crate) async fn roll_back(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let found = volumes::found_for(&app, &caller, &path, &fields, Level::Admin).await?;
    let snapshot = either(&fields, "srcSnapshotUUID", &["srcSnapshotName"])?
        .ok_or_else(|| Error::invalid("srcSnapshotUUID", "a snapshot's UUID or name is needed"))?;
    let key = VolumeKey::Uuid(found.view.descriptor.uuid);
    app.cluster.roll_back(None, key, snapshot, expected_revision(&headers)?).await?;
    Ok(Json(json!({})))
}

/// `GET /projects/{projectName}/snapshots/diff/{snapshotUUID}`; the snapshots also by name.
pub(crate) async fn diff(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let project = named_project(&path, &fields)?.unwrap_or_else(|| DEFAULT_PROJECT.into());
    caller.project(&project, Level::Viewer)?;
    let snapshot = match path.get("uuid").filter(|text| !text.is_empty()) {
        Some(text) => {
            let parsed = text.parse();
            VolumeKey::Uuid(
                parsed.map_err(|why| Error::invalid("snapshotUUID", format!("'{text}' is {why}")))?,
            )
        }
        None => either(&fields, "snapshotUUID", &["snapshotName"])?
            .ok_or_else(|| Error::invalid("snapshotUUID", "a snapshot's UUID or name is needed"))?,
    };
    let view = app.cluster.snapshot(Some(project.clone()), snapshot.clone()).await?;
    let base = either(&fields, "baseSnapshotUUID", &["baseSnapshotName"])?;
    let factor = BLOCK_BYTES as u64 / u64::from(view.descriptor.sector.bytes());
    let first_block = fields.number("offsetLBA")?.unwrap_or(0) / factor;
    let spec = DiffSpec { project: Some(project), snapshot, base, first_block, limit: LISTED_RANGES };
    let part = app.cluster.diff(spec).await?;
    let (windows, next) = windows(&part, factor);
    let ranges: Vec<Value> = windows
        .iter()
        .map(|(start, bits)| {
            let end = start + WINDOW - 1;
            let map = STANDARD.encode(bits.to_le_bytes());
            json!({"lbaStart": start.to_string(), "lbaEnd": end.to_string(), "dataBitMap": map})
        })
        .collect();
    Ok(Json(json!({"nextOffsetLBA": next.to_string(), "lbaRanges": ranges})))
}

/// Changed store blocks as windows of logical blocks, each with a bit per block (the lowest is the first), and the logical
/// block to go on at, 0 at the end. `factor` is logical blocks per store block.
fn windows(part: &DiffPart, factor: u64) -> (Vec<(u64, u64)>, u64) {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (first, blocks) in &part.ranges {
        let (mut lba, end) = (first * factor, (first + blocks) * factor);
        while lba < end {
            let start = lba - lba % WINDOW;
            let upto = end.min(start + WINDOW);
            let ones = upto - lba;
            let bits = (u64::MAX >> (WINDOW - ones)) << (lba - start);
            let is_full = all.len() == MAX_RANGES;
            match all.last_mut() {
                Some(last) if last.0 == start => last.1 |= bits,
                _ if is_full => return (all, lba),
                _ => all.push((start, bits)),
            }
            lba = upto;
        }
    }
    (all, part.next.map_or(0, |block| block * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_blocks_become_windows_of_bits() {
        let part = DiffPart { ranges: vec![(0, 1), (2, 2), (63, 2), (200, 1)], next: None };
        let (all, next) = windows(&part, 1);
        assert_eq!(all, [(0, 0b1101 | 1 << 63), (64, 1), (192, 1 << 8)]);
        assert_eq!(next, 0);
        let (all, next) = windows(&DiffPart { ranges: vec![(7, 2)], next: Some(9) }, 8);
        assert_eq!(all, [(0, 0xff << 56), (64, 0xff)]);
        assert_eq!(next, 72);
        // Nothing up to there, and more behind.
        assert_eq!(windows(&DiffPart { ranges: vec![], next: Some(9) }, 8), (vec![], 72));
        let (all, next) = windows(&DiffPart { ranges: vec![(0, 1 << 30)], next: None }, 1);
        assert_eq!((all.len(), next), (MAX_RANGES, 640_000));
        assert!(all.iter().all(|(_, bits)| *bits == u64::MAX));
    }

    #[test]
    fn durations_in_their_coats() {
        let of = |text: &str| {
            let fields = Fields::parse(format!("{{\"d\": {text}}}").as_bytes(), &HashMap::new()).unwrap();
            duration_ms(&fields, "d")
        };
        assert_eq!(of("\"3600s\""), Ok(Some(3_600_000)));
        assert_eq!(of("\"1.5s\""), Ok(Some(1500)));
        assert_eq!(of("90"), Ok(Some(90_000)));
        assert_eq!((of("\"0s\""), of("\"\""), of("null")), (Ok(None), Ok(None), Ok(None)));
        for bad in ["\"soon\"", "\"-1s\"", "\"1h\"", "\"1.xs\"", "\"99999999999999999999s\""] {
            assert!(of(bad).unwrap_err().text.starts_with("d: "), "{bad}");
        }
    }
}
