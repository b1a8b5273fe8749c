//! Snapshot policies: `resourcePolicies` of a project, each of one volume.

use crate::{
    app::{App, Caller, body_bytes},
    error::{ApiError, ApiResult},
    fields::Fields,
    snapshots::duration_ms,
    volumes::{Params, Segments, check_project_exists, named_project},
    wire,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
};
use dolmen_cluster::{
    Error, Kind,
    model::SchedulePlan,
    node::ScheduleChange,
    schedule::{DAYS, Schedule, SnapshotPolicy},
    volume::{DEFAULT_PROJECT, VolumeKey},
};
use dolmen_security::Level;
use dolmen_types::{UnixMillis, Uuid};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// `ResourcePolicy`.
fn value(policy: &SnapshotPolicy, volume_name: &str) -> Value {
    let at = |ms: u64| wire::timestamp(UnixMillis(ms));
    let schedule = match &policy.schedule {
        Schedule::Hourly { start_ms, hours } => {
            json!({"hourlySchedule": {"startTime": at(*start_ms), "hoursInCycle": hours}})
        }
        Schedule::Daily { start_ms, days } => {
            json!({"dailySchedule": {"startTime": at(*start_ms), "daysInCycle": days}})
        }
        Schedule::Weekly { days } => {
            let days: Vec<Value> = days
                .iter()
                .map(|(start, day)| json!({"startTime": at(*start), "day": DAYS[usize::from(*day)]}))
                .collect();
            json!({"weeklySchedule": {"daysOfWeek": days}})
        }
    };
    let retention = policy.retention_ms.unwrap_or(0) / 1000;
    json!({
        "UUID": policy.uuid.to_string(),
        "name": policy.name,
        "resourceUUID": policy.volume.to_string(),
        "resourceName": volume_name,
        "projectName": policy.project,
        "schedulePolicy": {"snapshotSchedulePolicy": schedule, "retentionTime": format!("{retention}s")},
        "description": policy.description,
        "state": "Active",
    })
}

/// A `startTime`; now, if it is not given.
fn start(fields: &Fields, now: UnixMillis) -> Result<u64, Error> {
    match fields.nonempty("startTime")? {
        None => Ok(now.0),
        Some(text) => {
            let at = wire::parse_timestamp(&text);
            let wrong = || format!("'{text}' is not a time like 2026-01-31T12:00:00Z");
            at.map(|at| at.0).ok_or_else(|| Error::invalid("startTime", wrong()))
        }
    }
}

fn cycle(fields: &Fields, name: &str) -> Result<u32, Error> {
    let number = fields.number(name)?.unwrap_or(1);
    u32::try_from(number).map_err(|_| Error::invalid(name, format!("{number} is too much")))
}

fn day(fields: &Fields) -> Result<u8, Error> {
    let text = fields.nonempty("day")?.unwrap_or_default();
    // By name or by number, Sunday is 1.
    let index =
        DAYS.iter().position(|day| *day == text).or_else(|| text.parse::<usize>().ok()?.checked_sub(1));
    let index = index.and_then(|n| u8::try_from(n).ok()).filter(|n| usize::from(*n) < DAYS.len());
    index.ok_or_else(|| Error::invalid("day", format!("'{text}' is no day of the week")))
}

/// The schedule and the retention of a request; `None` when it has neither.
fn schedule(fields: &Fields, now: UnixMillis) -> Result<Option<(Schedule, Option<u64>)>, Error> {
    let Some(outer) = fields.object("schedulePolicy")? else { return Ok(None) };
    let retention = duration_ms(&outer, "retentionTime")?;
    let missing =
        || Error::invalid("snapshotSchedulePolicy", "one of hourly-, daily- and weeklySchedule is needed");
    let inner = outer.object("snapshotSchedulePolicy")?.ok_or_else(missing)?;
    let kinds =
        (inner.object("hourlySchedule")?, inner.object("dailySchedule")?, inner.object("weeklySchedule")?);
    let found = match kinds {
        (Some(hourly), None, None) => {
            Schedule::Hourly { start_ms: start(&hourly, now)?, hours: cycle(&hourly, "hoursInCycle")? }
        }
        (None, Some(daily), None) => {
            Schedule::Daily { start_ms: start(&daily, now)?, days: cycle(&daily, "daysInCycle")? }
        }
        (None, None, Some(weekly)) => {
            let days = weekly.objects("daysOfWeek")?;
            let days: Result<Vec<(u64, u8)>, Error> =
                days.iter().map(|entry| Ok((start(entry, now)?, day(entry)?))).collect();
            Schedule::Weekly { days: days? }
        }
        _ => return Err(missing()),
    };
    Ok(Some((found, retention)))
}

fn project_of(path: &HashMap<String, String>) -> Result<String, Error> {
    Ok(named_project(path, &Fields::default())?.unwrap_or_else(|| DEFAULT_PROJECT.into()))
}

fn uuid_of(path: &HashMap<String, String>) -> Result<Uuid, Error> {
    let text = path.get("uuid").map(String::as_str).unwrap_or_default();
    text.parse().map_err(|why| Error::invalid("UUID", format!("'{text}' is {why}")))
}

/// `POST /projects/{projectName}/resourcePolicies`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let project = project_of(&path)?;
    caller.project(&project, Level::Admin)?;
    check_project_exists(&project)?;
    let volume = match (fields.nonempty("resourceUUID")?, fields.nonempty("resourceName")?) {
        (Some(text), _) => {
            let uuid = text.parse();
            VolumeKey::Uuid(uuid.map_err(|why| Error::invalid("resourceUUID", format!("'{text}' is {why}")))?)
        }
        (None, Some(name)) => VolumeKey::Name(name),
        (None, None) => {
            return Err(Error::invalid("resourceUUID", "a volume's UUID or name is needed").into());
        }
    };
    let asked = (app.now)();
    let (schedule, retention_ms) =
        schedule(&fields, asked)?.ok_or_else(|| Error::invalid("schedulePolicy", "how often is needed"))?;
    let plan = SchedulePlan {
        name: fields.nonempty("name")?.unwrap_or_default(),
        project,
        volume,
        description: fields.text("description")?.unwrap_or_default(),
        schedule,
        retention_ms,
        asked,
    };
    let made = app.cluster.create_schedule(plan).await?;
    Ok(Json(one(&app, &made.project, made.uuid).await?))
}

/// One policy as it is now.
async fn one(app: &App, project: &str, uuid: Uuid) -> ApiResult<Value> {
    let all = app.cluster.schedules().await?;
    let found = all.iter().find(|(policy, _)| policy.uuid == uuid && policy.project == project);
    let none = || ApiError::new(Kind::NotFound, format!("snapshot policy {uuid} does not exist"));
    found.map(|(policy, volume)| value(policy, volume)).ok_or_else(none)
}

/// `GET /projects/{projectName}/resourcePolicies`. Filters: UUID, volumeUUID.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let project = project_of(&path)?;
    caller.project(&project, Level::Viewer)?;
    let wants = |key: &str, uuid: Uuid| {
        let given = query.get(key).filter(|text| !text.is_empty());
        given.is_none_or(|text| text.eq_ignore_ascii_case(&uuid.to_string()))
    };
    let all = app.cluster.schedules().await?;
    let selected = all.iter().filter(|(policy, _)| {
        policy.project == project && wants("UUID", policy.uuid) && wants("volumeUUID", policy.volume)
    });
    let policies: Vec<Value> = selected.map(|(policy, volume)| value(policy, volume)).collect();
    Ok(Json(json!({"resourcePolicies": policies, "defaultResourcePolicies": []})))
}

/// `GET /projects/{projectName}/resourcePolicies/{UUID}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    let project = project_of(&path)?;
    caller.project(&project, Level::Viewer)?;
    Ok(Json(one(&app, &project, uuid_of(&path)?).await?))
}

/// `PUT /projects/{projectName}/resourcePolicies/{UUID}`
pub(crate) async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &HashMap::new())?;
    let project = project_of(&path)?;
    caller.project(&project, Level::Admin)?;
    let asked = (app.now)();
    let change = ScheduleChange {
        schedule: schedule(&fields, asked)?,
        description: fields.text("description")?,
        asked,
    };
    app.cluster.update_schedule(project, uuid_of(&path)?, change).await?;
    Ok(Json(json!({})))
}

/// `DELETE /projects/{projectName}/resourcePolicies/{UUID}`
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    let project = project_of(&path)?;
    caller.project(&project, Level::Admin)?;
    app.cluster.delete_schedule(project, uuid_of(&path)?).await?;
    Ok(Json(json!({})))
}
