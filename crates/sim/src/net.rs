//! The network: streams with latency, cut at random positions, with partitions, resets and machines that vanish.
//!
//! Each direction of a connection is a wire: a queue of segments, and for each one signal that will deliver the front
//! one. So order holds whatever the latencies are. Signals that come up while the way is cut wait at their wire.

use crate::{NodeId, Rng};
use dolmen_io::{Buf, Error, ErrorKind, Event, Landing, ListenerId, Pool, PoolConfig, Slices, SocketId, Tag};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// Bytes that one direction holds (on the wire, and arrived but not received) before its sender waits.
const WINDOW: usize = 256 * 1024;

/// One way of one segment takes between these. Nanoseconds.
const LATENCY_NS: (u64, u64) = (5_000, 100_000);

/// How long a connect goes unanswered before it fails. Nanoseconds.
const CONNECT_TIMEOUT_NS: u64 = 20_000_000_000;

/// First port given to connecting sockets.
const FIRST_EPHEMERAL: u16 = 32768;

/// What happens on the network at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// A connecting socket's request arrives.
    Syn { end: usize },
    /// The answer to it arrives.
    Established { end: usize },
    /// Nobody answered it.
    TimedOut { end: usize },
    /// The front segment of the wire towards `end` arrives.
    Deliver { end: usize },
}

enum Segment {
    Data(Vec<u8>),
    Fin,
    Reset,
}

struct Sending {
    tag: Tag,
    data: Slices,
    /// The slice that is next, and how much of it has gone.
    slice: usize,
    sent: usize,
}

struct End {
    core: usize,
    node: NodeId,
    open: bool,
    connected: bool,
    local: SocketAddr,
    remote: SocketAddr,
    peer: Option<usize>,
    /// Segments on their way to this end.
    wire: VecDeque<Segment>,
    wire_bytes: usize,
    /// Deliveries that came up while the way was cut.
    stalled: usize,
    /// Such were sent again, or will be, and are not all here yet.
    lost: bool,
    /// What this end sent is not sent again where it was lost.
    aborted: bool,
    incoming: VecDeque<u8>,
    /// What came into that, ever. Bytes.
    arrived: u64,
    eof: bool,
    reset: bool,
    connecting: Option<Tag>,
    receiving: Option<Tag>,
    landing: Option<Box<Landing>>,
    /// Bytes have passed the landing by in a chunk: it is not filled any more.
    passed: bool,
    /// What follows a filled landing comes with the core's next look, as from a socket that is asked directly.
    unseen: bool,
    sending: Option<Sending>,
}

struct Listener {
    core: usize,
    node: NodeId,
    addr: SocketAddr,
    accept: Option<Tag>,
    backlog: VecDeque<usize>,
    open: bool,
}

pub(crate) struct Net {
    rng: Rng,
    ends: Vec<End>,
    listeners: Vec<Listener>,
    pools: BTreeMap<usize, Pool>,
    /// Ends whose receive waits for a buffer, or for a look.
    hungry: BTreeSet<usize>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    down: BTreeSet<NodeId>,
    next_port: u16,
    /// What came into landings. Bytes.
    pub(crate) landed: usize,
    events: Vec<(usize, Tag, Event)>,
    signals: Vec<(u64, Signal)>,
}

impl NodeId {
    /// The machine's address.
    #[must_use]
    pub fn addr(self) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 1, high, low))
    }
}

fn error(kind: ErrorKind, what: &str, errno: i32) -> Error {
    Error { kind, context: what.into(), errno: (errno != 0).then_some(errno) }
}

fn failed(kind: ErrorKind, what: &str, errno: i32) -> Event {
    Event::Failed { error: error(kind, what, errno), buf: None }
}

fn closed(what: &str) -> Event {
    failed(ErrorKind::Closed, what, 0)
}

fn was_reset(what: &str) -> Event {
    failed(ErrorKind::Connection, what, 104)
}

/// The end that `sock` names. The caller got it from `socket` or `Accepted`.
fn at(sock: SocketId) -> usize {
    sock.0 as usize
}

impl Net {
    pub(crate) fn new(rng: Rng) -> Net {
        Net {
            rng,
            ends: Vec::new(),
            listeners: Vec::new(),
            pools: BTreeMap::new(),
            hungry: BTreeSet::new(),
            cuts: BTreeSet::new(),
            down: BTreeSet::new(),
            landed: 0,
            next_port: FIRST_EPHEMERAL,
            events: Vec::new(),
            signals: Vec::new(),
        }
    }

    pub(crate) fn take_events(&mut self) -> Vec<(usize, Tag, Event)> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn take_signals(&mut self) -> Vec<(u64, Signal)> {
        std::mem::take(&mut self.signals)
    }

    // Machines and cores.

    /// A core started; its machine is up (again).
    pub(crate) fn boot(&mut self, node: NodeId, core: usize, pool: Pool) {
        self.pools.insert(core, pool);
        if self.down.remove(&node) {
            self.resume_stalled(0);
        }
    }

    /// A machine lost power: its ends vanish without a word.
    pub(crate) fn cut(&mut self, node: NodeId) {
        self.down.insert(node);
        for end in self.ends.iter_mut().filter(|e| e.node == node) {
            *end = End { open: false, ..End::new(end.core, end.node, end.local, end.remote, end.peer) };
        }
    }

    /// A process died: its connections are reset, its listeners are gone.
    pub(crate) fn end_core(&mut self, core: usize) {
        self.pools.remove(&core);
        for listener in self.listeners.iter_mut().filter(|l| l.core == core) {
            listener.open = false;
        }
        for at in 0..self.ends.len() {
            if self.ends[at].core == core && self.ends[at].open {
                self.ends[at].forget_operations();
                self.shut(at, Segment::Reset);
            }
        }
    }

    pub(crate) fn partition(&mut self, a: NodeId, b: NodeId) {
        self.cuts.insert((a.min(b), a.max(b)));
    }

    pub(crate) fn heal(&mut self, a: NodeId, b: NodeId, resend_ns: u64) {
        self.cuts.remove(&(a.min(b), a.max(b)));
        self.resume_stalled(resend_ns);
    }

    pub(crate) fn reset_between(&mut self, a: NodeId, b: NodeId) {
        for end in 0..self.ends.len() {
            let Some(peer) = self.ends[end].peer else { continue };
            let nodes = (self.ends[end].node, self.ends[peer].node);
            if nodes == (a, b) || nodes == (b, a) {
                self.arrive_reset(end);
            }
        }
    }

    // Operations.

    pub(crate) fn listen(
        &mut self,
        core: usize,
        node: NodeId,
        addr: SocketAddr,
    ) -> Result<(ListenerId, SocketAddr), Error> {
        let port = if addr.port() == 0 { self.ephemeral() } else { addr.port() };
        let addr = SocketAddr::new(addr.ip(), port);
        let index = u32::try_from(self.listeners.len()).expect("few listeners");
        let backlog = VecDeque::new();
        self.listeners.push(Listener { core, node, addr, accept: None, backlog, open: true });
        Ok((ListenerId(index), addr))
    }

    pub(crate) fn accept(&mut self, core: usize, tag: Tag, listener: ListenerId) {
        let Some(l) = self.listeners.get_mut(listener.0 as usize).filter(|l| l.open) else {
            return self.events.push((core, tag, closed("accept")));
        };
        l.accept = Some(tag);
        while let Some(end) = self.listeners[listener.0 as usize].backlog.pop_front() {
            self.announce(listener.0 as usize, end);
        }
    }

    pub(crate) fn close_listener(&mut self, listener: ListenerId) {
        let l = &mut self.listeners[listener.0 as usize];
        l.open = false;
        if let Some(tag) = l.accept.take() {
            self.events.push((l.core, tag, closed("accept")));
        }
        for end in std::mem::take(&mut self.listeners[listener.0 as usize].backlog) {
            self.shut(end, Segment::Reset);
        }
    }

    pub(crate) fn socket(&mut self, core: usize, node: NodeId) -> SocketId {
        let nowhere = SocketAddr::new(node.addr(), 0);
        self.ends.push(End::new(core, node, nowhere, nowhere, None));
        SocketId(u32::try_from(self.ends.len() - 1).expect("few sockets"))
    }

    pub(crate) fn connect(&mut self, core: usize, tag: Tag, sock: SocketId, addr: SocketAddr) {
        let port = self.ephemeral();
        let Some(end) = self.ends.get_mut(at(sock)).filter(|e| e.open) else {
            return self.events.push((core, tag, closed("connect")));
        };
        let ip = if addr.ip().is_loopback() { addr.ip() } else { end.node.addr() };
        (end.local, end.remote, end.connecting) = (SocketAddr::new(ip, port), addr, Some(tag));
        let delay = self.latency();
        self.signals.push((delay, Signal::Syn { end: at(sock) }));
    }

    pub(crate) fn receive(&mut self, core: usize, tag: Tag, sock: SocketId) {
        match self.ends.get_mut(at(sock)).filter(|e| e.open) {
            None => self.events.push((core, tag, closed("receive"))),
            Some(end) if end.receiving.is_some() => {
                self.events.push((core, tag, failed(ErrorKind::Refused, "receive", 0)));
            }
            Some(end) if !end.connected => {
                self.events.push((core, tag, failed(ErrorKind::Connection, "receive", 107)));
            }
            Some(end) => {
                end.receiving = Some(tag);
                self.pump_receive(at(sock));
            }
        }
    }

    pub(crate) fn stop_receive(&mut self, sock: SocketId) {
        let Some(end) = self.ends.get_mut(at(sock)) else { return };
        if let Some(tag) = end.receiving.take() {
            self.events.push((end.core, tag, Event::ReceiveStopped));
        }
    }

    /// Whose receive would fill a landing that is lent now: two of three sockets have such.
    pub(crate) fn lands(&self, sock: SocketId) -> Option<Tag> {
        let end = self.ends.get(at(sock)).filter(|e| e.open && e.landing.is_none());
        end.filter(|_| !at(sock).is_multiple_of(3))?.receiving
    }

    pub(crate) fn land(&mut self, sock: SocketId, landing: Box<Landing>) {
        let end = &mut self.ends[at(sock)];
        (end.landing, end.passed) = (Some(landing), false);
    }

    pub(crate) fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.ends.get_mut(at(sock))?.landing.take()
    }

    /// What has arrived at the peer.
    pub(crate) fn bytes_taken(&self, sock: SocketId) -> Option<u64> {
        let peer = self.ends.get(at(sock))?.peer?;
        Some(self.ends[peer].arrived)
    }

    pub(crate) fn end_stream(&mut self, sock: SocketId) {
        let peer = self.ends.get(at(sock)).filter(|e| e.open && !e.reset).and_then(|e| e.peer);
        if let Some(peer) = peer {
            self.put_on_wire(peer, Segment::Fin);
        }
    }

    pub(crate) fn send(&mut self, core: usize, tag: Tag, sock: SocketId, data: Slices) {
        match self.ends.get_mut(at(sock)).filter(|e| e.open) {
            None => self.events.push((core, tag, closed("send"))),
            Some(end) if end.reset => self.events.push((core, tag, was_reset("send"))),
            Some(end) if end.sending.is_some() => {
                self.events.push((core, tag, failed(ErrorKind::Refused, "send", 0)));
            }
            Some(end) if !end.connected => {
                self.events.push((core, tag, failed(ErrorKind::Connection, "send", 107)));
            }
            Some(end) => {
                end.sending = Some(Sending { tag, data, slice: 0, sent: 0 });
                self.pump_send(at(sock));
            }
        }
    }

    pub(crate) fn close(&mut self, core: usize, tag: Tag, sock: SocketId) {
        let Some(unread) = self.end_operations(core, tag, sock) else { return };
        self.shut(at(sock), if unread { Segment::Reset } else { Segment::Fin });
        self.events.push((core, tag, Event::Closed));
    }

    /// What is on its way arrives, and the reset behind it. What was lost does not, nor does what comes after it.
    pub(crate) fn abort(&mut self, core: usize, tag: Tag, sock: SocketId) {
        if self.end_operations(core, tag, sock).is_none() {
            return;
        }
        let end = &mut self.ends[at(sock)];
        end.aborted = true;
        if let Some(peer) = end.peer
            && self.ends[peer].lost
        {
            self.ends[peer].lose_wire();
        }
        self.shut(at(sock), Segment::Reset);
        self.events.push((core, tag, Event::Closed));
    }

    /// Ends what is under way on a socket that is to be closed. Whether it has received what nobody took; `None` when it is not open.
    fn end_operations(&mut self, core: usize, tag: Tag, sock: SocketId) -> Option<bool> {
        let Some(end) = self.ends.get_mut(at(sock)).filter(|e| e.open) else {
            self.events.push((core, tag, closed("close")));
            return None;
        };
        let under_way = [end.connecting.take(), end.receiving.take(), end.sending.take().map(|s| s.tag)];
        self.events
            .extend(under_way.into_iter().flatten().map(|t| (core, t, closed("the socket was closed"))));
        Some(!end.incoming.is_empty())
    }

    /// A core takes its events.
    pub(crate) fn looked(&mut self, core: usize) {
        for &end in &self.hungry {
            let end = &mut self.ends[end];
            end.unseen &= end.core != core;
        }
    }

    /// Receives that waited for buffers, or for the core to look, go on.
    pub(crate) fn pump_core(&mut self, core: usize) {
        for end in std::mem::take(&mut self.hungry) {
            if self.ends[end].core == core && !self.ends[end].unseen {
                self.pump_receive(end);
            } else {
                self.hungry.insert(end);
            }
        }
    }

    // What happens.

    pub(crate) fn happen(&mut self, signal: Signal) {
        match signal {
            Signal::Syn { end } => self.arrive_syn(end),
            Signal::Established { end } => {
                let e = &mut self.ends[end];
                if let Some(tag) = e.connecting.take() {
                    self.events.push((e.core, tag, Event::Connected { local: e.local }));
                }
            }
            Signal::TimedOut { end } => self.refuse(end, 110),
            Signal::Deliver { end } => self.deliver(end),
        }
    }

    fn arrive_syn(&mut self, client: usize) {
        let (node, remote, local) =
            (self.ends[client].node, self.ends[client].remote, self.ends[client].local);
        if self.ends[client].connecting.is_none() {
            return;
        }
        let target = if remote.ip().is_loopback() {
            Some(node)
        } else {
            self.listeners.iter().map(|l| l.node).find(|n| n.addr() == remote.ip())
        };
        let Some(target) = target.filter(|&t| !self.is_cut(node, t)) else {
            return self.signals.push((CONNECT_TIMEOUT_NS, Signal::TimedOut { end: client }));
        };
        let fits = |l: &Listener| {
            let ip = l.addr.ip();
            l.open
                && l.node == target
                && l.addr.port() == remote.port()
                && (ip == remote.ip() || (ip.is_unspecified() && (ip.is_ipv6() || remote.is_ipv4())))
        };
        let open: Vec<usize> = (0..self.listeners.len()).filter(|&i| fits(&self.listeners[i])).collect();
        if open.is_empty() {
            return self.refuse(client, 111);
        }
        let listener = open[self.rng.index(open.len())];
        let core = self.listeners[listener].core;
        let server = self.ends.len();
        self.ends.push(End::new(core, target, remote, local, Some(client)));
        self.ends[server].connected = true;
        (self.ends[client].peer, self.ends[client].connected) = (Some(server), true);
        let delay = self.latency();
        self.signals.push((delay, Signal::Established { end: client }));
        self.announce(listener, server);
    }

    fn refuse(&mut self, end: usize, errno: i32) {
        let e = &mut self.ends[end];
        if let Some(tag) = e.connecting.take() {
            self.events.push((e.core, tag, failed(ErrorKind::Connection, "connect", errno)));
        }
    }

    /// Hands a new connection to its listener's owner.
    fn announce(&mut self, listener: usize, end: usize) {
        let l = &mut self.listeners[listener];
        let Some(tag) = l.accept else { return l.backlog.push_back(end) };
        let sock = SocketId(u32::try_from(end).expect("few sockets"));
        let (peer, local) = (self.ends[end].remote, self.ends[end].local);
        self.events.push((l.core, tag, Event::Accepted { sock, peer, local }));
    }

    fn deliver(&mut self, to: usize) {
        let peer = self.ends[to].peer.map(|p| &self.ends[p]);
        let (from, aborted) = peer.map_or((self.ends[to].node, false), |p| (p.node, p.aborted));
        let e = &mut self.ends[to];
        if self.cuts.contains(&(from.min(e.node), from.max(e.node))) || self.down.contains(&e.node) {
            e.stalled += 1;
            e.lost = true;
            if aborted {
                e.lose_wire();
            }
            return;
        }
        let segment = e.wire.pop_front();
        e.lost &= !e.wire.is_empty();
        match segment {
            None => {}
            Some(Segment::Reset) => self.arrive_reset(to),
            Some(_) if !e.open => self.answer_reset(to),
            Some(Segment::Fin) => {
                e.eof = true;
                self.pump_receive(to);
            }
            Some(Segment::Data(bytes)) => {
                e.wire_bytes -= bytes.len();
                e.arrived += bytes.len() as u64;
                e.incoming.extend(bytes);
                self.pump_receive(to);
            }
        }
    }

    /// Something arrived at an end that is not there any more.
    fn answer_reset(&mut self, end: usize) {
        if let Some(peer) = self.ends[end].peer {
            self.put_on_wire(peer, Segment::Reset);
        }
    }

    fn arrive_reset(&mut self, end: usize) {
        let e = &mut self.ends[end];
        e.reset = true;
        e.incoming.clear();
        e.wire.clear();
        e.wire_bytes = 0;
        let tags = [e.connecting.take(), e.receiving.take(), e.sending.take().map(|s| s.tag)];
        let core = e.core;
        self.events.extend(
            tags.into_iter().flatten().map(|t| (core, t, was_reset("the peer reset the connection"))),
        );
    }

    /// Closes our side and tells the peer by `last`.
    fn shut(&mut self, end: usize, last: Segment) {
        let e = &mut self.ends[end];
        e.open = false;
        e.incoming.clear();
        e.landing = None;
        if let Some(peer) = e.peer.filter(|_| !e.reset) {
            self.put_on_wire(peer, last);
        }
    }

    fn put_on_wire(&mut self, to: usize, segment: Segment) {
        if let Segment::Data(bytes) = &segment {
            self.ends[to].wire_bytes += bytes.len();
        }
        self.ends[to].wire.push_back(segment);
        let delay = self.latency();
        self.signals.push((delay, Signal::Deliver { end: to }));
    }

    fn pump_send(&mut self, end: usize) {
        let Some(peer) = self.ends[end].peer else { return };
        while let Some(mut sending) = self.ends[end].sending.take() {
            if sending.slice == sending.data.len() {
                sending.data.clear();
                self.events.push((self.ends[end].core, sending.tag, Event::Sent(sending.data)));
                return;
            }
            let room = WINDOW.saturating_sub(self.ends[peer].wire_bytes + self.ends[peer].incoming.len());
            let rest = &sending.data[sending.slice][sending.sent..];
            let n = rest.len().min(room);
            if n == 0 && !rest.is_empty() {
                self.ends[end].sending = Some(sending);
                return;
            }
            // A cut anywhere now and then; most segments are as large as they can be.
            let n = if n > 1 && self.rng.one_in(4) { 1 + self.rng.index(n) } else { n };
            if n > 0 {
                let bytes = rest[..n].to_vec();
                self.put_on_wire(peer, Segment::Data(bytes));
            }
            sending.sent += n;
            if sending.sent == sending.data[sending.slice].len() {
                (sending.slice, sending.sent) = (sending.slice + 1, 0);
            }
            self.ends[end].sending = Some(sending);
        }
    }

    fn pump_receive(&mut self, end: usize) {
        let Some(pool) = self.pools.get(&self.ends[end].core) else { return };
        let chunk = PoolConfig::CHUNK_BYTES.min(pool.largest());
        let e = &mut self.ends[end];
        while let (Some(tag), false) = (e.receiving, e.incoming.is_empty() || e.unseen) {
            // Now and then bytes pass a landing by, as where a core has slept meanwhile.
            e.passed |= e.landing.is_some() && !e.passed && self.rng.one_in(8);
            if !e.passed
                && let Some(mut landing) = e.landing.take()
            {
                let most = e.incoming.len();
                let most = if self.rng.one_in(4) { 1 + self.rng.index(most) } else { most };
                let mut bytes = 0;
                for room in landing.rooms() {
                    let n = room.len().min(most - bytes);
                    room.iter_mut().zip(e.incoming.drain(..n)).for_each(|(to, from)| *to = from);
                    bytes += n;
                }
                self.landed += bytes;
                self.events.push((e.core, tag, Event::Landed { landing, bytes }));
                e.unseen = true;
                self.hungry.insert(end);
                continue;
            }
            let Some(mut buf) = pool.alloc_fitting(chunk) else {
                self.hungry.insert(end);
                return;
            };
            let most = e.incoming.len().min(chunk);
            let n = if self.rng.one_in(4) { 1 + self.rng.index(most) } else { most };
            fill(&mut buf, n, &mut e.incoming);
            self.events.push((e.core, tag, Event::Received(buf)));
        }
        if e.reset {
            if let Some(tag) = e.receiving.take() {
                self.events.push((e.core, tag, was_reset("receive")));
            }
        } else if e.eof
            && e.incoming.is_empty()
            && let Some(tag) = e.receiving.take()
        {
            self.events.push((e.core, tag, Event::EndOfStream));
        }
        if let Some(peer) = e.peer {
            self.pump_send(peer);
        }
    }

    fn resume_stalled(&mut self, after_ns: u64) {
        for end in 0..self.ends.len() {
            for _ in 0..std::mem::take(&mut self.ends[end].stalled) {
                let delay = after_ns + self.latency();
                self.signals.push((delay, Signal::Deliver { end }));
            }
        }
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b))) || self.down.contains(&b)
    }

    fn latency(&mut self) -> u64 {
        self.rng.between(LATENCY_NS.0, LATENCY_NS.1)
    }

    fn ephemeral(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
        port
    }
}

fn fill(buf: &mut Buf, n: usize, from: &mut VecDeque<u8>) {
    buf.set_len(n);
    for (to, byte) in buf.iter_mut().zip(from.drain(..n)) {
        *to = byte;
    }
}

impl End {
    fn new(core: usize, node: NodeId, local: SocketAddr, remote: SocketAddr, peer: Option<usize>) -> End {
        End {
            core,
            node,
            open: true,
            connected: false,
            local,
            remote,
            peer,
            wire: VecDeque::new(),
            wire_bytes: 0,
            stalled: 0,
            lost: false,
            aborted: false,
            incoming: VecDeque::new(),
            arrived: 0,
            eof: false,
            reset: false,
            connecting: None,
            receiving: None,
            landing: None,
            passed: false,
            unseen: false,
            sending: None,
        }
    }

    /// What is on the way here is lost, and nobody sends it again.
    fn lose_wire(&mut self) {
        self.wire.clear();
        (self.wire_bytes, self.stalled, self.lost) = (0, 0, false);
    }

    fn forget_operations(&mut self) {
        (self.connecting, self.receiving, self.sending) = (None, None, None);
    }
}
