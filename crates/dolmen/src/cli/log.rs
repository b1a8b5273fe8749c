//! The daemon's log, to stderr.

use crate::config::{LogFormat, LogLevel};
use std::io;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging for the life of the process; a second call does nothing.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    // An error says that logging has been started already.
    let _ = match format {
        LogFormat::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}
