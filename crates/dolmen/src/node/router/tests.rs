//! The control side of a node whose core takes nothing for a while, and many ask.

use super::*;
use crate::node::{keys::KeySource, sequence::SequenceFile, settings::Settings, watch::watch};
use dolmen_cluster::plane;
use dolmen_io::{Inbox, Wake, inbox};
use dolmen_security::ClusterKey;
use dolmen_types::LineId;

/// Messages that the core's inbox holds.
const INBOX: usize = 8;

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

/// A node, the inbox of its only core, and where that core's news go.
struct Scene {
    node: Arc<Node>,
    inbox: Inbox<ToCore>,
    news: mpsc::UnboundedSender<FromCore>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(capacity: usize) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let plan = PoolPlan {
            deficit: 0,
            let_go: Vec::new(),
            pool: Uuid::NIL,
            incarnation: 1,
            unit_bytes: 1 << 20,
            shards: 1,
            parity: 0,
            sequence: 1,
            drives: Vec::new(),
            order: Vec::new(),
            created: false,
            findings: Vec::new(),
        };
        let booted = Booted {
            plan: Arc::new(plan),
            drives: Vec::new(),
            volumes: Vec::new(),
            highest_line: LineId(0),
            left: Vec::new(),
        };
        let (notices, _) = mpsc::channel(1);
        let key = KeySource::Given(ClusterKey::generate().unwrap());
        let parts = Parts {
            keys: Arc::new(ClusterKeys::new(key)),
            drives: DriveOps::new(folder.path().into(), Settings::default(), true, notices),
            scrubbing: Scrubbing::load(folder.path()),
            allow_test_volumes: false,
            nbd: None,
        };
        let (sender, inbox) = inbox(capacity, Arc::new(Nobody));
        let (news, changes) = mpsc::unbounded_channel();
        let node = Node::start(Talk::new(vec![sender]), booted, parts, 1, changes);
        Scene { node, inbox, news, folder }
    }

    /// So many ask the core for something, and it takes none of it.
    async fn crowd(&self) {
        for _ in 0..2 * INBOX {
            let talk = self.node.cores.clone();
            tokio::spawn(async move { talk.ask(CoreId(0), |answer| ToCore::ListKeys { answer }).await });
        }
        settle().await;
    }

    /// The core takes whatever comes, and answers nothing, until this comes.
    async fn until<T>(&mut self, wanted: impl Fn(ToCore) -> Option<T>) -> Option<T> {
        for _ in 0..100 {
            settle().await;
            let mut taken = Vec::new();
            self.inbox.drain(&mut taken);
            if let Some(found) = taken.into_iter().find_map(&wanted) {
                return Some(found);
            }
        }
        None
    }
}

/// Lets every task come as far as it can.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_watcher_outlives_a_crowd() {
    let mut scene = Scene::new(INBOX);
    scene.crowd().await;
    let (notices, _kept) = mpsc::channel(1);
    let sequence = SequenceFile::of_folder(scene.folder.path());
    tokio::spawn(watch(scene.node.clone(), sequence, notices));
    settle().await;
    let report = |message| matches!(message, ToCore::Report { .. }).then_some(());
    assert!(scene.until(report).await.is_some(), "nobody watches any more");
}

#[tokio::test]
async fn a_change_is_in_force_once_a_crowd_has_gone() {
    let mut scene = Scene::new(INBOX);
    scene.crowd().await;
    scene.news.send(FromCore::Change(Change::Gone(Uuid::NIL))).unwrap();
    let (reached, mut in_force) = oneshot::channel();
    scene.node.barrier.send(reached).unwrap();
    settle().await;
    assert!(in_force.try_recv().is_err());
    let table = |message| match message {
        ToCore::Namespaces { answer, .. } => Some(answer),
        _ => None,
    };
    scene.until(table).await.expect("nobody publishes any more").send(());
    in_force.await.unwrap();
}

/// However many ask at a time, a core has a bounded number of them before it.
#[tokio::test]
async fn requests_wait_where_they_cost_nothing() {
    let mut scene = Scene::new(4 * REQUESTS);
    let (plane, requests) = plane::channel();
    tokio::spawn(scene.node.clone().serve(requests));
    let asked: Vec<_> =
        (0..3 * REQUESTS).map(|_| plane.send(|answer| NodeRequest::Pool { answer }).unwrap()).collect();
    let (mut taken, mut answered) = (Vec::new(), 0);
    while answered < asked.len() {
        settle().await;
        let here = scene.inbox.drain(&mut taken);
        assert!((1..=REQUESTS).contains(&here), "{here} at a time");
        answered += here;
        // The core ends before it answers.
        taken.clear();
    }
    for asked in asked {
        assert!(asked.await.is_err());
    }
}
