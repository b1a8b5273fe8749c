//! The service over a state file whose disk is full for a while.

use super::*;
use crate::{
    event::{Component, Severity},
    model::tests::spec,
    state::{FirstStart, disk},
};
use std::sync::atomic::{AtomicU64, Ordering};

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
    let (plane, mut requests) = crate::plane::channel();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            if let NodeRequest::CreateVolume { answer, .. } = request {
                let _ = answer.send(Ok(()));
            }
        }
    });
    let recovered = Recovered {
        volumes: Vec::new(),
        snapshots: Vec::new(),
        highest_line: Default::default(),
        highest_nsid: dolmen_types::Nsid(0),
    };
    let (_, notices) = mpsc::channel(1);
    let ambient = Ambient { now: || UnixMillis(1000), uuid: fresh };
    start(state, recovered, plane, notices, ambient, Defaults { encryption: false }).unwrap()
}

#[tokio::test]
async fn a_disk_that_was_full_refuses_one_volume_and_none_later() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path(), &first()).unwrap();
    disk::fill(&state);
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
    let state = State::open(dir.path(), &first()).unwrap();
    let refused = disk::fill(&state);
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
