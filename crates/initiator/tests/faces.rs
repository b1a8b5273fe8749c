//! The polled and the async face over real sockets, against our target.
#![allow(clippy::unwrap_used)] // tests

#[path = "common/server.rs"]
mod server;

use dolmen_initiator::{
    BlockRange, Command, Failure, Options, Request, State, SubmitError,
    aio::{CallError, Runtime},
    polled::Client,
};
use dolmen_io::{Io, Wait, exec};
use dolmen_nvme::spec::{CopyCommand, Status};
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use server::{SUBSYSTEM, Server};
use std::{
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    pin::pin,
    sync::mpsc::{Sender, TryRecvError, channel},
    task::Poll,
    thread::JoinHandle,
    time::Duration,
};

fn io() -> Io {
    let config = UringConfig::without_drives(32 << 20);
    Io::new(Box::new(Uring::new(&config).unwrap()))
}

fn options(addr: SocketAddr) -> Options {
    let host: Nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-000000000001".parse().unwrap();
    Options::new(addr, SUBSYSTEM.parse().unwrap(), host, Uuid([3; 16]))
}

struct Peer {
    addr: SocketAddr,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start() -> Peer {
        let (stop, stopped) = channel::<()>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let mut server = Server::start(io(), (Ipv4Addr::LOCALHOST, 0).into(), None);
            tell.send(server.addr).unwrap();
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                let until = server.io.now().plus_ms(1);
                server.turn(Wait::Until(until));
            }
        });
        Peer { addr: told.recv().unwrap(), stop, thread: Some(thread) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits as a program with a loop of its own does: in its own poll(2), on the client's descriptor.
fn sleep(client: &mut Client) {
    let timeout = client.timeout().map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap(),
        tv_nsec: time.subsec_nanos().into(),
    });
    let descriptor = client.descriptor().unwrap();
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref()).unwrap();
}

#[test]
fn the_polled_face_lives_in_a_loop_of_another() {
    let peer = Peer::start();
    let mut client = Client::new(io());
    let id = client.connect(Options { io_queues: 2, ..options(peer.addr) }).unwrap();
    let (mut submitted, mut completed, mut sleeps) = (0u64, 0u64, 0u64);
    while completed < 2000 {
        while submitted < 2000 && submitted - completed < 16 {
            let mut buf = client.alloc(4096).unwrap();
            buf.fill(submitted.to_le_bytes()[0]);
            let lba = submitted / 2 % 64;
            let command = match submitted % 2 {
                0 => Command::Write { nsid: 1, lba, blocks: 1, buf, fua: false },
                _ => Command::Read { nsid: 1, lba: lba + 500, blocks: 1, buf },
            };
            client.submit(id, Request::new(submitted, command)).map_err(|(_, e)| e).unwrap();
            submitted += 1;
        }
        client.poll();
        let done: Vec<_> = client.completions().collect();
        if done.is_empty() {
            sleeps += 1;
            sleep(&mut client);
        }
        for done in done {
            assert!(done.result.is_ok());
            completed += 1;
        }
    }
    assert!(sleeps > 0 && matches!(client.state(id), State::Live { queues: 2 }));
    assert_eq!(client.identity(id).unwrap().model, "Dolmen");
    client.disconnect(id);
    client.poll();
    while client.state(id) != State::Closed {
        sleep(&mut client);
        client.poll();
    }
}

#[test]
fn what_a_wait_took_does_not_keep_the_descriptor_readable() {
    let peer = Peer::start();
    let mut client = Client::new(io());
    let id = client.connect(options(peer.addr)).unwrap();
    // From the first wait on somebody may look at it.
    assert!(client.descriptor().is_some());
    while !matches!(client.state(id), State::Live { .. }) {
        client.wait(Duration::from_secs(5));
    }
    for ticket in 0..50 {
        client.submit(id, Request::new(ticket, Command::Flush { nsid: 1 })).map_err(|(_, e)| e).unwrap();
        while client.completions().count() == 0 {
            client.wait(Duration::from_secs(5));
        }
        // One turn may be needed for what came with the answer, and one to see that nothing else did.
        for _ in 0..3 {
            client.poll();
        }
        let descriptor = client.descriptor().unwrap();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&at_once)).unwrap();
        assert_eq!(ready, 0, "after command {ticket}");
    }
}

#[test]
fn tasks_use_every_command() {
    let peer = Peer::start();
    let mut runtime = Runtime::new(io());
    let (handle, tasks) = (runtime.handle(), runtime.tasks());
    let o = options(peer.addr);
    runtime.block_on(async move {
        let s = handle.connect(Options { queue_depth: 4, backlog: 1, ..o }).await.unwrap();
        assert_eq!(s.namespaces().await.unwrap(), [1, 2]);
        let ns = s.namespace(1).await.unwrap();
        // More tasks than the subsystem takes commands: the rest wait here.
        let mut writes = Vec::new();
        for block in 0..40u8 {
            let mut buf = s.alloc(4096).unwrap();
            buf.fill(block + 1);
            writes.push(s.execute(Command::Write { nsid: 1, lba: block.into(), blocks: 1, buf, fua: false }));
        }
        for write in writes {
            write.await.unwrap();
        }
        let (done, all) = dolmen_io::exec::oneshot();
        let (reader, buf) = (s.clone(), s.alloc(40 * 4096).unwrap());
        tasks
            .spawn(async move {
                let _ = done.send(reader.read(&ns, 0, buf).await);
            })
            .unwrap();
        let buf = all.await.unwrap().unwrap();
        assert!(buf.chunks(4096).zip(1..).all(|(block, fill)| block.iter().all(|&b| b == fill)));
        // A future that is dropped leaves its command to its end.
        drop(s.execute(Command::Flush { nsid: 1 }));
        let buf = s.compare(&ns, 0, buf).await.unwrap();
        let differs = s.compare(&ns, 1, buf).await.unwrap_err();
        let CallError::Command(Failure::Status(status)) = differs else { panic!("{differs}") };
        assert!(status.same_code(Status::COMPARE_FAILURE));
        s.trim(&ns, &[BlockRange { lba: 0, blocks: 2 }]).await.unwrap();
        s.write_zeroes(&ns, 4, 1).await.unwrap();
        s.flush(&ns).await.unwrap();
        let quick = s.with_timeout_ms(60_000);
        let buf = quick.read(&ns, 0, s.alloc(5 * 4096).unwrap()).await.unwrap();
        assert!(buf[..8192].iter().chain(&buf[4 * 4096..]).all(|&b| b == 0) && buf[8192] == 3);
        assert_eq!(s.read(&ns, 0, s.alloc(100).unwrap()).await.unwrap_err(), CallError::Length);
        let unheard = Command::Io {
            sqe: CopyCommand { destination: 0, ranges: 200, format: 0, fua: false, protection: 0 }
                .encode(0, 1),
            data: dolmen_initiator::Data::None,
            resend: dolmen_initiator::Resend::Never,
        };
        assert!(s.execute(unheard).await.is_err());
        let invalid = Command::Read { nsid: 1, lba: 0, blocks: 0, buf: s.alloc(4096).unwrap() };
        assert_eq!(s.execute(invalid).await.unwrap_err(), CallError::Submit(SubmitError::Invalid));
        s.disconnect().await;
    });
}

/// What a future resolves to; that nobody ever wakes it is an error.
async fn resolved<T>(tasks: &exec::Handle, future: impl Future<Output = T>) -> T {
    let mut late = pin!(tasks.sleep_until(tasks.now().plus_ms(10_000)));
    let mut future = pin!(future);
    poll_fn(|cx| {
        assert!(late.as_mut().poll(cx).is_pending(), "never resolves");
        future.as_mut().poll(cx)
    })
    .await
}

#[test]
fn every_future_resolves() {
    let peer = Peer::start();
    let mut runtime = Runtime::new(io());
    let (handle, tasks) = (runtime.handle(), runtime.tasks());
    let o = options(peer.addr);
    runtime.block_on(async move {
        let impossible = Options { host_id: Uuid::NIL, ..o.clone() };
        let outcome = resolved(&tasks, handle.connect(impossible)).await.map(|_| ());
        assert!(matches!(outcome, Err(CallError::Connect(_))), "{outcome:?}");
        let s = resolved(&tasks, handle.connect(o)).await.unwrap();
        let same = s.clone();
        resolved(&tasks, s.disconnect()).await;
        resolved(&tasks, same.disconnect()).await;
    });
}

#[test]
fn a_connect_that_has_resolved_is_dropped_without_a_trace() {
    let peer = Peer::start();
    let mut runtime = Runtime::new(io());
    let (handle, tasks) = (runtime.handle(), runtime.tasks());
    let o = options(peer.addr);
    runtime.block_on(async move {
        let mut first = Box::pin(handle.connect(o.clone()));
        let a = resolved(&tasks, &mut first).await.unwrap();
        let mut second = Box::pin(handle.connect(o.clone()));
        poll_fn(|cx| {
            assert!(second.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(first);
        let b = resolved(&tasks, second).await.unwrap();
        // One that failed leaves nothing either.
        let mut failed = Box::pin(handle.connect(Options { host_id: Uuid::NIL, ..o.clone() }));
        assert!(resolved(&tasks, &mut failed).await.is_err());
        let third = handle.connect(o);
        drop(failed);
        let c = resolved(&tasks, third).await.unwrap();
        for s in [a, b, c] {
            assert_eq!(s.namespaces().await.unwrap(), [1, 2]);
            resolved(&tasks, s.disconnect()).await;
        }
    });
}

#[test]
fn a_subsystem_that_cannot_be_reached_is_an_error() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut runtime = Runtime::new(io());
    let handle = runtime.handle();
    let o = Options { loss_timeout_ms: Some(1), reconnect_min_ms: 1, ..options(closed) };
    let outcome = runtime.block_on(async move { handle.connect(o).await.map(|_| ()) });
    assert!(matches!(outcome, Err(CallError::Connect(_))), "{outcome:?}");
}
