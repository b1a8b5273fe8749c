//! QoS policies, and which of them new volumes get: `policies` and the cluster parameter `DefaultQoSName`.

use crate::{
    app::{App, Caller, body_bytes},
    error::{ApiError, ApiResult},
    fields::Fields,
    volumes::{Params, Segments},
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
};
use dolmen_cluster::{
    Error, Kind,
    model::PolicyView,
    qos::{PolicyChange, PolicyKey, PolicySpec, QosPolicy, Visibility},
    volume,
};
use dolmen_security::Level;
use dolmen_types::qos::{PerDirection, QosLimits};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// The one cluster parameter that this version serves.
const DEFAULT_QOS_NAME: &str = "DefaultQoSName";

/// `Policy`; limits that are none are left out.
fn policy_value(view: &PolicyView) -> Value {
    let PolicyView { policy, updating, .. } = view;
    let (visibility, scope) = match &policy.visibility {
        Visibility::Unavailable => ("Unavailable", Vec::new()),
        Visibility::Scoped(projects) => ("Scoped", projects.clone()),
        Visibility::Global => ("Global", Vec::new()),
    };
    let mut info = json!({"projectsNamesScope": scope, "policyVisibility": visibility});
    for (name, write, read, limit) in kinds(&policy.limits) {
        if !limit.is_unlimited() {
            info[name] = json!({write: limit.write, read: limit.read});
        }
    }
    json!({
        "UUID": policy.uuid.to_string(),
        "name": policy.name,
        "description": policy.description,
        "state": if *updating { "Updating" } else { "Active" },
        "QoSRateLimitPolicy": info,
    })
}

/// The limits with the names that the API has for them: the kind, its write and its read limit.
fn kinds(limits: &QosLimits) -> [(&'static str, &'static str, &'static str, PerDirection); 3] {
    [
        ("limitIOPS", "writeIOPSLimit", "readIOPSLimit", limits.iops),
        ("limitBw", "writeBWLimit", "readBWLimit", limits.megabytes),
        ("limitIOPSPerGB", "writeIOPSPerGBLimit", "readIOPSPerGBLimit", limits.iops_per_gib),
    ]
}

/// The limits in a request; `None` when it names none. What it does not name is not limited.
fn limits_of(info: &Fields) -> Result<Option<QosLimits>, Error> {
    let mut found = [None; 3];
    for (slot, (name, write, read, _)) in found.iter_mut().zip(kinds(&QosLimits::default())) {
        let Some(limit) = info.object(name)? else { continue };
        let number = |field: &str| -> Result<u32, Error> {
            let number = limit.number(field)?.unwrap_or(0);
            u32::try_from(number).map_err(|_| Error::invalid(field, format!("{number} is too much")))
        };
        *slot = Some(PerDirection { write: number(write)?, read: number(read)? });
    }
    let [iops, megabytes, iops_per_gib] = found.map(Option::unwrap_or_default);
    let named = found.iter().any(Option::is_some);
    Ok(named.then_some(QosLimits { iops, megabytes, iops_per_gib }))
}

fn visibility_of(info: &Fields) -> Result<Option<Visibility>, Error> {
    let scope = info.texts("projectsNamesScope")?;
    let word = info.nonempty("policyVisibility")?;
    match (word.as_deref(), scope) {
        (None, None) => Ok(None),
        (Some("Unavailable" | "0"), None) => Ok(Some(Visibility::Unavailable)),
        (Some("Global" | "2"), None) => Ok(Some(Visibility::Global)),
        (None | Some("Scoped" | "1"), Some(projects)) => Ok(Some(Visibility::Scoped(projects))),
        (Some("Scoped" | "1"), None) => {
            Err(Error::invalid("projectsNamesScope", "a scoped policy needs projects"))
        }
        (Some("Unavailable" | "0" | "Global" | "2"), Some(_)) => {
            Err(Error::invalid("projectsNamesScope", "only a scoped policy has projects"))
        }
        (Some(other), _) => {
            Err(Error::invalid("policyVisibility", format!("'{other}': Global, Scoped or Unavailable")))
        }
    }
}

/// The part of a request that is about QoS; the API spells it in two ways.
fn info_of(fields: &Fields) -> Result<Option<Fields>, Error> {
    match fields.object("qoSRateLimitPolicy")? {
        Some(info) => Ok(Some(info)),
        None => fields.object("QoSRateLimitPolicy"),
    }
}

/// The policy that an item URL means: by the last segment, or by `name` or `UUID` in the query when it is empty.
fn key(path: &HashMap<String, String>, query: &HashMap<String, String>) -> Result<PolicyKey, Error> {
    let given = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    let uuid = given(path.get("uuid")).or_else(|| given(query.get("UUID")));
    if let Some(text) = uuid {
        let uuid = text.parse().map_err(|why| Error::invalid("UUID", format!("'{text}' is {why}")))?;
        return Ok(PolicyKey::Uuid(uuid));
    }
    match given(query.get("name")) {
        Some(name) => Ok(PolicyKey::Name(name)),
        None => Err(Error::invalid("UUID", "a UUID in the path or a name in the query is needed")),
    }
}

/// Whether a caller is told of a policy: those of the cluster of all, tenants of what their volumes may have.
fn sees(caller: &Caller, policy: &QosPolicy) -> bool {
    let scoped = match &policy.visibility {
        Visibility::Global => true,
        Visibility::Scoped(projects) => projects.iter().any(|p| caller.sees(p)),
        Visibility::Unavailable => false,
    };
    scoped || caller.cluster(Level::Viewer).is_ok()
}

/// `POST /policies`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let Some(info) = info_of(&fields)? else {
        return Err(Error::invalid("qoSRateLimitPolicy", "what the policy limits is needed").into());
    };
    let spec = PolicySpec {
        name: fields.nonempty("name")?.unwrap_or_default(),
        description: fields.text("description")?.unwrap_or_default(),
        visibility: visibility_of(&info)?.unwrap_or_default(),
        limits: limits_of(&info)?.unwrap_or_default(),
    };
    Ok(Json(policy_value(&app.cluster.create_policy(spec).await?)))
}

/// `GET /policies`. Filters: UUID, name, projectName.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let given = |key: &str| query.get(key).filter(|text| !text.is_empty());
    let (uuid, name, project) = (given("UUID"), given("name"), given("projectName"));
    if let Some(project) = project {
        volume::check_project("projectName", project)?;
        caller.project(project, Level::Viewer)?;
    }
    let all = app.cluster.policies().await?;
    let selected = all.iter().filter(|view| {
        let policy = &view.policy;
        uuid.is_none_or(|uuid| policy.uuid.to_string().eq_ignore_ascii_case(uuid))
            && name.is_none_or(|name| policy.name == *name)
            && project.is_none_or(|project| policy.visibility.includes(project))
            && sees(&caller, policy)
    });
    Ok(Json(json!({ "policies": selected.map(policy_value).collect::<Vec<_>>() })))
}

/// `GET /policies/{UUID}` and `GET /policies/?name=N`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let key = key(&path, &query)?;
    let view = app.cluster.policy(key.clone()).await?;
    if !sees(&caller, &view.policy) {
        return Err(key.not_found().into());
    }
    Ok(Json(policy_value(&view)))
}

/// `PUT /policies/{UUID}` and `PUT /policies/?name=N`
pub(crate) async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let key = key(&path, &query)?;
    let fields = Fields::parse(&body_bytes(body).await?, &HashMap::new())?;
    let mut change = PolicyChange {
        name: fields.nonempty("name")?,
        description: fields.text("description")?,
        ..PolicyChange::default()
    };
    if let Some(info) = info_of(&fields)? {
        change.visibility = visibility_of(&info)?;
        change.limits = limits_of(&info)?;
    }
    app.cluster.update_policy(key, change).await?;
    Ok(Json(json!({})))
}

/// `DELETE /policies/{UUID}` and `DELETE /policies/?name=N`
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    app.cluster.delete_policy(key(&path, &query)?).await?;
    Ok(Json(json!({})))
}

async fn default_parameter(app: &App) -> ApiResult<Value> {
    let all = app.cluster.policies().await?;
    let name = all.into_iter().find(|view| view.default).map(|view| view.policy.name);
    Ok(json!({"name": DEFAULT_QOS_NAME, "value": name.unwrap_or_default()}))
}

fn check_parameter(name: &str) -> ApiResult<()> {
    if name == DEFAULT_QOS_NAME {
        return Ok(());
    }
    Err(ApiError::new(Kind::NotFound, format!("cluster parameter '{name}' is not served by this version")))
}

/// `GET /clusterConfig`
pub(crate) async fn parameters(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    Ok(Json(json!({ "values": [default_parameter(&app).await?] })))
}

/// `GET /clusterConfig/{name}`
pub(crate) async fn parameter(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    check_parameter(path.get("name").map(String::as_str).unwrap_or_default())?;
    Ok(Json(default_parameter(&app).await?))
}

/// `PUT /clusterConfig/{configParam.name}`
pub(crate) async fn set_parameter(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    check_parameter(path.get("name").map(String::as_str).unwrap_or_default())?;
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    let value = match fields.object("configParam")? {
        Some(parameter) => parameter.nonempty("value")?,
        None => fields.nonempty("value")?,
    };
    let name = value.ok_or_else(|| Error::invalid("value", "the name of a QoS policy is needed"))?;
    app.cluster.set_default_policy(PolicyKey::Name(name)).await?;
    Ok(Json(json!({})))
}
