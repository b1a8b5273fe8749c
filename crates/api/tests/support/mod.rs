//! A whole control side over real TLS on loopback, and a client that writes its requests byte by byte.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod plane;

use dolmen_api::{Endpoints, Server, ServerOptions};
use dolmen_cluster::{
    node::{self, Ambient, Defaults},
    plane::{Recovered, channel},
    state::{Credential, FirstStart, State},
};
use dolmen_security::{
    Certificate, KeyId, SigningKey, TOKEN_LIFE_SECS, TokenFile, Verifier, fresh_uuid, install_crypto,
    pinned_client_config,
};
use dolmen_types::{LineId, Nsid, UnixMillis};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

pub fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap())
}

pub struct Node {
    pub address: SocketAddr,
    pub token: String,
    pub tokens: TokenFile,
    pub tls: rustls::ClientConfig,
    stop: oneshot::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The body of a refusal, checked for the gateway's shape.
    pub fn refusal(&self, status: u16, code: u64) -> String {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_u64()), (status, Some(code)), "{}", self.text);
        assert_eq!(body["error"], body["message"]);
        assert!(body["details"].as_array().unwrap().is_empty());
        body["message"].as_str().unwrap().to_string()
    }

    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }
}

impl Node {
    pub async fn start(folder: &Path, log: plane::Log) -> Node {
        Node::start_with(folder, log, true).await
    }

    pub async fn start_with(folder: &Path, log: plane::Log, allow_test_volumes: bool) -> Node {
        install_crypto();
        let first = FirstStart {
            cluster_name: Some("test".into()),
            node_name: "node0".into(),
            subsystem_nqn: None,
            uuids: std::array::from_fn(|_| fresh_uuid()),
        };
        let state = State::open(folder, &first).unwrap();
        let key = SigningKey::load_or_make(&folder.join("token.key")).unwrap();
        let root = KeyId::root();
        let credential = Credential { scope: root.scope, id: root.id, public_key: key.public_key().to_vec() };
        state.put_credential(&credential).unwrap();
        let tokens = TokenFile::new(folder.join("token"), key, TOKEN_LIFE_SECS);
        tokens.renew(now().0 / 1000).unwrap();
        let certificate = Certificate::load_or_make(
            &folder.join("tls.crt"),
            &folder.join("tls.key"),
            &["localhost".into()],
        )
        .unwrap();
        let (plane_end, requests) = channel();
        let volumes = log.lock().unwrap().values().cloned().collect();
        let recovered =
            Recovered { volumes, snapshots: Vec::new(), highest_line: LineId(0), highest_nsid: Nsid(0) };
        let plane = tokio::spawn(plane::run(log, requests, 2));
        let (_notices, notices_out) = mpsc::channel(1);
        let ambient = Ambient { now, uuid: fresh_uuid, uptime: || None };
        let (cluster, service) =
            node::start(state, recovered, plane_end, notices_out, ambient, Defaults { encryption: true })
                .unwrap();
        let keys = cluster
            .credentials()
            .iter()
            .map(|c| (KeyId { scope: c.scope.clone(), id: c.id.clone() }, c.public_key.clone()));
        let verifier = Verifier::new(keys.collect::<Vec<_>>());
        let server = Server::bind(ServerOptions {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            tls: certificate.server_config().unwrap(),
            cluster,
            verifier,
            endpoints: Endpoints {
                advertise: None,
                listen: vec!["0.0.0.0".parse().unwrap()],
                nvme_port: 4420,
                discovery_port: 8009,
                api_port: 0,
            },
            allow_test_volumes,
            now,
        })
        .unwrap();
        let address = server.local_addresses().unwrap()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let config = pinned_client_config(&folder.join("tls.crt")).unwrap();
        Node {
            address,
            token: std::fs::read_to_string(folder.join("token")).unwrap().trim().to_string(),
            tokens,
            tls: config,
            stop,
            tasks: vec![serving, service, plane],
        }
    }

    /// Ends the server and everything behind it.
    pub async fn stop(self) {
        drop(self.stop);
        for task in self.tasks {
            tokio::time::timeout(Duration::from_secs(10), task).await.expect("it ends").unwrap();
        }
    }

    /// A token of other roles, signed by the cluster's own key.
    pub fn token_for(&self, roles: &[&str]) -> String {
        let roles: Vec<String> = roles.iter().map(|r| (*r).into()).collect();
        let token = self.tokens.issue(&KeyId::root(), &roles, now().0 / 1000, 60).unwrap();
        token.expose_text().unwrap().to_string()
    }

    /// Sends these very bytes on a new connection and reads until the server closes it.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(self.tls.clone()));
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_string(), text: body.to_string() }
    }

    /// One request as a client library would write it, with the headers given.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.raw(text.as_bytes()).await
    }

    /// One request with the administrator's token.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        self.request(method, path, &[("Authorization", &bearer)], body).await
    }
}
