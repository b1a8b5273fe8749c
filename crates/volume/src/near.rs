//! Reads whose data is at hand: answered on the spot, into memory of the caller's, without a request, a buffer or a turn.

use crate::{
    HostId, LbaRange, VolumeRef, Volumes,
    backing::Backing,
    reservation::Access,
    span::Span,
    volume::{Life, Volume},
};

/// A read that would like to be answered at once.
#[derive(Clone, Copy, Debug)]
pub struct NearRead<'a> {
    /// The volume it is for.
    pub volume: VolumeRef,
    /// The host, for reservations.
    pub host_id: &'a HostId,
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
}

/// The volumes of the core that a door runs on, for as long as it handles one event.
pub struct Near<'a>(Option<&'a mut Volumes>);

impl<'a> Near<'a> {
    /// These volumes, or none on a core that has none.
    #[must_use]
    pub fn of(volumes: Option<&'a mut Volumes>) -> Near<'a> {
        Near(volumes)
    }

    /// The data of a read, if it is to be had without waiting and nothing speaks against that. `None`: send a
    /// [`Request`](crate::Request), which also tells what is wrong.
    #[must_use]
    pub fn find(&mut self, read: &NearRead<'_>) -> Option<AtHand<'_>> {
        let volumes = self.0.as_deref_mut().filter(|volumes| volumes.core == read.volume.core)?;
        let volume = volumes.volumes.get_mut(read.volume.slot as usize)?;
        let span = volume.at_hand(read)?;
        Some(AtHand { volume, span })
    }
}

/// The data of a read that nothing is in the way of.
pub struct AtHand<'a> {
    volume: &'a mut Volume,
    span: Span,
}

impl AtHand<'_> {
    /// Its length. Bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.span.len()
    }

    /// Answers the read: fills `into`, which must be as long as the data, and counts it.
    ///
    /// # Panics
    /// When it has another length: a defect of the caller.
    pub fn read(self, into: &mut [u8]) {
        assert_eq!(into.len() as u64, self.span.len(), "the room is as long as the data");
        self.volume.backing.read_now(self.span.first(), into);
        self.volume.stats.read_bytes += self.span.len();
        self.volume.stats.reads.add(0);
    }
}

impl Volume {
    fn at_hand(&self, read: &NearRead<'_>) -> Option<Span> {
        let range = LbaRange { lba: read.lba, blocks: read.blocks };
        let span = Span::of(range, self.sector_shift, self.size).ok()?;
        let there = match &self.backing {
            Backing::Null => true,
            Backing::Memory(_) => span.is_aligned(),
            Backing::Durable(_) => false,
        };
        let free = self.at == read.volume
            && self.life == Life::Serving
            && !self.throttle.is_on()
            && self.backlog.is_empty()
            && self.reservations.permits(read.host_id, Access::Read);
        (there && free).then_some(span)
    }
}
