//! Ctrl-C for the verbs that end in an orderly way when they are interrupted, `demo` and `bench`.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::signal::unix::{SignalKind, signal};

static SEEN: AtomicBool = AtomicBool::new(false);

/// True after Ctrl-C, or when the process was told to end in another way.
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}

/// From now on Ctrl-C, SIGTERM and the end of the terminal are only noted. Whoever calls this asks [`seen`] often.
pub(crate) fn catch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut int, mut term, mut hup) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("interrupts".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                    _ = hup.recv() => {}
                }
                SEEN.store(true, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}
