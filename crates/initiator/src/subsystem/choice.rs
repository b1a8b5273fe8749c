//! Which path a command takes: among those that reach its namespace best, as the policy says.
//!
//! What "best" is depends on ANA states, on what is connected, and on whether the namespace is known to be the same there; that
//! is worked out once per namespace and kept until one of these changes. A command then costs one look into a small
//! table and, with round-robin or queue-depth, a few bit operations.

/// Paths of one subsystem at most.
pub const MAX_PATHS: usize = 32;

/// Namespaces whose best paths are kept; a power of two.
const KEPT: usize = 64;

const _: () = assert!(KEPT.is_power_of_two() && MAX_PATHS <= 32);

/// How commands are spread over the paths that reach their namespace best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// All on one: the one that is preferred most; the others wait until it fails.
    #[default]
    ActivePassive,
    /// One after the other.
    RoundRobin,
    /// On the one with the fewest commands under way.
    QueueDepth,
}

/// How a path stands to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// ANA optimized.
    Best,
    /// ANA non-optimized.
    Good,
    /// Not now: there is something to wait for.
    Unusable,
    /// The namespace is not there, or lost for good: a command would only learn that.
    Hopeless,
    /// Another namespace has the number, or the path is given up.
    Never,
}

#[derive(Clone, Copy)]
struct Kept {
    nsid: u32,
    epoch: u32,
    mask: u32,
}

/// What is kept of the choices made.
pub(super) struct Choices {
    kept: [Kept; KEPT],
    /// Entries of earlier epochs are void.
    epoch: u32,
    last: u32,
}

impl Choices {
    pub(super) fn new() -> Choices {
        Choices { kept: [Kept { nsid: 0, epoch: 0, mask: 0 }; KEPT], epoch: 1, last: 0 }
    }

    /// Something changed: nothing that was worked out before holds.
    pub(super) fn forget(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            *self = Choices { last: self.last, ..Choices::new() };
        }
    }

    /// The best paths to a namespace as bits, if they are known.
    pub(super) fn known(&self, nsid: u32) -> Option<u32> {
        let kept = &self.kept[place(nsid)];
        (kept.nsid == nsid && kept.epoch == self.epoch).then_some(kept.mask)
    }

    /// Keeps what was worked out.
    pub(super) fn keep(&mut self, nsid: u32, mask: u32) {
        self.kept[place(nsid)] = Kept { nsid, epoch: self.epoch, mask };
    }

    /// One path of a mask that has some. With active/passive the mask has one already.
    pub(super) fn pick(&mut self, policy: Policy, mask: u32, depth: impl Fn(usize) -> usize) -> usize {
        // Starting behind the last one, so that equals take turns.
        let turned = mask.rotate_right(self.last + 1);
        let at = |bit: u32| (bit + self.last + 1) % 32;
        let picked = match policy {
            Policy::ActivePassive => mask.trailing_zeros(),
            Policy::RoundRobin => at(turned.trailing_zeros()),
            Policy::QueueDepth => {
                let paths = (0..32).filter(|bit| turned & 1 << bit != 0).map(at);
                paths.min_by_key(|&path| depth(index(path))).unwrap_or(0)
            }
        };
        self.last = picked % 32;
        index(picked)
    }
}

/// The paths that stand best, as bits: those of the highest standing that any has, and of them with active/passive only
/// the most preferred. 0 when none is usable. Those without hope are for when no other can be waited for: somebody has to say that
/// the namespace is gone.
pub(super) fn best(policy: Policy, paths: &[(Standing, u8)]) -> u32 {
    let Some(&(top, _)) = paths.iter().min_by_key(|(standing, _)| *standing) else { return 0 };
    if matches!(top, Standing::Unusable | Standing::Never) {
        return 0;
    }
    let able = (0u32..).zip(paths).filter(|(_, (standing, _))| *standing == top);
    match policy {
        Policy::ActivePassive => {
            let first = able.min_by_key(|(_, (_, preference))| *preference);
            first.map_or(0, |(path, _)| 1 << path)
        }
        Policy::RoundRobin | Policy::QueueDepth => able.fold(0, |mask, (path, _)| mask | 1 << path),
    }
}

fn place(nsid: u32) -> usize {
    index(nsid) & (KEPT - 1)
}

fn index(path: u32) -> usize {
    usize::try_from(path).expect("32 bits fit the address space")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Best, Good, Hopeless, Never, Unusable};

    #[test]
    fn the_best_standing_wins_and_preference_decides_among_equals() {
        let paths = [(Good, 0), (Best, 9), (Best, 3), (Unusable, 0), (Best, 3)];
        assert_eq!(best(Policy::ActivePassive, &paths), 0b00100);
        assert_eq!(best(Policy::RoundRobin, &paths), 0b10110);
        assert_eq!(best(Policy::QueueDepth, &[(Good, 0), (Hopeless, 0)]), 1);
        assert_eq!(best(Policy::RoundRobin, &[(Unusable, 0), (Hopeless, 0)]), 0);
        assert_eq!(best(Policy::RoundRobin, &[(Never, 0), (Hopeless, 0)]), 2);
        assert_eq!(best(Policy::ActivePassive, &[(Never, 0), (Unusable, 1)]), 0);
        assert_eq!(best(Policy::RoundRobin, &[(Never, 0), (Never, 0)]), 0);
        assert_eq!(best(Policy::RoundRobin, &[(Unusable, 0), (Unusable, 0)]), 0);
        assert_eq!(best(Policy::RoundRobin, &[]), 0);
    }

    #[test]
    fn round_robin_takes_turns_and_queue_depth_the_emptiest() {
        let mut choices = Choices::new();
        let mask = 1 | 1 << 5 | 1 << 31;
        let turns: Vec<usize> = (0..6).map(|_| choices.pick(Policy::RoundRobin, mask, |_| 0)).collect();
        assert_eq!(turns, [5, 31, 0, 5, 31, 0]);
        let depths = |path: usize| if path == 5 { 1 } else { 4 };
        assert_eq!(choices.pick(Policy::QueueDepth, mask, depths), 5);
        let equal: Vec<usize> = (0..3).map(|_| choices.pick(Policy::QueueDepth, mask, |_| 7)).collect();
        assert_eq!(equal, [31, 0, 5]);
        assert_eq!(choices.pick(Policy::ActivePassive, 1 << 31, |_| 0), 31);
    }

    #[test]
    fn what_is_kept_is_forgotten_as_a_whole() {
        let mut choices = Choices::new();
        choices.keep(7, 3);
        choices.keep(8, 1);
        assert_eq!((choices.known(7), choices.known(8), choices.known(9)), (Some(3), Some(1), None));
        choices.keep(7 + 64, 2);
        assert_eq!((choices.known(7), choices.known(71)), (None, Some(2)));
        choices.forget();
        assert_eq!((choices.known(71), choices.known(8), choices.known(0)), (None, None, None));
        choices.epoch = u32::MAX;
        choices.keep(1, 1);
        choices.forget();
        assert_eq!((choices.known(1), choices.epoch), (None, 1));
    }
}
