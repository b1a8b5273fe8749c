//! Reads and writes of volumes whose data is at hand: done on the spot, from and to memory of the caller's, without a request, a
//! buffer or a turn.

use crate::{
    Access, Asker, HostId, LbaRange, StraightWay, VolumeRef, Volumes,
    backing::Backing,
    span::Span,
    volume::{Life, Volume},
};
use dolmen_io::Buf;
use dolmen_types::Nanos;

/// What of which volume a command is about that would like to be answered at once.
#[derive(Clone, Copy, Debug)]
pub struct NearRange<'a> {
    /// The volume.
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

    /// True when this volume's data is at hand, here.
    #[inline]
    #[must_use]
    pub fn is_at_hand(&self, volume: VolumeRef) -> bool {
        let volumes = self.0.as_deref().filter(|volumes| volumes.core == volume.core);
        let found = volumes.and_then(|volumes| volumes.volumes.get(volume.slot as usize));
        found.is_some_and(|volume| volume.backing.is_immediate())
    }

    /// The data of a read, if it is to be had without waiting and nothing speaks against that. `None`: send a
    /// [`Request`](crate::Request), which also tells what is wrong.
    #[inline]
    #[must_use]
    pub fn read(&mut self, range: &NearRange<'_>) -> Option<AtHand<'_>> {
        let volume = self.volume(range)?;
        let span = volume.span_at_hand(range, Access::Read)?;
        Some(AtHand { volume, span })
    }

    /// Carries a write out, if that can be done without waiting and nothing speaks against it. False: nothing has happened; send a
    /// [`Request`](crate::Request), which also tells what is wrong.
    #[inline]
    #[must_use]
    pub fn write(&mut self, range: &NearRange<'_>, data: &[u8]) -> bool {
        let Some(volume) = self.volume(range) else { return false };
        let Some(span) = volume.span_at_hand(range, Access::Write) else { return false };
        // Who came before and is still under way holds a lock.
        if !span.is_aligned() || !volume.locks.is_empty() || data.len() as u64 != span.len() {
            return false;
        }
        if !volume.backing.write_now(span.first(), data) {
            return false;
        }
        volume.stats.write_bytes += span.len();
        volume.stats.writes.add(0);
        true
    }

    /// The way to the blocks that a read or write is about, if they are whole blocks of a durable volume (of a read: one) and nothing
    /// speaks against having them now. `None`: send a [`Request`](crate::Request), which also tells what is wrong.
    #[inline]
    #[must_use]
    pub fn straight_way(&self, range: &NearRange<'_>, access: Access) -> Option<StraightWay> {
        let volumes = self.0.as_deref().filter(|volumes| volumes.core == range.volume.core)?;
        // Who reads what was written before it sees that; so what came before is looked at first.
        volumes.inbox.is_empty().then(|| volumes.straight_way(range, access)).flatten()
    }

    /// Begins what the way was asked for, into or out of `buf`, which must be as long as the blocks; answered as a request is. The way
    /// must have been asked for just before.
    ///
    /// # Panics
    /// When the buffer has another length: a defect of the caller.
    #[inline]
    pub fn begin(&mut self, way: StraightWay, buf: Buf, asker: Asker, now: Nanos) {
        let volumes = self.0.as_deref_mut().expect("who has shown a way is there");
        volumes.begin_straight(way, buf, asker, now);
    }

    #[inline]
    fn volume(&mut self, range: &NearRange<'_>) -> Option<&mut Volume> {
        let volumes = self.0.as_deref_mut().filter(|volumes| volumes.core == range.volume.core)?;
        volumes.volumes.get_mut(range.volume.slot as usize)
    }
}

/// The data of a read that nothing is in the way of.
pub struct AtHand<'a> {
    volume: &'a mut Volume,
    span: Span,
}

impl AtHand<'_> {
    /// Its length. Bytes.
    #[inline]
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.span.len()
    }

    /// True when all of it reads zeros, so that nobody need fill anything.
    #[inline]
    #[must_use]
    pub fn is_zeros(&self) -> bool {
        matches!(self.volume.backing, Backing::Null)
    }

    /// Counts the read as answered, with zeros that the caller has.
    #[inline]
    pub fn pass(self) {
        self.volume.stats.read_bytes += self.span.len();
        self.volume.stats.reads.add(0);
    }

    /// Answers the read: fills `into`, which must be as long as the data, and counts it.
    ///
    /// # Panics
    /// When it has another length: a defect of the caller.
    #[inline]
    pub fn read(self, into: &mut [u8]) {
        assert_eq!(into.len() as u64, self.span.len(), "the room is as long as the data");
        self.volume.backing.read_now(self.span.first(), into);
        self.pass();
    }
}

impl Volume {
    /// The bytes of a range, if they are at hand and the host may use them so now.
    #[inline]
    fn span_at_hand(&self, range: &NearRange<'_>, access: Access) -> Option<Span> {
        let &NearRange { volume, host_id, lba, blocks } = range;
        let span = Span::of(LbaRange { lba, blocks }, self.sector_shift, self.size).ok()?;
        let there = match &self.backing {
            Backing::Null => true,
            Backing::Memory(_) => span.is_aligned(),
            Backing::Durable(_) => false,
        };
        let free = self.at == volume
            && self.life == Life::Serving
            && !self.throttle.is_on()
            && self.backlog.is_empty()
            && self.reservations.permits(host_id, access);
        (there && free).then_some(span)
    }
}
