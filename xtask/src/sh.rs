//! Child processes: one way to run a program, with errors that say what was run and what it printed.
//!
//! Every helper takes the argument vector as words and never goes through a shell, so no quoting is needed.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command line under construction: program, words, folder.
pub(crate) struct Run {
    command: Command,
    shown: String,
}

/// Starts a command line with its program.
pub(crate) fn run(program: &str) -> Run {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    Run { command, shown: program.to_owned() }
}

impl Run {
    /// Adds one word.
    pub(crate) fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&word.as_ref().to_string_lossy());
        self.command.arg(word);
        self
    }

    /// Adds several words.
    pub(crate) fn args<S: AsRef<OsStr>>(self, words: impl IntoIterator<Item = S>) -> Self {
        words.into_iter().fold(self, Self::arg)
    }

    /// Sets the folder the program runs in.
    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets one environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs with the terminal's output; an exit code other than zero is an error.
    pub(crate) fn status(mut self) -> Result<()> {
        let status = self.command.status().with_context(|| format!("cannot start `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(())
    }

    /// Runs with the terminal's output and tells whether the exit code was zero.
    pub(crate) fn succeeds(mut self) -> Result<bool> {
        let status = self.command.status().with_context(|| format!("cannot start `{}`", self.shown))?;
        Ok(status.success())
    }

    /// Runs quietly and returns the standard output as bytes; an exit code other than zero is an error that
    /// holds what the program said.
    pub(crate) fn bytes(mut self) -> Result<Vec<u8>> {
        let output = self.command.output().with_context(|| format!("cannot start `{}`", self.shown))?;
        if !output.status.success() {
            bail!("`{}` failed: {}\n{}", self.shown, output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// As [`Run::bytes`], as text.
    pub(crate) fn text(self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// Runs quietly and tells whether the program exists and its exit code was zero.
    pub(crate) fn quiet_success(mut self) -> bool {
        self.command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

/// Whether a program of this name is on the path.
pub(crate) fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
