//! Volumes: create, list, get by UUID and by name, update, delete; with and without the project in the path.

use crate::{
    app::{App, Caller, body_bytes},
    error::{ApiError, ApiResult},
    fields::Fields,
    snapshots, wire,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, header},
};
use dolmen_cluster::{
    Error, Kind,
    node::VolumeReport,
    qos::PolicyKey,
    volume::{self, DEFAULT_PROJECT, VolumeChange, VolumeKey, VolumeSpec},
};
use dolmen_security::Level;
use dolmen_types::{
    Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeKind},
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// Volumes of one page at most, and by default. Count.
const MAX_PAGE: usize = 1000;

/// The query of a request.
pub(crate) type Params = Query<HashMap<String, String>>;

/// The placeholders of a path.
pub(crate) type Segments = Path<HashMap<String, String>>;

/// The project that a request names: in the path, else in the other fields; `None` if nowhere.
pub(crate) fn named_project(
    path: &HashMap<String, String>,
    fields: &Fields,
) -> Result<Option<String>, Error> {
    let project = match path.get("project") {
        Some(project) => Some(project.clone()),
        None => fields.nonempty("projectName")?,
    };
    if let Some(project) = &project {
        volume::check_project("projectName", project)?;
    }
    Ok(project)
}

/// Projects other than `default` can't be made in this version.
pub(crate) fn check_project_exists(project: &str) -> Result<(), Error> {
    if project == DEFAULT_PROJECT {
        Ok(())
    } else {
        Err(Error::new(Kind::NotFound, format!("project '{project}' does not exist")))
    }
}

/// `POST /volumes`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let report = create_from(&app, &caller, &path, &fields, VolumeKind::Durable).await?;
    Ok(Json(wire::volume(&app.cluster, &report)))
}

/// Makes the volume that the fields describe.
pub(crate) async fn create_from(
    app: &App,
    caller: &Caller,
    path: &HashMap<String, String>,
    fields: &Fields,
    kind: VolumeKind,
) -> ApiResult<VolumeReport> {
    let project = named_project(path, fields)?.unwrap_or_else(|| DEFAULT_PROJECT.into());
    caller.project(&project, Level::Admin)?;
    check_project_exists(&project)?;
    refuse_unserved(fields)?;
    let name = fields.nonempty("name")?.unwrap_or_default();
    volume::check_name("name", &name)?;
    let size = fields.nonempty("size")?.ok_or_else(|| Error::invalid("size", "a size is needed"))?;
    let acl = match fields.texts("acl")? {
        Some(values) => volume::parse_acl("acl", &values)?,
        None => return Err(Error::invalid("acl", "a list is needed; ALLOW_NONE admits nobody").into()),
    };
    let ip_acl = match fields.texts("IPAcl")? {
        Some(values) => volume::parse_ip_acl("IPAcl", &values)?,
        None => IpAccess::Any,
    };
    let labels = fields.labels("labels")?.unwrap_or_default();
    volume::check_labels("labels", &labels)?;
    let spec = VolumeSpec {
        name,
        project,
        size_bytes: volume::parse_size("size", &size)?,
        sector: sector_size(fields)?,
        compression: fields.flag("compression")?,
        encryption: fields.flag("encryption")?,
        kind,
        acl,
        ip_acl,
        labels,
        qos: qos_policy(fields)?,
        source: snapshots::source(fields)?,
    };
    Ok(app.cluster.create_volume(spec).await?)
}

/// Refuses, by name, every field that asks for what one node or this version can't do.
fn refuse_unserved(fields: &Fields) -> Result<(), Error> {
    match fields.number("replicaCount")? {
        None | Some(0 | 1) => {}
        Some(n) => {
            return Err(Error::invalid("replicaCount", format!("{n}: a cluster of one node keeps one copy")));
        }
    }
    match fields.number("minReplicas")? {
        None | Some(0 | 1) => {}
        Some(n) => {
            return Err(Error::invalid("minReplicas", format!("{n}: a cluster of one node keeps one copy")));
        }
    }
    if fields.given("placementRestrictions") {
        return Err(Error::unimplemented("placementRestrictions", "a cluster of one node has one place"));
    }
    Ok(())
}

/// The QoS policy that the fields name; the UUID wins.
fn qos_policy(fields: &Fields) -> Result<Option<PolicyKey>, Error> {
    if let Some(text) = fields.nonempty("qosPolicyUUID")? {
        let uuid =
            text.parse().map_err(|why| Error::invalid("qosPolicyUUID", format!("'{text}' is {why}")))?;
        return Ok(Some(PolicyKey::Uuid(uuid)));
    }
    Ok(fields.nonempty("qosPolicyName")?.map(PolicyKey::Name))
}

/// An enum by name or by number; absent, 0 and its name mean the default.
fn sector_size(fields: &Fields) -> Result<Option<SectorSize>, Error> {
    match fields.nonempty("sectorSize")?.as_deref() {
        None | Some("0" | "sectorSize_Default") => Ok(None),
        Some("512" | "sectorSize_512B") => Ok(Some(SectorSize::B512)),
        Some("4096" | "sectorSize_4K") => Ok(Some(SectorSize::B4096)),
        Some(other) => Err(Error::invalid("sectorSize", format!("'{other}': 512 or 4096"))),
    }
}

/// `GET /volumes`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let reports = listed(&app, &caller, &path, &fields).await?;
    let volumes: Vec<Value> = reports.iter().map(|report| wire::volume(&app.cluster, report)).collect();
    Ok(Json(json!({ "volumes": volumes })))
}

/// The page of volumes that the fields select, of those that the caller may see.
pub(crate) async fn listed(
    app: &App,
    caller: &Caller,
    path: &HashMap<String, String>,
    fields: &Fields,
) -> ApiResult<Vec<VolumeReport>> {
    let project = named_project(path, fields)?;
    if let Some(project) = &project {
        caller.project(project, Level::Viewer)?;
    }
    let uuid = |name: &str| -> Result<Option<Uuid>, Error> {
        let Some(text) = fields.nonempty(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|why| Error::invalid(name, format!("'{text}' is {why}")))
    };
    let (only, name) = (uuid("UUID")?, fields.nonempty("name")?);
    let limit = match fields.number("limit")? {
        None | Some(0) => MAX_PAGE,
        Some(n) => usize::try_from(n).unwrap_or(MAX_PAGE).min(MAX_PAGE),
    };
    let show_all = fields.flag("showAll")?.unwrap_or(false);
    let elsewhere =
        fields.nonempty("failureDomain")?.is_some_and(|domain| domain != app.cluster.identity().node_name);
    if elsewhere {
        return Ok(Vec::new());
    }
    let source = uuid("snapshotUUID")?;
    let reports = app.cluster.volumes(uuid("offsetUUID")?).await?;
    let selected = reports.into_iter().filter(|report| {
        let d = &report.view.descriptor;
        let deleting = report.view.life == dolmen_cluster::model::Life::Deleting;
        (show_all || !deleting)
            && project.as_ref().is_none_or(|p| d.project == *p)
            && only.is_none_or(|only| d.uuid == only)
            && source.is_none_or(|source| d.source.as_ref().is_some_and(|s| s.snapshot == source))
            && name.as_ref().is_none_or(|name| d.name == *name)
            && caller.sees(&d.project)
    });
    Ok(selected.take(limit).collect())
}

/// The volume that an item URL means: by the last segment, or by `name` (or `UUID`) in the fields when it is empty.
pub(crate) fn key(path: &HashMap<String, String>, fields: &Fields) -> Result<VolumeKey, Error> {
    let uuid = match path.get("uuid").filter(|text| !text.is_empty()) {
        Some(text) => Some(text.clone()),
        None => fields.nonempty("UUID")?,
    };
    if let Some(text) = uuid {
        let parsed = text.parse().map_err(|why| Error::invalid("UUID", format!("'{text}' is {why}")))?;
        return Ok(VolumeKey::Uuid(parsed));
    }
    let name = match fields.nonempty("name")? {
        None => fields.nonempty("Name")?,
        name => name,
    };
    match name {
        Some(name) => Ok(VolumeKey::Name(name)),
        None => Err(Error::invalid("UUID", "a UUID in the path or a name in the query is needed")),
    }
}

/// Finds the volume that a request means and checks what the caller may do with it. What the caller may not even see
/// does not exist for it.
async fn target(
    app: &App,
    caller: &Caller,
    path: &HashMap<String, String>,
    fields: &Fields,
    level: Level,
) -> ApiResult<VolumeReport> {
    let project = named_project(path, fields)?;
    let key = key(path, fields)?;
    let report = app.cluster.volume(project, key.clone()).await?;
    let holder = &report.view.descriptor.project;
    if !caller.sees(holder) {
        let what = match key {
            VolumeKey::Uuid(uuid) => uuid.to_string(),
            VolumeKey::Name(name) => format!("'{name}'"),
        };
        return Err(ApiError::new(Kind::NotFound, format!("volume {what} does not exist")));
    }
    caller.project(holder, level)?;
    Ok(report)
}

/// `GET /volumes/{UUID}` and `GET /volumes/?name=N`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let report = target(&app, &caller, &path, &fields, Level::Viewer).await?;
    Ok(Json(wire::volume(&app.cluster, &report)))
}

/// The volume as [`get`] finds it, for our own path.
pub(crate) async fn found(
    app: &App,
    caller: &Caller,
    path: &HashMap<String, String>,
    fields: &Fields,
) -> ApiResult<VolumeReport> {
    target(app, caller, path, fields, Level::Viewer).await
}

/// The same for who may do more with it.
pub(crate) async fn found_for(
    app: &App,
    caller: &Caller,
    path: &HashMap<String, String>,
    fields: &Fields,
    level: Level,
) -> ApiResult<VolumeReport> {
    target(app, caller, path, fields, level).await
}

/// `PUT /volumes/{UUID}` and `PUT /volumes/?name=N`
pub(crate) async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let found = target(&app, &caller, &path, &fields, Level::Admin).await?;
    let change = change_of(&fields)?;
    let expected = expected_revision(&headers)?;
    let uuid = found.view.descriptor.uuid;
    app.cluster.update_volume(None, VolumeKey::Uuid(uuid), expected, change).await?;
    Ok(Json(json!({})))
}

fn change_of(fields: &Fields) -> Result<VolumeChange, Error> {
    refuse_unserved(fields)?;
    let size_bytes = match fields.nonempty("size")? {
        Some(text) => Some(volume::parse_size("size", &text)?),
        None => None,
    };
    let acl: Option<HostAccess> =
        fields.texts("acl")?.map(|values| volume::parse_acl("acl", &values)).transpose()?;
    let ip_acl = fields.texts("IPAcl")?.map(|values| volume::parse_ip_acl("IPAcl", &values)).transpose()?;
    let name = fields.nonempty("newName")?;
    if let Some(name) = &name {
        volume::check_name("newName", name)?;
    }
    let labels = fields.labels("labels")?;
    if let Some(labels) = &labels {
        volume::check_labels("labels", labels)?;
    }
    let (compression, encryption) = (fields.flag("compression")?, fields.flag("encryption")?);
    Ok(VolumeChange {
        size_bytes,
        acl,
        ip_acl,
        compression,
        encryption,
        name,
        labels,
        qos: qos_policy(fields)?,
    })
}

/// `DELETE /volumes/{UUID}` and `DELETE /volumes/?name=N`
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let found = target(&app, &caller, &path, &fields, Level::Admin).await?;
    let expected = expected_revision(&headers)?;
    app.cluster.delete_volume(None, VolumeKey::Uuid(found.view.descriptor.uuid), expected).await?;
    Ok(Json(json!({})))
}

/// The revision in `If-Match`, quoted or not, weak or not. `*` and an empty value match anything; what can't be an
/// ETag of ours matches nothing.
pub(crate) fn expected_revision(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?").trim();
    let tag = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    if tag.is_empty() || tag == "*" {
        return Ok(None);
    }
    tag.parse().map(Some).map_err(|_| {
        Error::new(Kind::FailedPrecondition, format!("Etag mismatch: '{tag}' is not an ETag of this cluster"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_in_their_coats() {
        let revision = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, text.parse().unwrap());
            expected_revision(&headers)
        };
        for coat in ["5", "\"5\"", "W/\"5\"", " 5 "] {
            assert_eq!(revision(coat), Ok(Some(5)), "{coat}");
        }
        assert_eq!(revision("*"), Ok(None));
        assert_eq!(expected_revision(&HeaderMap::new()), Ok(None));
        assert_eq!(revision("five").unwrap_err().kind, Kind::FailedPrecondition);
    }
}
