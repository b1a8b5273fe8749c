use super::*;
use crate::fake::Fake;
use std::cell::Cell;

const OWNER: Owner = Owner(3);

/// One turn of a core that has nothing but the executor.
fn turn(io: &mut Io, exec: &mut Exec) {
    let mut events = Vec::new();
    let wait = if exec.has_ready() { crate::Wait::No } else { crate::Wait::Forever };
    io.poll(wait, &mut events);
    for (tag, event) in events {
        assert_eq!(tag.owner, OWNER);
        exec.deliver(tag.key, event);
    }
    exec.run(io);
    io.submit();
}

fn finish(io: &mut Io, exec: &mut Exec) {
    for _ in 0..10_000 {
        if exec.is_empty() {
            return;
        }
        turn(io, exec);
    }
    panic!("tasks hang");
}

#[test]
fn writes_and_reads_back() {
    let mut io = Io::new(Box::new(Fake::new()));
    let mut exec = Exec::new(OWNER, 4, &io);
    let h = exec.handle();
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    h.clone()
        .spawn(async move {
            let mut buf = h.alloc(4096).await;
            buf.fill(7);
            h.write(FileId(0), 8192, vec![buf.freeze()]).await.unwrap();
            h.flush(FileId(0)).await.unwrap();
            let mut buf = h.alloc(4096).await;
            buf.fill(0);
            let buf = h.read(FileId(0), 8192, buf).await.unwrap();
            assert!(buf.iter().all(|&b| b == 7));
            let (error, back) = h.read(FileId(0), u64::MAX, buf).await.unwrap_err();
            assert_eq!(error.kind, crate::ErrorKind::Medium);
            assert!(back.is_some());
            h.discard(FileId(0), 0, 4096).await.unwrap();
            flag.set(true);
        })
        .unwrap();
    finish(&mut io, &mut exec);
    assert!(done.get());
}

#[test]
fn sleeps_wake_in_order_and_dropped_ones_leave_nothing() {
    let mut io = Io::new(Box::new(Fake::new()));
    let mut exec = Exec::new(OWNER, 8, &io);
    let order = Rc::new(RefCell::new(Vec::new()));
    for ms in [30u64, 10, 20] {
        let (h, order) = (exec.handle(), order.clone());
        exec.handle()
            .spawn(async move {
                let mut never = Box::pin(h.sleep_until(h.now().plus_ms(1_000_000)));
                std::future::poll_fn(|cx| {
                    assert!(never.as_mut().poll(cx).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
                if ms == 20 {
                    drop(never); // before it was armed
                    h.sleep_until(h.now().plus_ms(ms)).await;
                } else {
                    h.sleep_until(h.now().plus_ms(ms)).await;
                    drop(never); // armed: is cancelled
                }
                order.borrow_mut().push(ms);
            })
            .unwrap();
    }
    finish(&mut io, &mut exec);
    assert_eq!(*order.borrow(), [10, 20, 30]);
    let state = exec.handle.state.borrow();
    assert_eq!(state.free.len(), state.slots.len(), "every slot is free again");
    assert!(io.now().0 < 1_000_000_000);
}

#[test]
fn alloc_waits_for_the_pool() {
    let mut io = Io::new(Box::new(Fake::new()));
    let mut exec = Exec::new(OWNER, 2, &io);
    let mut held: Vec<Buf> = std::iter::from_fn(|| io.alloc(4096)).collect();
    let (h, got) = (exec.handle(), Rc::new(Cell::new(0)));
    let count = got.clone();
    exec.handle()
        .spawn(async move {
            let _first = h.alloc(4096).await;
            count.set(1);
            let _second = h.alloc(4096).await;
            count.set(2);
        })
        .unwrap();
    for _ in 0..5 {
        turn(&mut io, &mut exec);
    }
    assert_eq!(got.get(), 0);
    held.pop();
    turn(&mut io, &mut exec);
    turn(&mut io, &mut exec);
    assert_eq!(got.get(), 1);
    drop(held);
    finish(&mut io, &mut exec);
    assert_eq!(got.get(), 2);
}

#[test]
fn oneshots_notifies_and_the_limit() {
    let mut io = Io::new(Box::new(Fake::new()));
    let mut exec = Exec::new(OWNER, 3, &io);
    let h = exec.handle();
    let (tx, rx) = oneshot::<u32>();
    let (lost_tx, lost_rx) = oneshot::<u32>();
    let notify = Notify::default();
    let waiter = notify.clone();
    h.spawn(async move {
        assert_eq!(rx.await, Ok(5));
        assert_eq!(lost_rx.await, Err(Canceled));
        waiter.notified().await;
    })
    .unwrap();
    let yielder = h.clone();
    h.spawn(async move {
        yielder.yield_now().await;
        tx.send(5).unwrap();
        yielder.yield_now().await;
        drop(lost_tx);
        yielder.yield_now().await;
        notify.notify();
    })
    .unwrap();
    h.spawn(async {}).unwrap();
    assert_eq!(h.spawn(async {}), Err(Full));
    finish(&mut io, &mut exec);
    assert!(h.spawn(async {}).is_ok());
}

#[test]
fn a_dropped_read_gives_its_buffer_back() {
    let mut io = Io::new(Box::new(Fake::new()));
    let mut exec = Exec::new(OWNER, 1, &io);
    let before = io.pool().available(4096);
    let h = exec.handle();
    exec.handle()
        .spawn(async move {
            let buf = h.alloc(4096).await;
            drop(h.start(Op::Read { file: FileId(0), offset: 0, buf }));
        })
        .unwrap();
    finish(&mut io, &mut exec);
    turn(&mut io, &mut exec);
    turn(&mut io, &mut exec);
    assert_eq!(io.pool().available(4096), before);
    drop(exec);
}
