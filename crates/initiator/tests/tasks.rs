//! The async face in virtual time, on a loop that sleeps whenever it is told that there is nothing to do.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/pair.rs"]
mod pair;

use common::{BLOCK, Behaviour, PEER, Ram, host_pool};
use dolmen_initiator::{
    Command, Failure, Options,
    aio::{CallError, Handle, Host, Subsystem},
};
use dolmen_io::{
    Io, Owner, PoolConfig, Wait,
    exec::{self, Exec},
};
use dolmen_sim::{CoreConfig, World};
use dolmen_types::Nanos;
use pair::{HOST, TARGET};
use std::{cell::RefCell, net::SocketAddr, rc::Rc};

const OWNER: Owner = Owner(1);
const EXEC: Owner = Owner(2);

struct Scene {
    world: World,
    io: Io,
    exec: Exec,
    host: Host,
    peer_io: Io,
    peer: Ram,
    /// The host's loop has something to do.
    awake: bool,
}

impl Scene {
    fn new(behaviour: Behaviour) -> Scene {
        let world = World::new(1);
        let core = |node, pool| Io::new(Box::new(world.driver(CoreConfig { node, pool })));
        let io = core(HOST, host_pool(1));
        let mut peer_io = core(TARGET, PoolConfig::sized(32 << 20));
        let peer = Ram::listen(&mut peer_io, SocketAddr::new(TARGET.addr(), 4420), behaviour);
        let (exec, host) = (Exec::new(EXEC, 64, &io), Host::new(OWNER, &io));
        Scene { world, io, exec, host, peer_io, peer, awake: true }
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        if std::mem::take(&mut self.awake) {
            self.awake = self.exec.run(&mut self.io);
            self.awake |= self.host.step(&mut self.io);
        }
        self.io.poll(Wait::No, &mut events);
        for (tag, event) in events.drain(..) {
            self.awake = true;
            match tag.owner {
                OWNER => self.host.on_event(&mut self.io, tag.key, event),
                _ => self.exec.deliver(tag.key, event),
            }
        }
        self.peer.step(&mut self.peer_io);
        self.peer_io.poll(Wait::No, &mut events);
        for (tag, event) in events.drain(..) {
            assert_eq!(tag.owner, PEER);
            self.peer.on_event(&mut self.peer_io, tag.key, event);
        }
        self.world.advance(20_000);
    }

    /// What a task makes of handles, and when it was done.
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        task: impl FnOnce(Handle, exec::Handle) -> F,
    ) -> T {
        let outcome = Rc::new(RefCell::new(None));
        let (place, future) = (outcome.clone(), task(self.host.handle(), self.exec.handle()));
        let spawned = self.exec.handle().spawn(async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        });
        spawned.unwrap();
        self.awake = true;
        for _ in 0..100_000 {
            if let Some(value) = outcome.borrow_mut().take() {
                return value;
            }
            self.turn();
        }
        panic!("never ends");
    }

    /// A subsystem that takes five commands.
    fn small(&mut self) -> Subsystem {
        let o = pair::options(self.peer.addr);
        let o = Options { io_queues: 2, queue_depth: 2, backlog: 1, ..o };
        self.run(|handle, _| async move { handle.connect(o).await }).unwrap()
    }

    /// As many reads as it takes, which nobody waits for.
    fn fill(&mut self, s: &Subsystem) {
        for _ in 0..5 {
            let buf = self.io.alloc(BLOCK).unwrap();
            drop(s.execute(Command::Read { nsid: 1, lba: 0, blocks: 1, buf }));
        }
    }
}

/// How long a task took. Milliseconds.
fn since(tasks: &exec::Handle, start: Nanos) -> u64 {
    tasks.now().since(start) / 1_000_000
}

#[test]
fn a_timeout_holds_for_calls_beyond_the_capacity() {
    let mut scene = Scene::new(Behaviour::default());
    let s = scene.small();
    scene.world.partition(HOST, TARGET);
    scene.fill(&s);
    let (outcome, took_ms) = scene.run(|_, tasks| async move {
        let start = tasks.now();
        let outcome = s.with_timeout_ms(100).execute(Command::Flush { nsid: 1 }).await.map(|_| ());
        (outcome, since(&tasks, start))
    });
    assert_eq!(outcome, Err(CallError::Command(Failure::Expired)));
    assert!((100..200).contains(&took_ms), "{took_ms} ms");
}

#[test]
fn room_that_expired_commands_leave_is_taken_at_once() {
    let mut scene = Scene::new(Behaviour { swallow: 5, ..Behaviour::default() });
    let s = scene.small();
    scene.fill(&s.with_timeout_ms(100));
    let (namespaces, took_ms) = scene.run(|_, tasks| async move {
        let start = tasks.now();
        (s.namespaces().await, since(&tasks, start))
    });
    assert_eq!(namespaces, Ok(vec![1]));
    assert!((90..200).contains(&took_ms), "{took_ms} ms");
}
