//! The way of a command: [`admit`] looks at it and claims its ranges, [`run`] loads, decides, sequences and ends it,
//! [`records`] says what a decided command changes.

mod admit;
mod records;
mod run;

pub(crate) use run::opening_ticket;
