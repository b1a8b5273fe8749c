//! The last time of day that was believed, kept beside how long the machine had been up then: see `node/clock.rs`.

use super::{State, StateError};
use crate::node::Uptime;
use dolmen_types::UnixMillis;

const KEY: &str = "clock";

/// A time that was believed, by both clocks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// The time of day.
    pub at: UnixMillis,
    /// How long the machine had been up, if that is known.
    pub uptime: Option<Uptime>,
}

impl State {
    /// The last time that was believed; nothing, where nothing that this version can read was kept.
    pub fn belief(&self) -> Result<Option<Belief>, StateError> {
        Ok(self.text(KEY)?.and_then(|text| decode(&text)))
    }

    /// Keeps it for the next start.
    pub fn set_belief(&self, belief: &Belief) -> Result<(), StateError> {
        self.set_texts(&[(KEY, &encode(belief))])
    }
}

/// `AT`, or `AT BOOT UPTIME`.
fn encode(belief: &Belief) -> String {
    let at = belief.at.0;
    belief.uptime.map_or_else(|| at.to_string(), |up| format!("{at} {} {}", up.boot, up.ms))
}

fn decode(text: &str) -> Option<Belief> {
    let mut words = text.split(' ');
    let at = UnixMillis(words.next()?.parse().ok()?);
    let uptime = match words.next() {
        None => None,
        Some(boot) => Some(Uptime { boot: boot.parse().ok()?, ms: words.next()?.parse().ok()? }),
    };
    Some(Belief { at, uptime })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_types::Uuid;

    #[test]
    fn what_was_kept_is_read_again_and_what_makes_no_sense_was_never_kept() {
        let uptime = Some(Uptime { boot: Uuid([7; 16]), ms: 12 });
        for belief in [Belief { at: UnixMillis(5), uptime: None }, Belief { at: UnixMillis(5), uptime }] {
            assert_eq!(decode(&encode(&belief)), Some(belief));
        }
        for text in ["", "x", "5 x 12", "5 07070707-0707-0707-0707-070707070707"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
