//! Developer verbs of Dolmen: `cargo xtask <verb>`.
#![forbid(unsafe_code)]

fn main() {
    eprintln!("usage: cargo xtask <verb>");
    std::process::exit(2);
}
