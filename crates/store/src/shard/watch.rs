//! Waiting for reads of drives. A drive may go on without answering any, and without a word: every wait for it ends when the drive
//! counts no more, and what is here sees to it that it goes out although nobody writes.
//!
//! ```text
//!   a read is late -> its drive is doubted: avoided where there is another way, until it answers a small read (a probe)
//!   each of its peers is probed as well, each time in another place
//!   three reads of it, probes or others, are unanswered for so long, and its peers answer -> the pool's owner is told: it is silent
//!   it is doubted anew in a third of the seconds of a minute, and its peers are not       -> likewise: it is slow
//! ```
//! A drive that is only busy answers its probes, one bad place is one read, and where all are slow none is blamed. What can't be spared
//! stays and is waited for.

use super::Drives;
use super::drives::{Complaint, SLOW_FACTOR};
use super::fetch::{buffer_now, within};
use crate::columns::drive_bit;
use crate::format::PAGE_BYTES;
use dolmen_io::exec::{Completion, Handle, Notify, Sleep};
use dolmen_io::{Buf, Event, FileId, Op};
use dolmen_types::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Reads that a drive has to leave unanswered together before it counts as silent: a single one may be of a bad place.
const SILENT_READS: usize = 3;

/// Who waits for a drive's read, and which drives answer late.
#[derive(Default)]
pub(super) struct Watch {
    /// Drives that were doubted and have answered nothing since.
    late: Cell<u64>,
    /// Those, and those that are out.
    shunned: Cell<u64>,
    /// Rings when one more is doubted.
    bell: Notify,
    /// Those who wait, in the order in which they began to.
    waits: RefCell<BTreeMap<u64, Wait>>,
    next_wait: Cell<u64>,
    /// Late reads that nobody waits for any more, and that may still be unanswered: a few of each drive.
    left: RefCell<Vec<Left>>,
}

/// Somebody waits for a read.
struct Wait {
    drive: u16,
    began: Nanos,
    /// It was found late, and somebody needs what it gives.
    late: bool,
    waker: Waker,
}

/// A read that nobody waits for.
struct Left {
    drive: u16,
    began: Nanos,
    read: Completion,
}

/// A read of a drive; ends without an answer when the drive counts no more.
pub(super) struct DriveRead<'a> {
    drives: &'a Drives,
    drive: u16,
    began: Nanos,
    /// `None` once it has ended.
    read: Option<Completion>,
    late: bool,
    wait: Option<u64>,
}

impl Future for DriveRead<'_> {
    type Output = Result<Buf, Unread>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(read) = &mut this.read else { return Poll::Pending };
        if let Poll::Ready(event) = Pin::new(read).poll(cx) {
            this.read = None;
            return Poll::Ready(match event {
                Event::Read(buf) => Ok(buf),
                Event::Failed { error, buf } => Err(Unread { why: error.to_string(), buf }),
                other => Err(Unread { why: format!("the driver answered a read with {other:?}"), buf: None }),
            });
        }
        if !this.drives.counts(this.drive) {
            return Poll::Ready(Err(Unread { why: format!("drive {} is out", this.drive), buf: None }));
        }
        let watch = &this.drives.watch;
        let wait = *this.wait.get_or_insert_with(|| watch.next_wait.replace(watch.next_wait.get() + 1));
        let DriveRead { drive, began, late, .. } = *this;
        let waiting = Wait { drive, began, late, waker: cx.waker().clone() };
        watch.waits.borrow_mut().insert(wait, waiting);
        Poll::Pending
    }
}

impl Drop for DriveRead<'_> {
    fn drop(&mut self) {
        if let Some(wait) = self.wait {
            self.drives.watch.waits.borrow_mut().remove(&wait);
        }
        let Some(read) = self.read.take().filter(|_| self.late && self.drives.counts(self.drive)) else {
            return;
        };
        let mut left = self.drives.watch.left.borrow_mut();
        if left.iter().filter(|l| l.drive == self.drive).count() < SILENT_READS {
            left.push(Left { drive: self.drive, began: self.began, read });
            self.drives.watch.bell.notify();
        }
    }
}

/// Why a read gave nothing, and its buffer if it came back.
pub(super) struct Unread {
    pub(super) why: String,
    pub(super) buf: Option<Buf>,
}

impl Drives {
    /// Waits for a read that was begun.
    pub(super) fn reading(&self, exec: &Handle, drive: u16, read: Completion) -> DriveRead<'_> {
        DriveRead { drives: self, drive, began: exec.now(), read: Some(read), late: false, wait: None }
    }

    /// What a read came to, if it is not late; else the drive is doubted.
    pub(super) async fn prompt(
        &self,
        exec: &Handle,
        read: &mut DriveRead<'_>,
    ) -> Option<Result<Buf, Unread>> {
        let ended = within(exec, self.slow_read_ms, &mut *read).await;
        if ended.is_none() {
            read.late = true;
            self.doubt(read.drive, exec.now());
        }
        ended
    }

    /// What a read came to, however long that takes; who waits here for long doubts the drive.
    pub(super) async fn arrived(&self, exec: &Handle, mut read: DriveRead<'_>) -> Result<Buf, Unread> {
        match self.prompt(exec, &mut read).await {
            Some(ended) => ended,
            None => read.await,
        }
    }

    /// What comes of reading a drive, if that is soon: for those who can go on without it. A drive that is silent is not waited for.
    pub(crate) async fn soon<T>(
        &self,
        exec: &Handle,
        drive: u16,
        reading: impl Future<Output = T>,
    ) -> Result<T, String> {
        let mute = || format!("drive {drive} does not answer");
        if self.is_silent(drive, exec.now()) {
            return Err(mute());
        }
        within(exec, self.silent_ms, reading).await.ok_or_else(mute)
    }

    /// Reads from a drive, once more if it fails: what a drive does not give is asked for again before that is believed.
    pub(crate) async fn read_again(
        &self,
        exec: &Handle,
        (drive, file, offset): (u16, FileId, u64),
        buf: Buf,
    ) -> Result<Buf, String> {
        let read = |buf| self.reading(exec, drive, exec.start(Op::Read { file, offset, buf }));
        let mut ended = self.arrived(exec, read(buf)).await;
        if let Err(Unread { buf: Some(buf), .. }) = ended {
            ended = self.arrived(exec, read(buf)).await;
        }
        ended.map_err(|unread| unread.why)
    }

    /// A read of a drive is late.
    pub(super) fn doubt(&self, drive: u16, now: Nanos) {
        let (late, bit) = (&self.watch.late, drive_bit(drive));
        if self.counts(drive) && late.get() & bit == 0 {
            self.set_late(late.get() | bit);
            self.count_doubt(drive, now);
            self.watch.bell.notify();
        }
    }

    /// These are the drives that are late.
    pub(super) fn set_late(&self, late: u64) {
        self.watch.late.set(late);
        self.watch.shunned.set(late | self.members().out);
    }

    /// True when a drive is out, or late and has not answered since.
    pub(super) fn is_shunned(&self, drive: u16) -> bool {
        self.watch.shunned.get() & drive_bit(drive) != 0
    }

    /// True when a drive is late and has not answered since.
    pub(super) fn is_late(&self, drive: u16) -> bool {
        self.watch.late.get() & drive_bit(drive) != 0
    }

    /// True when a drive leaves reads unanswered for so long that it counts as one that can't read, where others have told enough.
    pub(super) fn is_silent(&self, drive: u16, now: Nanos) -> bool {
        self.silence(drive, now) > self.silent_ms * 1_000_000
    }

    /// How long a drive has left [`SILENT_READS`] of its reads unanswered, of those that were waited for here; 0 when it has not.
    /// Nanoseconds.
    fn silence(&self, drive: u16, now: Nanos) -> u64 {
        let mut left = self.watch.left.borrow_mut();
        left.retain_mut(|l| Pin::new(&mut l.read).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let waits = self.watch.waits.borrow();
        let all = waits.values().map(|w| (w.drive, w.began)).chain(left.iter().map(|l| (l.drive, l.began)));
        let mut began: Vec<Nanos> = all.filter(|(of, _)| *of == drive).map(|(_, began)| began).collect();
        began.sort_unstable();
        began.get(SILENT_READS - 1).map_or(0, |&began| now.since(began))
    }

    /// The membership has changed: whoever waits for a drive that is out need not.
    pub(super) fn end_waits(&self) {
        self.set_late(self.watch.late.get() & !self.members().out);
        let wakers = std::mem::take(&mut *self.watch.waits.borrow_mut());
        wakers.into_values().for_each(|wait| wait.waker.wake());
        self.watch.left.borrow_mut().retain(|l| self.counts(l.drive));
    }
}

/// Follows ways to the same, one after the other: the next one begins when one has failed, or the newest is late. What the first one
/// gives that works out; why none did, in the order in which they ended.
pub(super) async fn first<T, E, F: Future<Output = Result<T, E>>>(
    exec: &Handle,
    late_ms: u64,
    mut ways: impl FnMut() -> Option<F>,
) -> Result<T, Vec<E>> {
    let (mut running, mut whys): (Vec<Pin<Box<F>>>, Vec<E>) = (Vec::new(), Vec::new());
    let mut late: Option<Sleep> = None;
    poll_fn(|cx| {
        loop {
            let mut at = 0;
            while at < running.len() {
                match running[at].as_mut().poll(cx) {
                    Poll::Ready(Ok(found)) => return Poll::Ready(Ok(found)),
                    Poll::Ready(Err(why)) => {
                        whys.push(why);
                        drop(running.swap_remove(at));
                        late = None;
                    }
                    Poll::Pending => at += 1,
                }
            }
            if late.as_mut().is_some_and(|sleep| Pin::new(sleep).poll(cx).is_pending()) {
                return Poll::Pending;
            }
            match ways() {
                Some(way) => {
                    running.push(Box::pin(way));
                    late = Some(exec.sleep_until(exec.now().plus_ms(late_ms)));
                }
                None if running.is_empty() => return Poll::Ready(Err(std::mem::take(&mut whys))),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

/// What is known of a drive from its probes.
struct Probed<'a> {
    drive: u16,
    /// Those that were not answered yet, each of another place.
    probes: Vec<DriveRead<'a>>,
    /// When the newest one began.
    began: Option<Nanos>,
    /// What the last ones that were answered took, those before counting half as much. Nanoseconds.
    took_ns: u64,
    /// When it was told.
    told: Option<Nanos>,
}

/// The task of a core that probes drives while one is doubted or leaves a late read unanswered.
pub(crate) async fn serve(drives: Rc<Drives>, exec: Handle) {
    let pause_ms = drives.silent_ms.div_ceil(SLOW_FACTOR);
    let (mut all, mut place): (Vec<Probed<'_>>, u64) = (Vec::new(), 0);
    loop {
        while drives.is_at_ease() {
            all.clear();
            drives.watch.bell.notified().await;
        }
        all.retain(|p| drives.counts(p.drive));
        for drive in drives.in_service() {
            if all.iter().all(|p| p.drive != drive) {
                all.push(Probed { drive, probes: Vec::new(), began: None, took_ns: 0, told: None });
            }
        }
        for p in &mut all {
            let due = p.began.is_none_or(|began| exec.now() >= began.plus_ms(pause_ms));
            let asked = due || p.probes.is_empty() && drives.is_late(p.drive);
            let Some((file, offset)) =
                drives.place_to_probe(p.drive, place).filter(|_| asked && p.probes.len() < SILENT_READS)
            else {
                continue;
            };
            // Without a buffer another time.
            let Some(buf) = buffer_now(&exec, PAGE_BYTES as usize).await else { continue };
            (p.began, place) = (Some(exec.now()), place + 1);
            p.probes.push(drives.reading(&exec, p.drive, exec.start(Op::Read { file, offset, buf })));
        }
        let answer = poll_fn(|cx| {
            let mut answered = false;
            for p in &mut all {
                answered |= p.poll(&drives, cx, exec.now());
            }
            if answered { Poll::Ready(()) } else { Poll::Pending }
        });
        within(&exec, drives.slow_read_ms, answer).await;
        drives.tell_silent(&mut all, exec.now());
    }
}

impl Probed<'_> {
    /// Takes answers in; true when there were some. One is enough, unless the drive leaves reads unanswered that others have begun: then it
    /// stays doubted.
    fn poll(&mut self, drives: &Drives, cx: &mut Context<'_>, now: Nanos) -> bool {
        let answered = self.probes.extract_if(.., |probe| Pin::new(probe).poll(cx).is_ready());
        let Some(took_ns) = answered.map(|probe| now.since(probe.began)).max() else { return false };
        self.took_ns = took_ns.max(self.took_ns / 2);
        self.probes.clear();
        if !drives.is_late_for(drives.silence(self.drive, now)) {
            drives.set_late(drives.watch.late.get() & !drive_bit(self.drive));
        }
        true
    }

    /// What a probe takes, or has taken so far. Nanoseconds.
    fn takes_ns(&self, now: Nanos) -> u64 {
        self.probes.iter().map(|probe| now.since(probe.began)).fold(self.took_ns, u64::max)
    }
}

impl Drives {
    /// True when no drive is doubted, and no late read is unanswered.
    fn is_at_ease(&self) -> bool {
        let Watch { late, waits, left, .. } = &self.watch;
        late.get() == 0 && left.borrow().is_empty() && !waits.borrow().values().any(|wait| wait.late)
    }

    /// True when a read is late that takes so long. Nanoseconds.
    fn is_late_for(&self, ns: u64) -> bool {
        ns > self.slow_read_ms * 1_000_000
    }

    /// Tells of drives that have left several reads unanswered for so long, and much longer than probes of their peers take.
    fn tell_silent(&self, all: &mut [Probed<'_>], now: Nanos) {
        let takes: Vec<(u16, u64)> = all.iter().map(|p| (p.drive, p.takes_ns(now))).collect();
        for p in all {
            if p.probes.iter().any(|probe| self.is_late_for(now.since(probe.began))) {
                self.doubt(p.drive, now);
            }
            let mut peers: Vec<u64> = takes.iter().filter(|t| t.0 != p.drive).map(|t| t.1).collect();
            peers.sort_unstable();
            let Some(&median) = peers.get(peers.len() / 2) else { continue };
            let silence = self.silence(p.drive, now);
            let silent = self.is_silent(p.drive, now) && silence > median.saturating_mul(SLOW_FACTOR);
            if silent && p.told.is_none_or(|told| now > told.plus_ms(self.silent_ms)) {
                p.told = Some(now);
                let text =
                    format!("it has left {SILENT_READS} reads unanswered for {} ms", silence / 1_000_000);
                self.complain(Complaint::Silent(p.drive, text));
            }
        }
    }
}
