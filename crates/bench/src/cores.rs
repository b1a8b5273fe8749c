//! Pinning to CPUs, and the state that a pair of CPUs is in.
//!
//! Virtual machines have a fast and a slow state: a cache line that two CPUs hand back and forth takes about 80 to
//! 160 ns, or about 360 ns, for seconds or minutes at a time. Runs are only comparable within one state, so the round
//! trip is measured beside every run.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{
    io,
    process::{Child, Command},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// Round trips per measurement, some milliseconds in all, and how many of them are timed together: the median of these is not
/// moved by an interruption.
const ROUND_TRIPS: u64 = 20_000;
const TIMED: u64 = 500;

/// A cache line of its own.
#[repr(align(128))]
struct Line(AtomicU64);

/// Pins the calling thread, and whatever it starts from now on, to one CPU.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    pin_to(&[cpu])
}

/// Pins the calling thread, and whatever it starts from now on, to some CPUs.
pub(crate) fn pin_to(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).map_err(|e| {
        let e = io::Error::from(e);
        io::Error::new(
            e.kind(),
            format!("pinning to CPU {cpus:?}: {e}; choose others with --server-cpu and --client-cpu"),
        )
    })
}

/// A CPU that this process may use besides these.
pub(crate) fn spare(taken: &[usize]) -> io::Result<Option<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu) && !taken.contains(cpu)))
}

/// Starts a process pinned to some CPUs.
pub(crate) fn spawn_on(cpus: &[usize], mut command: Command) -> io::Result<Child> {
    // Children inherit the affinity of the thread that starts them.
    std::thread::scope(|scope| {
        let start = scope.spawn(|| pin_to(cpus).and_then(|()| command.spawn()));
        start.join().expect("starting a process doesn't panic")
    })
}

/// Time that a cache line takes from CPU `a` to CPU `b` and back.
pub(crate) fn round_trip(a: usize, b: usize) -> io::Result<Duration> {
    let line = Line(AtomicU64::new(0));
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let pinned = pin(b);
            let mut next = 1;
            while next < 2 * ROUND_TRIPS {
                spin_until(&line, next);
                line.0.store(next + 1, SeqCst);
                next += 2;
            }
            pinned
        });
        let caller = scope.spawn(|| {
            let pinned = pin(a);
            let mut times = Vec::new();
            for first in (0..ROUND_TRIPS).step_by(usize::try_from(TIMED).expect("a small constant")) {
                let start = Instant::now();
                for trip in first..first + TIMED {
                    line.0.store(2 * trip + 1, SeqCst);
                    spin_until(&line, 2 * trip + 2);
                }
                times.push(start.elapsed());
            }
            times.sort_unstable();
            pinned.map(|()| times[times.len() / 2])
        });
        let median = caller.join().expect("the measuring thread doesn't panic");
        echo.join().expect("the echoing thread doesn't panic")?;
        Ok(median? / u32::try_from(TIMED).expect("a small constant"))
    })
}

/// Spins; yields now and then, so that two threads on one CPU still end.
fn spin_until(line: &Line, value: u64) {
    let mut spins = 0u32;
    while line.0.load(SeqCst) != value {
        std::hint::spin_loop();
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(1 << 16) {
            std::thread::yield_now();
        }
    }
}
