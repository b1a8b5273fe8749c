//! When the pool is scrubbed and how fast: the schedule, kept in the data folder, and what follows from it for the cores.
//!
//! The store numbers rounds and remembers which it has been through; here is the clock. A data folder that is lost costs the
//! settings and the time of the last round, nothing else.

use dolmen_cluster::plane::{ScrubChange, ScrubStatus};
use dolmen_security::file::{self, Visibility};
use dolmen_store::{ScrubPlan, ScrubReport};
use dolmen_types::UnixMillis;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The file in the data folder.
const FILE: &str = "scrub.json";

/// A round begins so long after the one before. Seconds: two weeks.
const EVERY_S: u64 = 14 * 24 * 3600;

/// No rate that is chosen by itself is lower. Bytes a second.
const LEAST_BYTES_PER_S: u64 = 4 << 20;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Settings {
    /// Between the beginnings of two rounds; 0: only when somebody says so. Seconds.
    every_s: u64,
    /// Of all shards together; 0: as fast as the period asks for. Bytes a second.
    bytes_per_s: u64,
    paused: bool,
    /// The newest round.
    round: u64,
    /// When it began, and when the last one ended. Milliseconds since 1970; 0: not yet. Before the first round, when that began to be
    /// waited for.
    started_ms: u64,
    finished_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { every_s: EVERY_S, bytes_per_s: 0, paused: false, round: 0, started_ms: 0, finished_ms: 0 }
    }
}

impl Settings {
    /// What the file says. One that does not tell costs the settings, and no start: scrubbing goes on as for a new pool.
    fn load(path: &Path) -> Settings {
        let read = file::read_if_there(path).map_err(|why| why.to_string());
        let parsed = read.and_then(|bytes| match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|why| format!("{}: {why}", path.display())),
            None => Ok(Settings::default()),
        });
        parsed.unwrap_or_else(|why| {
            tracing::warn!(why, "when the pool was scrubbed, and how it was to be, is not known any more");
            Settings::default()
        })
    }

    /// No round is of a time to come: the clock was set back, and the next one must not have to wait until it has caught up.
    fn follow_clock(&mut self, now: UnixMillis) {
        // A round that has not ended yet began after the one that has.
        let running = self.finished_ms < self.started_ms;
        self.started_ms = self.started_ms.min(now.0);
        self.finished_ms = self.finished_ms.min(now.0.saturating_sub(u64::from(running)));
    }

    fn save(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|why| why.to_string())?;
        file::replace(path, &text, Visibility::Everybody).map_err(|why| why.to_string())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scrubbing {
    file: PathBuf,
    settings: Mutex<Settings>,
}

impl Scrubbing {
    /// As the data folder has it.
    pub(crate) fn load(folder: &Path) -> Scrubbing {
        let file = folder.join(FILE);
        let settings = Settings::load(&file);
        Scrubbing { file, settings: Mutex::new(settings) }
    }

    /// Changes what is asked for.
    pub(crate) fn change(&self, change: ScrubChange, report: &ScrubReport, now: UnixMillis) {
        self.update(|s| {
            s.every_s = change.every_s.unwrap_or(s.every_s);
            s.bytes_per_s = change.bytes_per_s.unwrap_or(s.bytes_per_s);
            s.paused = change.paused.unwrap_or(s.paused);
            if change.start && report.finished >= s.round {
                begin(s, report, now);
            }
        });
    }

    /// Looks at the clock; what every core is to be told. `shards` share the rate, `held_bytes` are to be read.
    pub(crate) fn look(
        &self,
        report: &ScrubReport,
        shards: u16,
        held_bytes: u64,
        now: UnixMillis,
    ) -> ScrubPlan {
        let s = self.update(|s| {
            s.follow_clock(now);
            let through = report.finished >= s.round;
            if s.round > 0 && through && s.finished_ms < s.started_ms {
                s.finished_ms = now.0;
            }
            if s.started_ms == 0 {
                // A pool that nobody ever looked at: its first round comes one period from now.
                s.started_ms = now.0;
            } else if through && s.every_s > 0 && now.0 >= s.started_ms.saturating_add(s.every_s * 1000) {
                begin(s, report, now);
            }
        });
        let rate = if s.bytes_per_s > 0 { s.bytes_per_s } else { needed(held_bytes, s.every_s) };
        ScrubPlan { round: s.round, paused: s.paused, bytes_per_s: (rate / u64::from(shards.max(1))).max(1) }
    }

    /// For people.
    pub(crate) fn status(&self, report: &ScrubReport) -> ScrubStatus {
        let s = *self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        ScrubStatus {
            every_s: s.every_s,
            bytes_per_s: s.bytes_per_s,
            paused: s.paused,
            running: s.round > report.finished,
            segments_done: report.segments_done,
            segments: report.segments,
            started: UnixMillis(if s.round == 0 { 0 } else { s.started_ms }),
            finished: UnixMillis(if s.round == 0 { 0 } else { s.finished_ms }),
            checked_bytes: report.checked_bytes,
            mended: report.mended,
            lost: report.lost,
            named: report.named.clone(),
        }
    }

    fn update(&self, change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *settings;
        change(&mut settings);
        if *settings != before
            && let Err(why) = settings.save(&self.file)
        {
            tracing::warn!(why, "the next start will not know when the pool was scrubbed");
        }
        *settings
    }
}

fn begin(settings: &mut Settings, report: &ScrubReport, now: UnixMillis) {
    settings.round = settings.round.max(report.finished) + 1;
    settings.started_ms = now.0;
}

/// What has to be read in a second so that a round takes no more than half of its period, rounded up to a power of two lest it
/// change all the time.
fn needed(held_bytes: u64, every_s: u64) -> u64 {
    let every_s = if every_s == 0 { EVERY_S } else { every_s };
    (held_bytes / (every_s / 2).max(1)).max(LEAST_BYTES_PER_S).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(finished: u64) -> ScrubReport {
        ScrubReport { finished, ..ScrubReport::default() }
    }

    #[test]
    fn rounds_come_by_the_clock_and_by_hand_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let day = 24 * 3600 * 1000;
        let at = |day_number: u64| UnixMillis(1_000_000 + day_number * day);
        let scrubbing = Scrubbing::load(folder.path());
        assert_eq!(scrubbing.look(&report(0), 2, 0, at(0)).round, 0, "a fresh pool is not scrubbed at once");
        assert_eq!(scrubbing.look(&report(0), 2, 0, at(13)).round, 0);
        assert_eq!(scrubbing.status(&report(0)).finished, UnixMillis(0));
        let plan = scrubbing.look(&report(0), 2, 0, at(14));
        assert_eq!(plan, ScrubPlan { round: 1, paused: false, bytes_per_s: 2 << 20 });
        assert!(scrubbing.status(&report(0)).running);
        assert_eq!(scrubbing.status(&report(0)).finished, UnixMillis(0), "no round has ended yet");
        // The round takes longer than the period: no second one is begun.
        assert_eq!(scrubbing.look(&report(0), 2, 0, at(30)).round, 1);
        let scrubbing = Scrubbing::load(folder.path());
        assert_eq!(scrubbing.look(&report(1), 2, 0, at(27)).round, 1);
        assert_eq!(scrubbing.status(&report(1)).finished, at(27));
        let change =
            ScrubChange { start: true, bytes_per_s: Some(100), paused: Some(true), every_s: Some(0) };
        scrubbing.change(change, &report(1), at(28));
        let plan = scrubbing.look(&report(1), 1, 0, at(28));
        assert_eq!(plan, ScrubPlan { round: 2, paused: true, bytes_per_s: 100 });
        assert_eq!(scrubbing.look(&report(2), 1, 0, at(900)).round, 2, "only by hand");
        // The folder is lost: what the store remembers is not done again.
        let other = tempfile::tempdir().unwrap();
        let scrubbing = Scrubbing::load(other.path());
        scrubbing.change(ScrubChange { start: true, ..ScrubChange::default() }, &report(2), at(901));
        assert_eq!(scrubbing.look(&report(2), 1, 0, at(901)).round, 3);
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_no_round_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let day = 24 * 3600 * 1000;
        let at = |day_number: u64| UnixMillis((20_000 + day_number) * day);
        let scrubbing = Scrubbing::load(folder.path());
        scrubbing.look(&report(0), 1, 0, at(0));
        assert_eq!(scrubbing.look(&report(0), 1, 0, at(400)).round, 1, "the clock is a year ahead");
        // It is put right while the round goes on: its end is told as it is, once.
        scrubbing.look(&report(0), 1, 0, at(1));
        scrubbing.look(&report(1), 1, 0, at(2));
        assert_eq!(
            (scrubbing.status(&report(1)).started, scrubbing.status(&report(1)).finished),
            (at(1), at(2))
        );
        let written = || std::fs::metadata(folder.path().join(FILE)).unwrap().modified().unwrap();
        let before = written();
        assert_eq!(scrubbing.look(&report(1), 1, 0, at(3)).round, 1);
        assert_eq!(written(), before, "nothing has changed");
        assert_eq!(scrubbing.look(&report(1), 1, 0, at(15)).round, 2);
        // The same when it was put right between two rounds.
        scrubbing.look(&report(2), 1, 0, at(500));
        assert_eq!(scrubbing.look(&report(2), 1, 0, at(501)).round, 3);
        scrubbing.look(&report(3), 1, 0, at(502));
        assert_eq!(scrubbing.look(&report(3), 1, 0, at(20)).round, 3);
        assert_eq!(scrubbing.look(&report(3), 1, 0, at(34)).round, 4);
    }

    #[test]
    fn a_damaged_file_is_no_reason_not_to_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "every_s 7").unwrap();
        let scrubbing = Scrubbing::load(folder.path());
        assert_eq!(*scrubbing.settings.lock().unwrap(), Settings::default());
        let change = ScrubChange { paused: Some(true), ..ScrubChange::default() };
        scrubbing.change(change, &report(0), UnixMillis(5));
        assert!(Scrubbing::load(folder.path()).status(&report(0)).paused);
    }

    #[test]
    fn the_rate_follows_from_what_there_is() {
        assert_eq!(needed(0, EVERY_S), 4 << 20);
        let tib100 = 100 << 40;
        let rate = needed(tib100, EVERY_S);
        assert!(rate * EVERY_S / 2 >= tib100 && rate * EVERY_S / 4 <= tib100);
    }
}
