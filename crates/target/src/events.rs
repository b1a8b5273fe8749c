//! Asynchronous events of one controller (Base 5.2): requests that wait for something to happen, happenings that wait
//! for a request, and the masking in between.
//!
//! An event that was reported is not reported again until the host has read its log page with RAE clear; what happens
//! meanwhile shows in that page. So a host that reads what it is told about never misses a change, and a storm of
//! changes costs one completion. (The discovery event is the exception, see [`Notice::masks`].)

use std::collections::VecDeque;

/// Asynchronous Event Requests that may wait at a time (AERL is this minus 1).
pub(crate) const MAX_REQUESTS: usize = 8;

/// Namespaces that the changed-namespace list holds before it says "many" (Base 5.16.1.5).
const MAX_CHANGED: usize = 1024;

/// Reservation notifications kept for a controller that does not read them.
const MAX_RESERVATION_NOTES: usize = 64;

/// Something that a host can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Namespace Attribute Changed; read log page 04h.
    Namespace,
    /// Asymmetric Namespace Access Change; read log page 0Ch.
    Ana,
    /// Discovery Log Page Change; read log page 70h.
    Discovery,
    /// Reservation Log Page Available; read log page 80h.
    Reservation,
    /// SMART / Health: a critical warning that speaks of the subsystem's reliability; read log page 02h.
    Health,
}

const ALL: [Notice; 5] =
    [Notice::Namespace, Notice::Ana, Notice::Discovery, Notice::Reservation, Notice::Health];

/// The bits of feature 0Bh that stand for the bits of the SMART log's Critical Warning.
const WARNINGS: u32 = 0x1f;

impl Notice {
    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// True when a report masks the next one until the page is read. A persistent discovery client reads the page on
    /// another connection and never on this one, so its next request alone re-arms the event.
    fn masks(self) -> bool {
        self != Notice::Discovery
    }

    /// Completion dword 0: type in bits 2:0, information in 15:8, log page in 23:16 (Base figure 145).
    pub(crate) fn dw0(self) -> u32 {
        match self {
            Notice::Namespace => 0x0004_0002,
            Notice::Ana => 0x000c_0302,
            Notice::Discovery => 0x0070_f002,
            Notice::Reservation => 0x0080_0006,
            Notice::Health => 0x0002_0001,
        }
    }

    /// The bit of Asynchronous Event Configuration (feature 0Bh) and of OAES that governs it; none for reservations, and
    /// for warnings one each (see [`Events::warned`]).
    pub(crate) fn config_bit(self) -> u32 {
        match self {
            Notice::Namespace => 1 << 8,
            Notice::Ana => 1 << 11,
            Notice::Discovery => 1 << 31,
            Notice::Reservation | Notice::Health => 0,
        }
    }
}

/// One entry of the Reservation Notification log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReservationNote {
    /// 1 registration preempted, 2 reservation released, 3 reservation preempted (Base 5.16.1.15).
    pub(crate) kind: u8,
    /// The namespace.
    pub(crate) nsid: u32,
    /// Log Page Count: numbers the notifications from 1; never 0.
    pub(crate) count: u64,
}

/// The event side of a controller.
#[derive(Debug)]
pub(crate) struct Events {
    /// Notices that can occur on this kind of controller, as configuration bits: OAES.
    supported: u32,
    /// Feature 0Bh as the host set it.
    config: u32,
    raised: u8,
    masked: u8,
    requests: VecDeque<u16>,
    changed: Vec<u32>,
    changed_overflow: bool,
    notes: VecDeque<ReservationNote>,
    note_count: u64,
}

impl Events {
    /// `supported` holds configuration bits; all of them start enabled.
    pub(crate) fn new(supported: u32) -> Events {
        Events {
            supported,
            config: supported,
            raised: 0,
            masked: 0,
            requests: VecDeque::new(),
            changed: Vec::new(),
            changed_overflow: false,
            notes: VecDeque::new(),
            note_count: 0,
        }
    }

    /// Feature 0Bh.
    pub(crate) fn config(&self) -> u32 {
        self.config
    }

    /// Feature 0Bh before the host touched it, and OAES.
    pub(crate) fn supported(&self) -> u32 {
        self.supported
    }

    /// Sets feature 0Bh.
    pub(crate) fn set_config(&mut self, value: u32) {
        self.config = value & (self.supported | WARNINGS);
        for notice in ALL {
            if notice.config_bit() != 0 && self.config & notice.config_bit() == 0 {
                self.raised &= !notice.bit();
            }
        }
    }

    /// A new request; false when too many wait already.
    pub(crate) fn request(&mut self, cid: u16) -> bool {
        let room = self.requests.len() < MAX_REQUESTS;
        if room {
            self.requests.push_back(cid);
        }
        room
    }

    /// Forgets a waiting request, for Abort; true when it was there.
    pub(crate) fn abort(&mut self, cid: u16) -> bool {
        let before = self.requests.len();
        self.requests.retain(|&c| c != cid);
        self.requests.len() != before
    }

    /// Something happened.
    pub(crate) fn raise(&mut self, notice: Notice) {
        let wanted = match notice.config_bit() {
            0 => true,
            bit => self.config & bit != 0,
        };
        if wanted && self.masked & notice.bit() == 0 {
            self.raised |= notice.bit();
        }
    }

    /// Bits of the SMART log's Critical Warning were set; told to hosts that asked for one of them.
    pub(crate) fn warned(&mut self, bits: u8) {
        if self.config & WARNINGS & u32::from(bits) != 0 {
            self.raise(Notice::Health);
        }
    }

    /// Namespaces changed for this host.
    pub(crate) fn namespaces_changed(&mut self, nsids: &[u32]) {
        for &nsid in nsids {
            match self.changed.binary_search(&nsid) {
                Ok(_) => {}
                Err(_) if self.changed.len() == MAX_CHANGED => self.changed_overflow = true,
                Err(at) => self.changed.insert(at, nsid),
            }
        }
        self.raise(Notice::Namespace);
    }

    /// A reservation of a namespace changed against this host; the oldest notification gives way.
    pub(crate) fn reservation_note(&mut self, kind: u8, nsid: u32) {
        if self.notes.len() == MAX_RESERVATION_NOTES {
            self.notes.pop_front();
        }
        self.note_count = self.note_count.checked_add(1).unwrap_or(1);
        self.notes.push_back(ReservationNote { kind, nsid, count: self.note_count });
        self.raise(Notice::Reservation);
    }

    /// The next completion to send: a waiting request's cid, and dword 0.
    pub(crate) fn next(&mut self) -> Option<(u16, u32)> {
        let notice = ALL.into_iter().find(|n| self.raised & n.bit() != 0)?;
        let cid = self.requests.pop_front()?;
        self.raised &= !notice.bit();
        if notice.masks() {
            self.masked |= notice.bit();
        }
        Some((cid, notice.dw0()))
    }

    /// The host read a notice's log page with RAE clear.
    pub(crate) fn clear(&mut self, notice: Notice) {
        self.masked &= !notice.bit();
        self.raised &= !notice.bit();
    }

    /// Log page 04h: the changed namespaces, emptied when `clear`. One entry of all ones means "more than fit".
    pub(crate) fn changed_list(&mut self, clear: bool) -> Vec<u32> {
        let list = if self.changed_overflow { vec![u32::MAX] } else { self.changed.clone() };
        if clear {
            self.changed.clear();
            self.changed_overflow = false;
            self.clear(Notice::Namespace);
        }
        list
    }

    /// Log page 80h: the oldest notification and how many are left after it; taken out when `clear`.
    pub(crate) fn oldest_note(&mut self, clear: bool) -> Option<(ReservationNote, usize)> {
        let note = self.notes.front().copied();
        let left = self.notes.len().saturating_sub(1);
        if clear {
            self.notes.pop_front();
            self.clear(Notice::Reservation);
            if !self.notes.is_empty() {
                self.raise(Notice::Reservation);
            }
        }
        note.map(|n| (n, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        Events::new(Notice::Namespace.config_bit() | Notice::Ana.config_bit())
    }

    #[test]
    fn a_reported_event_is_masked_until_its_page_is_read() {
        let mut e = events();
        assert!(e.request(1) && e.request(2));
        e.namespaces_changed(&[5]);
        assert_eq!(e.next(), Some((1, 0x0004_0002)));
        e.namespaces_changed(&[3, 5]);
        assert_eq!(e.next(), None);
        assert_eq!(e.changed_list(false), [3, 5]);
        assert_eq!(e.changed_list(true), [3, 5]);
        assert_eq!(e.changed_list(true), [0u32; 0]);
        e.namespaces_changed(&[7]);
        assert_eq!(e.next(), Some((2, 0x0004_0002)));
    }

    #[test]
    fn an_event_without_a_request_waits_and_a_disabled_one_does_not_come() {
        let mut e = events();
        e.raise(Notice::Ana);
        assert_eq!(e.next(), None);
        assert!(e.request(9));
        assert_eq!(e.next(), Some((9, 0x000c_0302)));
        e.set_config(0);
        e.clear(Notice::Ana);
        e.raise(Notice::Ana);
        assert!(e.request(10));
        assert_eq!(e.next(), None);
    }

    #[test]
    fn a_warning_reaches_who_asked_for_it() {
        let mut e = events();
        assert!(e.request(1));
        e.warned(1 << 3);
        assert_eq!(e.next(), None);
        e.set_config(1 << 3);
        e.warned(1 << 2);
        assert_eq!(e.next(), None);
        e.warned(1 << 3);
        assert_eq!(e.next(), Some((1, 0x0002_0001)));
    }

    #[test]
    fn lists_and_requests_are_bounded() {
        let mut e = events();
        for cid in 0..MAX_REQUESTS {
            assert!(e.request(u16::try_from(cid).unwrap()));
        }
        assert!(!e.request(100));
        assert!(e.abort(3) && !e.abort(3));
        let many: Vec<u32> = (1..=1025).collect();
        e.namespaces_changed(&many);
        assert_eq!(e.changed_list(true), [u32::MAX]);
        for _ in 0..100 {
            e.reservation_note(2, 1);
        }
        let (oldest, left) = e.oldest_note(true).unwrap();
        assert_eq!((oldest.count, left), (37, 63));
        assert_eq!(e.next(), Some((0, 0x0080_0006)));
    }
}
