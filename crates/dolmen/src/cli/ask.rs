//! Before something is lost: people at a terminal are asked, a script has to say that it means it.

use super::error::{CliError, Exit};
use std::io::{self, IsTerminal};

/// What is about to be lost.
pub(crate) struct Loss {
    /// What that is, in a sentence without its full stop.
    pub(crate) what: String,
    /// What people should know beside it, in a sentence.
    pub(crate) advice: &'static str,
    /// What is so when it is not meant.
    pub(crate) spared: &'static str,
}

/// True when there is somebody to ask.
pub(crate) fn at_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Fails unless it is meant.
pub(crate) fn meant(loss: &Loss) -> Result<(), CliError> {
    let Loss { what, advice, spared } = loss;
    if !at_terminal() {
        return Err(
            CliError::new(Exit::Failed, format!("{what}; {spared}")).hint("if that is meant: add --yes")
        );
    }
    eprint!("{what}. {advice} Type 'yes': ");
    let mut line = String::new();
    let _ = io::stdin().read_line(&mut line);
    if line.trim() == "yes" { Ok(()) } else { Err(CliError::new(Exit::Failed, *spared)) }
}
