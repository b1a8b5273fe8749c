//! Every structure that a drive feeds to the store: superblock, anchor, segment header, commit, map page, checkpoint body, and what
//! foreign systems leave. The first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dolmen_store::fuzzing::structure(bytes));
