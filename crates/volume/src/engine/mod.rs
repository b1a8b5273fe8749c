//! The way of a command: [`throttle`] lets it on when its volume's rate allows, [`admit`] looks at it and claims its
//! ranges, [`run`] loads, decides, sequences and ends it, [`straight`] does the same for reads that need none of that, [`records`] says what a decided command changes. [`call_off`] ends what nobody waits for any more.

mod admit;
pub(crate) mod call_off;
mod records;
mod run;
pub(crate) mod straight;
mod throttle;

pub(crate) use run::{opening_ticket, snapshot_ticket};
