//! One queue: a TCP connection, the codec on it, and which command is under which identifier.
//!
//! Owns the socket until it is closed. Received payload is copied once, from the received chunk into the command's
//! own buffer, or lands in a buffer that takes that one's place (`arrivals.rs`). Everything said in one turn goes out in one send, and while a send is under way the next turn's is
//! gathered; so the size of sends follows the load.

use crate::{
    Error, ErrorKind, Options,
    initiator::Key,
    outbox::Outbox,
    slots::{Payload, Place, Reply, Slot, SlotId, Slots, Under},
};
use arrivals::Arrivals;
pub use arrivals::spare_buffers;
use dolmen_io::{Io, Owner, Pool, Slice, Slices, SocketId, Tag};
use dolmen_nvme::{
    spec::Fuse,
    tcp::{
        self, CommandData, CommandError, DIGEST_BYTES, DataDigest, Host, HostAnswer, HostEvent, HostOptions,
        MAX_HEADER_BYTES,
    },
};
use dolmen_types::Nanos;
use std::{collections::VecDeque, net::SocketAddr};

mod arrivals;

/// In-capsule data that every queue takes with Fabrics and admin commands (TCP 3.3.1). Bytes.
pub(crate) const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;

/// An identifier that no command is under.
const UNUSED: SlotId = SlotId::MAX;

/// What became of a received chunk.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The codec is initialised: commands may be sent.
    Initialized,
    /// A command was answered; its slot has the reply.
    Completed(SlotId),
}

/// What became of a command that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dispatch {
    Sent,
    /// All identifiers are in use.
    Full,
    /// The pool is empty.
    NoMemory,
}

/// One queue of an association. Number 0 is the admin queue.
pub(crate) struct Queue {
    path: u8,
    number: u16,
    tag: Tag,
    sock: SocketId,
    host: Host,
    /// By command identifier.
    under: Box<[SlotId]>,
    free: Vec<u16>,
    outbox: Outbox,
    sending: bool,
    /// Commands whose data the controller asked for and did not get whole.
    asked: VecDeque<u16>,
    in_capsule_bytes: u32,
    stage_bytes: usize,
    arrivals: Arrivals,
}

impl Queue {
    /// Starts to connect; `depth` commands may be under way at a time.
    pub(crate) fn open(
        io: &mut Io,
        owner: Owner,
        (key, addr): (Key, SocketAddr),
        options: &Options,
        (depth, in_capsule_bytes): (u16, u32),
    ) -> Result<Queue, Error> {
        let tag = Tag { owner, key: key.bits() };
        let sock = io
            .connect(tag, addr)
            .map_err(|e| Error::new(ErrorKind::Connection, format!("connecting to {addr}: {e}")))?;
        let digests = tcp::Digests { header: options.digests.header, data: options.digests.data };
        Ok(Queue {
            path: key.path,
            number: key.queue,
            tag,
            sock,
            host: Host::new(HostOptions { digests, alignment: 0, depth }),
            under: vec![UNUSED; usize::from(depth)].into(),
            free: (0..depth).rev().collect(),
            outbox: Outbox::default(),
            sending: false,
            asked: VecDeque::with_capacity(usize::from(depth)),
            in_capsule_bytes,
            stage_bytes: options.stage_bytes,
            arrivals: Arrivals::default(),
        })
    }

    /// Commands under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under.len() - self.free.len()
    }

    /// True when both halves of a pair can be under way at once.
    pub(crate) fn takes_pairs(&self) -> bool {
        self.under.len() >= 2
    }

    /// True while a send is under way: what is said now goes with the next.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending
    }

    /// The socket is connected: introduces itself.
    pub(crate) fn connected(&mut self, io: &mut Io) -> Result<(), Error> {
        io.receive(self.tag, self.sock);
        let out = self.outbox.room(io.pool(), MAX_HEADER_BYTES).ok_or_else(no_memory)?;
        let bytes = self.host.write_ic_req(out).expect("the room takes any header");
        self.outbox.advance(bytes);
        Ok(())
    }

    /// Takes bytes of the stream; appends what they say to `heard`.
    fn receive(
        &mut self,
        pool: &Pool,
        mut chunk: &[u8],
        slots: &mut Slots,
        heard: &mut Vec<Heard>,
    ) -> Result<(), Error> {
        loop {
            while let Some(HostAnswer { cqe, received, intact, data }) = self.host.take_answer(&mut chunk) {
                let id = self.answered(cqe.cid.get());
                let slot = slots.get_mut(id);
                if !data.is_empty()
                    && let Payload::In(buf) = &mut slot.payload
                {
                    buf[..data.len()].copy_from_slice(data);
                }
                slot.reply = Reply { cqe, received, intact };
                heard.push(Heard::Completed(id));
            }
            match self.host.receive(&mut chunk) {
                Ok(None) => return Ok(()),
                Ok(Some(HostEvent::Data { cid, offset, bytes })) => {
                    let slot = slots.get_mut(self.under[usize::from(cid)]);
                    if let Payload::In(buf) = &mut slot.payload {
                        let at = usize::try_from(offset).expect("an offset within a buffer");
                        buf[at..at + bytes.len()].copy_from_slice(bytes);
                    }
                }
                Ok(Some(HostEvent::Completion { cqe, received, intact })) => {
                    let id = self.answered(cqe.cid.get());
                    slots.get_mut(id).reply = Reply { cqe, received, intact };
                    heard.push(Heard::Completed(id));
                }
                Ok(Some(HostEvent::SendData { cid })) => self.asked.push_back(cid),
                Ok(Some(HostEvent::Initialized(_))) => heard.push(Heard::Initialized),
                Ok(Some(HostEvent::Terminated(reason))) => {
                    return Err(Error::new(ErrorKind::Protocol, reason.to_string()));
                }
                Err(violation) => {
                    if let Some(out) = self.outbox.room(pool, MAX_HEADER_BYTES)
                        && let Some(bytes) = self.host.write_term_req(out, &violation)
                    {
                        self.outbox.advance(bytes);
                    }
                    let what = format!("the controller broke the protocol: {violation}");
                    return Err(Error::new(ErrorKind::Protocol, what));
                }
            }
        }
    }

    /// The command under an identifier is answered: the identifier is free.
    #[inline]
    fn answered(&mut self, cid: u16) -> SlotId {
        self.free.push(cid);
        std::mem::replace(&mut self.under[usize::from(cid)], UNUSED)
    }

    /// Stages a command; its payload too, if it may travel in the capsule.
    pub(crate) fn dispatch(&mut self, pool: &Pool, slots: &mut Slots, id: SlotId, now: Nanos) -> Dispatch {
        let Some(&cid) = self.free.last() else { return Dispatch::Full };
        let slot = slots.get_mut(id);
        // The halves of a pair follow each other without anything between, so the first goes only if both can.
        if slot.sqe.fuse() == Fuse::First && self.free.len() < 2 {
            return Dispatch::Full;
        }
        let length = u32::try_from(slot.payload.len()).expect("a buffer is far below 4 GiB");
        let fabrics = if slot.sqe.is_fabrics() { ADMIN_IN_CAPSULE_BYTES } else { 0 };
        let in_capsule = length <= self.in_capsule_bytes.max(fabrics);
        let data = match &slot.payload {
            Payload::None => CommandData::None,
            Payload::In(_) => CommandData::Read(length),
            Payload::Out(_) | Payload::Shared(_) if in_capsule => CommandData::WriteInCapsule(length),
            Payload::Out(_) | Payload::Shared(_) => CommandData::Write(length),
        };
        if let Err(why) = self.stage_command(pool, slot, cid, data, slot_len(length)) {
            return why;
        }
        self.arrivals.expect(if let CommandData::Read(length) = data { length } else { 0 });
        self.free.pop();
        self.under[usize::from(cid)] = id;
        slot.place = Place::Sent(Under { path: self.path, queue: self.number, cid });
        slot.sent = now;
        Dispatch::Sent
    }

    /// Stages a command with what travels in its capsule, or why not.
    fn stage_command(
        &mut self,
        pool: &Pool,
        slot: &mut Slot,
        cid: u16,
        data: CommandData,
        length: usize,
    ) -> Result<(), Dispatch> {
        let refused = |why| match why {
            CommandError::NoRoom | CommandError::BadIdentifier | CommandError::NotReady => Dispatch::Full,
        };
        let inline = matches!(data, CommandData::WriteInCapsule(_));
        let stage = length <= self.stage_bytes;
        let head = self.host.capsule_header_bytes();
        if inline
            && !stage
            && !self.host.negotiated().digests.data
            && let Payload::Out(buf) = &mut slot.payload
            && buf.head_bytes() >= head
        {
            let out = &mut buf.with_head(head)[..head];
            self.host.write_command_as(out, cid, &slot.sqe, data).map_err(refused)?;
            self.outbox.name(share_with_head(&mut slot.payload, head));
            return Ok(());
        }
        let payload_room = if inline && stage { length } else { 0 };
        let out = self.outbox.room(pool, MAX_HEADER_BYTES + payload_room + DIGEST_BYTES);
        let out = out.ok_or(Dispatch::NoMemory)?;
        let header = self.host.write_command_as(out, cid, &slot.sqe, data).map_err(refused)?;
        self.outbox.advance(header);
        if inline {
            put_data(&mut self.outbox, &self.host, pool, &mut slot.payload, (0, length), stage);
        }
        Ok(())
    }

    /// Stages the data that the controller asked for, as far as the pool has memory. True: something is left.
    pub(crate) fn send_asked(&mut self, pool: &Pool, slots: &mut Slots) -> bool {
        while let Some(&cid) = self.asked.front() {
            let id = self.under[usize::from(cid)];
            if id == UNUSED {
                self.asked.pop_front();
                continue;
            }
            let payload = &mut slots.get_mut(id).payload;
            let stage = payload.len() <= self.stage_bytes;
            let payload_room = if stage { payload.len() } else { 0 };
            let Some(out) = self.outbox.room(pool, MAX_HEADER_BYTES + payload_room + DIGEST_BYTES) else {
                return true;
            };
            let Some(piece) = self.host.write_h2c_data(out, cid, u32::MAX) else {
                self.asked.pop_front();
                continue;
            };
            self.outbox.advance(piece.header_bytes);
            let range = (slot_len(piece.offset), slot_len(piece.length));
            put_data(&mut self.outbox, &self.host, pool, payload, range, stage);
            if piece.last {
                self.asked.pop_front();
            }
        }
        false
    }

    /// Hands what is staged to the socket, unless a send is under way; lends buffers for what will come.
    pub(crate) fn flush(&mut self, io: &mut Io) {
        self.lend(io);
        if self.sending || self.outbox.is_empty() {
            return;
        }
        let spare = io.slices();
        let data = self.outbox.take(spare);
        io.send(self.tag, self.sock, data);
        self.sending = true;
    }

    /// A send is complete.
    pub(crate) fn sent(&mut self, io: &mut Io, slices: Slices) {
        io.recycle(slices);
        self.sending = false;
    }

    /// Closes the socket in order, when nothing that it was given need be feared any more.
    pub(crate) fn close(mut self, io: &mut Io) {
        self.flush(io);
        io.close(self.tag, self.sock);
    }

    /// Ends the connection, so that a command which has not reached the controller yet never will: it may go another way from now on, and
    /// others behind it. The last words (a terminate request) go out if the network is quick.
    pub(crate) fn abort(mut self, io: &mut Io) {
        self.flush(io);
        io.abort(self.tag, self.sock);
    }
}

pub(crate) fn no_memory() -> Error {
    Error::new(ErrorKind::Memory, "the pool has no buffer left to send from")
}

fn slot_len(bytes: u32) -> usize {
    usize::try_from(bytes).expect("a length within a buffer")
}

/// Puts `length` bytes of payload from `offset` behind a header that was just written, and their digest. There is room
/// for them if they are to be staged, and else for a digest.
fn put_data(
    outbox: &mut Outbox,
    host: &Host,
    pool: &Pool,
    payload: &mut Payload,
    (offset, length): (usize, usize),
    stage: bool,
) {
    if stage {
        let bytes: &[u8] = match payload {
            Payload::Out(buf) => &buf[offset..offset + length],
            Payload::Shared(slice) => &slice[offset..offset + length],
            Payload::None | Payload::In(_) => &[],
        };
        let out =
            outbox.room(pool, length + DIGEST_BYTES).expect("room was made before the header was written");
        out[..length].copy_from_slice(bytes);
        let digest = host.finish_data(out, length).expect("there is room for a digest");
        outbox.advance(length + digest);
        return;
    }
    let slice = share(payload).slice(offset..offset + length);
    let digest = host.negotiated().digests.data.then(|| {
        let mut digest = DataDigest::new();
        digest.update(&slice);
        digest.finish()
    });
    outbox.name(slice);
    if let Some(digest) = digest {
        let out = outbox.room(pool, DIGEST_BYTES).expect("room was made before the header was written");
        out[..DIGEST_BYTES].copy_from_slice(&digest);
        outbox.advance(DIGEST_BYTES);
    }
}

/// Freezes a payload that is to be sent from where it lies.
fn share(payload: &mut Payload) -> &Slice {
    if let Payload::Out(_) = payload {
        share_with_head(payload, 0);
    }
    match payload {
        Payload::Shared(slice) => slice,
        Payload::None | Payload::In(_) | Payload::Out(_) => {
            unreachable!("only commands that bring data are asked for it")
        }
    }
}

/// The same for one that was not shared yet; a view of it with the last `head` bytes before it.
fn share_with_head(payload: &mut Payload, head: usize) -> Slice {
    let Payload::Out(buf) = std::mem::replace(payload, Payload::None) else {
        unreachable!("what is before a payload that is shared is not ours any more")
    };
    let whole = buf.freeze_with_head(head);
    *payload = Payload::Shared(whole.slice(head..whole.len()));
    whole
}
