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

    /// Fills `into`, whose length must be the range's, when that takes no waiting and nothing speaks against it. False:
    /// send a [`Request`](crate::Request), which also tells what is wrong; `into` is as it was.
    #[must_use]
    pub fn read(&mut self, read: &NearRead<'_>, into: &mut [u8]) -> bool {
        let Some(volumes) = self.0.as_deref_mut() else { return false };
        if read.volume.core != volumes.core {
            return false;
        }
        match volumes.volumes.get_mut(read.volume.slot as usize) {
            Some(volume) if volume.at == read.volume => volume.read_near(read, into),
            _ => false,
        }
    }
}

impl Volume {
    fn read_near(&mut self, read: &NearRead<'_>, into: &mut [u8]) -> bool {
        let range = LbaRange { lba: read.lba, blocks: read.blocks };
        let Ok(span) = Span::of(range, self.sector_shift, self.size) else { return false };
        let at_hand = match &self.backing {
            Backing::Null => true,
            Backing::Memory(_) => span.is_aligned(),
            Backing::Durable(_) => false,
        };
        let free = self.life == Life::Serving && !self.throttle.is_on() && self.backlog.is_empty();
        if !at_hand
            || !free
            || span.len() != into.len() as u64
            || !self.reservations.permits(read.host_id, Access::Read)
        {
            return false;
        }
        self.backing.read_now(span.first(), into);
        self.stats.read_bytes += span.len();
        self.stats.reads.add(0);
        true
    }
}
