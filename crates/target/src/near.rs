//! The short way: a read or write whose volume answers on the spot is answered while its capsule is being parsed, straight
//! between the received chunk and the bytes to be sent. It takes no request, no buffer and no turn. A read of one block that its volume
//! has on a drive at least begins there and then.
//!
//! Only what is plainly right is answered here. Whatever is refused, large, in pieces or in doubt goes the long way, which also says
//! what is wrong with it; nothing has happened then.

use crate::{
    connection::{Capsule, Connection, Phase, Stage},
    io_queue::{begin_data, end_attached, end_data, stage_response},
    lifecycle::NewRequest,
    outbox::{ATTACH_BYTES, WRITE_BYTES},
    slab::Key,
    target::Target,
};
use dolmen_io::{Io, Reserve, Slice, Stage as Stamp, Stamps, trace::Answered};
use dolmen_nvme::{
    spec::{NvmOpcode, SglDescriptor, Sqe, Status},
    tcp::{DataDigest, MAX_HEADER_BYTES},
};
use dolmen_types::limits::MAX_TRANSFER_BYTES;
use dolmen_volume::{Access, Asker, Near, NearRange};

/// FUSE and PSDT of a command that is not fused and whose data pointer is an SGL.
const PLAIN_FLAGS: u8 = Sqe::PSDT_SGL << 6;

/// Bytes that may wait on a connection before more zeros go the long way, whose buffers bound how many digests a turn makes.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// Requests on their way to a volume that are looked at before something begins beside them.
const MOST_BEFORE: usize = 4;

impl Target {
    /// Answers a command that was just parsed, if that can be done at once; `rest` is what of the chunk follows its capsule's header, and then what follows the data that
    /// was taken.
    #[inline]
    pub(crate) fn answer_near(
        &mut self,
        io: &Io,
        near: &mut Near<'_>,
        key: Key,
        sqe: &Sqe,
        rest: &mut &[u8],
    ) -> bool {
        if self.no_near || sqe.flags != PLAIN_FLAGS {
            return false;
        }
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let (Phase::Io { .. }, None, Some(view)) =
            (&connection.phase, connection.first_half, connection.view)
        else {
            return false;
        };
        if connection.is_full() || connection.is_congested(&self.config.bounds) {
            return false;
        }
        let nsid = sqe.nsid.get();
        let Some(space) = self.views.at(view).find(nsid) else { return false };
        let rw = sqe.read_write();
        let bytes = u64::from(rw.blocks) * u64::from(space.sector.bytes());
        let length = sqe.data_pointer.length.get();
        if u64::from(length) != bytes || bytes > MAX_TRANSFER_BYTES as u64 {
            return false;
        }
        let host_id = connection.host_id;
        let range = NearRange { volume: space.volume, host_id: &host_id, lba: rw.start, blocks: rw.blocks };
        let cid = sqe.cid.get();
        if !near.is_at_hand(range.volume) {
            return self.begin_near(io, near, key, sqe, &range, rest);
        }
        let answered = match (NvmOpcode(sqe.opcode), sqe.data_pointer.kind) {
            (NvmOpcode::READ, SglDescriptor::TRANSPORT) => {
                read(connection, (&mut self.reserve, self.zeros.as_ref()), io, near, &range, (cid, length))
            }
            (NvmOpcode::WRITE, SglDescriptor::IN_CAPSULE) if sqe.data_pointer.address.get() == 0 => {
                write(connection, &mut self.reserve, io, near, &range, (cid, length), rest)
            }
            _ => false,
        };
        if !answered {
            return false;
        }
        for counters in [&mut connection.counters, &mut self.stats.traffic] {
            counters.note(NvmOpcode(sqe.opcode), bytes);
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
        let now = io.now();
        if self.traces.is_wanted(nsid, now, now) {
            let mut stamps = Stamps::received(now, io.lag_ns());
            if sqe.opcode == NvmOpcode::WRITE.0 {
                stamps.mark(Stamp::DataIn, now);
            }
            let answered = Answered {
                nsid,
                opcode: sqe.opcode,
                failed: false,
                lba: rw.start,
                blocks: rw.blocks,
                outstanding: connection.outstanding,
                connection: key,
            };
            connection.unsent.add(self.traces.keep(&answered, &stamps, now));
        }
        true
    }
}

impl Target {
    /// Begins a read of one block, or a write of whole ones whose data is here, without a way through the requests; false if it has
    /// to go that way.
    fn begin_near(
        &mut self,
        io: &Io,
        near: &mut Near<'_>,
        key: Key,
        sqe: &Sqe,
        range: &NearRange<'_>,
        rest: &mut &[u8],
    ) -> bool {
        let Some(connection) = self.connections.get(key).filter(|c| !c.is_unread()) else { return false };
        let holds = connection.holds();
        // What came before about the same blocks comes to the volume before.
        let before = &self.outputs.requests;
        if before.len() > MOST_BEFORE || before.iter().any(|request| request.meets(range)) {
            return false;
        }
        let (length, data) = (sqe.data_pointer.length.get() as usize, &sqe.data_pointer);
        let (access, data) = match (NvmOpcode(sqe.opcode), data.kind) {
            (NvmOpcode::READ, SglDescriptor::TRANSPORT) => (Access::Read, None),
            (NvmOpcode::WRITE, SglDescriptor::IN_CAPSULE) if data.address.get() == 0 => {
                let whole = connection.protocol.whole_data(rest).and_then(|data| data.get(..length));
                let Some(whole) = whole else { return false };
                (Access::Write, Some(whole))
            }
            _ => return false,
        };
        let Some(way) = near.straight_way(range, access) else { return false };
        let Some(mut buf) = io.pool().alloc_share(length, holds) else { return false };
        if let Some(data) = data {
            buf.copy_from_slice(data);
        }
        let now = io.now();
        let new = NewRequest {
            held: buf.capacity(),
            length: sqe.data_pointer.length.get(),
            ..NewRequest::received(io)
        };
        let mut stamps = new.stamps;
        let Some(request) = self.add_request(key, sqe, Stage::Volume, new) else { return false };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.capsule = Capsule::Discard;
            if access == Access::Write {
                connection.protocol.pass_data(rest);
                stamps.mark(Stamp::DataIn, now);
            }
        }
        stamps.mark(Stamp::Handed, now);
        stamps.mark(Stamp::Home, now);
        let asker = Asker {
            token: request.bits(),
            from: self.config.core,
            host_id: *range.host_id,
            deadline: io.looked_before().plus_ms(self.config.timeouts.command_ms),
            stamps,
        };
        near.begin(way, buf, asker, now);
        true
    }
}

/// Writes the data of a read behind its header, or hangs zeros there.
#[inline]
fn read(
    connection: &mut Connection,
    (reserve, zeros): (&mut Reserve, Option<&Slice>),
    io: &Io,
    near: &mut Near<'_>,
    range: &NearRange<'_>,
    (cid, length): (u16, u32),
) -> bool {
    let Some(data) = near.read(range).filter(|data| data.len_bytes() == u64::from(length)) else {
        return false;
    };
    let bytes = length as usize;
    let named = bytes >= ATTACH_BYTES && connection.outbox.bytes() + bytes <= MAX_WAITING_BYTES;
    if let Some(zeros) = zeros.filter(|_| named && data.is_zeros()) {
        let Some(staged) = begin_data(connection, reserve, io, (cid, length), 0) else { return false };
        end_attached(connection, cid, &staged, |outbox, digest| {
            outbox.attach_zeros(zeros, bytes);
            digest.into_iter().for_each(|digest| digest_zeros(digest, zeros, bytes));
        });
        data.pass();
    } else if bytes < WRITE_BYTES {
        let Some(staged) = begin_data(connection, reserve, io, (cid, length), bytes) else { return false };
        data.read(&mut connection.outbox.room()[staged.header..][..bytes]);
        end_data(connection, cid, &staged, bytes);
    } else {
        return false;
    }
    connection.capsule = Capsule::Discard;
    true
}

fn digest_zeros(digest: &mut DataDigest, zeros: &Slice, length: usize) {
    let mut left = length;
    while left > 0 {
        let n = left.min(zeros.len());
        digest.update(&zeros[..n]);
        left -= n;
    }
}

/// Takes the data of a write from the chunk, if it is all there.
#[inline]
fn write(
    connection: &mut Connection,
    reserve: &mut Reserve,
    io: &Io,
    near: &mut Near<'_>,
    range: &NearRange<'_>,
    (cid, length): (u16, u32),
    rest: &mut &[u8],
) -> bool {
    let Some(data) = connection.protocol.whole_data(rest).and_then(|data| data.get(..length as usize)) else {
        return false;
    };
    if !connection.outbox.reserve(io, reserve, MAX_HEADER_BYTES) || !near.write(range, data) {
        return false;
    }
    stage_response(connection, &connection.completion(cid, Status::SUCCESS));
    connection.protocol.pass_data(rest);
    true
}
