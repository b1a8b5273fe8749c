//! `cargo xtask guard`: instructions of the hot paths against recorded figures, so that speed can't rot unseen.
//!
//! callgrind counts what `dolmen-guard` does in its counted section, case by case; the same build gives the same count whatever
//! else the machine does. Another compiler, libc, valgrind or CPU gives other counts: then there is no verdict.
//!
//! A `rep movsb` counts once per byte, so that copies of data would be most of a count and hide the code round them: libc is told
//! to copy with vector registers, however much it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::sh::run;

/// How far a count may be from its record before the guard speaks up.
const TOLERANCE: f64 = 0.02;

/// The section that is counted, as callgrind finds it among the functions of `crates/guard`.
const SECTION: &str = "--toggle-collect=*dolmen_guard*counted*";

/// What keeps libc from `rep movsb` and `rep stosb`.
const TUNABLES: &str =
    "glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000";

/// Features that code and libc choose by, of those that valgrind lets through.
const CPU_FEATURES: [&str; 7] = ["aes", "avx2", "bmi2", "erms", "fma", "fsrm", "pclmulqdq"];

/// How it is built.
const PROFILE: &str = "crates/guard/profile.toml";

const HEADER: &str = "\
# Instructions of one operation, as callgrind counts them, for `cargo xtask guard`.
# Made by `cargo xtask guard --record`; the commit that changes a figure says why.
";

/// Recorded or counted figures, and what they hold for.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    /// Compiler, libc, valgrind and CPU.
    environment: String,
    /// Instructions per operation, by case.
    cases: BTreeMap<String, f64>,
}

/// What came of one case.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Kept,
    Worse,
    Better,
    /// Counted and not recorded, or the other way round.
    Unpaired,
}

fn file() -> PathBuf {
    crate::root().join("crates/guard/figures.txt")
}

/// The verb: counts everything and compares, or records.
pub(crate) fn guard(record: bool) -> Result<()> {
    packages::ensure_guard_tools()?;
    let now = count_all()?;
    if record {
        let before = std::fs::read_to_string(file()).map(|text| Figures::parse(&text)).unwrap_or_default();
        std::fs::write(file(), now.to_string()).context("writing the figures")?;
        show(&before, &now);
        println!("recorded in {}", file().display());
        return Ok(());
    }
    let text = std::fs::read_to_string(file())
        .context("reading the recorded figures; make them with: cargo xtask guard --record")?;
    let recorded = Figures::parse(&text);
    if !compare(&recorded, &now) {
        bail!("instruction counts are not what is recorded");
    }
    Ok(())
}

/// Builds and counts all cases.
fn count_all() -> Result<Figures> {
    run("cargo")
        // Of the whole workspace, so that the tests' libraries serve.
        .args(["build", "--quiet", "--workspace", "--bin", "dolmen-guard", "--config", PROFILE])
        // Incremental builds are cut into other units, and count otherwise.
        .env("CARGO_INCREMENTAL", "0")
        .dir(crate::root())
        .status()?;
    let names = run(&binary()).arg("--list").text()?;
    let names: Vec<&str> = names.lines().collect();
    let next = AtomicUsize::new(0);
    let counting = || {
        let mine = std::iter::from_fn(|| names.get(next.fetch_add(1, Ordering::Relaxed)));
        mine.map(|name| Ok(((*name).to_owned(), count(name).with_context(|| format!("counting {name}"))?)))
            .collect::<Result<Vec<_>>>()
    };
    let together = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cases = BTreeMap::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..together).map(|_| scope.spawn(counting)).collect();
        for thread in threads {
            cases.extend(thread.join().expect("counting doesn't panic")?);
        }
        anyhow::Ok(())
    })?;
    Ok(Figures { environment: environment()?, cases })
}

fn binary() -> String {
    crate::root().join("target/debug/dolmen-guard").display().to_string()
}

/// Instructions of one operation of a case.
fn count(name: &str) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("callgrind");
    let said = run("valgrind")
        .env("GLIBC_TUNABLES", TUNABLES)
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no", SECTION])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .args([binary().as_str(), name])
        .text()?;
    let operations =
        said.lines().find_map(|line| line.strip_prefix("operations: ")?.trim().parse::<f64>().ok());
    let text = std::fs::read_to_string(&out).context("reading what callgrind wrote")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
    match (total, operations) {
        (Some(total), Some(operations)) if total > 0.0 && operations > 0.0 => Ok(total / operations),
        _ => bail!("callgrind counted {total:?} instructions in {operations:?} operations"),
    }
}

/// Everything that counts depend on beside our own code.
fn environment() -> Result<String> {
    let rustc = run("rustc").arg("--version").dir(crate::root()).text()?;
    let valgrind = run("valgrind").arg("--version").text()?;
    let libc = run("getconf").arg("GNU_LIBC_VERSION").text()?;
    let cc = format!("cc {}", run("cc").arg("-dumpfullversion").text()?);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |feature: &&str| flags.split_whitespace().any(|flag| flag == *feature);
    let features = CPU_FEATURES.into_iter().filter(has).collect::<Vec<_>>().join(" ");
    Ok([&rustc, &valgrind, &libc, &cc, &features].map(|part| part.trim()).join("; "))
}

/// Shows both and judges, where that can be done; false when something is not as recorded.
fn compare(recorded: &Figures, now: &Figures) -> bool {
    let kept = show(recorded, now);
    if recorded.environment != now.environment {
        println!(
            "guard: NOT JUDGED: counts hold for one compiler, libc, valgrind and kind of CPU\n  recorded with: {}\n  this is:       {}\n  To guard here, record a state that is known to be good: cargo xtask guard --record",
            recorded.environment, now.environment
        );
        return true;
    }
    if !kept {
        println!(
            "guard: a count is more than {:.0} % from its record. More: find what made it so (GLIBC_TUNABLES={TUNABLES} \
             valgrind --tool=callgrind --collect-atstart=no '{SECTION}' target/debug/dolmen-guard CASE; callgrind_annotate shows \
             where). Less, or more with a good reason: keep the record true with `cargo xtask guard --record`, and say why in \
             the commit.",
            TOLERANCE * 100.0
        );
    }
    kept
}

/// Shows both, case by case; false when something is not as recorded.
fn show(recorded: &Figures, now: &Figures) -> bool {
    let mut kept = true;
    for (name, verdict) in verdicts(recorded, now) {
        let show = |figures: &Figures| figures.cases.get(&name).map_or("-".into(), |n| format!("{n:.1}"));
        let change = match (recorded.cases.get(&name), now.cases.get(&name)) {
            (Some(old), Some(new)) => percent(new / old),
            _ => String::new(),
        };
        let text = match verdict {
            Verdict::Kept => "",
            Verdict::Worse => "MORE than recorded",
            Verdict::Better => "LESS than recorded",
            Verdict::Unpaired => "counted and recorded cases differ",
        };
        kept &= verdict == Verdict::Kept;
        println!(
            "guard: {name:<26} {:>10} recorded {:>10} now  {change:>8}  {text}",
            show(recorded),
            show(now)
        );
    }
    kept
}

/// The verdict on every case of either side.
fn verdicts(recorded: &Figures, now: &Figures) -> Vec<(String, Verdict)> {
    let mut names: Vec<&String> = recorded.cases.keys().chain(now.cases.keys()).collect();
    names.sort();
    names.dedup();
    let judge = |name: &String| match (recorded.cases.get(name), now.cases.get(name)) {
        (Some(old), Some(new)) if new / old > 1.0 + TOLERANCE => Verdict::Worse,
        (Some(old), Some(new)) if new / old < 1.0 - TOLERANCE => Verdict::Better,
        (Some(_), Some(_)) => Verdict::Kept,
        _ => Verdict::Unpaired,
    };
    names.into_iter().map(|name| (name.clone(), judge(name))).collect()
}

fn percent(ratio: f64) -> String {
    format!("{:+.2} %", (ratio - 1.0) * 100.0)
}

impl Figures {
    /// Lines of `name figure`, and one that says what they hold for; the rest is for people.
    fn parse(text: &str) -> Figures {
        let mut figures = Figures::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(environment) = line.strip_prefix("with: ") {
                environment.trim().clone_into(&mut figures.environment);
            } else if let Some((name, count)) = line.rsplit_once(char::is_whitespace)
                && let Ok(count) = count.parse()
            {
                figures.cases.insert(name.trim().to_owned(), count);
            }
        }
        figures
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!("{HEADER}with: {}\n\n", self.environment);
        for (name, count) in &self.cases {
            writeln!(text, "{name:<28} {count:>10.1}")?;
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Verdict, compare, verdicts};

    fn figures(environment: &str, cases: &[(&str, f64)]) -> Figures {
        let cases = cases.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Figures { environment: environment.to_owned(), cases }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let written = figures("rustc 1; glibc 2", &[("a/b", 12.5), ("c", 3000.0)]);
        assert_eq!(Figures::parse(&written.to_string()), written);
    }

    #[test]
    fn both_directions_and_missing_cases_are_noticed() {
        let recorded = figures("x", &[("same", 100.0), ("more", 100.0), ("less", 100.0), ("gone", 1.0)]);
        let now = figures("x", &[("same", 101.9), ("more", 102.1), ("less", 97.9), ("new", 1.0)]);
        let expected = [
            ("gone", Verdict::Unpaired),
            ("less", Verdict::Better),
            ("more", Verdict::Worse),
            ("new", Verdict::Unpaired),
            ("same", Verdict::Kept),
        ];
        let found = verdicts(&recorded, &now);
        assert!(
            found
                .iter()
                .map(|(name, verdict)| (name.as_str(), verdict))
                .eq(expected.iter().map(|(n, v)| (*n, v)))
        );
        assert!(!compare(&recorded, &now));
    }

    #[test]
    fn another_compiler_is_not_judged() {
        let (recorded, now) = (figures("rustc 1", &[("a", 1.0)]), figures("rustc 2", &[("a", 9.0)]));
        assert!(compare(&recorded, &now));
    }
}
