//! The pool's drives, under `/dolmen/v1`: list, add, remove, find; and how re-protection goes on.

use crate::{
    app::{App, Caller, body_bytes},
    error::{ApiError, ApiResult},
    fields::Fields,
    volumes::{Params, Segments},
    wire,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
};
use dolmen_cluster::{Error, Kind};
use dolmen_security::Level;
use dolmen_types::{DriveChange, Uuid};
use serde_json::{Value, json};
use std::sync::Arc;

async fn all(app: &App) -> ApiResult<Json<Value>> {
    let drives = app.cluster.drives().await?;
    Ok(Json(json!({ "drives": drives.iter().map(wire::drive).collect::<Vec<_>>() })))
}

/// The drive that a path names by its UUID.
fn named(path: &std::collections::HashMap<String, String>) -> ApiResult<Uuid> {
    let text = path.get("uuid").map(String::as_str).unwrap_or_default();
    text.parse().map_err(|_| ApiError::new(Kind::NotFound, format!("'{text}' is not the UUID of a drive")))
}

/// `GET /dolmen/v1/drives`
pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    all(&app).await
}

/// `POST /dolmen/v1/drives` with `path`, and `sizeBytes` for a file that is to be made. Answers with the list.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    fields.only(&["path", "sizeBytes"])?;
    let path = fields.nonempty("path")?.ok_or_else(|| Error::invalid("path", "is missing"))?;
    app.cluster.add_drive(path, fields.number("sizeBytes")?).await?;
    all(&app).await
}

/// `DELETE /dolmen/v1/drives/{UUID}`; `force=true` gives it up instead of emptying it. Answers with the list once that has begun.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let fields = Fields::parse(b"", &query)?;
    fields.only(&["force"])?;
    let force = fields.flag("force")?.unwrap_or(false);
    let change = if force { DriveChange::ForceOut } else { DriveChange::Remove };
    app.cluster.change_drive(named(&path)?, change).await?;
    all(&app).await
}

/// `PUT /dolmen/v1/drives/{UUID}/keep`
pub(crate) async fn keep(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    app.cluster.change_drive(named(&path)?, DriveChange::Keep).await?;
    all(&app).await
}

/// `GET /dolmen/v1/drives/{UUID}/location`
pub(crate) async fn location(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    Ok(Json(wire::location(&app.cluster.locate_drive(named(&path)?, None).await?)))
}

/// `PUT /dolmen/v1/drives/{UUID}/location` with `blink`
pub(crate) async fn light(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    fields.only(&["blink"])?;
    let blink = fields.flag("blink")?.unwrap_or(true);
    Ok(Json(wire::location(&app.cluster.locate_drive(named(&path)?, Some(blink)).await?)))
}

/// `PUT /dolmen/v1/pool/reprotection` with `paused` and `bytesPerSecond` (0 for no bound); what is not given stays. Answers with
/// the pool.
pub(crate) async fn set_reprotection(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    fields.only(&["paused", "bytesPerSecond"])?;
    app.cluster.set_reprotection(fields.flag("paused")?, fields.number("bytesPerSecond")?).await?;
    Ok(Json(wire::pool(&app.cluster.pool().await?)))
}
