//! The hot paths, one at a time, so that their instructions can be counted: `cargo xtask guard` runs this under callgrind
//! and compares with what is recorded in `crates/guard/figures.txt`.
//!
//! Host, core and drives live in one thread and in memory ([`world`]), with a clock that moves by a fixed step, so that every
//! run is the same run. Only what happens inside [`counted`] counts: start, filling and warming up do not.
//!
//! ```text
//!   dolmen-guard --list     names of the cases
//!   dolmen-guard CASE       runs one; says how many operations were counted
//! ```
#![forbid(unsafe_code)]

mod codec;
mod node;
mod pair;
mod store;
mod world;

use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A case: its name, and what runs it and tells how many operations were counted.
type Case = (&'static str, fn() -> Result<u64>);

/// Everything that is guarded.
const CASES: &[Case] = &[
    ("codec/controller-read", codec::controller_read),
    ("codec/controller-write", codec::controller_write),
    ("codec/host-read", codec::host_read),
    ("codec/host-write", codec::host_write),
    ("pair/null-read", || pair::run(&pair::Shape::NULL_READ)),
    ("pair/null-read-alone", || pair::run(&pair::Shape::NULL_READ_ALONE)),
    ("pair/null-write", || pair::run(&pair::Shape::NULL_WRITE)),
    ("pair/durable-read", || pair::run(&pair::Shape::DURABLE_READ)),
    ("pair/durable-write", || pair::run(&pair::Shape::DURABLE_WRITE)),
    ("pair/sealed-read", || pair::run(&pair::Shape::SEALED_READ)),
    ("pair/sealed-write", || pair::run(&pair::Shape::SEALED_WRITE)),
    ("store/append", store::append),
    ("store/lookup", store::lookup),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [word] = words.as_slice() else {
        eprintln!("dolmen-guard: name one case, or --list");
        return ExitCode::FAILURE;
    };
    if word == "--list" {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let Some((_, case)) = CASES.iter().find(|(name, _)| name == word) else {
        eprintln!("dolmen-guard: there is no case {word}; --list names them");
        return ExitCode::FAILURE;
    };
    match case() {
        Ok(operations) => {
            println!("operations: {operations}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dolmen-guard: {word}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is counted: callgrind collects between entry and return of this function alone, which it knows by its name.
#[inline(never)]
fn counted<T>(work: &mut dyn FnMut() -> Result<T>) -> Result<T> {
    work()
}

/// The next of a fixed row of numbers that look random.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
