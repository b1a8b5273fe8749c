//! Events: `GET /events` with since, until, severity, componentType, limit and nextToken.

use crate::{
    app::{App, Caller},
    error::ApiResult,
    volumes::Segments,
    wire,
};
use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use dolmen_cluster::{Error, event::MAX_EVENTS, node::EventFilter};
use dolmen_security::Level;
use dolmen_types::UnixMillis;
use serde_json::{Value, json};
use std::sync::Arc;

/// Events of one page at most, and by default. Count.
const MAX_PAGE: usize = 1000;

/// `GET /events` and `GET /projects/{projectName}/events`, oldest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    RawQuery(query): RawQuery,
) -> ApiResult<Json<Value>> {
    let query = pairs(query.as_deref().unwrap_or_default());
    let one = |name: &str| query.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.clone());
    let project = path.get("project").cloned().or_else(|| one("projectName"));
    match &project {
        Some(project) => caller.project(project, Level::Viewer)?,
        None => caller.cluster(Level::Viewer)?,
    }
    let limit = match one("limit") {
        Some(text) => text.parse::<usize>().map_err(|_| Error::invalid("limit", "not a number"))?,
        None => MAX_PAGE,
    };
    let limit = if limit == 0 { MAX_PAGE } else { limit.min(MAX_PAGE) };
    let after = match one("nextToken") {
        Some(text) => Some(text.parse().map_err(|_| Error::invalid("nextToken", "not a token of ours"))?),
        None => None,
    };
    let filter = EventFilter {
        after,
        since: time(one("since"), "since")?,
        until: time(one("until"), "until")?,
        project,
        limit: MAX_EVENTS,
    };
    let severities: Vec<&String> = query.iter().filter(|(k, _)| k == "severity").map(|(_, v)| v).collect();
    let component = one("componentType");
    let events = app.cluster.events(filter).await?;
    let mut selected = events.iter().filter(|e| {
        let severity = wire::severity(e.what.severity);
        let sort = wire::component(e.what.component);
        (severities.is_empty() || severities.iter().any(|s| s.eq_ignore_ascii_case(severity)))
            && component.as_ref().is_none_or(|c| c.eq_ignore_ascii_case(sort))
    });
    let page: Vec<_> = selected.by_ref().take(limit).collect();
    let next = match (selected.next(), page.last()) {
        (Some(_), Some(last)) => last.id.to_string(),
        _ => String::new(),
    };
    let events: Vec<Value> = page.into_iter().map(|e| wire::event(&app.cluster, e)).collect();
    Ok(Json(json!({"events": events, "nextToken": next})))
}

fn time(text: Option<String>, field: &str) -> Result<Option<UnixMillis>, Error> {
    let Some(text) = text else { return Ok(None) };
    match wire::parse_timestamp(&text) {
        Some(at) => Ok(Some(at)),
        None => Err(Error::invalid(field, format!("'{text}' is not a time like 2026-01-31T12:00:00Z"))),
    }
}

/// A query's pairs in order, repeated keys included.
fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}
