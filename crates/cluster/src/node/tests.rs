//! The service over a state file whose disk is full for a while.

use super::*;
use crate::{
    event::{Component, Severity},
    model::tests::spec,
    qos::NO_LIMIT,
    schedule::Schedule,
    state::{Belief, FirstStart, disk},
};
use dolmen_types::{
    LineId, PgId, Seq,
    snapshot::{SnapshotDescriptor, SnapshotState},
};
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

fn fresh() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Uuid::from_random(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes())
}

fn first() -> FirstStart {
    let uuids = [1, 2, 3].map(|b| Uuid::from_random([b; 16]));
    FirstStart { cluster_name: None, node_name: "n".into(), subsystem_nqn: None, uuids }
}

/// A service over this state; its data plane makes every volume.
fn serve(state: State) -> (Handle, JoinHandle<()>) {
    serve_with(state, Vec::new(), UP).0
}

/// How long the machine has been up.
const UP: Uptime = Uptime { boot: Uuid([1; 16]), ms: 1000 };

/// A state of a start before, which has nothing to write, and its file on a disk that is full.
fn on_full_disk(folder: &std::path::Path) -> (State, Arc<AtomicU64>) {
    let state = State::open(folder, &first()).unwrap();
    state.set_belief(&Belief { at: UnixMillis(1000), uptime: Some(UP) }).unwrap();
    let refused = disk::fill(&state);
    (state, refused)
}

/// The same with snapshots, on a machine that has been up for so long; which of them it deletes.
fn serve_with(
    state: State,
    snapshots: Vec<SnapshotDescriptor>,
    up: Uptime,
) -> ((Handle, JoinHandle<()>), mpsc::UnboundedReceiver<Uuid>) {
    let (deleted, deletions) = mpsc::unbounded_channel();
    let served = serve_at(state, snapshots, (|| UnixMillis(1000), up), move |request| {
        if let NodeRequest::DeleteSnapshot { uuid, .. } = request {
            let _ = deleted.send(uuid);
        }
    });
    (served, deletions)
}

/// The same by these clocks; what is asked of its data plane beside volumes goes there.
fn serve_at(
    state: State,
    snapshots: Vec<SnapshotDescriptor>,
    (now, up): (fn() -> UnixMillis, Uptime),
    asked: impl Fn(NodeRequest) + Send + 'static,
) -> (Handle, JoinHandle<()>) {
    let (plane, mut requests) = crate::plane::channel();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            match request {
                NodeRequest::CreateVolume { answer, .. } => {
                    let _ = answer.send(Ok(()));
                }
                other => asked(other),
            }
        }
    });
    let recovered = Recovered {
        volumes: Vec::new(),
        snapshots,
        highest_line: Default::default(),
        highest_nsid: dolmen_types::Nsid(0),
    };
    let (_, notices) = mpsc::channel(1);
    UPTIME.set(Some(up));
    let ambient = Ambient { now, uuid: fresh, uptime: || UPTIME.get() };
    start(state, recovered, plane, notices, ambient, Defaults { encryption: false }).unwrap()
}

fn snapshot_until(expires: UnixMillis) -> SnapshotDescriptor {
    SnapshotDescriptor {
        uuid: fresh(),
        name: "s".into(),
        project: "default".into(),
        description: String::new(),
        volume: fresh(),
        volume_name: "v".into(),
        pg: PgId(0),
        line: LineId(1),
        at: Seq(1),
        size_bytes: 1 << 20,
        sector: Default::default(),
        compression: false,
        encryption: false,
        mapped_blocks: 0,
        labels: Vec::new(),
        created: UnixMillis(500),
        expires: Some(expires),
        policy: None,
        revision: 1,
        state: SnapshotState::Available,
    }
}

thread_local! {
    /// How long the machine of this test has been up.
    static UPTIME: Cell<Option<Uptime>> = const { Cell::new(None) };
}

#[tokio::test]
async fn a_disk_that_was_full_refuses_one_volume_and_none_later() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = on_full_disk(dir.path());
    let (handle, task) = serve(state);
    let refused = handle.create_volume(spec("a")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable, "{refused}");
    let (a, b) =
        (handle.create_volume(spec("a")).await.unwrap(), handle.create_volume(spec("b")).await.unwrap());
    drop(handle);
    task.await.unwrap();
    let (marks, used) =
        (State::open(dir.path(), &first()).unwrap().marks().unwrap(), [a, b].map(|v| v.view.descriptor));
    assert!(used.iter().all(|d| d.nsid <= marks.nsid && d.line <= marks.line), "{marks:?}");
}

#[tokio::test]
async fn events_that_could_not_be_written_are_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let (state, refused) = on_full_disk(dir.path());
    let (handle, task) = serve(state);
    let what = |text: &str| Occurrence {
        component: Component::Node,
        severity: Severity::Info,
        name: "Test".into(),
        subject: "x".into(),
        project: "default".into(),
        text: text.into(),
    };
    handle.record(what("one")).await.unwrap();
    for _ in 0..2000 {
        if refused.load(Ordering::Relaxed) > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "nobody tried to write it");
    handle.record(what("two")).await.unwrap();
    drop(handle);
    task.await.unwrap();
    let kept = State::open(dir.path(), &first()).unwrap().events().unwrap();
    let texts: Vec<&str> = kept.iter().map(|e| e.what.text.as_str()).collect();
    assert_eq!(texts, ["one", "two"]);
}

#[tokio::test]
async fn snapshots_whose_time_is_over_go_after_a_restart_too_and_wait_where_the_machine_was_started() {
    let dir = tempfile::tempdir().unwrap();
    let up = |boot, ms| Uptime { boot: Uuid([boot; 16]), ms };
    let open = || State::open(dir.path(), &first()).unwrap();
    // It was killed before it looked at anything.
    let ((handle, task), _) = serve_with(open(), Vec::new(), up(1, 7000));
    drop(handle);
    task.abort();
    let _ = task.await;
    let late = snapshot_until(UnixMillis(900));
    let soon = std::time::Duration::from_secs(12);
    let ((handle, task), mut deletions) = serve_with(open(), vec![late.clone()], up(1, 7000));
    let deleted = tokio::time::timeout(soon, deletions.recv()).await;
    assert_eq!(deleted, Ok(Some(late.uuid)));
    drop(handle);
    task.await.unwrap();
    let ((handle, _task), mut deletions) = serve_with(open(), vec![late], up(2, 7000));
    let told = async {
        loop {
            let events = handle.events(EventFilter { limit: 10, ..EventFilter::default() }).await.unwrap();
            if let Some(event) = events.into_iter().find(|e| e.what.name == "SnapshotsOverdue") {
                return event.what.text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let told = tokio::time::timeout(soon, told).await.unwrap();
    assert!(told.contains("(1) are deleted in 15 minutes"), "{told}");
    assert!(deletions.try_recv().is_err());
}

/// A machine was started with its clock nine hours behind.
#[tokio::test]
async fn what_a_policy_takes_is_kept_from_a_time_on_that_is_not_known_to_be_over() {
    const HOUR: u64 = 3_600_000;
    const BELIEVED: u64 = 500_000 * HOUR;
    const BEHIND: u64 = BELIEVED - 9 * HOUR;
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path(), &first()).unwrap();
    state.set_belief(&Belief { at: UnixMillis(BELIEVED), uptime: None }).unwrap();
    let (took, mut taken) = mpsc::unbounded_channel();
    let (handle, task) = serve_at(state, Vec::new(), (|| UnixMillis(BEHIND), UP), move |request| {
        if let NodeRequest::CreateSnapshots { descriptors, .. } = request {
            let _ = took.send(descriptors);
        }
    });
    handle.create_volume(spec("v")).await.unwrap();
    let plan = SchedulePlan {
        name: "hourly".into(),
        project: "default".into(),
        volume: VolumeKey::Name("v".into()),
        description: String::new(),
        schedule: Schedule::Hourly { start_ms: BEHIND, hours: 1 },
        retention_ms: Some(6 * HOUR),
        asked: UnixMillis(BEHIND),
    };
    handle.create_schedule(plan).await.unwrap();
    let taken = soon(taken.recv()).await.unwrap();
    let kept: Vec<_> = taken.iter().map(|d| (d.created.0, d.expires)).collect();
    assert_eq!(kept, [(BELIEVED, Some(UnixMillis(BELIEVED + 6 * HOUR)))]);
    drop(handle);
    task.await.unwrap();
}

/// What comes soon where nobody waits for the disk.
async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.expect("it waits for the disk")
}

/// What comes when the disk does all that it is asked to.
async fn served<T>(disk: &mut disk::Slow, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            Some(()) = disk.asked.recv() => disk.go.send(()).unwrap(),
        }
    }
}

#[tokio::test]
async fn who_only_asks_does_not_wait_for_a_slow_disk_and_is_told_what_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path(), &first()).unwrap();
    state.set_belief(&Belief { at: UnixMillis(1000), uptime: Some(UP) }).unwrap();
    let mut disk = disk::slow(&state);
    let (handle, task) = serve(state);
    let asked = handle.clone();
    let policy = |name: &str| PolicySpec { name: name.into(), ..PolicySpec::default() };
    let (one, two) = (policy("one"), policy("two"));
    let (done, mut order) = mpsc::unbounded_channel();
    let (told, after) = (done.clone(), handle.clone());
    let first_change = tokio::spawn(async move {
        let made = handle.create_policy(one).await;
        told.send("one").unwrap();
        made
    });
    // The second is asked for when the first is being written.
    soon(disk.asked.recv()).await;
    let second_change = tokio::spawn(async move {
        let made = after.create_policy(two).await;
        done.send("two").unwrap();
        let volume = after.create_volume(spec("v")).await;
        (made, volume)
    });
    let key = || PolicyKey::Name("one".into());
    let names = |all: Vec<PolicyView>| all.into_iter().map(|p| p.policy.name).collect::<Vec<_>>();
    assert_eq!(names(soon(asked.policies()).await.unwrap()), [NO_LIMIT]);
    assert_eq!(soon(asked.policy(key())).await.unwrap_err().kind, Kind::NotFound);
    assert!(soon(asked.volumes(None)).await.unwrap().is_empty());
    assert!(soon(asked.snapshots(None)).await.unwrap().is_empty());
    assert!(soon(asked.schedules()).await.unwrap().is_empty());
    assert!(soon(asked.events(EventFilter { limit: 9, ..EventFilter::default() })).await.unwrap().is_empty());
    assert!(order.try_recv().is_err(), "a change was told that is not durable");
    // The disk does what it is told, change by change: nothing is durable, or told, out of order.
    disk.go.send(()).unwrap();
    assert_eq!(soon(served(&mut disk, order.recv())).await, Some("one"));
    soon(first_change).await.unwrap().unwrap();
    assert_eq!(names(soon(asked.policies()).await.unwrap()), [NO_LIMIT, "one"]);
    let creating = async {
        loop {
            soon(disk.asked.recv()).await;
            let volumes = asked.volumes(None).await.unwrap();
            if let [volume] = volumes.as_slice() {
                return volume.view.life;
            }
            disk.go.send(()).unwrap();
        }
    };
    assert_eq!(soon(creating).await, Life::Creating, "its ids are not durable");
    assert_eq!(soon(order.recv()).await, Some("two"));
    assert!(!second_change.is_finished());
    drop(disk.go);
    let (made, volume) = soon(second_change).await.unwrap();
    made.unwrap();
    volume.unwrap();
    drop(asked);
    soon(task).await.unwrap();
}
