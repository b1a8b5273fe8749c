//! Data that is lost, as users are told of it: by volume or snapshot, in logical blocks.

use dolmen_types::Uuid;

/// A volume with blocks that nothing gives any more, or snapshots with such blocks that no volume shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostObject {
    /// The volume, or the first of the snapshots; zeros where the record of it is not understood.
    pub uuid: Uuid,
    /// The volume's name; of snapshots that of their volume.
    pub volume: String,
    /// Snapshots that show the ranges and that no volume shares them with; empty for a volume.
    pub snapshots: Vec<String>,
    /// Of a volume: snapshots that show some of its ranges, too.
    pub also: Vec<String>,
    /// Logical block size. Bytes.
    pub sector_bytes: u64,
    /// What is lost, ascending.
    pub ranges: Vec<LostBlocks>,
}

/// Consecutive logical blocks that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBlocks {
    /// First one.
    pub lba: u64,
    /// How many.
    pub blocks: u64,
    /// `Damaged`: not what was written, on all drives that matter. `Unreadable`: a drive that comes back may have it, or some of it. `Unknown`: the part
    /// of the map that told of them is lost, and some may never have been written.
    pub cause: &'static str,
}

/// Ranges that a sentence names at most.
const IN_A_SENTENCE: usize = 16;

impl LostObject {
    /// What it is, for people.
    #[must_use]
    pub fn title(&self) -> String {
        match self.snapshots.as_slice() {
            [] => format!("volume {}", self.volume),
            [one] => format!("snapshot {one} of volume {}", self.volume),
            many => format!("snapshots {} of volume {}", many.join(", "), self.volume),
        }
    }

    /// How much is lost. Bytes.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, r| sum.saturating_add(r.blocks.saturating_mul(self.sector_bytes)))
    }

    /// True when every range of another one lies in one of these.
    #[must_use]
    pub fn covers(&self, other: &LostObject) -> bool {
        let end = |r: &LostBlocks| r.lba.saturating_add(r.blocks);
        other.ranges.iter().all(|b| self.ranges.iter().any(|a| a.lba <= b.lba && end(b) <= end(a)))
    }

    /// All that is to be said, in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let named: Vec<String> = self.ranges.iter().take(IN_A_SENTENCE).map(LostBlocks::lbas).collect();
        let more = self.ranges.len() - named.len();
        let more = if more > 0 { format!(" and {more} ranges more") } else { String::new() };
        let (title, size) = (self.title(), self.sector_bytes);
        format!("{title}: LBA {}{more} (blocks of {size} bytes)", named.join(", "))
    }
}

impl LostBlocks {
    /// First and last, for people.
    #[must_use]
    pub fn lbas(&self) -> String {
        match self.blocks {
            1 => self.lba.to_string(),
            blocks => format!("{}-{}", self.lba, self.lba.saturating_add(blocks - 1)),
        }
    }
}
