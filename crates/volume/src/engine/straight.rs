//! Reads of one store block and writes of whole ones that meet nobody: most of what hosts ask for, and the least that can be done for
//! it. They become no op and never wait; what can't go on at once goes the way of all others.
//!
//! A block is read as it was at one moment, whatever changes it meanwhile; so nobody who comes later need wait for such a read, and
//! it holds no range. It only begins where nobody who came before is in its way, and a line is not given up under it. A write
//! claims its range as any other: who comes later waits for it.

use super::records::one;
use crate::{
    Command, Done, HostId, LbaRange, NearRange, Reply, Request, VolumeError, VolumeRef, Volumes,
    backing::{Backing, Log, Refusal, host_error},
    group,
    locks::{Claim, Mode},
    op::{Kind, Op, OpId, Phase},
    reservation::Access,
    span::Span,
    volume::Life,
};
use dolmen_io::{Buf, Slice, Stage, Stamps};
use dolmen_store::{Done as StoreDone, Record, StoreError, Timing};
use dolmen_types::{
    CoreId, Lba, LineId, Nanos, PgId,
    limits::{BLOCK_BYTES, MAX_TRANSFER_BYTES},
};

/// Tickets of such commands: this bit and the place among them.
pub(crate) const STRAIGHT: u64 = 1 << 61;

/// Where blocks are that nothing speaks against reading or writing now.
#[derive(Clone, Copy, Debug)]
pub struct StraightWay {
    volume: VolumeRef,
    pg: PgId,
    line: LineId,
    span: Span,
    access: Access,
}

/// Who wants something, and what is known of that.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Names the request in its answer.
    pub token: u64,
    /// The core that is to have the answer.
    pub from: CoreId,
    /// The host.
    pub host_id: HostId,
    /// When it is too late to begin.
    pub deadline: Nanos,
    /// Its way so far.
    pub stamps: Stamps,
}

/// One under way. Its volume stays in its slot meanwhile.
#[derive(Debug)]
struct Straight {
    asker: Asker,
    way: StraightWay,
    /// A write's: its range, and its data, which the log has too.
    write: Option<(Claim, Slice)>,
}

/// What has begun but was not handed to the log.
#[derive(Debug)]
enum Begun {
    Read(Buf),
    Write(Slice),
}

/// Those of a core.
#[derive(Debug, Default)]
pub(crate) struct Straights {
    slots: Vec<Option<Straight>>,
    free: Vec<usize>,
    begun: Vec<(usize, Begun)>,
}

impl Straights {
    /// Commands under way.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Some are yet to be handed to the log.
    pub(crate) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    fn put(&mut self, straight: Straight) -> usize {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(straight);
        at
    }

    fn at(&mut self, at: usize) -> &mut Straight {
        self.slots[at].as_mut().expect("a place is only named while its command is under way")
    }

    fn take(&mut self, at: usize) -> Straight {
        self.free.push(at);
        self.slots[at].take().expect("a command ends once")
    }
}

impl Volumes {
    /// The way to the blocks that a read or write is about, if they are whole blocks (of a read: one) and nothing speaks against
    /// having them now.
    #[inline]
    pub(crate) fn straight_way(&self, range: &NearRange<'_>, access: Access) -> Option<StraightWay> {
        let &NearRange { volume: at, host_id, lba, blocks } = range;
        let volume = self.volumes.get(at.slot as usize)?;
        let Backing::Durable(line) = volume.backing else { return None };
        let span = Span::of(LbaRange { lba, blocks }, volume.sector_shift, volume.size).ok()?;
        let most = if access == Access::Read { BLOCK_BYTES } else { MAX_TRANSFER_BYTES };
        let fits = span.is_aligned() && span.len() <= most as u64;
        let free = volume.at == at
            && volume.life == Life::Serving
            && !volume.throttle.is_on()
            && !volume.must_wait(self.volume_limit)
            && volume.reservations.permits(host_id, access)
            && volume.locks.is_free(&(span.first()..span.after()));
        let way = StraightWay { volume: at, pg: volume.descriptor.pg, line, span, access };
        (fits && free && self.has_room()).then_some(way)
    }

    /// Begins what the way was asked for, without looking again: into or out of `buf`. It goes to the log before anything else
    /// does, so what it was judged by still holds then.
    pub(crate) fn begin_straight(&mut self, way: StraightWay, buf: Buf, mut asker: Asker, now: Nanos) {
        assert_eq!(buf.len() as u64, way.span.len(), "the buffer is as long as the blocks");
        asker.stamps.mark(Stage::Admitted, now);
        asker.stamps.mark(Stage::Granted, now);
        let volume = &mut self.volumes[way.volume.slot as usize];
        volume.commands += 1;
        let (write, begun) = if way.access == Access::Read {
            volume.straights += 1;
            (None, Begun::Read(buf))
        } else {
            let range = way.span.first()..way.span.after();
            // Nobody ever waits under this name.
            let claimed = self.locks.claim(&mut volume.locks, u32::MAX, &[(range, Mode::Exclusive)]);
            let (claim, granted) = claimed.expect("there was room in the table");
            assert!(granted, "nobody was in the way");
            let data = buf.freeze();
            (Some((claim, data.clone())), Begun::Write(data))
        };
        let place = self.straights.put(Straight { asker, way, write });
        self.straights.begun.push((place, begun));
    }

    /// Begins a command that meets nobody; gives back any other request.
    pub(crate) fn go_straight(&mut self, request: Request, now: Nanos) -> Option<Request> {
        let (lba, blocks, bytes, access) = match &request.command {
            Command::Read { lba, blocks, buf } => (*lba, *blocks, buf.len(), Access::Read),
            Command::Write { lba, blocks, buf } => (*lba, *blocks, buf.len(), Access::Write),
            _ => return Some(request),
        };
        let range = NearRange { volume: request.volume, host_id: &request.host_id, lba, blocks };
        let way = self.straight_way(&range, access);
        let way = way.filter(|way| now < request.deadline && way.span.len() == bytes as u64);
        let Some(way) = way else { return Some(request) };
        let Request { token, from, host_id, deadline, stamps, command, .. } = request;
        if let Command::Read { buf, .. } | Command::Write { buf, .. } = command {
            self.begin_straight(way, buf, Asker { token, from, host_id, deadline, stamps }, now);
        }
        None
    }

    /// Hands what has begun to the log, in order.
    pub(crate) fn run_straights<L: Log>(&mut self, log: &mut L) -> bool {
        if !self.straights.has_begun() {
            return false;
        }
        let mut begun = std::mem::take(&mut self.straights.begun);
        for (place, begun) in begun.drain(..) {
            let way = self.straights.at(place).way;
            match begun {
                Begun::Read(buf) => {
                    log.read(way.pg, way.line, way.span.first(), buf, STRAIGHT | place as u64);
                }
                Begun::Write(data) => self.append_straight(place, way, data, log),
            }
        }
        self.straights.begun = begun;
        true
    }

    fn append_straight<L: Log>(&mut self, place: usize, way: StraightWay, data: Slice, log: &mut L) {
        let now = log.now();
        let group = self.groups[way.pg.0 as usize].as_mut().filter(|g| g.phase == group::Phase::Open);
        let Some(group) = group else {
            drop(data);
            return self.end_straight(place, Err(VolumeError::NotReady), None, now);
        };
        let records = one(Record::Write { line: way.line, lba: Lba(way.span.first()), data });
        match log.append(group.batch(records), STRAIGHT | place as u64) {
            Ok(()) => {
                group.sequenced();
                self.straights.at(place).asker.stamps.mark(Stage::Sequenced, now);
            }
            Err((batch, Refusal::Busy)) => {
                // From here on it is as any other that waits for the log.
                let id = self.straight_to_op(place);
                self.unsent.push_back((id, batch.records));
            }
            Err((batch, refusal)) => {
                drop(batch);
                let full = refusal != Refusal::Stopped;
                if !full {
                    self.stop_group(way.pg, log);
                }
                let error = if full { VolumeError::CapacityExceeded } else { VolumeError::NotReady };
                self.end_straight(place, Err(error), None, now);
            }
        }
    }

    /// Makes an op of a write that the log did not take.
    fn straight_to_op(&mut self, place: usize) -> OpId {
        let Straight { asker, way, write } = self.straights.take(place);
        let (claim, sent) = write.expect("a write has a claim");
        let Asker { token, from, host_id: host, deadline, stamps } = asker;
        self.ops.put(Op {
            kind: Kind::Write,
            token,
            from,
            volume: way.volume.slot as usize,
            host,
            deadline,
            stamps,
            span: way.span,
            buf: None,
            buf2: None,
            claim: Some(claim),
            phase: Phase::Ready,
            loads: 0,
            image: None,
            spare: None,
            is_equipped: false,
            sent: Some(sent),
            cancelled: None,
        })
    }

    /// The log has answered one.
    pub(crate) fn straight_done<L: Log>(&mut self, done: StoreDone, log: &mut L) {
        let place = usize::try_from(done.ticket.0 & !STRAIGHT).expect("places are few");
        let straight = self.straights.at(place);
        let Timing { submitted, drive, work_ns, slowest } = done.timing;
        if submitted != Nanos(0) {
            straight.asker.stamps.mark_drive(submitted, drive, work_ns, slowest);
        }
        let (is_write, pg) = (straight.write.is_some(), straight.way.pg);
        let result = done.result.map_err(|error| {
            // Whether it took effect is unknown, unless there was no space.
            if is_write && error != StoreError::Full {
                self.stop_group(pg, log);
            }
            host_error(&error)
        });
        self.end_straight(place, result, done.buf, log.now());
    }

    /// Ends one, and answers; `buf` is a read's.
    fn end_straight(&mut self, place: usize, result: Result<(), VolumeError>, buf: Option<Buf>, now: Nanos) {
        let Straight { asker, way, write } = self.straights.take(place);
        let Asker { token, from, mut stamps, .. } = asker;
        let slot = way.volume.slot as usize;
        stamps.mark(Stage::Ended, now);
        let ns = stamps.at(Stage::Received).map_or(0, |at| now.since(at));
        let volume = &mut self.volumes[slot];
        volume.commands -= 1;
        let stats = &mut volume.stats;
        match (&result, way.access) {
            (Err(_), _) => stats.failed += 1,
            (Ok(()), Access::Read) => {
                stats.read_bytes += way.span.len();
                stats.reads.add(ns);
            }
            (Ok(()), Access::Write) => {
                stats.write_bytes += way.span.len();
                stats.writes.add(ns);
            }
        }
        let buf = match write {
            None => {
                volume.straights -= 1;
                buf
            }
            Some((claim, data)) => {
                self.release(slot, claim);
                data.try_into_buf().ok()
            }
        };
        self.reply_to(from, Reply { token, result: result.map(|()| Done::Ok), buf, buf2: None, stamps });
    }
}
