//! The live view: a thread fetches, this one draws and listens to keys.

use super::{
    rates::{Rates, Sample},
    sample,
    view::{self, Screen},
};
use crate::cli::{
    args::TopSort,
    client::Client,
    error::{CliError, Exit},
};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How long the view waits for a key before it looks for new figures.
const LOOK: Duration = Duration::from_millis(50);

/// Intervals that + and - choose from. Milliseconds.
const INTERVALS_MS: [u64; 8] = [100, 200, 500, 1000, 2000, 5000, 10_000, 60_000];

type Fetched = Result<Sample, CliError>;

/// Shows the view until the user has seen enough. The terminal is as it was afterwards, whatever happened.
pub(super) fn run(client: Client, interval: Duration, sort: TopSort) -> Result<(), CliError> {
    // Nothing has touched the terminal yet: a daemon that does not answer is an error like any other.
    let first = sample(&client)?;
    let interval_ms = Arc::new(AtomicU64::new(u64::try_from(interval.as_millis()).unwrap_or(1000)));
    let (sender, fetched) = channel();
    let pace = interval_ms.clone();
    thread::spawn(move || fetch(&client, &pace, &sender));
    leave_on_signals()?;
    let mut terminal = ratatui::try_init().map_err(|why| failed(&why))?;
    let screen = Screen { sort, interval_s: interval.as_secs_f64(), skipped: 0, trouble: None };
    let outcome = show(&mut terminal, first, &fetched, &interval_ms, screen);
    ratatui::restore();
    outcome.map_err(|why| failed(&why))
}

fn failed(why: &io::Error) -> CliError {
    CliError::new(Exit::Failed, format!("the terminal can't be used: {why}"))
        .hint("--once shows the same as plain text")
}

/// A terminal that is left in the middle would stay unusable.
fn leave_on_signals() -> Result<(), CliError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| failed(&why))?;
    thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut term), Ok(mut hangup)) =
                (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
            else {
                return;
            };
            tokio::select! { _ = term.recv() => {}, _ = hangup.recv() => {} }
            ratatui::restore();
            std::process::exit(0);
        });
    });
    Ok(())
}

/// Fetches at each interval until nobody takes it any more.
fn fetch(client: &Client, pace_ms: &AtomicU64, out: &Sender<Fetched>) {
    loop {
        let begun = Instant::now();
        // A new pace takes effect at once.
        while begun.elapsed() < Duration::from_millis(pace_ms.load(Ordering::Relaxed)) {
            thread::sleep(LOOK.min(Duration::from_millis(pace_ms.load(Ordering::Relaxed))));
        }
        if out.send(sample(client)).is_err() {
            return;
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    first: Sample,
    fetched: &Receiver<Fetched>,
    interval_ms: &AtomicU64,
    mut screen: Screen,
) -> io::Result<()> {
    let (mut before, mut rates) = (first, None);
    loop {
        terminal.draw(|frame| view::draw(frame, rates.as_ref(), &screen))?;
        let mut changed = false;
        while !changed {
            if event::poll(LOOK)? {
                // Anything that happens to the terminal, a new size too, is drawn.
                changed = true;
                if let Event::Key(key) = event::read()?
                    && key.kind != KeyEventKind::Release
                    && press(key, &mut screen, interval_ms)
                {
                    return Ok(());
                }
            }
            while let Ok(answer) = fetched.try_recv() {
                changed = true;
                match answer {
                    Ok(sample) => {
                        rates = Some(Rates::between(&before, &sample));
                        (before, screen.trouble) = (sample, None);
                    }
                    Err(why) => screen.trouble = Some(why.text),
                }
            }
        }
    }
}

/// What a key does; true when it ends the view.
fn press(key: KeyEvent, screen: &mut Screen, interval_ms: &AtomicU64) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('s') => screen.sort = screen.sort.next(),
        KeyCode::Char('i') => screen.sort = TopSort::Iops,
        KeyCode::Char('b') => screen.sort = TopSort::Bandwidth,
        KeyCode::Char('l') => screen.sort = TopSort::Latency,
        KeyCode::Char('d') => screen.sort = TopSort::Depth,
        KeyCode::Char('n') => screen.sort = TopSort::Name,
        KeyCode::Up => screen.skipped = screen.skipped.saturating_sub(1),
        KeyCode::Down => screen.skipped += 1,
        KeyCode::PageUp => screen.skipped = screen.skipped.saturating_sub(10),
        KeyCode::PageDown => screen.skipped += 10,
        KeyCode::Home => screen.skipped = 0,
        KeyCode::Char('+' | '=') => {
            pace(screen, interval_ms, |ms| INTERVALS_MS.into_iter().find(|i| *i > ms))
        }
        KeyCode::Char('-') => pace(screen, interval_ms, |ms| INTERVALS_MS.into_iter().rfind(|i| *i < ms)),
        _ => {}
    }
    false
}

fn pace(screen: &mut Screen, interval_ms: &AtomicU64, next: impl Fn(u64) -> Option<u64>) {
    if let Some(ms) = next(interval_ms.load(Ordering::Relaxed)) {
        interval_ms.store(ms, Ordering::Relaxed);
        screen.interval_s = Duration::from_millis(ms).as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_foot_says() {
        let mut screen = Screen { sort: TopSort::Iops, interval_s: 1.0, skipped: 0, trouble: None };
        let interval = AtomicU64::new(1000);
        let mut press =
            |code, modifiers| super::press(KeyEvent::new(code, modifiers), &mut screen, &interval);
        assert!(
            press(KeyCode::Char('q'), KeyModifiers::NONE) && press(KeyCode::Char('c'), KeyModifiers::CONTROL)
        );
        for key in ['l', '+', '+', '-', 'x', 'c'] {
            assert!(!press(KeyCode::Char(key), KeyModifiers::NONE), "{key}");
        }
        assert!(!press(KeyCode::Up, KeyModifiers::NONE) && !press(KeyCode::PageDown, KeyModifiers::NONE));
        assert_eq!(
            (screen.sort, screen.skipped, interval.load(Ordering::Relaxed)),
            (TopSort::Latency, 10, 2000)
        );
    }
}
