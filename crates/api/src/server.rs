//! The listening side: TLS, connections with their limits and deadlines, a graceful end.

use crate::app::{App, LocalAddress, router};
use axum::{Router, body::Body};
use dolmen_cluster::node::Handle;
use dolmen_security::Verifier;
use dolmen_types::UnixMillis;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

/// Connections at a time; beyond it new ones wait in the kernel. Count.
const MAX_CONNECTIONS: usize = 1024;

/// Longest TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for the next request's headers, on a fresh connection and on a kept one.
const HEADER_DEADLINE: Duration = Duration::from_secs(15);

/// Longest life of one connection; clients reconnect. Bounds those who read answers slowly.
const CONNECTION_LIFE: Duration = Duration::from_secs(15 * 60);

/// How long open requests may go on when the server ends.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Connections accepted and not yet taken up. Count.
const ACCEPTED_AHEAD: usize = 16;

/// Request line and headers together. Bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The same for HTTP/2, as its own type wants it. Bytes.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// Requests at a time on one HTTP/2 connection. Count.
const MAX_STREAMS: u32 = 64;

/// How often a silent HTTP/2 connection is probed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Connections that may wait in the kernel. Count.
const BACKLOG: i32 = 1024;

/// Pause after a failed accept (no file descriptors, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Addresses that clients are told.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// What hosts shall connect to; `None` for the address that each API connection came to.
    pub advertise: Option<IpAddr>,
    /// Addresses that we listen on; unspecified ones (`0.0.0.0`, `::`) stand for the one that a connection came to.
    pub listen: Vec<IpAddr>,
    /// The data port in force.
    pub nvme_port: u16,
    /// The discovery port in force.
    pub discovery_port: u16,
    /// The API's port in force.
    pub api_port: u16,
}

impl Endpoints {
    /// The addresses to tell a client that came to `local`: that one first, then the others that we listen on.
    #[must_use]
    pub fn addresses(&self, local: IpAddr) -> Vec<IpAddr> {
        if let Some(ip) = self.advertise {
            return vec![ip];
        }
        let local = local.to_canonical();
        let others = self.listen.iter().copied().filter(|ip| !ip.is_unspecified() && *ip != local);
        std::iter::once(local).chain(others).collect()
    }
}

/// All that a server needs.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Key and certificate, ALPN included.
    pub tls: Arc<rustls::ServerConfig>,
    /// The cluster.
    pub cluster: Handle,
    /// Checks tokens.
    pub verifier: Verifier,
    /// What to tell clients about addresses. An `api_port` of 0 is replaced by the one bound.
    pub endpoints: Endpoints,
    /// Whether `/dolmen/v1/volumes` takes the kinds `null` and `memory`.
    pub allow_test_volumes: bool,
    /// The time of day.
    pub now: fn() -> UnixMillis,
}

/// A bound server, not yet serving.
pub struct Server {
    listeners: Vec<TcpListener>,
    acceptor: TlsAcceptor,
    router: Router,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds all addresses. Connections wait in the kernel until [`Server::run`].
    ///
    /// Must be called in a Tokio runtime.
    pub fn bind(mut options: ServerOptions) -> Result<Server, BindError> {
        let mut listeners = Vec::new();
        for address in &options.listen {
            let listener = listen(*address).map_err(|source| BindError { address: *address, source })?;
            if let Ok(bound) = listener.local_addr()
                && options.endpoints.api_port == 0
            {
                options.endpoints.api_port = bound.port();
            }
            listeners.push(listener);
        }
        let app = Arc::new(App {
            cluster: options.cluster,
            endpoints: options.endpoints,
            verifier: options.verifier,
            allow_test_volumes: options.allow_test_volumes,
            now: options.now,
        });
        Ok(Server { listeners, acceptor: TlsAcceptor::from(options.tls), router: router(app) })
    }

    /// The addresses in force.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until `shutdown` completes, then lets open requests end, for a bounded time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (accepted, mut streams) = mpsc::channel(ACCEPTED_AHEAD);
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept_loop(listener, accepted.clone()));
        }
        let (end, ending) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(stream) = streams.recv(), if connections.len() < MAX_CONNECTIONS => {
                    let (acceptor, router) = (self.acceptor.clone(), self.router.clone());
                    connections.spawn(serve_connection(stream, acceptor, router, ending.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        accepting.shutdown().await;
        // No receiver left means that no connection is left, which is fine.
        let _ = end.send(true);
        let _ = timeout(DRAIN_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
    }
}

/// Listens as the data ports do: an IPv6 address takes IPv6 only, so `0.0.0.0` and `::` can be given together.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the old connections' TIME-WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept_loop(listener: TcpListener, accepted: mpsc::Sender<TcpStream>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if accepted.send(stream).await.is_err() {
                    return;
                }
            }
            Err(why) => {
                tracing::debug!("the management API could not accept a connection: {why}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end, to the server's end, or to the end of its life.
async fn serve_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return tracing::debug!("TLS handshake failed: {why}"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let builder = builder(stream.get_ref().1.alpn_protocol() == Some(b"h2"));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(LocalAddress(local));
        router.clone().call(request.map(Body::new))
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        _ = connection.as_mut() => true,
        _ = ending.wait_for(|end| *end) => false,
        () = tokio::time::sleep(CONNECTION_LIFE) => false,
    };
    if !done {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(DRAIN_DEADLINE, connection).await;
    }
}

/// The protocol is known from ALPN; both have their limits.
fn builder(h2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .keep_alive_timeout(HANDSHAKE_DEADLINE);
    if h2 { builder.http2_only() } else { builder.http1_only() }
}

/// An address that can't be listened on.
#[derive(Debug)]
pub struct BindError {
    /// Which.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the management API can't listen on {}: {}", self.address, self.source)
    }
}

impl std::error::Error for BindError {}
