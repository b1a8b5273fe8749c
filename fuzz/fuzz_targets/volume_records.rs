//! The records of volumes in the log: descriptors and reservations.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dolmen_volume::fuzzing::records(bytes));
