//! The routes, and what stands before each of them: the token, the deadline, the limits.

use crate::{
    drives,
    error::{ApiError, ApiResult},
    events, metrics, own, policies, resource_policies,
    server::Endpoints,
    snapshots, stats, system, volumes,
};
use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{Uri, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use dolmen_cluster::{Kind, node::Handle};
use dolmen_security::{Grants, Level, Verifier};
use dolmen_types::UnixMillis;
use http_body_util::BodyExt;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Largest body of a request. Bytes.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// Most that is read of a body that is too long, before the connection is broken. Bytes.
const MAX_DROPPED_BYTES: usize = 64 * 1024 * 1024;

/// Longest that one request may take, its body's arrival included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Resources of the management API that this version doesn't serve: they answer 501 instead of 404, so that a client
/// tells "can't" from "isn't there".
const LATER: [&str; 26] = [
    "servers",
    "credentials",
    "roles",
    "adminEndpoints",
    "featureFlags",
    "trustedHosts",
    "trustedHostSecrets",
    "hosts",
    "logs",
    "clusters",
    "workflows",
    // Of the cluster.
    "upgrade",
    "encryption",
    "clusterRootKey",
    "clusterRootkey",
    "IdpConfiguration",
    "idpClientConfs",
    "authMaps",
    "inBandAuth",
    "federatedAuthentication",
    "cflogin",
    "cf-service-credentials",
    // Of a node.
    "replace",
    "start",
    "stop",
    "restart",
];

/// What every handler sees.
pub(crate) struct App {
    pub(crate) cluster: Handle,
    pub(crate) endpoints: Endpoints,
    pub(crate) verifier: Verifier,
    pub(crate) allow_test_volumes: bool,
    pub(crate) now: fn() -> UnixMillis,
}

/// The address of ours that a connection came to; put into each request by the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalAddress(pub(crate) SocketAddr);

impl<S: Sync> FromRequestParts<S> for LocalAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<LocalAddress> {
        parts.extensions.get().copied().ok_or_else(|| ApiError::new(Kind::Internal, "no local address"))
    }
}

/// Who asks; put into each request by [`authenticate`].
#[derive(Clone, Debug)]
pub(crate) struct Caller(Grants);

impl Caller {
    /// Refuses a caller who may not look at (or change) the cluster's own objects.
    pub(crate) fn cluster(&self, level: Level) -> ApiResult<()> {
        if self.0.cluster(level) { Ok(()) } else { Err(denied("the cluster")) }
    }

    /// Refuses a caller who may not look at (or change) the project's objects.
    pub(crate) fn project(&self, project: &str, level: Level) -> ApiResult<()> {
        if self.0.project(project, level) { Ok(()) } else { Err(denied(&format!("project '{project}'"))) }
    }

    /// Whether the caller may look at the project's objects.
    pub(crate) fn sees(&self, project: &str) -> bool {
        self.0.project(project, Level::Viewer)
    }
}

fn denied(what: &str) -> ApiError {
    ApiError::new(Kind::PermissionDenied, format!("the token's roles don't permit this on {what}"))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Caller> {
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| ApiError::new(Kind::Unauthenticated, "a token is needed"))
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    // An item URL with an empty last segment asks by name, in the query.
    let snapshot = || get(snapshots::get).delete(snapshots::delete);
    let policy = || get(policies::get).put(policies::update).delete(policies::delete);
    let volume = || get(volumes::get).put(volumes::update).delete(volumes::delete);
    let management = Router::new()
        .route("/version", get(system::version))
        .route("/clusterinfo", get(system::cluster_info))
        .route("/cluster", get(system::cluster))
        .route("/nodes", get(system::nodes))
        .route("/nodes/{uuid}", get(system::node))
        .route("/connectedHosts", get(system::hosts))
        .route("/connectedHosts/{nqn}", get(system::host))
        .route("/nvmeDevices", get(system::devices))
        .route("/nvmeDevices/{serial}", get(system::device))
        .route("/projects", get(system::projects))
        .route("/projects/{project}", get(system::project))
        .route("/policies", get(policies::list).post(policies::create))
        .route("/policies/", policy())
        .route("/policies/{uuid}", policy())
        .route(
            "/projects/{project}/resourcePolicies",
            get(resource_policies::list).post(resource_policies::create),
        )
        .route(
            "/projects/{project}/resourcePolicies/{uuid}",
            get(resource_policies::get).put(resource_policies::update).delete(resource_policies::delete),
        )
        .route("/clusterConfig", get(policies::parameters))
        .route("/clusterConfig/{name}", get(policies::parameter).put(policies::set_parameter))
        .route("/events", get(events::list))
        .route("/projects/{project}/events", get(events::list))
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/", volume())
        .route("/volumes/{uuid}", volume())
        .route("/projects/{project}/volumes", get(volumes::list).post(volumes::create))
        .route("/projects/{project}/volumes/", volume())
        .route("/projects/{project}/volumes/{uuid}", volume())
        .route("/volumes/{uuid}/rollback", put(snapshots::roll_back))
        .route("/volumes//rollback", put(snapshots::roll_back))
        .route("/projects/{project}/volumes/{uuid}/rollback", put(snapshots::roll_back))
        .route("/projects/{project}/volumes//rollback", put(snapshots::roll_back))
        .route("/projects/{project}/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/projects/{project}/snapshots/", snapshot())
        .route("/projects/{project}/snapshots/{uuid}", snapshot())
        .route("/projects/{project}/snapshots/diff/", get(snapshots::diff))
        .route("/projects/{project}/snapshots/diff/{uuid}", get(snapshots::diff));
    let additions = Router::new()
        .route("/status", get(own::status))
        .route("/pool", get(own::pool))
        .route("/pool/reprotection", put(drives::set_reprotection))
        .route("/pool/scrub", post(own::scrub))
        .route("/drives", get(drives::list).post(drives::add))
        .route("/drives/{uuid}", delete(drives::remove))
        .route("/drives/{uuid}/keep", put(drives::keep))
        .route("/drives/{uuid}/location", get(drives::location).put(drives::light))
        .route("/hosts", get(own::hosts))
        .route("/key", get(own::key))
        .route("/key/rotate", post(own::rotate_key))
        .route("/snapshots", post(snapshots::create_together))
        .route("/volumes", post(own::create_volume).get(own::volumes))
        .route("/volumes/", get(own::volume))
        .route("/volumes/{uuid}", get(own::volume))
        .route("/volumes/{uuid}/why", get(stats::why))
        .route("/volumes//why", get(stats::why))
        .route("/stats", get(stats::stats));
    Router::new()
        .nest("/api/v2", management)
        .nest("/dolmen/v1", additions)
        .route("/metrics", get(metrics::page))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(middleware::from_fn(bounded))
        .with_state(app)
}

/// No token, no call: whatever the path.
async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let refused = |why: &str| ApiError::new(Kind::Unauthenticated, why.to_string()).into_response();
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return refused("a token is needed: send 'Authorization: Bearer <token>'");
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let Some(token) = token else { return refused("the Authorization header is not 'Bearer <token>'") };
    match app.verifier.verify(token, (app.now)().0 / 1000) {
        Ok(grants) => {
            request.extensions_mut().insert(Caller(grants));
            next.run(request).await
        }
        Err(why) => refused(&why.to_string()),
    }
}

/// A deadline on every request.
async fn bounded(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(Kind::DeadlineExceeded, "the request took too long").into_response(),
    }
}

async fn unknown(uri: Uri) -> ApiError {
    let known = uri
        .path()
        .strip_prefix("/api/v2/")
        .and_then(|rest| rest.split('/').find_map(|segment| LATER.iter().find(|name| **name == segment)));
    match known {
        Some(name) => ApiError::new(Kind::Unimplemented, format!("{name}: not served by this version")),
        None => ApiError::new(Kind::NotFound, "no such path"),
    }
}

async fn wrong_method() -> ApiError {
    ApiError::new(Kind::Unimplemented, "this method is not served on this path")
}

/// The whole body, bounded. The rest of one that is too long is read and dropped, within limits of its own: many clients
/// look at an answer only when they have sent all, and find the connection broken otherwise.
pub(crate) async fn body_bytes(mut body: Body) -> ApiResult<Vec<u8>> {
    let refused = |why: String| ApiError::new(Kind::InvalidArgument, why);
    let (mut bytes, mut seen) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|why| refused(format!("the body can't be read: {why}")))?;
        let Ok(part) = frame.into_data() else { continue };
        seen = seen.saturating_add(part.len());
        if seen <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&part);
        } else if seen > MAX_DROPPED_BYTES {
            break;
        }
    }
    if seen > MAX_BODY_BYTES {
        return Err(refused(format!("the body is longer than {MAX_BODY_BYTES} bytes")));
    }
    Ok(bytes)
}
