//! Pool buffers: the only memory that payload bytes ever live in.
//!
//! A [`Pool`] belongs to one core's thread and is sized at start. [`Buf`] is the unique owner of one slot and may travel
//! to another core and back; [`Slice`] is a counted read-only view of a frozen buffer (one write to two drives, one
//! staging buffer sent in parts) and stays on the thread that froze it. Counts are plain integers: no atomics per I/O.
//! A buffer that is dropped on a foreign thread goes home through a mutex, which is the rare path; the usual one is that
//! the reply carries it back.
//!
//! Memory is zeroed when the pool is made and never uninitialised; a reused slot holds old bytes, so whoever hands a buffer to
//! a host has filled it first. Slots are aligned to [`ALIGN_BYTES`], unless they have room for a header before their data
//! ([`PoolConfig::with_heads`]).

use crate::Wake;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    cell::{Cell, RefCell},
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Alignment of buffers, enough for direct I/O. Bytes.
pub const ALIGN_BYTES: usize = 4096;

/// Alignment of buffers with room before them: a cache line. Bytes.
const HEAD_ALIGN_BYTES: usize = 64;

/// Sizes and numbers of a pool's buffers, smallest size first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// (bytes per buffer, number of buffers); sizes ascend and are multiples of [`ALIGN_BYTES`].
    pub classes: Vec<(usize, u32)>,
    /// Room before the data of every buffer. A multiple of 64; with any, buffers are aligned to that and not for direct I/O. Bytes.
    pub head_bytes: usize,
}

impl PoolConfig {
    /// Bytes of a chunk that received stream data comes in.
    pub const CHUNK_BYTES: usize = 32 * 1024;
    /// Bytes of the largest buffer: one host command's data with both ends misaligned.
    pub const LARGE_BYTES: usize =
        dolmen_types::limits::MAX_COMMAND_BLOCKS * dolmen_types::limits::BLOCK_BYTES;

    /// Room for the header of any message with data, before that ([`PoolConfig::with_heads`]). Bytes.
    pub const HEAD_BYTES: usize = 128;

    /// A pool of such classes.
    #[must_use]
    pub fn new(classes: Vec<(usize, u32)>) -> PoolConfig {
        PoolConfig { classes, head_bytes: 0 }
    }

    /// The same with room before each buffer's data, for who moves data over sockets and not to drives: a message whose header lies
    /// there is one piece to the kernel, which takes a vector for each.
    #[must_use]
    pub fn with_heads(self) -> PoolConfig {
        PoolConfig { head_bytes: Self::HEAD_BYTES, ..self }
    }

    /// A pool with the usual three classes that takes about `bytes` of address space: half in 4 KiB blocks, a quarter
    /// each in chunks and in large buffers. Pages that are never used are never touched.
    #[must_use]
    pub fn sized(bytes: usize) -> PoolConfig {
        let count = |share: usize, each: usize| u32::try_from((share / each).max(8)).unwrap_or(u32::MAX);
        PoolConfig::new(vec![
            (ALIGN_BYTES, count(bytes / 2, ALIGN_BYTES)),
            (Self::CHUNK_BYTES, count(bytes / 4, Self::CHUNK_BYTES)),
            (Self::LARGE_BYTES, count(bytes / 4, Self::LARGE_BYTES)),
        ])
    }
}

struct Class {
    bytes: usize,
    count: u32,
    base: usize,
    first_slot: u32,
    free: RefCell<Vec<u32>>,
}

impl Class {
    /// Buffers that are left to those who cannot do without.
    fn last_eighth(&self) -> usize {
        self.count as usize / 8
    }
}

struct Inner {
    thread: usize,
    /// What the allocator gave, and the aligned part of it that holds the slots.
    block: NonNull<u8>,
    layout: Layout,
    region: NonNull<u8>,
    region_bytes: usize,
    /// Room before the data of each slot. Bytes.
    head: usize,
    classes: Vec<Class>,
    slots: Box<[Slot]>,
    /// Slots that are out, plus one per `Pool` handle; `Inner` is freed at 0.
    holders: Cell<usize>,
    came_home: AtomicBool,
    remote: Mutex<Remote>,
}

/// What is to be known of one buffer. While it is out only the thread looks here that has its [`Buf`] or its [`Slice`]s: those are
/// no more than where this is, so that they move in registers.
struct Slot {
    inner: NonNull<Inner>,
    /// Where the data begins; the pool's `head` bytes before it are the slot's too.
    ptr: NonNull<u8>,
    number: u32,
    /// Bytes of data there are, and of them in use by a [`Buf`].
    capacity: u32,
    len: Cell<u32>,
    /// Its [`Slice`]s.
    refs: Cell<u32>,
}

/// What foreign threads share with the home thread.
#[derive(Default)]
struct Remote {
    /// Slots that they dropped.
    slots: Vec<u32>,
    wake: Option<Arc<dyn Wake>>,
}

/// The buffers of one core.
pub struct Pool {
    inner: NonNull<Inner>,
    _not_send: PhantomData<*const ()>,
}

/// A number that is unique to the running thread.
fn thread_token() -> usize {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|t| std::ptr::from_ref(t) as usize)
}

impl Pool {
    /// Makes a pool that belongs to the calling thread.
    ///
    /// # Panics
    /// When the classes are empty, out of order, misaligned, or take more than there is: a defect of the caller.
    #[must_use]
    pub fn new(config: &PoolConfig) -> Pool {
        Pool::try_new(config).expect("there is memory for the pool")
    }

    /// The same; `None` when there is no room for so much.
    ///
    /// # Panics
    /// When the classes are empty, out of order or misaligned: a defect of the caller.
    #[must_use]
    pub fn try_new(config: &PoolConfig) -> Option<Pool> {
        assert!(!config.classes.is_empty(), "a pool needs at least one class");
        assert!(
            config.head_bytes.is_multiple_of(HEAD_ALIGN_BYTES),
            "a head is a multiple of {HEAD_ALIGN_BYTES} bytes"
        );
        let (mut bases, mut base, mut slots) = (Vec::new(), 0usize, 0u32);
        for (at, &(bytes, count)) in config.classes.iter().enumerate() {
            assert!(
                bytes > 0 && bytes.is_multiple_of(ALIGN_BYTES),
                "a class is a multiple of {ALIGN_BYTES} bytes"
            );
            assert!(config.classes[..at].last().is_none_or(|c| c.0 < bytes), "classes ascend");
            bases.push((base, slots));
            base = base.checked_add((config.head_bytes + bytes).checked_mul(count as usize)?)?;
            slots = slots.checked_add(count)?;
        }
        assert!(base > 0, "a pool has at least one buffer");
        // Aligned by hand: asked for zeroed memory of large alignment, std would write zeros to every page of it, while
        // memory of ordinary alignment comes from the kernel untouched.
        let layout = Layout::from_size_align(base.checked_add(ALIGN_BYTES)?, 8).ok()?;
        // SAFETY: the layout has a non-zero size, checked above.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        // SAFETY: the block is `ALIGN_BYTES` longer than the region, and the offset is below that.
        let region = unsafe { block.add(block.align_offset(ALIGN_BYTES)) };
        let class = |(&(bytes, count), (base, first_slot))| {
            let free = RefCell::new((0..count).rev().collect());
            Class { bytes, count, base, first_slot, free }
        };
        let classes = config.classes.iter().zip(bases).map(class).collect();
        let inner = NonNull::from(Box::leak(Box::new(Inner {
            thread: thread_token(),
            block,
            layout,
            region,
            region_bytes: base,
            head: config.head_bytes,
            classes,
            slots: Box::default(),
            holders: Cell::new(1),
            came_home: AtomicBool::new(false),
            remote: Mutex::default(),
        })));
        let mut pool = Pool { inner, _not_send: PhantomData };
        pool.lay_out();
        Some(pool)
    }

    /// Describes every slot of a pool that was just made.
    fn lay_out(&mut self) {
        let (inner, head, mut slots) = (self.inner, self.inner().head, Vec::new());
        for class in &self.inner().classes {
            let capacity = u32::try_from(class.bytes).expect("a class is far below 4 GiB");
            for index in 0..class.count {
                let at = class.base + index as usize * (head + class.bytes) + head;
                // SAFETY: the slot lies within the region that the classes were laid out in.
                let ptr = unsafe { self.inner().region.add(at) };
                let (number, len, refs) = (class.first_slot + index, Cell::new(0), Cell::new(0));
                slots.push(Slot { inner, ptr, number, capacity, len, refs });
            }
        }
        // SAFETY: this is the only handle yet, and nobody looks at the slots before there are any.
        unsafe { self.inner.as_mut() }.slots = slots.into_boxed_slice();
    }

    fn inner(&self) -> &Inner {
        // SAFETY: `holders` counts this handle, so `Inner` is alive.
        unsafe { self.inner.as_ref() }
    }

    /// A buffer of `len` bytes (old contents), or `None` when every class that fits is used up.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        self.take(len, |_, free| free > 0)
    }

    /// Like [`Pool::alloc`], but an eighth of each class stays: for what hosts ask for. Their requests hold their buffers while they wait for
    /// work of others, which must find some.
    #[must_use]
    pub fn alloc_plentiful(&self, len: usize) -> Option<Buf> {
        self.alloc_share(len, 0)
    }

    /// Like [`Pool::alloc_plentiful`], for one of several who share: who `holds` so many bytes already gets a buffer only from a class that
    /// has as much for the others. Alone he gets half of it, beside another one a third. So those who give nothing back leave something
    /// to everybody else.
    #[must_use]
    pub fn alloc_share(&self, len: usize, holds: usize) -> Option<Buf> {
        self.take(len, |class, free| free.saturating_sub(class.last_eighth()) * class.bytes > holds)
    }

    /// A buffer of the first class that fits and may give one, with so many free.
    #[inline]
    fn take(&self, len: usize, may_give: impl Fn(&Class, usize) -> bool) -> Option<Buf> {
        let inner = self.inner();
        if inner.came_home.load(Ordering::Relaxed) {
            inner.take_home();
        }
        for class in inner.classes.iter().filter(|c| c.bytes >= len) {
            let mut free = class.free.borrow_mut();
            if !may_give(class, free.len()) {
                continue;
            }
            if let Some(index) = free.pop() {
                let slot = &inner.slots[(class.first_slot + index) as usize];
                slot.len.set(u32::try_from(len).expect("len is at most the class's size"));
                inner.holders.set(inner.holders.get() + 1);
                return Some(Buf { slot: NonNull::from(slot) });
            }
        }
        None
    }

    /// Like [`Pool::alloc`], but only from the smallest class that fits: for takers of many buffers, who must leave the larger
    /// ones to those who need them.
    #[must_use]
    pub fn alloc_fitting(&self, len: usize) -> Option<Buf> {
        let class = self.inner().classes.iter().find(|c| c.bytes >= len)?;
        if class.free.borrow().is_empty() {
            self.inner().take_home();
        }
        if class.free.borrow().is_empty() { None } else { self.alloc(len) }
    }

    /// Has `wake` called whenever a foreign thread drops one of this pool's buffers, so that whoever sleeps for lack of
    /// buffers learns of it.
    pub fn on_return(&self, wake: Arc<dyn Wake>) {
        self.inner().lock_remote().wake = Some(wake);
    }

    /// Buffers of at least `len` bytes that could be had now.
    #[must_use]
    pub fn available(&self, len: usize) -> usize {
        self.inner().take_home();
        self.inner().classes.iter().filter(|c| c.bytes >= len).map(|c| c.free.borrow().len()).sum()
    }

    /// True while more than an eighth of the buffers that [`Pool::alloc_fitting`] takes such a length from are free: who can do without
    /// leaves the rest to those who cannot.
    #[must_use]
    pub fn is_plentiful(&self, len: usize) -> bool {
        let class = self.inner().classes.iter().find(|c| c.bytes >= len);
        class.is_some_and(|class| class.free.borrow().len() > class.last_eighth())
    }

    /// Bytes that would have to come back for a quarter of each class to be free: 0 while nothing is scarce.
    #[must_use]
    pub fn lacking(&self) -> usize {
        self.inner().take_home();
        let lack = |c: &Class| (c.count as usize / 4).saturating_sub(c.free.borrow().len()) * c.bytes;
        self.inner().classes.iter().map(lack).sum()
    }

    /// Buffers that [`Pool::alloc_fitting`] takes such a length from, in use or not.
    #[must_use]
    pub fn fitting(&self, len: usize) -> usize {
        self.inner().classes.iter().find(|c| c.bytes >= len).map_or(0, |c| c.count as usize)
    }

    /// Bytes of the largest buffer that the pool can ever give.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.inner().classes.last().map_or(0, |c| c.bytes)
    }

    /// Alignment of its buffers. Bytes.
    #[must_use]
    pub fn align_bytes(&self) -> usize {
        if self.inner().head > 0 { HEAD_ALIGN_BYTES } else { ALIGN_BYTES }
    }

    /// The pool's memory, for registration with the kernel: base address and length in bytes.
    #[must_use]
    pub fn region(&self) -> (*mut u8, usize) {
        (self.inner().region.as_ptr(), self.inner().region_bytes)
    }
}

impl Clone for Pool {
    fn clone(&self) -> Pool {
        self.inner().holders.set(self.inner().holders.get() + 1);
        Pool { inner: self.inner, _not_send: PhantomData }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner().take_home();
        Inner::let_go(self.inner);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for c in &self.inner().classes {
            list.entry(&format_args!("{} free of {} bytes", c.free.borrow().len(), c.bytes));
        }
        list.finish()
    }
}

impl Inner {
    fn lock_remote(&self) -> MutexGuard<'_, Remote> {
        // A panic elsewhere leaves both parts whole.
        self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a slot back on its free list. Only on the home thread.
    fn put(&self, slot: u32) {
        let class = self.classes.iter().rfind(|c| c.first_slot <= slot).expect("every slot has a class");
        class.free.borrow_mut().push(slot - class.first_slot);
    }

    /// Takes back what foreign threads dropped. Only on the home thread.
    fn take_home(&self) {
        if !self.came_home.swap(false, Ordering::Acquire) {
            return;
        }
        let slots = std::mem::take(&mut self.lock_remote().slots);
        for slot in slots {
            self.put(slot);
            self.holders.set(self.holders.get() - 1);
        }
        // The caller still holds a `Pool`, so `holders` is not 0 here.
    }

    /// One holder less; frees everything with the last one. Only on the home thread.
    fn let_go(inner: NonNull<Inner>) {
        // SAFETY: the caller is a holder, so `Inner` is alive.
        let this = unsafe { inner.as_ref() };
        let left = this.holders.get() - 1;
        this.holders.set(left);
        if left == 0 {
            // SAFETY: block and layout are those of the allocation; no slot is out; `Inner` came from `Box::leak`.
            unsafe {
                dealloc(this.block.as_ptr(), this.layout);
                drop(Box::from_raw(inner.as_ptr()));
            }
        }
    }
}

impl Slot {
    /// Where the last `bytes` bytes before the data begin.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    fn before_data(&self, bytes: usize) -> NonNull<u8> {
        assert!(bytes <= self.head(), "{bytes} bytes before the data of {}", self.head());
        // SAFETY: the head is part of the slot's memory.
        unsafe { self.ptr.sub(bytes) }
    }

    /// Room before the data. Bytes.
    #[inline]
    fn head(&self) -> usize {
        // SAFETY: `holders` counts this slot while it is out, so `Inner` is alive.
        unsafe { self.inner.as_ref() }.head
    }

    /// Gives back a slot that nobody holds any more.
    ///
    /// # Safety
    /// It is out, and this is its last use.
    unsafe fn release(slot: NonNull<Slot>) {
        // SAFETY: `holders` counts this slot while it is out, so `Inner` is alive, and the slots are part of it.
        let this = unsafe { slot.as_ref() };
        // SAFETY: likewise.
        let inner = unsafe { this.inner.as_ref() };
        if inner.thread == thread_token() {
            inner.put(this.number);
            Inner::let_go(this.inner);
        } else {
            // `holders` still counts the slot until the home thread takes it back, so `Inner` outlives this call.
            // Once the lock is free the home thread may free `Inner`: nothing of it is touched after that.
            let mut remote = inner.lock_remote();
            remote.slots.push(this.number);
            inner.came_home.store(true, Ordering::Release);
            let wake = remote.wake.clone();
            drop(remote);
            if let Some(wake) = wake {
                wake.wake();
            }
        }
    }
}

/// Unique owner of one pool buffer. Dropping it gives the slot back.
pub struct Buf {
    slot: NonNull<Slot>,
}

// SAFETY: a `Buf` is the only access to its slot and to the slot's bytes; `Inner` is only touched by its home thread
// but for `thread`, the layout (immutable), and the mutex with its flag (thread-safe).
unsafe impl Send for Buf {}

impl Buf {
    fn slot(&self) -> &Slot {
        // SAFETY: the slot is out, so it is alive.
        unsafe { self.slot.as_ref() }
    }

    /// Bytes that the buffer could hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slot().capacity as usize
    }

    /// Changes the length; bytes beyond the old one are old contents of the slot.
    ///
    /// # Panics
    /// When `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        self.slot().len.set(u32::try_from(len).expect("at most the capacity"));
    }

    /// Room before the data. Bytes.
    #[inline]
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.slot().head()
    }

    /// The last `bytes` bytes before the data.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[must_use]
    pub fn head(&self, bytes: usize) -> &[u8] {
        // SAFETY: a slot's head and data are initialised, and owned by us alone.
        unsafe { std::slice::from_raw_parts(self.slot().before_data(bytes).as_ptr(), bytes) }
    }

    /// The last `bytes` bytes before the data, and the data behind them.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[must_use]
    pub fn with_head(&mut self, bytes: usize) -> &mut [u8] {
        let slot = self.slot();
        let first = slot.before_data(bytes);
        // SAFETY: as in `head`, and `&mut self` is unique.
        unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), bytes + slot.len.get() as usize) }
    }

    /// Makes the contents read-only and shareable.
    #[must_use]
    pub fn freeze(self) -> Slice {
        self.freeze_with_head(0)
    }

    /// The same, for the last `bytes` bytes before the data and the data behind them.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn freeze_with_head(self, bytes: usize) -> Slice {
        let this = std::mem::ManuallyDrop::new(self);
        let slot = this.slot();
        assert!(bytes == 0 || bytes <= slot.head(), "{bytes} bytes before the data of {}", slot.head());
        slot.refs.set(1);
        let part = |bytes| i32::try_from(bytes).expect("a buffer is far below 2 GiB");
        Slice { slot: this.slot, start: -part(bytes), end: part(slot.len.get() as usize) }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let slot = self.slot();
        // SAFETY: the slot has `capacity >= len` initialised bytes, owned by us alone.
        unsafe { std::slice::from_raw_parts(slot.ptr.as_ptr(), slot.len.get() as usize) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let slot = self.slot();
        // SAFETY: as in `deref`, and `&mut self` is unique.
        unsafe { std::slice::from_raw_parts_mut(slot.ptr.as_ptr(), slot.len.get() as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        // SAFETY: the slot is out, and we were its only holder.
        unsafe { Slot::release(self.slot) }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len(), self.capacity())
    }
}

/// A counted, read-only view of a frozen buffer.
pub struct Slice {
    slot: NonNull<Slot>,
    /// From where the data begins; below 0 in the room before it.
    start: i32,
    end: i32,
}

impl Slice {
    fn slot(&self) -> &Slot {
        // SAFETY: the slot is out, so it is alive.
        unsafe { self.slot.as_ref() }
    }

    /// A view of a part of this view.
    ///
    /// # Panics
    /// When the range does not lie within this view.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let (from, to) = (i32::try_from(range.start), i32::try_from(range.end));
        let mut part = self.clone();
        part.end = self.start + to.expect("within a buffer");
        part.start = self.start + from.expect("within a buffer");
        part
    }

    /// The buffer again, when this is its only view; its length is that of the frozen buffer's end of this view.
    pub fn try_into_buf(self) -> Result<Buf, Slice> {
        if self.slot().refs.get() != 1 {
            return Err(self);
        }
        let this = std::mem::ManuallyDrop::new(self);
        this.slot().len.set(u32::try_from(this.end).unwrap_or(0));
        Ok(Buf { slot: this.slot })
    }
}

impl Clone for Slice {
    fn clone(&self) -> Slice {
        let refs = &self.slot().refs;
        refs.set(refs.get().checked_add(1).expect("views of one buffer are few"));
        Slice { slot: self.slot, start: self.start, end: self.end }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start <= end lie within head and capacity; nobody writes while views exist, since `Buf` was given up for them.
        unsafe {
            let first = self.slot().ptr.as_ptr().offset(self.start as isize);
            std::slice::from_raw_parts(first, self.start.abs_diff(self.end) as usize)
        }
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let refs = &self.slot().refs;
        refs.set(refs.get() - 1);
        if refs.get() == 0 {
            // SAFETY: the slot is out, and this was its last view.
            unsafe { Slot::release(self.slot) }
        }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({}..{})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests;
