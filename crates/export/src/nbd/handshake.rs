//! The handshake, fixed newstyle: options of the client until it chooses an export. Sans-IO: bytes in, bytes out.

use super::wire::{
    CLIENT_FIXED, CLIENT_NO_ZEROES, EXPORT_NAME_PADDING, Greeting, HANDSHAKE_FLAGS, INIT_MAGIC, MAX_STRING,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader, OptionReplyHeader, extent, flag, info, option,
    option_reply,
};
use crate::{Export, Exports};
use dolmen_types::Uuid;
use std::{net::IpAddr, sync::Arc};
use zerocopy::{FromBytes, IntoBytes, big_endian::U32};

/// Data of one option at most: a name, and requests for information. Bytes.
const MAX_OPTION: usize = MAX_STRING + 1024;
/// Options of one handshake at most: so many, and some for each export, since who lists them asks about each.
const MAX_OPTIONS: usize = 64;
const OPTIONS_PER_EXPORT: usize = 4;
/// No more messages are answered while so much waits to be sent. Bytes.
const ENOUGH_OUT: usize = 16 << 10;
/// The block size that suits us best, and the largest request that we split for a client. Bytes.
const PREFERRED_BYTES: u32 = 4096;
pub(crate) const MAX_REQUEST_BYTES: u32 = 32 << 20;

/// What the client and we agreed on.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The export.
    pub export: Arc<Export>,
    /// Reads are answered in chunks.
    pub structured: bool,
    /// The client may ask what is stored.
    pub allocation: bool,
}

/// Where a handshake stands after some bytes.
#[derive(Debug)]
pub enum Progress {
    /// It goes on.
    Going,
    /// It is over: what follows are requests.
    Open(Opened),
    /// The client leaves, or says what no client may: close, after what was put out is sent.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    ClientFlags,
    Options,
    Over,
}

/// One client's handshake.
#[derive(Debug)]
pub struct Handshake {
    stage: Stage,
    /// Bytes that don't make a whole message yet.
    held: Vec<u8>,
    options: usize,
    client_flags: u32,
    structured: bool,
    /// The export of which the client wants to know what is stored.
    allocation: Option<Uuid>,
    /// A list that is being told, and how far.
    listing: Option<(Arc<Exports>, usize)>,
}

impl Handshake {
    /// Puts the greeting into `out` and waits for the client.
    #[must_use]
    pub fn new(out: &mut Vec<u8>) -> Handshake {
        let greeting = Greeting {
            magic: INIT_MAGIC.into(),
            option_magic: OPTION_MAGIC.into(),
            flags: HANDSHAKE_FLAGS.into(),
        };
        out.extend_from_slice(greeting.as_bytes());
        Handshake {
            stage: Stage::ClientFlags,
            held: Vec::new(),
            options: 0,
            client_flags: 0,
            structured: false,
            allocation: None,
            listing: None,
        }
    }

    /// True when there is more to say without hearing more: [`Handshake::receive`] is to be called again, even with nothing.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.listing.is_some()
    }

    /// Takes bytes of a client at `ip`, appends what to send to `out`; how many bytes were taken. Not all are when the handshake is
    /// over, or when so much waits in `out` that it has to be sent first.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        exports: &Arc<Exports>,
        ip: IpAddr,
        out: &mut Vec<u8>,
    ) -> (usize, Progress) {
        let whole = bytes.len();
        while self.stage != Stage::Over {
            if out.len() >= ENOUGH_OUT {
                return (whole - bytes.len(), Progress::Going);
            }
            if self.listing.is_some() {
                self.list(ip, out);
                continue;
            }
            let Some(wanted) = self.wanted() else { return (whole - bytes.len(), self.close()) };
            let missing = wanted - self.held.len();
            let taken = missing.min(bytes.len());
            self.held.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if taken < missing {
                return (whole, Progress::Going);
            }
            // A header that is whole may want data.
            if self.wanted() != Some(wanted) {
                continue;
            }
            let message = std::mem::take(&mut self.held);
            let progress = self.message(&message, exports, ip, out);
            if !matches!(progress, Progress::Going) {
                self.stage = Stage::Over;
                return (whole - bytes.len(), progress);
            }
            // Its memory serves the next one.
            self.held = message;
            self.held.clear();
        }
        (0, Progress::Close)
    }

    fn close(&mut self) -> Progress {
        self.stage = Stage::Over;
        Progress::Close
    }

    /// Bytes of the message that is being received, as far as is known; `None` for one that no client sends.
    fn wanted(&self) -> Option<usize> {
        if self.stage == Stage::ClientFlags {
            return Some(size_of::<U32>());
        }
        match OptionHeader::ref_from_prefix(&self.held) {
            Ok((header, _)) => {
                let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
                let sane = header.magic.get() == OPTION_MAGIC && length <= MAX_OPTION;
                sane.then_some(size_of::<OptionHeader>() + length)
            }
            Err(_) => Some(size_of::<OptionHeader>()),
        }
    }

    fn message(&mut self, message: &[u8], exports: &Arc<Exports>, ip: IpAddr, out: &mut Vec<u8>) -> Progress {
        if self.stage == Stage::ClientFlags {
            let flags = message.try_into().map_or(u32::MAX, u32::from_be_bytes);
            if flags & !(CLIENT_FIXED | CLIENT_NO_ZEROES) != 0 {
                return Progress::Close;
            }
            (self.client_flags, self.stage) = (flags, Stage::Options);
            return Progress::Going;
        }
        self.options += 1;
        let Ok((header, data)) = OptionHeader::ref_from_prefix(message) else { return Progress::Close };
        let option = header.option.get();
        // A client that doesn't know replies to options may only choose.
        let may = self.client_flags & CLIENT_FIXED != 0 || option == option::EXPORT_NAME;
        let most = MAX_OPTIONS.saturating_add(OPTIONS_PER_EXPORT.saturating_mul(exports.count()));
        if self.options > most || !may {
            return Progress::Close;
        }
        match option {
            option::EXPORT_NAME => self.export_name(data, exports, ip, out),
            option::ABORT => {
                reply(out, option, option_reply::ACK, &[]);
                Progress::Close
            }
            option::INFO | option::GO => self.go(option, data, exports, ip, out),
            _ => {
                self.other(option, data, exports, ip, out);
                Progress::Going
            }
        }
    }

    /// Options that are answered and change little.
    fn other(&mut self, option: u32, data: &[u8], exports: &Arc<Exports>, ip: IpAddr, out: &mut Vec<u8>) {
        let refuse = |out: &mut Vec<u8>, kind, why: &str| reply(out, option, kind, why.as_bytes());
        match option {
            option::LIST if !data.is_empty() => {
                refuse(out, option_reply::ERR_INVALID, "this option has no data");
            }
            option::LIST => self.listing = Some((Arc::clone(exports), 0)),
            option::STRUCTURED_REPLY if !data.is_empty() => {
                refuse(out, option_reply::ERR_INVALID, "this option has no data");
            }
            option::STRUCTURED_REPLY => {
                self.structured = true;
                reply(out, option, option_reply::ACK, &[]);
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT if !self.structured => {
                refuse(out, option_reply::ERR_INVALID, "structured replies come first");
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.contexts(option, data, exports, ip, out)
            }
            option::STARTTLS => refuse(out, option_reply::ERR_POLICY, "this server has no TLS"),
            _ => refuse(out, option_reply::ERR_UNSUPPORTED, ""),
        }
    }

    /// Tells which contexts there are of those that the client asks for; the only one is what is stored.
    fn contexts(&mut self, option: u32, data: &[u8], exports: &Exports, ip: IpAddr, out: &mut Vec<u8>) {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.allocation = None;
        }
        let parsed = name_of(data).and_then(|(name, rest)| Some((name, queries_of(rest)?)));
        let Some((name, queries)) = parsed else {
            return reply(out, option, option_reply::ERR_INVALID, b"malformed");
        };
        let Some(export) = exports.find(name, ip) else {
            return reply(out, option, option_reply::ERR_UNKNOWN, b"no such export");
        };
        let wildcard = |query: &[u8]| !set && query == extent::FAMILY;
        let asked = queries.iter().any(|query| *query == extent::ALLOCATION || wildcard(query));
        if export.maps && (asked || (!set && queries.is_empty())) {
            let context = [&extent::ALLOCATION_ID.to_be_bytes(), extent::ALLOCATION].concat();
            reply(out, option, option_reply::META_CONTEXT, &context);
            if set {
                self.allocation = Some(export.uuid);
            }
        }
        reply(out, option, option_reply::ACK, &[]);
    }

    /// The export is chosen.
    fn opened(&self, export: &Arc<Export>) -> Progress {
        let allocation = export.maps && self.allocation == Some(export.uuid);
        Progress::Open(Opened { export: Arc::clone(export), structured: self.structured, allocation })
    }

    /// Tells some more of the list.
    fn list(&mut self, ip: IpAddr, out: &mut Vec<u8>) {
        let Some((exports, told)) = &mut self.listing else { return };
        while out.len() < ENOUGH_OUT {
            let Some(export) = exports.at(*told) else {
                reply(out, option::LIST, option_reply::ACK, &[]);
                self.listing = None;
                return;
            };
            *told += 1;
            if export.access.admits(ip) {
                // After the name comes what people may like to know.
                let length = u32::try_from(export.name.len()).unwrap_or(0);
                let uuid = export.uuid.to_string();
                let data = [&length.to_be_bytes(), export.name.as_bytes(), uuid.as_bytes()].concat();
                reply(out, option::LIST, option_reply::SERVER, &data);
            }
        }
    }

    fn export_name(&mut self, data: &[u8], exports: &Exports, ip: IpAddr, out: &mut Vec<u8>) -> Progress {
        let found = std::str::from_utf8(data).ok().and_then(|name| exports.find(name, ip));
        // There is no way to say no.
        let Some(export) = found else { return Progress::Close };
        out.extend_from_slice(&export.size_bytes.to_be_bytes());
        out.extend_from_slice(&self.flags(export).to_be_bytes());
        if self.client_flags & CLIENT_NO_ZEROES == 0 {
            out.resize(out.len() + EXPORT_NAME_PADDING, 0);
        }
        self.opened(export)
    }

    fn go(&self, option: u32, data: &[u8], exports: &Exports, ip: IpAddr, out: &mut Vec<u8>) -> Progress {
        let parsed = name_of(data).and_then(|(name, rest)| Some((name, requests_of(rest)?)));
        let Some((name, wanted)) = parsed else {
            let kind =
                if data.len() > MAX_STRING { option_reply::ERR_TOO_BIG } else { option_reply::ERR_INVALID };
            reply(out, option, kind, b"malformed");
            return Progress::Going;
        };
        let Some(export) = exports.find(name, ip) else {
            reply(out, option, option_reply::ERR_UNKNOWN, b"no such export");
            return Progress::Going;
        };
        let mut tell = |kind: u16, parts: &[&[u8]]| {
            let data = [&[&kind.to_be_bytes()[..]], parts].concat().concat();
            reply(out, option, option_reply::INFO, &data);
        };
        tell(info::EXPORT, &[&export.size_bytes.to_be_bytes(), &self.flags(export).to_be_bytes()]);
        if wanted.contains(&info::NAME) {
            tell(info::NAME, &[export.name.as_bytes()]);
        }
        if wanted.contains(&info::DESCRIPTION) {
            tell(info::DESCRIPTION, &[export.uuid.to_string().as_bytes()]);
        }
        let sizes = [export.block_bytes, PREFERRED_BYTES.max(export.block_bytes), MAX_REQUEST_BYTES];
        tell(info::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).each_ref().map(<[u8; 4]>::as_slice));
        reply(out, option, option_reply::ACK, &[]);
        if option == option::INFO {
            return Progress::Going;
        }
        self.opened(export)
    }

    /// Transmission flags of an export for this client.
    fn flags(&self, export: &Export) -> u16 {
        // Every write that is acknowledged is durable or will be by a flush on any connection: several are safe.
        let mut flags =
            flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
        if export.read_only {
            flags |= flag::READ_ONLY;
        } else if export.can_zero {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
        }
        if self.structured && export.answers_whole() {
            flags |= flag::SEND_DF;
        }
        flags
    }
}

/// Appends a reply to an option.
fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    let length = u32::try_from(data.len()).expect("replies are a few kilobytes");
    let header = OptionReplyHeader {
        magic: OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        kind: kind.into(),
        length: length.into(),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
}

/// A name with its length in front, and what follows it.
fn name_of(data: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = data.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    if name.len() > MAX_STRING {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, rest))
}

/// Names of contexts with their number in front, and nothing after them.
fn queries_of(data: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = data.split_first_chunk()?;
    let mut queries = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let (query, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some(queries)
}

/// A list of kinds of information with its length in front, and nothing after it.
fn requests_of(data: &[u8]) -> Option<Vec<u16>> {
    let (count, rest) = data.split_first_chunk()?;
    let (wanted, left) = rest.as_chunks::<2>();
    let fits = usize::from(u16::from_be_bytes(*count)) == wanted.len() && left.is_empty();
    fits.then(|| wanted.iter().map(|w| u16::from_be_bytes(*w)).collect())
}
