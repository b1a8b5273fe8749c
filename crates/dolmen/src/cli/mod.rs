//! The command line: what was asked, who answers, and with which exit code it ends.

pub mod args;
mod ask;
pub mod bench;
mod check;
mod client;
mod connect;
mod discard;
mod drive;
mod duration;
mod error;
pub mod export;
pub mod fabric;
mod key;
mod locate;
mod log;
mod offline;
mod output;
mod policy;
mod pool;
mod qos;
mod snapshot;
mod system;
mod top;
mod volume;
mod why;

use crate::{
    config::{LogFormat, ServeOptions},
    demo,
    node::{self, DriveIdentity},
};
use args::{Cli, Command, DriveCommand, Format, Global, KeyCommand, PoolCommand};
use ask::Loss;
use clap::{CommandFactory, FromArgMatches};
use client::Client;
use error::{CliError, Exit};
use output::Output;
use std::{path::Path, process::ExitCode};

/// Runs the program with the process's own arguments.
pub fn run() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(why) => {
            let code = if why.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = why.print();
            return code.into();
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(why) => {
            let _ = why.print();
            return Exit::Usage.into();
        }
    };
    let format = cli.global.output;
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            match format {
                Format::Table => eprintln!("{error}"),
                Format::Json => eprintln!("{}", error.json()),
            }
            error.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => return serve(&global, *args),
        Command::Demo(args) => {
            takes_no_node(&global)?;
            return demo::demo(&args).map_err(|why| CliError::new(Exit::Failed, why.to_string()));
        }
        Command::Export { command } => export::run(&Output::new(global.output), &command)?,
        Command::Bench(args) => return bench::bench(&Output::new(global.output), &args),
        Command::Completions { shell } => completions(shell)?,
        Command::Drive { command: DriveCommand::Wipe { path, yes } } => {
            wipe(&Output::new(global.output), &path, yes)?;
        }
        Command::Key { command: command @ (KeyCommand::Export { .. } | KeyCommand::Import { .. }) } => {
            key::local(&global, &Output::new(global.output), command)?;
        }
        Command::Pool { command: PoolCommand::Check(args) } => {
            return check::check(&Output::new(global.output), global.data.as_deref(), &args);
        }
        Command::Pool { command: PoolCommand::Recover(args) } => {
            offline::recover(&Output::new(global.output), global.data.as_deref(), &args)?;
        }
        Command::Top(args) => {
            let client = Client::new(locate::target(&global)?)?;
            top::run(client, &Output::new(global.output), global.output, &args)?;
        }
        remote => {
            let client = Client::new(locate::target(&global)?)?;
            let output = Output::new(global.output);
            answer(&client, &output, remote)?;
        }
    }
    Ok(Exit::Done.into())
}

/// The verbs that a daemon answers.
fn answer(client: &Client, output: &Output, command: Command) -> Result<(), CliError> {
    match command {
        Command::Volume { command } => volume::run(client, output, command),
        Command::Policy { command } => policy::run(client, output, command),
        Command::Snapshot { command } => snapshot::run(client, output, command),
        Command::Qos { command } => qos::run(client, output, command),
        Command::Node { .. } => system::nodes(client, output),
        Command::Pool { command } => pool::run(client, output, command),
        Command::Drive { command } => drive::run(client, output, command),
        Command::Key { command } => key::remote(client, output, &command),
        Command::Host { .. } => system::hosts(client, output),
        Command::Event { command } => system::events(client, output, &command),
        Command::Status => system::status(client, output),
        Command::WhySlow { volume } => why::why(client, output, &volume),
        Command::ConnectHelp { volume } => connect::help(client, output, &volume),
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Top(_)
        | Command::Export { .. }
        | Command::Completions { .. } => Ok(()),
    }
}

/// The demo makes a node of its own: one that is named would be left alone without a word.
fn takes_no_node(global: &Global) -> Result<(), CliError> {
    for (given, flag) in [
        (global.data.is_some(), "--data"),
        (global.endpoint.is_some(), "--endpoint"),
        (global.token_file.is_some(), "--token-file"),
        (global.certificate.is_some(), "--certificate"),
    ] {
        if given {
            return Err(CliError::usage(format!(
                "demo doesn't take {flag}: it makes a node of its own, in a folder of its own"
            )));
        }
    }
    Ok(())
}

fn serve(global: &Global, args: crate::config::ServeArgs) -> Result<ExitCode, CliError> {
    for (given, flag) in [
        (global.endpoint.is_some(), "--endpoint"),
        (global.token_file.is_some(), "--token-file"),
        (global.certificate.is_some(), "--certificate"),
    ] {
        if given {
            return Err(CliError::usage(format!(
                "serve doesn't take {flag}: it is a daemon, not a client of one"
            )));
        }
    }
    let options =
        ServeOptions::load(global.data.as_deref(), args).map_err(|why| CliError::usage(why.to_string()))?;
    log::start(options.log_level, options.log_format);
    match node::serve(&options) {
        // Who reads the log by machine reads this line too.
        Err(why) if options.log_format == LogFormat::Json => {
            tracing::error!("{why}");
            Ok(Exit::Failed.into())
        }
        other => other.map_err(|why| CliError::new(Exit::Failed, why.to_string())),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dolmen", &mut script);
    output::say(&script)
}

/// Makes a drive blank. People at a terminal are asked first; a script has to say that it means it.
fn wipe(output: &Output, path: &Path, yes: bool) -> Result<(), CliError> {
    let failed = |why: node::ServeError| CliError::new(Exit::Failed, why.to_string());
    let holds = match node::identify_drive(path).map_err(failed)? {
        DriveIdentity::Blank => "nothing".to_string(),
        DriveIdentity::Ours { pool, drive, .. } => format!("drive {drive} of Dolmen pool {pool}"),
        DriveIdentity::Other { version, .. } => {
            format!("a Dolmen drive of format {version}, which this program does not read")
        }
        DriveIdentity::Damaged => "a damaged drive of a Dolmen pool".to_string(),
        DriveIdentity::Foreign(what) => what,
    };
    if !yes {
        ask::meant(&Loss {
            what: format!("{} holds {holds}", path.display()),
            advice: "All of it will be lost.",
            spared: "nothing was wiped",
        })?;
    }
    node::wipe_drive(path).map_err(failed)?;
    let answer = serde_json::json!({"path": path.display().to_string(), "blank": true});
    output.put(&answer, |_| format!("{} is blank", path.display()))
}
