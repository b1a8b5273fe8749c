//! Requests for QoS policies: checked by the model, made durable in the state file, then in force.

use super::service::Service;
use crate::{
    Error, Kind,
    model::PolicyView,
    plane::Answer,
    qos::{PolicyChange, PolicyKey, PolicySpec, QosPolicy},
};
use dolmen_types::Uuid;

/// What a [`super::Handle`] asks about QoS policies.
#[derive(Debug)]
pub(super) enum PolicyMessage {
    Create { spec: PolicySpec, answer: Answer<Result<PolicyView, Error>> },
    Update { key: PolicyKey, change: PolicyChange, answer: Answer<Result<PolicyView, Error>> },
    Delete { key: PolicyKey, answer: Answer<Result<(), Error>> },
    SetDefault { key: PolicyKey, answer: Answer<Result<(), Error>> },
    Find { key: PolicyKey, answer: Answer<Result<PolicyView, Error>> },
    List { answer: Answer<Vec<PolicyView>> },
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
            PolicyMessage::Find { key, answer } => drop(answer.send(self.model.policy(&key))),
            PolicyMessage::List { answer } => drop(answer.send(self.model.policies())),
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
