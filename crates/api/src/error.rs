//! Refusals as the REST gateway tells them: `{"error", "message", "code", "details"}` under the HTTP status that the
//! code maps to.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dolmen_cluster::{Error, Kind};
use serde_json::json;

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) Error);

/// What a handler returns.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A refusal of `kind`.
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> ApiError {
        ApiError(Error::new(kind, text))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        ApiError(error)
    }
}

/// The gRPC code number and the HTTP status of a refusal (grpc-gateway v1's table, but 412 for FailedPrecondition).
fn codes(kind: Kind) -> (u32, StatusCode) {
    match kind {
        Kind::InvalidArgument => (3, StatusCode::BAD_REQUEST),
        Kind::DeadlineExceeded => (4, StatusCode::GATEWAY_TIMEOUT),
        Kind::NotFound => (5, StatusCode::NOT_FOUND),
        Kind::AlreadyExists => (6, StatusCode::CONFLICT),
        Kind::PermissionDenied => (7, StatusCode::FORBIDDEN),
        Kind::ResourceExhausted => (8, StatusCode::TOO_MANY_REQUESTS),
        Kind::FailedPrecondition => (9, StatusCode::PRECONDITION_FAILED),
        Kind::Unimplemented => (12, StatusCode::NOT_IMPLEMENTED),
        Kind::Internal => (13, StatusCode::INTERNAL_SERVER_ERROR),
        Kind::Unavailable => (14, StatusCode::SERVICE_UNAVAILABLE),
        Kind::Unauthenticated => (16, StatusCode::UNAUTHORIZED),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError(Error { kind, text }) = self;
        let (code, status) = codes(kind);
        let body = json!({"error": text, "message": text, "code": code, "details": []});
        let mut response = (status, axum::Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 11.6.1: a 401 names the scheme that is wanted.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
