//! What is answered from memory. It waits for no change and no write of the state file.
//!
//! Answers tell nothing that could be taken back: the model knows a policy, or that one is gone, when that is in the file, and a volume
//! whose ids are not there yet is `Creating`. Only events are told as soon as they happen: a process that is killed then can have
//! forgotten the last of them when it comes back.

use super::{EventFilter, service::Service};
use crate::{
    Error,
    event::{Event, Occurrence},
    model::{PolicyView, SnapshotView, VolumeView},
    plane::Answer,
    qos::PolicyKey,
    schedule::SnapshotPolicy,
    volume::VolumeKey,
};
use dolmen_types::Uuid;
use std::collections::VecDeque;

/// What a [`super::Handle`] asks that changes nothing in the file.
#[derive(Debug)]
pub(super) enum Question {
    Volume { project: Option<String>, key: VolumeKey, answer: Answer<Result<VolumeView, Error>> },
    Volumes { after: Option<Uuid>, answer: Answer<Vec<VolumeView>> },
    Snapshot { project: Option<String>, key: VolumeKey, answer: Answer<Result<SnapshotView, Error>> },
    Snapshots { after: Option<Uuid>, answer: Answer<Vec<SnapshotView>> },
    Policy { key: PolicyKey, answer: Answer<Result<PolicyView, Error>> },
    Policies { answer: Answer<Vec<PolicyView>> },
    Schedules { answer: Answer<Vec<(SnapshotPolicy, String)>> },
    Events { filter: EventFilter, answer: Answer<Vec<Event>> },
    Record(Occurrence),
}

impl Service {
    pub(super) fn on_question(&mut self, question: Question) {
        let model = &self.model;
        // A caller that went away needs no answer.
        match question {
            Question::Volume { project, key, answer } => {
                drop(answer.send(model.find(project.as_deref(), &key)));
            }
            Question::Volumes { after, answer } => drop(answer.send(model.volumes(after).collect())),
            Question::Snapshot { project, key, answer } => {
                drop(answer.send(model.snapshot(project.as_deref(), &key)));
            }
            Question::Snapshots { after, answer } => drop(answer.send(model.snapshots(after).collect())),
            Question::Policy { key, answer } => drop(answer.send(model.policy(&key))),
            Question::Policies { answer } => drop(answer.send(model.policies())),
            Question::Schedules { answer } => drop(answer.send(model.schedules())),
            Question::Events { filter, answer } => drop(answer.send(selected(&self.events, &filter))),
            Question::Record(what) => self.record(what),
        }
    }
}

fn selected(events: &VecDeque<Event>, filter: &EventFilter) -> Vec<Event> {
    events
        .iter()
        .filter(|e| filter.after.is_none_or(|after| e.id > after))
        .filter(|e| filter.since.is_none_or(|since| e.at() >= since))
        .filter(|e| filter.until.is_none_or(|until| e.at() <= until))
        .filter(|e| filter.project.as_ref().is_none_or(|p| e.what.project == *p))
        .take(filter.limit)
        .cloned()
        .collect()
}
