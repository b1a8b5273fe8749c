//! A small blocking client of the management API: one request, one connection, the certificate pinned.

use super::{
    error::{CliError, Exit},
    locate::{Target, quoted},
};
use dolmen_security::{install_crypto, pinned_client_config};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};
use tokio_rustls::TlsConnector;

/// Longest that connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Longest that an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Largest answer. Bytes.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Talks to one daemon.
pub(crate) struct Client {
    target: Target,
    connector: TlsConnector,
    runtime: Runtime,
}

/// A failed exchange, before it is put into words.
enum Failure {
    /// Nobody there.
    Connect(io::Error),
    /// Somebody else there, or not speaking TLS.
    Tls(io::Error),
    /// Broke off.
    Broken(String),
    /// No answer in time.
    Timeout,
}

/// A name and what follows it in a command that is suggested: one that begins as a flag does has to be told from flags.
pub(crate) fn operand(name: &str, rest: &str) -> String {
    match (name.starts_with('-'), rest.trim_start().starts_with('-')) {
        (false, _) => format!("{name}{rest}"),
        (true, false) => format!("-- {name}{rest}"),
        (true, true) => format!("{} -- {name}", rest.trim_start()),
    }
}

impl Client {
    /// A client of this daemon; nothing is sent yet.
    pub(crate) fn new(target: Target) -> Result<Client, CliError> {
        install_crypto();
        let config = pinned_client_config(&target.certificate).map_err(|why| unusable(&target, &why))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|why| CliError::new(Exit::Failed, why.to_string()))?;
        Ok(Client { target, connector: TlsConnector::from(Arc::new(config)), runtime })
    }

    /// A command line that talks to the same daemon.
    pub(crate) fn suggest(&self, verb: &str) -> String {
        format!("{} {verb}", self.target.invocation)
    }

    /// `GET` of a path.
    pub(crate) fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::GET, path, None, None)
    }

    /// `POST` of a body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.call(Method::POST, path, None, Some(body))
    }

    /// `PUT` of a body, if the object still has this ETag; an empty one asks for none.
    pub(crate) fn put(&self, path: &str, etag: &str, body: &Value) -> Result<Value, CliError> {
        self.call(Method::PUT, path, Some(etag).filter(|e| !e.is_empty()), Some(body))
    }

    /// `DELETE` of a path.
    pub(crate) fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::DELETE, path, None, None)
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        etag: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let request = self.request(method, path, etag, body)?;
        let (status, bytes) =
            self.runtime.block_on(self.exchange(request)).map_err(|why| self.unreachable(&why))?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() { Ok(value) } else { Err(refusal(status, &value)) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        etag: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, CliError> {
        let token = self.target.token.expose_text().unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority(&self.target))
            .header(AUTHORIZATION, format!("Bearer {token}"));
        if let Some(etag) = etag {
            request = request.header(IF_MATCH, etag);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        request.body(Full::new(bytes)).map_err(|why| CliError::usage(why.to_string()))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
        let address = (self.target.host.as_str(), self.target.port);
        let connected = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| Failure::Timeout)?.map_err(Failure::Connect)?;
        let name = ServerName::try_from(self.target.host.clone())
            .map_err(|_| Failure::Connect(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let secured = timeout(CONNECT_DEADLINE, self.connector.connect(name, stream)).await;
        let stream = secured.map_err(|_| Failure::Timeout)?.map_err(Failure::Tls)?;
        let broken = |why: hyper::Error| Failure::Broken(why.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driving = tokio::spawn(connection);
        let answered = timeout(ANSWER_DEADLINE, async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|why| Failure::Broken(why.to_string()))?.to_bytes()))
        })
        .await;
        driving.abort();
        answered.map_err(|_| Failure::Timeout)?
    }

    fn unreachable(&self, failure: &Failure) -> CliError {
        let at = authority(&self.target);
        let restart = match &self.target.folder {
            Some(folder) => {
                format!("is it running? Start it: dolmen serve --data {} --drive ...", quoted(folder))
            }
            None => "is the daemon running there, and is this its --api-port?".to_string(),
        };
        let unreachable = |text: String| CliError::new(Exit::Unreachable, text);
        match failure {
            Failure::Connect(why) => unreachable(format!("no daemon answers at {at}: {why}")).hint(restart),
            Failure::Tls(why) => {
                unreachable(format!("{at} is not the node that was meant: {why}")).hint(format!(
                    "its certificate must be the one in {}; copy DIR/tls.crt of the node again",
                    self.target.certificate.display()
                ))
            }
            Failure::Broken(why) => {
                unreachable(format!("the connection to {at} broke off: {why}")).hint(restart)
            }
            Failure::Timeout => unreachable(format!("{at} does not answer in time")).hint(restart),
        }
    }
}

fn authority(target: &Target) -> String {
    if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    }
}

/// Why the certificate is none to know the node by. It is a copy of the node's own, and nothing that a start makes anew here.
fn unusable(target: &Target, why: &dolmen_security::Error) -> CliError {
    let text = match why {
        dolmen_security::Error::Damaged { path, what } => {
            format!("{} is no certificate to know the node by: {what}", path.display())
        }
        other => format!("the node's certificate: {other}"),
    };
    let hint = match &target.folder {
        Some(_) => "the node makes it anew when tls.crt and tls.key are removed and it is started again",
        None => "copy DIR/tls.crt of the node again",
    };
    CliError::new(Exit::Failed, text).hint(hint)
}

/// Fields of the API as our command line names them; those without a name here go without saying.
const FIELDS: [(&str, &str); 35] = [
    ("DefaultQoSName", ""),
    ("IPAcl", ""),
    ("Name", ""),
    ("UUID", ""),
    ("acl", ""),
    ("baseSnapshotName", "--base"),
    ("baseSnapshotUUID", "--base"),
    ("bytesPerSecond", "--rate"),
    ("compression", "--compression"),
    ("day", "--weekday"),
    ("daysInCycle", "--days"),
    ("daysOfWeek", "--weekday"),
    ("description", "--description"),
    ("encryption", "--encryption"),
    ("everySeconds", "--every"),
    ("hoursInCycle", "--hours"),
    ("kind", "--kind"),
    ("labels", "--label"),
    ("name", ""),
    ("newName", ""),
    ("policyVisibility", ""),
    ("projectsNamesScope", "--project"),
    ("qosPolicyName", "--qos"),
    ("qosPolicyUUID", "--qos"),
    ("resourceName", ""),
    ("retentionTime", "--keep"),
    ("sectorSize", "--sector-size"),
    ("since", "--since"),
    ("size", "--size"),
    ("sourceSnapshotName", "--from-snapshot"),
    ("sourceSnapshotUUID", "--from-snapshot"),
    ("sourceVolumeName", ""),
    ("srcSnapshotName", ""),
    ("srcSnapshotUUID", ""),
    ("startTime", "--start"),
];

/// What the daemon says of a field of its API, as said of what was written on the command line.
fn in_our_words(text: &str) -> String {
    let field = text.split_once(": ").and_then(|(field, why)| {
        let (_, flag) = FIELDS.iter().find(|(name, _)| *name == field)?;
        Some((*flag, why))
    });
    match field {
        Some(("", why)) => why.to_string(),
        Some((flag, why)) => format!("{flag}: {why}"),
        None => text.to_string(),
    }
}

/// A refusal of the daemon as an error of ours.
fn refusal(status: StatusCode, body: &Value) -> CliError {
    let text = match body["message"].as_str() {
        Some(text) => in_our_words(text),
        None => format!("the daemon answers {status}"),
    };
    let (exit, hint) = match status.as_u16() {
        401 => (
            Exit::NotPermitted,
            Some(
                "the daemon keeps a fresh token in DIR/token: copy it again, or use --data on the node itself",
            ),
        ),
        403 => (Exit::NotPermitted, None),
        404 => (Exit::NotFound, None),
        409 => (Exit::Conflict, None),
        412 => (Exit::Conflict, None),
        429 | 503 | 504 => (Exit::TryAgain, None),
        _ => (Exit::Failed, None),
    };
    CliError { exit, text, hint: hint.map(String::from) }
}
