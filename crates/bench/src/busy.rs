//! Who uses the machine's CPUs: the time on a CPU of every process and kernel thread, by name, as the scheduler counts it.
//!
//! In a guest whose clock counts instructions (`-icount shift=0`) these nanoseconds are instructions.

use crate::{Result, cpu_time};
use std::{collections::BTreeMap, fs, time::Duration};

/// A task that sleeps this long has been taken off its CPU, and what it used is booked.
const SETTLE: Duration = Duration::from_millis(5);

/// CPU time since boot of everything that lives, by name. Nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(BTreeMap<String, u64>);

impl Busy {
    /// Now, after a moment in which all come to rest.
    pub(crate) fn now() -> Result<Busy> {
        std::thread::sleep(SETTLE);
        let mut busy = Busy::default();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // It may have ended between one look and the next.
            let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
            let Ok(used) = cpu_time::of_process(pid) else { continue };
            busy.add(comm.trim(), used);
        }
        Ok(busy)
    }

    fn add(&mut self, comm: &str, used: Duration) {
        let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        *self.0.entry(group_of(comm).to_string()).or_default() += used;
    }

    /// What each has used since an earlier look; those that used nothing are left out.
    pub(crate) fn since(&self, earlier: &Busy) -> BTreeMap<String, u64> {
        let used = |(name, now): (&String, &u64)| {
            let before = earlier.0.get(name).copied().unwrap_or(0);
            Some((name.clone(), now.checked_sub(before).filter(|&used| used > 0)?))
        };
        self.0.iter().filter_map(used).collect()
    }
}

/// A kernel worker is called after its CPU and what it does at the moment (`kworker/0:1H-nvmet_tcp_wq`): one group.
fn group_of(comm: &str) -> &str {
    comm.split_once('/').map_or(comm, |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_one_group() {
        let mut before = Busy::default();
        before.add("kworker/0:1H-nvmet_tcp_wq", Duration::from_nanos(10));
        let mut after = before.clone();
        after.add("kworker/0:2", Duration::from_nanos(5));
        after.add("dolmen", Duration::from_nanos(7));
        let used = after.since(&before);
        assert_eq!(used, BTreeMap::from([("dolmen".to_string(), 7), ("kworker".to_string(), 5)]));
        assert!(before.since(&before).is_empty());
    }
}
