//! CPU time that a process has used, as the scheduler counts it: exact to the nanosecond, where `stat` has ticks.

use std::{fs, io, path::Path, time::Duration};

/// All threads of a process that live now.
pub(crate) fn of_process(pid: u32) -> io::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        match of_task(&task?.path()) {
            Ok(ns) => total += ns,
            // It has just ended.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Duration::from_nanos(total))
}

/// Nanoseconds on a CPU of one task, `/proc/PID/task/TID`.
fn of_task(task: &Path) -> io::Result<u64> {
    parse(&fs::read_to_string(task.join("schedstat"))?)
        .ok_or_else(|| io::Error::other("this kernel keeps no schedstat"))
}

/// The first of the three numbers: time on the CPU, time waiting for it, turns.
fn parse(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Memory of a process that is resident now. Bytes.
pub(crate) fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    resident_of(&status).ok_or_else(|| io::Error::other("/proc tells no VmRSS"))
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        assert_eq!(parse("1234567 89 10\n"), Some(1_234_567));
        assert_eq!(parse(""), None);
        assert_eq!(resident_of("VmPeak:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident_of("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn work_takes_time() {
        let me = std::process::id();
        let before = of_process(me).unwrap();
        let mut x = 1u64;
        for i in 0..2_000_000u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
        // What a thread used is booked at the latest when it gives its CPU away.
        std::thread::sleep(Duration::from_millis(5));
        assert!(of_process(me).unwrap() > before, "{x}");
        assert!(resident(me).unwrap() > 1 << 16);
    }
}
