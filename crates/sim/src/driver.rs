//! One simulated core's [`Driver`].

use crate::{
    CoreConfig, NodeId, Rng, World,
    bay::{DriveOp, OpenFile},
    drive::Payload,
};
use dolmen_io::{
    DriveCounters, DriveHandle, DriveInfo, Driver, Error, ErrorKind, Event, FileId, Landing, ListenerId, Op,
    OpenDrive, Pool, SocketId, Tag, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use std::{net::SocketAddr, sync::Arc};

/// Wall-clock time at virtual time 0. Milliseconds since the Unix epoch.
const WALL_AT_ZERO_MS: u64 = 1_750_000_000_000;

/// The simulated world as one core sees it. Made by [`World::driver`].
pub struct SimDriver {
    world: World,
    core: usize,
    node: NodeId,
    pool: Pool,
    files: Vec<Option<Arc<OpenFile>>>,
    rng: Rng,
}

fn refused(context: String, errno: i32) -> Error {
    Error { kind: ErrorKind::Refused, context, errno: Some(errno) }
}

impl SimDriver {
    pub(crate) fn new(world: World, config: &CoreConfig) -> SimDriver {
        let pool = Pool::new(&config.pool);
        let (core, rng) = {
            let mut inner = world.0.borrow_mut();
            let rng = Rng::new(inner.rng.next_u64());
            (inner.add_core(config.node, pool.clone()), rng)
        };
        SimDriver { world, core, node: config.node, pool, files: Vec::new(), rng }
    }

    fn file(&self, file: FileId) -> Option<&Arc<OpenFile>> {
        self.files.get(file.0 as usize)?.as_ref()
    }

    fn add_file(&mut self, open: Arc<OpenFile>) -> FileId {
        self.files.push(Some(open));
        FileId(u32::try_from(self.files.len() - 1).expect("few drives"))
    }

    fn start(&mut self, tag: Tag, op: Op) {
        let world = self.world.clone();
        let mut inner = world.0.borrow_mut();
        let (core, net) = (self.core, &mut inner.net);
        match op {
            Op::Accept { listener } => net.accept(core, tag, listener),
            Op::Connect { sock, addr } => net.connect(core, tag, sock, addr),
            Op::Receive { sock } => net.receive(core, tag, sock),
            Op::StopReceive { sock } => net.stop_receive(sock),
            Op::EndStream { sock } => net.end_stream(sock),
            Op::Send { sock, data } => net.send(core, tag, sock, data),
            Op::Close { sock } => net.close(core, tag, sock),
            Op::Abort { sock } => net.abort(core, tag, sock),
            Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. } => {
                drop(inner);
                return self.start_on_drive(tag, op);
            }
        }
        inner.settle_net();
    }

    fn start_on_drive(&mut self, tag: Tag, op: Op) {
        let file = match op {
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Discard { file, .. } => file,
            _ => unreachable!("the caller sorted out the others"),
        };
        let mut inner = self.world.0.borrow_mut();
        let Some(drive) = self.file(file).map(|f| f.drive) else {
            let error = Error { kind: ErrorKind::Closed, context: "drive is not open".into(), errno: None };
            let buf = if let Op::Read { buf, .. } = op { Some(buf) } else { None };
            return inner.cores[self.core].ready.push((tag, Event::Failed { error, buf }));
        };
        let spec = &inner.drives[drive].drive.spec;
        let align = u64::from(spec.align_bytes);
        let check = |what: &str, offset: u64, len: u64| {
            let inside = offset.checked_add(len).is_some_and(|end| end <= spec.size_bytes);
            if inside && offset.is_multiple_of(align) && len.is_multiple_of(align) {
                return Ok(());
            }
            Err(refused(format!("{what} of {len} bytes at {offset}"), 22))
        };
        let op = match op {
            Op::Read { offset, buf, .. } => match check("read", offset, buf.len() as u64) {
                Ok(()) => DriveOp::Read { offset, buf },
                Err(error) => DriveOp::Refused { error, buf: Some(buf) },
            },
            Op::Write { offset, data, durable, .. } => {
                let bytes: Vec<u8> = data.iter().flat_map(|s| s.iter().copied()).collect();
                let each = data.iter().try_for_each(|s| check("write", offset, s.len() as u64));
                match each.and_then(|()| check("write", offset, bytes.len() as u64)) {
                    Ok(()) => {
                        let payload = Payload::Bytes(bytes.into());
                        DriveOp::Write { id: inner.start_write(drive, offset, payload, durable), data }
                    }
                    Err(error) => DriveOp::Refused { error, buf: None },
                }
            }
            Op::Flush { .. } => DriveOp::Flush { covered: inner.drives[drive].drive.flushable() },
            Op::Discard { offset, len, .. } => match check("discard", offset, len) {
                // A discard may do nothing, and nobody may rely on zeros.
                Ok(()) if inner.rng.one_in(2) => DriveOp::Discard { id: None },
                Ok(()) => {
                    let id = inner.start_write(drive, offset, Payload::Zeros(len), false);
                    DriveOp::Discard { id: Some(id) }
                }
                Err(error) => DriveOp::Refused { error, buf: None },
            },
            _ => unreachable!("the caller sorted out the others"),
        };
        inner.start(self.core, tag, drive, op);
    }
}

impl Driver for SimDriver {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        if !self.world.0.borrow().cores[self.core].alive {
            return ops.clear();
        }
        for (tag, op) in ops.drain(..) {
            self.start(tag, op);
        }
    }

    fn reap(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        let mut inner = self.world.0.borrow_mut();
        if !inner.cores[self.core].alive {
            drop(inner);
            return self.now();
        }
        inner.look(self.core);
        inner.net.pump_core(self.core);
        inner.settle_net();
        match wait {
            _ if inner.has_work(self.core) => {}
            Wait::No => {}
            Wait::Until(at) => inner.wait(self.core, at),
            Wait::Forever => inner.wait(self.core, Nanos(u64::MAX)),
        }
        let ready = std::mem::take(&mut inner.cores[self.core].ready);
        inner.net.looked(self.core);
        inner.resume(self.core, wait == Wait::No || !ready.is_empty());
        drop(inner);
        events.extend(ready);
        self.now()
    }

    fn now(&self) -> Nanos {
        self.world.now()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(WALL_AT_ZERO_MS + self.world.now().0 / 1_000_000)
    }

    fn random(&mut self, out: &mut [u8]) {
        self.rng.fill(out);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.world.0.borrow().cores[self.core].bell.clone()
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        self.world.0.borrow_mut().net.listen(self.core, self.node, addr)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        let mut inner = self.world.0.borrow_mut();
        inner.net.close_listener(listener);
        inner.settle_net();
    }

    fn lands(&self, sock: SocketId) -> bool {
        let inner = self.world.0.borrow();
        let Some(receiver) = inner.net.lands(sock) else { return false };
        // What has come already was not seen yet: only after it can be told what suits.
        let came = |(tag, event): &(Tag, Event)| {
            *tag == receiver && matches!(event, Event::Received(_) | Event::Landed { .. })
        };
        !inner.cores[self.core].ready.iter().any(came)
    }

    fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        if !self.lands(sock) {
            return Err(landing);
        }
        self.world.0.borrow_mut().net.land(sock, landing);
        Ok(())
    }

    fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.world.0.borrow_mut().net.recall(sock)
    }

    fn bytes_taken(&self, sock: SocketId) -> Option<u64> {
        self.world.0.borrow().net.bytes_taken(sock)
    }

    fn socket(&mut self, _: SocketAddr) -> Result<SocketId, Error> {
        Ok(self.world.0.borrow_mut().net.socket(self.core, self.node))
    }

    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        let mut inner = self.world.0.borrow_mut();
        let (found, path) = (inner.find_drive(self.node, &options.path), options.path.display());
        let drive = match (found, options.create_bytes) {
            (Some(drive), _) if inner.drives[drive].gone => {
                return Err(Error { kind: ErrorKind::Gone, context: format!("open {path}"), errno: Some(6) });
            }
            (Some(drive), _) => drive,
            (None, Some(bytes)) => inner.create_file(self.node, &options.path, bytes),
            (None, None) => return Err(refused(format!("open {path}"), 2)),
        };
        let slot = &mut inner.drives[drive];
        if options.exclusive && slot.lock.strong_count() > 0 {
            return Err(refused(format!("drive {path} is in use by another process"), 16));
        }
        let open = Arc::new(OpenFile { drive });
        if options.exclusive {
            slot.lock = Arc::downgrade(&open);
        }
        let spec = slot.drive.spec.clone();
        drop(inner);
        Ok(DriveInfo {
            file: self.add_file(open),
            size_bytes: spec.size_bytes,
            align_bytes: spec.align_bytes,
            block_device: spec.block_device,
            direct: true,
            created: found.is_none(),
            serial: spec.serial,
            model: spec.model,
        })
    }

    fn share_drive(&mut self, drive: &DriveHandle) -> Result<FileId, Error> {
        match drive.0.clone().downcast::<OpenFile>() {
            Ok(open) => Ok(self.add_file(open)),
            Err(_) => Err(refused("share a drive of another world".into(), 22)),
        }
    }

    fn export_drive(&self, file: FileId) -> Result<DriveHandle, Error> {
        let open = self.file(file).ok_or_else(|| refused("export a drive that is not open".into(), 9))?;
        Ok(DriveHandle(open.clone()))
    }

    /// Zeros: simulated drives count nothing.
    fn drive_counters(&self, _: FileId) -> DriveCounters {
        DriveCounters::default()
    }

    fn close_drive(&mut self, file: FileId) {
        if let Some(slot) = self.files.get_mut(file.0 as usize) {
            *slot = None;
        }
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.files.clear();
        self.world.0.borrow_mut().end_core(self.core);
    }
}
