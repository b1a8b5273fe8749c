//! Several ways to one subsystem: how they are named, and how they are used.

use super::{FabricArgs, Host, Service, Told, connect, discover, resolve};
use crate::cli::{
    duration::{Span, milliseconds_or_never},
    error::{CliError, Exit},
};
use clap::{Args, ValueEnum};
use dolmen_initiator::{Digests, Fencing, MAX_PATHS, Options, PathOptions, Policy, blocking::Session};
use std::net::SocketAddr;

/// How paths are used, and for how long they are waited for.
#[derive(Args, Clone, Debug)]
pub struct PathArgs {
    /// How commands are spread over the paths that reach their namespace best, as ANA tells
    #[arg(long, value_enum, value_name = "HOW", default_value_t = PathPolicy::ActivePassive)]
    pub policy: PathPolicy,

    /// What becomes of changes whose answer was lost with a path, when another one takes over
    #[arg(long, value_enum, value_name = "HOW", default_value_t = PathFencing::Blocks)]
    pub fencing: PathFencing,

    /// Keep-alive timeout: a path on which that is unanswered is lost; never turns it off, which takes one path or --fencing off
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = milliseconds_or_never)]
    pub keep_alive: Span,

    /// A command that is unanswered for so long is aborted, and sent again, here or on another path
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = milliseconds_or_never)]
    pub io_timeout: Span,

    /// When no path has been there for so long, commands fail until one is again
    #[arg(long, value_name = "TIME", default_value = "never", value_parser = milliseconds_or_never)]
    pub fast_fail: Span,

    /// A path that has been away for so long is given up; when the last one is, this ends
    #[arg(long, value_name = "TIME", default_value = "never", value_parser = milliseconds_or_never)]
    pub loss_timeout: Span,
}

/// How commands are spread over paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathPolicy {
    /// All on one; the others wait until it fails.
    ActivePassive,
    /// One after the other.
    RoundRobin,
    /// On the one with the fewest commands under way.
    QueueDepth,
}

/// What is done about changes with an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathFencing {
    /// They are sent again at once; other changes of their blocks wait until the lost path is sure to be over.
    Blocks,
    /// They themselves wait for that: where several hosts write to the same blocks.
    Commands,
    /// Nothing waits: a path that was slow and not dead may overwrite newer data.
    Off,
}

impl PathArgs {
    fn apply(&self, options: Options) -> Options {
        let keep_alive_ms = self.keep_alive.0.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX));
        Options {
            policy: match self.policy {
                PathPolicy::ActivePassive => Policy::ActivePassive,
                PathPolicy::RoundRobin => Policy::RoundRobin,
                PathPolicy::QueueDepth => Policy::QueueDepth,
            },
            fencing: match self.fencing {
                PathFencing::Blocks => Fencing::Blocks,
                PathFencing::Commands => Fencing::Commands,
                PathFencing::Off => Fencing::Off,
            },
            keep_alive_ms,
            io_timeout_ms: self.io_timeout.0.unwrap_or(FOR_EVER_MS),
            fast_fail_ms: self.fast_fail.0,
            loss_timeout_ms: self.loss_timeout.0,
            ..options
        }
    }
}

/// What stands for no timeout where there must be a number: a century. Milliseconds.
const FOR_EVER_MS: u64 = 100 * 365 * 86_400_000;

/// A subsystem that was reached.
pub(crate) struct Reached {
    /// Connected by at least one path.
    pub(crate) session: Session,
    /// How that was done, with all paths.
    pub(crate) options: Options,
    /// Who told of the paths: discovery services, which know of changes too.
    pub(crate) services: Vec<Service>,
}

/// Connects to the subsystem that is meant by all ways that the targets are or tell of. It is enough when one works.
pub(crate) fn reach_all(
    targets: &[String],
    args: &FabricArgs,
    paths: &PathArgs,
) -> Result<Reached, CliError> {
    let host = Host::new(args)?;
    let (mut found, mut ways) = (Found::default(), Vec::new());
    for target in targets {
        let (addresses, has_port) = resolve(target)?;
        match &args.nqn {
            Some(nqn) => {
                found.subsystem = Some(nqn.clone());
                ways.push(addresses[0]);
            }
            None => found.ask(target, addresses[0], has_port, &host, &mut ways)?,
        }
    }
    let Some(subsystem) = found.subsystem else {
        return Err(found.failure.unwrap_or_else(|| CliError::usage("no target was named")));
    };
    if let Some(why) = found.failure {
        eprintln!("{why}; the others are enough to begin with");
    }
    let mut all: Vec<SocketAddr> = Vec::new();
    ways.into_iter().for_each(|way| {
        if !all.contains(&way) {
            all.push(way)
        }
    });
    if all.len() > MAX_PATHS {
        let text = format!("{} ways to {subsystem} were found; at most {MAX_PATHS} can be used", all.len());
        return Err(CliError::usage(text)
            .hint("name the addresses to use with --target, and the subsystem with --nqn"));
    }
    let more = (1..).zip(&all[1..]).map(|(preference, &addr)| PathOptions { addr, preference });
    let digests = Digests { header: args.header_digest, data: args.data_digest };
    let options = Options { paths: more.collect(), digests, ..host.options(all[0], subsystem) };
    let options = paths.apply(options);
    let session = connect(&targets.join(", "), &options)?;
    Ok(Reached { session, options, services: found.services })
}

/// What discovery services told.
#[derive(Default)]
struct Found {
    subsystem: Option<dolmen_types::Nqn>,
    services: Vec<Service>,
    /// The first one that didn't answer.
    failure: Option<CliError>,
}

impl Found {
    /// Asks one more. One that can't be reached now may be later, when another one tells what it is about.
    fn ask(
        &mut self,
        target: &str,
        addr: SocketAddr,
        has_port: bool,
        host: &Host,
        ways: &mut Vec<SocketAddr>,
    ) -> Result<(), CliError> {
        match discover(target, addr, has_port, host) {
            Ok(Told { subsystem, service, ways: more }) => {
                if let Some(other) = self.subsystem.as_ref().filter(|other| **other != subsystem) {
                    let text = format!(
                        "{target} is another subsystem ({subsystem}) than the target before it ({other})"
                    );
                    return Err(CliError::usage(text).hint("all targets are ways to one subsystem"));
                }
                self.subsystem = Some(subsystem);
                self.services.push(service);
                ways.extend(more);
            }
            Err(why) if why.exit == Exit::Unreachable => {
                self.services.push(Service::unheard(addr, has_port));
                self.failure.get_or_insert(why);
            }
            Err(why) => return Err(why),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Just {
        #[command(flatten)]
        paths: PathArgs,
    }

    #[test]
    fn flags_become_options() {
        let nqn: dolmen_types::Nqn = "nqn.2014-08.org.example:a".parse().unwrap();
        let addr = "192.0.2.1:4420".parse().unwrap();
        let plain = Options::new(addr, nqn.clone(), nqn, dolmen_types::Uuid([1; 16]));
        let of = |words: &[&str]| {
            let words = [&["x"], words].concat();
            Just::try_parse_from(words).unwrap().paths.apply(plain.clone())
        };
        let usual = Options { loss_timeout_ms: None, ..plain.clone() };
        assert_eq!(of(&[]), usual, "what the library takes, but that nothing is given up");
        let words = [
            "--policy=queue-depth",
            "--fencing=off",
            "--keep-alive=5s",
            "--fast-fail=20",
            "--loss-timeout=1h",
        ];
        let wanted = Options {
            policy: Policy::QueueDepth,
            fencing: Fencing::Off,
            keep_alive_ms: 5000,
            fast_fail_ms: Some(20_000),
            loss_timeout_ms: Some(3_600_000),
            ..plain.clone()
        };
        assert_eq!(of(&words), wanted);
        assert_eq!(of(&["--keep-alive=never"]).keep_alive_ms, 0);
    }
}
