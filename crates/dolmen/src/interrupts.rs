//! Ctrl-C for the verbs that end in an orderly way when they are interrupted, `demo` and `bench`.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// How long an interrupted verb waits for others.
const PATIENCE: Duration = Duration::from_secs(1);

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// True after Ctrl-C, or when the process was told to end in another way.
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed) > 0
}

/// When an interrupted verb stops waiting for what others still owe it: a second after the first interruption, or with the second.
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<Instant>);

impl Patience {
    /// True when it has come to its end. To be asked often.
    pub(crate) fn is_over(&mut self) -> bool {
        let seen = SEEN.load(Ordering::Relaxed);
        seen > 1 || (seen == 1 && self.0.get_or_insert_with(Instant::now).elapsed() > PATIENCE)
    }
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
                SEEN.fetch_add(1, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}
