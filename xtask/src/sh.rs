//! Child processes: one way to run a program, with errors that say what was run and what it printed.
//!
//! Every helper takes the argument vector as words and never goes through a shell, so no quoting is needed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command line under construction: program, words, folder.
pub(crate) struct Run {
    command: Command,
    shown: String,
}

/// One of the two streams a program prints to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
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

    /// Runs with the terminal's output, keeping a copy of one of the two streams; also tells whether the exit
    /// code was zero.
    pub(crate) fn echoed(mut self, stream: Stream) -> Result<(bool, String)> {
        match stream {
            Stream::Output => self.command.stdout(Stdio::piped()),
            Stream::Error => self.command.stderr(Stdio::piped()),
        };
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{}`", self.shown))?;
        let piped: Option<Box<dyn Read>> = match stream {
            Stream::Output => child.stdout.take().map(|pipe| Box::new(pipe) as _),
            Stream::Error => child.stderr.take().map(|pipe| Box::new(pipe) as _),
        };
        let mut text = String::new();
        for line in BufReader::new(piped.context("a stream that is a pipe")?).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            text.push_str(&line);
            text.push('\n');
        }
        Ok((child.wait()?.success(), text))
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
}

/// Whether a program of this name is on the path.
pub(crate) fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
