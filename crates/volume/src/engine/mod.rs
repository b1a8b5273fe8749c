//! The way of a command: [`throttle`] lets it on when its volume's rate allows, [`admit`] looks at it and claims its
//! ranges, [`run`] loads, decides, sequences and ends it, [`records`] says what a decided command changes. [`call_off`] ends what nobody waits for any more.

mod admit;
pub(crate) mod call_off;
mod records;
mod run;
mod throttle;

pub(crate) use run::{opening_ticket, snapshot_ticket};
