//! `dolmen top`: what the node does now, live in the terminal, once, or line by line for programs.

mod fit;
mod live;
mod rates;
mod view;

use super::{
    args::{Format, TopArgs},
    client::Client,
    error::CliError,
    output::Output,
};
use rates::{Rates, Sample};
use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::Duration,
};

/// Where the counters are.
const STATS: &str = "/dolmen/v1/stats";

/// Runs until told to stop: at a terminal with a live view, else once; for programs a line of JSON at each interval.
pub(crate) fn run(client: Client, output: &Output, format: Format, args: &TopArgs) -> Result<(), CliError> {
    let interval = Duration::from_secs_f64(args.interval);
    let interactive = io::stdout().is_terminal() && io::stdin().is_terminal();
    match format {
        Format::Json if args.once => output.put(&once(&client, interval)?.json(), |_| String::new()),
        Format::Json => lines(&client, interval),
        Format::Table if args.once || !interactive => {
            let rates = once(&client, interval)?;
            output.put(&rates.json(), |_| view::page(&rates, args.sort))
        }
        Format::Table => live::run(client, interval, args.sort),
    }
}

fn sample(client: &Client) -> Result<Sample, CliError> {
    Ok(Sample::read(&client.get(STATS)?))
}

/// What happens during one interval.
fn once(client: &Client, interval: Duration) -> Result<Rates, CliError> {
    let before = sample(client)?;
    thread::sleep(interval);
    Ok(Rates::between(&before, &sample(client)?))
}

/// A line for each interval, until the reader has seen enough.
fn lines(client: &Client, interval: Duration) -> Result<(), CliError> {
    let mut before = sample(client)?;
    loop {
        thread::sleep(interval);
        let now = sample(client)?;
        let line = format!("{}\n", Rates::between(&before, &now).json());
        let mut out = io::stdout().lock();
        if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        before = now;
    }
}

/// Whether what was asked for lies within reason.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(s) if (0.1..=3600.0).contains(&s) => Ok(s),
        _ => Err("seconds from 0.1 to 3600".into()),
    }
}
