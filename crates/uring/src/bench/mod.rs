//! Measuring programs: what the TCP stack itself allows ([`floor`]), and what the core's loop makes of it ([`echo`]).
//!
//! Both exchange the bytes of a 4 KiB read: 72 bytes one way (a command capsule), 4120 the other (header and data), with a
//! number of requests always under way. They differ only in how they reach the kernel, so their ratio is the loop's cost.

pub mod echo;
pub mod floor;

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 72;
/// Bytes of a reply.
pub const REPLY_BYTES: usize = 4120;

/// One measurement.
#[derive(Clone, Debug)]
pub struct Run {
    /// Requests under way at a time.
    pub depth: usize,
    /// How long to measure, after a tenth of it as warm-up.
    pub time: Duration,
    /// CPUs that server and client are pinned to, if any.
    pub cpus: Option<(usize, usize)>,
    /// Congestion control of both ends, if not the system's.
    pub congestion: Option<String>,
}

/// What a measurement gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Round trips in a second.
    pub per_second: f64,
    /// Mean time from a request to its reply, by Little's law. Microseconds.
    pub mean_us: f64,
}

/// Counts round trips, first to warm up and then to measure.
struct Meter {
    started: Instant,
    measuring: bool,
    count: u64,
    run: Run,
}

impl Meter {
    fn new(run: &Run) -> Meter {
        Meter { started: Instant::now(), measuring: false, count: 0, run: run.clone() }
    }

    /// Counts `n` round trips; the rate when the time is over.
    fn count(&mut self, n: usize) -> Option<Rate> {
        self.count += n as u64;
        let passed = self.started.elapsed();
        if !self.measuring && passed >= self.run.time / 10 {
            (self.measuring, self.count, self.started) = (true, 0, Instant::now());
        } else if self.measuring && passed >= self.run.time {
            let per_second = self.count as f64 / passed.as_secs_f64();
            return Some(Rate { per_second, mean_us: self.run.depth as f64 * 1e6 / per_second });
        }
        None
    }
}

/// Pins the calling thread, if a CPU is named.
fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        crate::pin_thread(cpu).expect("the caller names CPUs that there are");
    }
}

/// Sets a socket's congestion control.
fn set_congestion(socket: &impl AsRawFd, name: Option<&str>) {
    let Some(name) = name else { return };
    let len = libc::socklen_t::try_from(name.len()).expect("names are short");
    // SAFETY: the name lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            len,
        )
    };
    assert!(result == 0, "congestion control '{name}' is not available");
}
