//! First look at a command: is it well formed, which ranges does it need, can it be done at once?

use crate::{
    Command, Done, LbaRange, Reply, Request, VolumeError, Volumes,
    backing::{Backing, Log},
    limits::{
        MAX_ALLOCATION_BYTES, MAX_COPY_BYTES, MAX_COPY_RANGE_BYTES, MAX_COPY_RANGES, MAX_DEALLOCATE_RANGES,
        MAX_LOCKED_RANGES, MAX_VERIFY_BYTES, MAX_WRITE_ZEROES_BYTES, RESERVED_COMMANDS,
    },
    locks::{Mode, TableFull},
    op::{Kind, Op, Phase, merge_spans, spans_of},
    reservation::{Access, ReservationCommand},
    span::Span,
    volume::{Life, Volume},
};
use dolmen_io::{Buf, Stage, Stamps};
use dolmen_types::{CoreId, Nanos, limits::MAX_TRANSFER_BYTES};
use std::ops::Range;

/// The address of a volume's reservations among its range locks; no block of a volume lies there.
const RESERVATIONS_AT: Range<u64> = u64::MAX - 2..u64::MAX - 1;

/// Every address of a volume, its reservations included.
pub(crate) const EVERYWHERE: Range<u64> = 0..u64::MAX - 1;

/// A command that passed the first look.
struct Parsed {
    kind: Kind,
    span: Span,
    buf: Option<Buf>,
    buf2: Option<Buf>,
}

/// What did not pass, with its buffers.
type Refused = (VolumeError, Option<Buf>, Option<Buf>);

impl Volumes {
    /// A command may go on: it goes in, or waits in the backlog when its volume or the core has as many as it may.
    pub(crate) fn enter<L: Log>(&mut self, request: Request, log: &mut L) {
        let slot = request.volume.slot as usize;
        let no_room = !self.has_room();
        match self.volumes.get_mut(slot) {
            Some(volume)
                if volume.must_wait(self.volume_limit) || (no_room && volume.life == Life::Serving) =>
            {
                if volume.backlog.is_empty() {
                    self.backlogs.push_back(slot);
                }
                volume.backlog.push_back(request);
                self.backlogged += 1;
            }
            _ => self.admit(request, log),
        }
    }

    /// True when another command can have a slot and as many range locks as it may need.
    pub(super) fn has_room(&self) -> bool {
        !self.ops.is_full(RESERVED_COMMANDS + self.straights.len())
            && self.locks.len() + MAX_DEALLOCATE_RANGES < MAX_LOCKED_RANGES
    }

    /// Lets commands of backlogs go in, one of each volume at a time, while there is room.
    pub(crate) fn admit_backlogs<L: Log>(&mut self, log: &mut L) {
        let mut stuck = 0;
        while stuck < self.backlogs.len() && self.has_room() {
            let slot = self.backlogs.pop_front().expect("there are backlogs");
            let volume = &mut self.volumes[slot];
            if volume.is_full(self.volume_limit) {
                self.backlogs.push_back(slot);
                stuck += 1;
                continue;
            }
            stuck = 0;
            if let Some(request) = volume.backlog.pop_front() {
                self.backlogged -= 1;
                if !volume.backlog.is_empty() {
                    self.backlogs.push_back(slot);
                }
                self.admit(request, log);
            }
        }
    }

    /// Takes a command in: ends it at once, or gives it a slot and its claim.
    pub(crate) fn admit<L: Log>(&mut self, request: Request, log: &mut L) {
        let Request { token, from, volume: at, host_id: host, deadline, mut stamps, command } = request;
        let now = log.now();
        stamps.mark(Stage::Admitted, now);
        let mut parsed = match self.look(at, now, deadline, command) {
            Ok(parsed) => parsed,
            Err((error, buf, buf2)) => {
                if let Some(volume) = self.volumes.get_mut(at.slot as usize).filter(|v| v.at == at) {
                    volume.stats.failed += 1;
                }
                stamps.mark(Stage::Ended, now);
                self.replies.push((from, Reply { token, result: Err(error), buf, buf2, stamps }));
                return;
            }
        };
        let slot = at.slot as usize;
        if let Some(result) = self.do_at_once(slot, &host, &mut parsed, &mut stamps, now) {
            let Parsed { buf, buf2, .. } = parsed;
            self.replies.push((from, Reply { token, result, buf, buf2, stamps }));
            return;
        }
        let Parsed { kind, span, buf, buf2 } = parsed;
        let op = Op {
            kind,
            token,
            from,
            volume: slot,
            host,
            deadline,
            stamps,
            span,
            buf,
            buf2,
            claim: None,
            phase: Phase::Ready,
            loads: 0,
            image: None,
            spare: None,
            is_equipped: false,
            sent: None,
            cancelled: None,
        };
        self.volumes[slot].commands += 1;
        self.claim_for(op, log);
    }

    /// Checks the volume, the deadline and the command's form.
    fn look(
        &self,
        at: crate::VolumeRef,
        now: Nanos,
        deadline: Nanos,
        command: Command,
    ) -> Result<Parsed, Refused> {
        let volume = self.volumes.get(at.slot as usize).filter(|v| v.at == at);
        let error = match volume.map_or(Life::Free, |v| v.life) {
            Life::Free | Life::Creating | Life::Deleting => Some(VolumeError::Gone),
            Life::Quarantined | Life::Locked => Some(VolumeError::NotReady),
            Life::Serving if now >= deadline => Some(VolumeError::Expired),
            Life::Serving => None,
        };
        match (volume, error) {
            (Some(volume), None) => parse(volume, command),
            (_, error) => {
                let (buf, buf2) = take_buffers(command);
                Err((error.unwrap_or(VolumeError::Gone), buf, buf2))
            }
        }
    }

    /// The short way: commands that meet nobody and need no slot. `None` when the command has to go the long way.
    fn do_at_once(
        &mut self,
        slot: usize,
        host: &crate::HostId,
        parsed: &mut Parsed,
        stamps: &mut Stamps,
        now: Nanos,
    ) -> Option<Result<Done, VolumeError>> {
        let volume = &mut self.volumes[slot];
        let is_data = matches!(parsed.kind, Kind::Read | Kind::Write) && parsed.span.is_aligned();
        let is_null = matches!(volume.backing, Backing::Null);
        let nothing_to_do = match &parsed.kind {
            Kind::Deallocate(spans) => spans.is_empty(),
            Kind::Read => is_data && volume.backing.is_immediate(),
            Kind::Write => is_data && is_null,
            _ => false,
        };
        if !nothing_to_do {
            return None;
        }
        stamps.mark(Stage::Ended, now);
        let access = parsed.kind.access().unwrap_or(Access::Write);
        if !volume.reservations.permits(host, access) {
            volume.stats.failed += 1;
            return Some(Err(VolumeError::ReservationConflict));
        }
        let ns = stamps.at(Stage::Received).map_or(0, |at| now.since(at));
        match &parsed.kind {
            Kind::Read => {
                let buf = parsed.buf.as_mut().expect("a read has a buffer");
                volume.backing.read_now(parsed.span.first(), buf);
                volume.stats.read_bytes += parsed.span.len();
                volume.stats.reads.add(ns);
            }
            Kind::Write => {
                volume.stats.write_bytes += parsed.span.len();
                volume.stats.writes.add(ns);
            }
            _ => volume.stats.others += 1,
        }
        Some(Ok(Done::Ok))
    }

    /// Gives a command a slot and claims its ranges; runs it when they are free.
    pub(crate) fn claim_for<L: Log>(&mut self, op: Op, log: &mut L) {
        let size = self.volumes[op.volume].size;
        let blocks = |span: &Span| span.first()..span.after();
        let mut many = Vec::new();
        let one;
        let ranges: &[(Range<u64>, Mode)] = match &op.kind {
            Kind::Read | Kind::Compare | Kind::Verify | Kind::Allocation(_) => {
                one = [(blocks(&op.span), Mode::Shared)];
                &one
            }
            Kind::Write | Kind::CompareAndWrite | Kind::WriteZeroes => {
                one = [(blocks(&op.span), Mode::Exclusive)];
                &one
            }
            Kind::Deallocate(spans) => {
                many.extend(spans.iter().map(|s| (blocks(s), Mode::Exclusive)));
                &many
            }
            Kind::Copy(sources) => {
                many.extend(sources.iter().map(|s| (blocks(s), Mode::Shared)));
                many.push((blocks(&op.span), Mode::Exclusive));
                &many
            }
            Kind::Reserve(ReservationCommand::Report, _) => &[(RESERVATIONS_AT, Mode::Shared)],
            Kind::Reserve(..) => &[(RESERVATIONS_AT, Mode::Exclusive)],
            Kind::Control(control) => {
                many.extend(control.claims(size).map(|range| (range, Mode::Exclusive)));
                &many
            }
        };
        let slot = op.volume;
        let id = self.ops.put(op);
        let mut granted = true;
        if !ranges.is_empty() {
            match self.locks.claim(&mut self.volumes[slot].locks, id, ranges) {
                Ok((claim, now)) => {
                    self.ops.at(id).claim = Some(claim);
                    granted = now;
                }
                Err(TableFull) => return self.finish(id, Err(VolumeError::Busy), log),
            }
        }
        if granted {
            self.begin(id, log);
        } else {
            self.volumes[slot].stats.waited += 1;
            self.ops.at(id).phase = Phase::Waiting;
            self.waiting += 1;
        }
    }

    /// Answers a request that never became an op.
    pub(crate) fn reply_to(&mut self, to: CoreId, reply: Reply) {
        self.replies.push((to, reply));
    }
}

/// The buffers of a command, for the way back.
pub(super) fn take_buffers(command: Command) -> (Option<Buf>, Option<Buf>) {
    match command {
        Command::Read { buf, .. } | Command::Write { buf, .. } | Command::Compare { buf, .. } => {
            (Some(buf), None)
        }
        Command::CompareAndWrite { compare, write, .. } => (Some(compare), Some(write)),
        _ => (None, None),
    }
}

/// Checks a command's ranges and buffers against the volume and the limits.
fn parse(volume: &Volume, command: Command) -> Result<Parsed, Refused> {
    let (shift, size) = (volume.sector_shift, volume.size);
    let span = |lba, blocks, limit: usize| {
        let span = Span::of(LbaRange { lba, blocks }, shift, size)?;
        if span.len() > limit as u64 { Err(VolumeError::TooLarge) } else { Ok(span) }
    };
    let data = |kind, lba, blocks, buf: Buf, buf2: Option<Buf>| {
        let fits = |span: &Span| {
            buf.len() as u64 == span.len() && buf2.as_ref().is_none_or(|b| b.len() == buf.len())
        };
        match span(lba, blocks, MAX_TRANSFER_BYTES) {
            Ok(span) if fits(&span) => Ok(Parsed { kind, span, buf: Some(buf), buf2 }),
            Ok(_) => Err((VolumeError::Invalid, Some(buf), buf2)),
            Err(error) => Err((error, Some(buf), buf2)),
        }
    };
    let bare = |kind, span: Result<Span, VolumeError>| match span {
        Ok(span) => Ok(Parsed { kind, span, buf: None, buf2: None }),
        Err(error) => Err((error, None, None)),
    };
    match command {
        Command::Read { lba, blocks, buf } => data(Kind::Read, lba, blocks, buf, None),
        Command::Write { lba, blocks, buf } => data(Kind::Write, lba, blocks, buf, None),
        Command::Compare { lba, blocks, buf } => data(Kind::Compare, lba, blocks, buf, None),
        Command::CompareAndWrite { lba, blocks, compare, write } => {
            data(Kind::CompareAndWrite, lba, blocks, compare, Some(write))
        }
        Command::WriteZeroes { lba, blocks, deallocate: _ } => {
            bare(Kind::WriteZeroes, span(lba, blocks, MAX_WRITE_ZEROES_BYTES))
        }
        Command::Verify { lba, blocks } => bare(Kind::Verify, span(lba, blocks, MAX_VERIFY_BYTES)),
        Command::Allocation { lba, blocks } => {
            bare(Kind::Allocation([].into()), span(lba, blocks, MAX_ALLOCATION_BYTES))
        }
        Command::Deallocate { ranges } => {
            if ranges.len() > MAX_DEALLOCATE_RANGES {
                return Err((VolumeError::TooLarge, None, None));
            }
            let spans = spans_of(&ranges, shift, size).map_err(|error| (error, None, None))?;
            let mut spans = merge_spans(spans).into_vec();
            spans.retain(|s| s.inner().is_some());
            bare(Kind::Deallocate(spans.into()), Ok(Span::default()))
        }
        Command::Copy { sources, dest } => {
            let (sources, dest) = parse_copy(&sources, dest, shift, size).map_err(|e| (e, None, None))?;
            bare(Kind::Copy(sources), Ok(dest))
        }
        // Nothing to wait for: what was acknowledged is durable. The reservations still have a say.
        Command::Flush => bare(Kind::Deallocate([].into()), Ok(Span::default())),
        Command::Reservation(command) => bare(Kind::Reserve(command, None), Ok(Span::default())),
    }
}

/// The sources and the destination of a copy.
fn parse_copy(
    ranges: &[LbaRange],
    dest: u64,
    shift: u32,
    size: u64,
) -> Result<(Box<[Span]>, Span), VolumeError> {
    if ranges.len() > MAX_COPY_RANGES {
        return Err(VolumeError::TooLarge);
    }
    let mut total = 0u64;
    for range in ranges {
        let bytes = u64::from(range.blocks) << shift;
        if range.blocks == 0 || bytes > MAX_COPY_RANGE_BYTES as u64 {
            return Err(if range.blocks == 0 { VolumeError::Invalid } else { VolumeError::TooLarge });
        }
        total += bytes;
    }
    if total > MAX_COPY_BYTES as u64 {
        return Err(VolumeError::TooLarge);
    }
    let blocks = u32::try_from(total >> shift).map_err(|_| VolumeError::TooLarge)?;
    let sources = spans_of(ranges, shift, size)?;
    let dest = Span::of(LbaRange { lba: dest, blocks }, shift, size)?;
    Ok((sources.into(), dest))
}
