//! Requests for QoS and snapshot policies: checked by the model, made durable in the state file, then in force.

use super::service::Service;
use crate::{
    Error, Kind,
    model::{PolicyView, SchedulePlan},
    plane::Answer,
    qos::{PolicyChange, PolicyKey, PolicySpec, QosPolicy},
    schedule::{Schedule, SnapshotPolicy, before},
};
use dolmen_types::{UnixMillis, Uuid};

/// What a [`super::Handle`] asks to change about QoS and snapshot policies.
#[derive(Debug)]
pub(super) enum PolicyMessage {
    Create { spec: PolicySpec, answer: Answer<Result<PolicyView, Error>> },
    Update { key: PolicyKey, change: PolicyChange, answer: Answer<Result<PolicyView, Error>> },
    Delete { key: PolicyKey, answer: Answer<Result<(), Error>> },
    SetDefault { key: PolicyKey, answer: Answer<Result<(), Error>> },
    CreateSchedule { plan: SchedulePlan, answer: Answer<Result<SnapshotPolicy, Error>> },
    UpdateSchedule { project: String, uuid: Uuid, change: ScheduleChange, answer: Answer<Result<(), Error>> },
    DeleteSchedule { project: String, uuid: Uuid, answer: Answer<Result<(), Error>> },
}

/// What to change about a snapshot policy; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ScheduleChange {
    /// How often, and how long snapshots are kept (for ever if that is not given).
    pub schedule: Option<(Schedule, Option<u64>)>,
    /// A new description.
    pub description: Option<String>,
    /// When that was asked for: a new schedule makes up no earlier times.
    pub asked: UnixMillis,
}

impl Service {
    pub(super) async fn on_policy(&mut self, message: PolicyMessage) {
        // A caller that went away needs no answer.
        match message {
            PolicyMessage::Create { spec, answer } => {
                let uuid = (self.ambient.uuid)();
                let made = match self.model.new_policy(spec, uuid) {
                    Ok(policy) => self.keep_policy(policy).await,
                    Err(why) => Err(why),
                };
                drop(answer.send(made));
            }
            PolicyMessage::Update { key, change, answer } => {
                let changed = match self.model.changed_policy(&key, change) {
                    Ok(policy) => self.keep_policy(policy).await,
                    Err(why) => Err(why),
                };
                drop(answer.send(changed));
                self.spread().await;
            }
            PolicyMessage::Delete { key, answer } => drop(answer.send(self.delete_policy(&key).await)),
            PolicyMessage::SetDefault { key, answer } => drop(answer.send(self.set_default(&key).await)),
            PolicyMessage::CreateSchedule { plan, answer } => {
                drop(answer.send(self.create_schedule(plan).await));
            }
            PolicyMessage::UpdateSchedule { project, uuid, change, answer } => {
                drop(answer.send(self.update_schedule(&project, uuid, change).await));
            }
            PolicyMessage::DeleteSchedule { project, uuid, answer } => {
                drop(answer.send(self.delete_schedule(&project, uuid).await));
            }
        }
    }

    async fn keep_policy(&mut self, policy: QosPolicy) -> Result<PolicyView, Error> {
        let key = PolicyKey::Uuid(policy.uuid);
        if self.model.policy(&key).is_ok_and(|view| view.policy == policy) {
            return self.model.policy(&key);
        }
        let saved = policy.clone();
        self.on_state(move |state| state.put_qos_policy(&saved)).await.map_err(not_kept)?;
        let what = self.model.put_policy(policy);
        self.record(what);
        self.model.policy(&key)
    }

    async fn delete_policy(&mut self, key: &PolicyKey) -> Result<(), Error> {
        let uuid = self.model.unused_policy(key)?;
        self.on_state(move |state| state.remove_qos_policy(uuid)).await.map_err(not_kept)?;
        if let Some(what) = self.model.drop_policy(uuid) {
            self.record(what);
        }
        Ok(())
    }

    async fn create_schedule(&mut self, plan: SchedulePlan) -> Result<SnapshotPolicy, Error> {
        let policy = self.model.new_schedule(plan, (self.ambient.uuid)())?;
        self.keep_schedule(policy).await
    }

    async fn update_schedule(
        &mut self,
        project: &str,
        uuid: Uuid,
        change: ScheduleChange,
    ) -> Result<(), Error> {
        let mut policy = self.model.schedule(project, uuid)?;
        if let Some((schedule, retention_ms)) = change.schedule {
            (policy.schedule, policy.retention_ms) = (schedule, retention_ms);
            // The times of the old schedule are not made up by the new one.
            policy.last = before(change.asked);
        }
        policy.description = change.description.unwrap_or(policy.description);
        policy.check()?;
        self.keep_schedule(policy).await.map(|_| ())
    }

    async fn keep_schedule(&mut self, policy: SnapshotPolicy) -> Result<SnapshotPolicy, Error> {
        let saved = policy.clone();
        self.on_state(move |state| state.put_snapshot_policy(&saved)).await.map_err(not_kept)?;
        self.model.put_schedule(policy.clone());
        Ok(policy)
    }

    async fn delete_schedule(&mut self, project: &str, uuid: Uuid) -> Result<(), Error> {
        self.model.schedule(project, uuid)?;
        self.on_state(move |state| state.remove_snapshot_policy(uuid)).await.map_err(not_kept)?;
        self.model.drop_schedule(uuid);
        Ok(())
    }

    async fn set_default(&mut self, key: &PolicyKey) -> Result<(), Error> {
        let uuid: Uuid = self.model.possible_default(key)?;
        self.on_state(move |state| state.set_default_qos_policy(uuid)).await.map_err(not_kept)?;
        self.model.set_default_policy(uuid);
        Ok(())
    }
}

fn not_kept(why: String) -> Error {
    Error::new(Kind::Internal, format!("nothing was changed: {why}"))
}
