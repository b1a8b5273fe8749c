//! A drive that is added while the node ends: real cores, whose answers can get lost.

use super::*;
use crate::{
    config::{ServeArgs, ServeOptions},
    node::{
        boot::{Booted, boot},
        cores::Cores,
        keys::{ClusterKeys, KeySource},
        router::Parts,
        scrubbing::Scrubbing,
    },
};
use dolmen_cluster::state::{FirstStart, State};
use dolmen_core::message::FromCore;
use dolmen_io::{Inbox, Wake, inbox};
use dolmen_security::ClusterKey;
use dolmen_volume::Restart;
use std::{sync::Arc, time::Duration};

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

/// The place of a node, and its key.
struct Scene {
    folder: tempfile::TempDir,
    state: State,
    keys: Arc<ClusterKeys>,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let first = FirstStart {
            cluster_name: None,
            node_name: "n".into(),
            subsystem_nqn: None,
            uuids: [1, 2, 3].map(|b| Uuid::from_random([b; 16])),
        };
        let state = State::open(folder.path(), &first).unwrap();
        let key = KeySource::Given(ClusterKey::generate().unwrap());
        Scene { folder, state, keys: Arc::new(ClusterKeys::new(key)) }
    }

    fn drive(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A start over the first drive, and what was added.
    async fn start(&self, known: Option<Uuid>) -> (Cores, Booted, mpsc::UnboundedReceiver<FromCore>) {
        let args = ServeArgs {
            drive: vec![format!("{}:256MiB", self.drive("d0"))],
            parity: Some(0),
            sparse: Some(true),
            ..ServeArgs::default()
        };
        let options = ServeOptions::load(Some(self.folder.path()), args).unwrap();
        let (out, news) = mpsc::unbounded_channel();
        let cores = Cores::start(&options, &out).unwrap();
        let (settings, identity) = (Settings::load(self.folder.path()).unwrap(), self.state.identity());
        let keys = self.keys.clone();
        let booting = boot(&options, cores.talk(), known, Restart::PowerOn, keys, &settings, identity);
        let booted = booting.await.unwrap();
        (cores, booted, news)
    }
}

/// Hands every message on to the core, and loses its answer to one that has a drive join.
async fn relay(mut inbox: Inbox<ToCore>, core: Talk) {
    let mut taken = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        inbox.drain(&mut taken);
        for message in taken.drain(..) {
            match message {
                ToCore::JoinDrive { drive, .. } => {
                    let joined = core.ask(OWNER, |answer| ToCore::JoinDrive { drive, answer }).await;
                    joined.unwrap().unwrap();
                }
                other => assert!(core.inbox(OWNER).send(other).is_ok()),
            }
        }
    }
}

#[tokio::test]
async fn a_drive_that_may_have_joined_stays() {
    let scene = Scene::new();
    let (mut cores, booted, news) = scene.start(None).await;
    let pool = booted.plan.pool;
    let (sender, inbox) = inbox(64, Arc::new(Nobody));
    let relaying = tokio::spawn(relay(inbox, cores.talk().clone()));
    let (notices, _kept) = mpsc::channel(64);
    let parts = Parts {
        keys: scene.keys.clone(),
        drives: DriveOps::new(scene.folder.path().into(), Settings::default(), true, notices),
        scrubbing: Scrubbing::load(scene.folder.path()),
        allow_test_volumes: false,
        nbd: None,
    };
    let node = Node::start(Talk::new(vec![sender]), booted, parts, 1, news);
    let added = node.add_drive(scene.drive("d1"), Some(256 << 20)).await;
    assert!(matches!(added, Err(PlaneError::Unavailable(_))), "{added:?}");
    relaying.abort();
    cores.stop();
    let (_cores, booted, _) = scene.start(Some(pool)).await;
    assert_eq!(booted.drives.iter().flatten().count(), 2, "the pool counts it");
}
