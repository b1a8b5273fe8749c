//! Why a volume is as slow as it is: from traces of its commands to a table of stages and a verdict in plain words. Pure.

use crate::trace::{CommandTrace, TraceKind, TraceStage, VolumeTraces};
use std::collections::BTreeMap;

/// Slowest commands that are told of at most. Count.
const MAX_SLOWEST: usize = 10;

/// A stage is worth a word when it takes this part of the time.
const WORTH_A_WORD: f64 = 0.25;

/// Fewer commands than this tell little. Count.
const FEW: u64 = 20;

/// What was received within this counts beside commands that are held back, and as long before them as those have waited. Nanoseconds.
const LATELY_NS: u64 = 1_000_000_000;

/// Below this the whole way takes about as long as turns of the core's loop do. Nanoseconds.
const QUICK_NS: u64 = 30_000;

/// What it may mean that a connection has one command with us at a time.
const ONE_OR_MORE: &str = "If the host sends one at a time, more at once (a larger queue depth) bring more per second; if it has more under \
     way, the network or the host takes the replies slowly.";

/// What is known about the volume beside its traces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// Name of its QoS policy.
    pub policy: Option<&'a str>,
}

/// One stage of one kind of command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageShare {
    /// Which.
    pub stage: TraceStage,
    /// Its part of all time, 0 to 1.
    pub share: f64,
    /// Half of the commands took no longer. Nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest that is known.
    pub max_ns: u64,
}

/// One kind of command.
#[derive(Clone, Debug, PartialEq)]
pub struct KindReport {
    /// `reads`, `writes` or `others`.
    pub name: &'static str,
    /// Commands that were looked at.
    pub sampled: u64,
    /// Of them, those that failed.
    pub failed: u64,
    /// Commands that the QoS policy holds back now. They count with the time that they have waited so far.
    pub waiting: u64,
    /// Stages that took any time, in order.
    pub stages: Vec<StageShare>,
    /// From the socket to the socket.
    pub total: StageShare,
    /// The drive that was waited for last most often, with its part of the commands.
    pub drive: Option<(String, f64)>,
}

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Why {
    /// Reads, writes and others, as far as there were any.
    pub kinds: Vec<KindReport>,
    /// How much time the commands looked at span. Seconds.
    pub span_s: f64,
    /// Commands in a second, estimated from the sample.
    pub per_second: f64,
    /// Commands that were in our hands on average.
    pub in_hand: f64,
    /// Commands of a connection that were not answered yet when one came, on average; 0 where that is not known. A host may have more under
    /// way: an answer counts as given once it is in the socket, however long the network takes over it.
    pub depth: f64,
    /// The slowest commands, slowest first.
    pub slowest: Vec<CommandTrace>,
    /// What to make of it, most important first.
    pub verdicts: Vec<String>,
}

/// Looks at a volume's traces.
#[must_use]
pub fn look(traces: &VolumeTraces, context: Context<'_>) -> Why {
    let recent = &traces.recent;
    let mut slowest = traces.slowest.clone();
    slowest.sort_by_key(|trace| std::cmp::Reverse(trace.total_ns()));
    slowest.truncate(MAX_SLOWEST);
    let mut why = Why { slowest, ..Why::default() };
    if recent.is_empty() && traces.waiting.is_empty() {
        why.verdicts.push(
            "No command of this volume was answered lately: nothing is slow here, nothing comes.".into(),
        );
        return why;
    }
    // Rates are of what was answered, and when: what came at once may be answered one by one.
    let answered = recent.iter().map(|t| t.age_ns.saturating_sub(t.total_ns()));
    let (oldest, newest) = answered.fold((0, u64::MAX), |(a, b), age| (a.max(age), b.min(age)));
    let (mut commands, mut time_ns, mut depth, mut known) = (0.0, 0.0, 0.0, 0.0);
    for trace in recent {
        let weight = f64::from(trace.weight);
        commands += weight;
        time_ns += weight * ns(trace.total_ns());
        if trace.outstanding > 0 {
            depth += weight * f64::from(trace.outstanding);
            known += weight;
        }
    }
    why.span_s = ns(oldest.saturating_sub(newest)) / 1e9;
    if why.span_s > 0.0 {
        why.per_second = commands / why.span_s;
        why.in_hand = time_ns / 1e9 / why.span_s;
    }
    why.depth = if known > 0.0 { depth / known } else { 0.0 };
    for (name, is_kind) in KINDS {
        let of_kind: Vec<&CommandTrace> = recent.iter().filter(|t| is_kind(t.kind)).collect();
        let slow: Vec<&CommandTrace> = traces.slowest.iter().filter(|t| is_kind(t.kind)).collect();
        let waiting: Vec<&CommandTrace> = traces.waiting.iter().filter(|t| is_kind(t.kind)).collect();
        why.kinds.extend(kind_report(name, of_kind, &slow, &waiting));
    }
    why.verdicts = verdicts(&why, context);
    why
}

/// A kind of command: its name, and which commands are of it.
type Sort = (&'static str, fn(TraceKind) -> bool);

const KINDS: [Sort; 3] = [
    ("reads", |kind| kind == TraceKind::Read),
    ("writes", |kind| kind == TraceKind::Write),
    ("others", |kind| matches!(kind, TraceKind::Other(_))),
];

#[allow(clippy::cast_precision_loss)] // Three digits are told.
fn ns(ns: u64) -> f64 {
    ns as f64
}

fn kind_report<'a>(
    name: &'static str,
    mut traces: Vec<&'a CommandTrace>,
    slow: &[&CommandTrace],
    waiting: &[&'a CommandTrace],
) -> Option<KindReport> {
    // A policy that lets few on has most of the time in those that it has not let on yet. What was before it began to would hide that.
    if let Some(eldest_ns) = waiting.iter().map(|t| t.age_ns).max() {
        let lately_ns = eldest_ns.saturating_mul(2).max(LATELY_NS);
        traces.retain(|t| t.age_ns <= lately_ns);
    }
    traces.extend(waiting);
    if traces.is_empty() {
        return None;
    }
    let all_ns: f64 = traces.iter().map(|t| f64::from(t.weight) * ns(t.total_ns())).sum();
    let share = |stage: TraceStage, of: &dyn Fn(&CommandTrace) -> u64| {
        let mut times: Vec<(u64, u64)> = traces.iter().map(|t| (of(t), u64::from(t.weight))).collect();
        times.sort_unstable();
        let sum_ns: f64 = traces.iter().map(|t| f64::from(t.weight) * ns(of(t))).sum();
        StageShare {
            stage,
            share: if all_ns > 0.0 { sum_ns / all_ns } else { 0.0 },
            p50_ns: percentile(&times, 50),
            p99_ns: percentile(&times, 99),
            max_ns: traces.iter().chain(slow).map(|t| of(t)).max().unwrap_or(0),
        }
    };
    let stages = TraceStage::ALL.map(|stage| share(stage, &|t| t.stages[stage as usize]));
    let mut drives: BTreeMap<&str, u64> = BTreeMap::new();
    for trace in &traces {
        if let Some(drive) = &trace.drive {
            *drives.entry(drive).or_default() += u64::from(trace.weight);
        }
    }
    let all: u64 = drives.values().sum();
    let most = drives.into_iter().max_by_key(|(_, count)| *count);
    Some(KindReport {
        name,
        sampled: traces.len() as u64,
        failed: traces.iter().filter(|t| t.failed).count() as u64,
        waiting: waiting.iter().map(|t| u64::from(t.weight)).sum(),
        stages: stages.into_iter().filter(|s| s.max_ns > 0).collect(),
        total: share(TraceStage::Send, &CommandTrace::total_ns),
        drive: most.map(|(drive, count)| (drive.to_owned(), ns(count) / ns(all))),
    })
}

/// Of sorted times with their weights, the one that so many of a hundred do not exceed.
fn percentile(times: &[(u64, u64)], percent: u64) -> u64 {
    let all: u64 = times.iter().map(|(_, weight)| weight).sum();
    let wanted = (all * percent).div_ceil(100);
    let mut seen = 0;
    for (time, weight) in times {
        seen += weight;
        if seen >= wanted {
            return *time;
        }
    }
    times.last().map_or(0, |(time, _)| *time)
}

fn verdicts(why: &Why, context: Context<'_>) -> Vec<String> {
    let mut said: Vec<(f64, String)> = Vec::new();
    for kind in &why.kinds {
        let quick = kind.total.p50_ns < QUICK_NS && kind.total.p99_ns < 10 * QUICK_NS;
        // Those that are held back may be few beside the many that went on before.
        let told = |s: &&StageShare| s.share >= WORTH_A_WORD && (!quick || s.stage == TraceStage::Qos);
        for stage in kind.stages.iter().filter(told) {
            let time_ns = stage.share * ns(kind.sampled) * ns(kind.total.p50_ns);
            said.push((time_ns, describe(kind, stage, context)));
        }
    }
    said.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut verdicts: Vec<String> = said.into_iter().map(|(_, text)| text).collect();
    if verdicts.is_empty() {
        let totals: Vec<String> = why
            .kinds
            .iter()
            .map(|k| {
                format!("{} in {} (99 of 100 within {})", k.name, time(k.total.p50_ns), time(k.total.p99_ns))
            })
            .collect();
        verdicts.push(format!(
            "The target answers {}; what hosts see beyond that is the network and their own side.",
            totals.join(", ")
        ));
    }
    verdicts.extend(from_outside(why));
    for kind in why.kinds.iter().filter(|k| k.failed > 0) {
        verdicts.push(format!("{} of {} sampled {} failed.", kind.failed, kind.sampled, kind.name));
    }
    if why.kinds.iter().map(|k| k.sampled).sum::<u64>() < FEW {
        verdicts.push("These are few commands; look again under load.".into());
    }
    verdicts
}

/// Whether the time is spent elsewhere. How many commands a host has under way is not known, only how many of them are with us: it
/// may wait for answers that the network has.
fn from_outside(why: &Why) -> Option<String> {
    let seldom = why.in_hand < 0.6 && why.span_s > 0.0 && why.kinds.iter().all(|k| k.waiting == 0);
    match (seldom, why.depth) {
        (true, depth) if depth > 0.0 && depth < 1.5 => Some(format!(
            "The target hardly ever has more than one command of a connection, and one in hand {:.0} % of the time: the rest passes at \
             the host and in the network. {ONE_OR_MORE}",
            why.in_hand * 100.0
        )),
        (true, _) => Some(format!(
            "The target has a command of this volume in hand {:.0} % of the time: most of the time it waits for the hosts, or for the network.",
            why.in_hand * 100.0
        )),
        (false, depth) if depth > 0.0 && depth < 1.5 => {
            Some(format!("The target hardly ever has more than one command of a connection. {ONE_OR_MORE}"))
        }
        _ => None,
    }
}

/// What it means that a stage takes much of the time, and what helps.
fn describe(kind: &KindReport, stage: &StageShare, context: Context<'_>) -> String {
    let (name, percent) = (kind.name, stage.share * 100.0);
    let mut took = format!("{percent:.0} % of the time of {name}");
    if stage.p50_ns > 0 {
        took += &format!(" (half of them {} or less)", time(stage.p50_ns));
    }
    match stage.stage {
        TraceStage::Socket => format!(
            "The core may keep commands waiting in the socket for {took}: it is busy. More cores (serve --cores), or fewer busy \
             neighbours, help."
        ),
        TraceStage::Data => {
            format!("The host's data is on its way for {took}: the network, or the host, is slow to send.")
        }
        TraceStage::Memory => format!(
            "Commands wait for buffers for {took}: hosts have more under way than fits, or do not read their replies."
        ),
        TraceStage::Crossing | TraceStage::Return => format!(
            "Commands are on their way between the connection's core and the volume's for {took}: the other core is busy or asleep. \
             A longer serve --poll-window keeps it awake."
        ),
        TraceStage::Qos => {
            let policy =
                context.policy.map_or("The QoS policy".to_owned(), |p| format!("The QoS policy '{p}'"));
            let now =
                if kind.waiting > 0 { format!(", {} of them now", kind.waiting) } else { String::new() };
            format!("{policy} holds commands back{now} for {took}. `dolmen qos show` tells its limits.")
        }
        TraceStage::Backlog => format!(
            "The volume has as many commands under way as it may have, and the rest waits for {took}: hosts send more at once than is of \
             any use."
        ),
        TraceStage::Locks => {
            format!(
                "Commands wait for others on the same blocks for {took}: the load writes the same place again and again."
            )
        }
        TraceStage::Edges => format!(
            "Writes that do not fill 4 KiB blocks have to read the rest first, which takes {took}. Aligned writes of whole 4 KiB avoid it."
        ),
        TraceStage::Store => format!(
            "Commands wait in the store for {took}: for commits before them, for space that is being cleaned, or for memory. \
             `dolmen pool show` tells how full the pool is."
        ),
        TraceStage::Codec => {
            format!(
                "Compression and encryption take {took}: the core computes. More cores help, or a volume without compression."
            )
        }
        TraceStage::Drive => match &kind.drive {
            Some((drive, part)) if *part < 0.995 => format!(
                "The drives take {took}; {drive} is the last to answer in {:.0} of 100 cases. `dolmen drive list` compares them.",
                part * 100.0
            ),
            Some((drive, _)) => format!("The drive {drive} takes {took}."),
            None => format!("The drives take {took}."),
        },
        TraceStage::Order => format!(
            "Commands wait for {took} until commits before theirs are on all drives: one drive or one large commit is slower than the rest."
        ),
        TraceStage::Send => {
            format!(
                "Replies take {took} to get into the socket: the host or the network takes them slowly, or the core is busy."
            )
        }
    }
}

/// A time for people: two or three digits and a unit.
#[must_use]
pub fn time(ns_: u64) -> String {
    let t = ns(ns_);
    match ns_ {
        0..1_000 => format!("{ns_} ns"),
        1_000..100_000 => format!("{:.1} us", t / 1e3),
        100_000..1_000_000 => format!("{:.0} us", t / 1e3),
        1_000_000..100_000_000 => format!("{:.1} ms", t / 1e6),
        100_000_000..1_000_000_000 => format!("{:.0} ms", t / 1e6),
        _ => format!("{:.1} s", t / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_types::CoreId;

    const US: u64 = 1000;

    /// A command that was answered so long ago.
    fn trace(kind: TraceKind, answered_ns: u64, stages: &[(TraceStage, u64)]) -> CommandTrace {
        let mut trace = CommandTrace {
            kind,
            failed: false,
            weight: 1,
            lba: 0,
            blocks: 1,
            age_ns: answered_ns + stages.iter().map(|(_, ns)| ns).sum::<u64>(),
            host: None,
            core: CoreId(0),
            outstanding: 32,
            drive: None,
            stages: [0; TraceStage::COUNT],
        };
        stages.iter().for_each(|(stage, ns)| trace.stages[*stage as usize] = *ns);
        trace
    }

    fn many(count: u64, make: impl Fn(u64) -> CommandTrace) -> VolumeTraces {
        VolumeTraces { recent: (0..count).map(make).collect(), ..VolumeTraces::default() }
    }

    #[test]
    fn the_slow_drive_is_named() {
        let traces = many(100, |i| {
            let stages =
                [(TraceStage::Drive, 4_000 * US), (TraceStage::Store, 400 * US), (TraceStage::Codec, 5 * US)];
            let drive = Some(if i < 80 { "nvme1" } else { "nvme0" }.to_owned());
            CommandTrace { drive, ..trace(TraceKind::Write, i * 200 * US, &stages) }
        });
        let why = look(&traces, Context::default());
        let writes = &why.kinds[0];
        assert_eq!((writes.name, writes.sampled, writes.stages.len()), ("writes", 100, 3));
        let drive = writes.stages.iter().find(|s| s.stage == TraceStage::Drive).unwrap();
        assert!(drive.share > 0.9 && drive.p50_ns == 4_000 * US);
        assert!(why.verdicts[0].contains("nvme1 is the last to answer in 80 of 100"), "{:?}", why.verdicts);
        // 5000 a second, each 4.4 ms.
        assert!((why.per_second - 5050.0).abs() < 100.0 && (why.in_hand - 22.2).abs() < 1.0, "{why:?}");
    }

    #[test]
    fn a_policy_is_blamed_by_name_and_only_where_it_holds_back() {
        let stages = [(TraceStage::Qos, 20_000 * US), (TraceStage::Drive, 100 * US)];
        let mut traces = many(50, |i| trace(TraceKind::Write, i * 1_000 * US, &stages));
        traces
            .recent
            .extend((0..50).map(|i| trace(TraceKind::Read, i * 1_000 * US, &[(TraceStage::Drive, 80 * US)])));
        let why = look(&traces, Context { policy: Some("gold") });
        assert!(
            why.verdicts[0].contains("'gold' holds commands back for 100 % of the time of writes"),
            "{:?}",
            why.verdicts
        );
        assert!(!why.verdicts.iter().any(|v| v.contains("of reads") && v.contains("gold")));
    }

    #[test]
    fn commands_that_wait_for_the_policy_now_count_though_none_of_them_was_answered() {
        let held = |age_ms: u64| trace(TraceKind::Write, 0, &[(TraceStage::Qos, age_ms * 1_000 * US)]);
        let blamed = |why: &Why| why.verdicts[0].contains("'gold' holds commands back, ");
        // Many, and quick, before the policy let none on any more.
        let socket = [(TraceStage::Socket, 40 * US)];
        let quick = |i: u64| CommandTrace {
            weight: 64,
            outstanding: 1,
            ..trace(TraceKind::Write, (700 + i * 8) * 1_000 * US, &socket)
        };
        let mut traces = many(256, quick);
        traces
            .recent
            .extend((0..20).map(|i| trace(TraceKind::Read, i * 1_000 * US, &[(TraceStage::Drive, 80 * US)])));
        assert!(!look(&traces, Context { policy: Some("gold") }).verdicts[0].contains("gold"));
        traces.waiting = vec![held(650)];
        let why = look(&traces, Context { policy: Some("gold") });
        assert!(blamed(&why) && why.verdicts[0].contains("1 of them now"), "{:?}", why.verdicts);
        assert!(
            !why.verdicts.iter().any(|v| v.contains("most of the time it waits for the hosts")),
            "{why:?}"
        );
        let kind = |name: &str| why.kinds.iter().find(|k| k.name == name).unwrap();
        assert_eq!((kind("writes").waiting, kind("reads").waiting, kind("reads").sampled), (1, 0, 20));
        // A volume that was never answered.
        let traces = VolumeTraces { waiting: vec![held(2), held(1)], ..VolumeTraces::default() };
        let why = look(&traces, Context { policy: Some("gold") });
        assert!(blamed(&why) && why.kinds[0].total.max_ns == 2_000 * US, "{why:?}");
    }

    #[test]
    fn a_host_that_sends_one_at_a_time_is_told_so() {
        let stages = [(TraceStage::Drive, 10 * US), (TraceStage::Send, 5 * US)];
        let traces =
            many(100, |i| CommandTrace { outstanding: 1, ..trace(TraceKind::Read, i * 100 * US, &stages) });
        let why = look(&traces, Context::default());
        assert!(why.verdicts[0].contains("answers reads in 15.0 us"), "{:?}", why.verdicts);
        assert!(
            why.verdicts[1].contains("If the host sends one at a time") && why.verdicts[1].contains("15 %"),
            "{:?}",
            why.verdicts
        );
    }

    /// Replies that fit into the socket count as given: with the target there is one command though the host waits for eight.
    #[test]
    fn nobody_claims_to_know_what_a_host_has_under_way() {
        for every_us in [100, 16] {
            let stages = [(TraceStage::Drive, 10 * US), (TraceStage::Send, 5 * US)];
            let one =
                |i| CommandTrace { outstanding: 1, ..trace(TraceKind::Read, i * every_us * US, &stages) };
            let why = look(&many(100, one), Context::default());
            let said = why.verdicts.join(" ");
            assert!(!said.contains("The host sends"), "{said}");
            assert!(said.contains("if it has more under way, the network or the host takes"), "{said}");
        }
    }

    #[test]
    fn a_median_of_nothing_is_not_told() {
        let held = [(TraceStage::Qos, 20_000 * US)];
        let rest = [(TraceStage::Drive, 100 * US)];
        let of = |part: u64| {
            let stages = move |i| if i % 10 < part { held } else { rest };
            look(&many(100, |i| trace(TraceKind::Write, i * 1_000 * US, &stages(i))), Context::default())
        };
        let seldom = &of(4).verdicts[0];
        assert!(seldom.contains("holds commands back for 99 % of the time of writes. "), "{seldom}");
        let often = &of(6).verdicts[0];
        assert!(often.contains("of writes (half of them 20.0 ms or less). "), "{often}");
    }

    #[test]
    fn a_rate_is_that_of_the_answers() {
        // Twenty that came at once, and were let on one in a second.
        let second = 1_000_000 * US;
        let traces =
            many(20, |i| trace(TraceKind::Write, (20 - i) * second, &[(TraceStage::Qos, i * second)]));
        let why = look(&traces, Context::default());
        assert!((why.span_s - 19.0).abs() < 1e-6 && (why.per_second - 20.0 / 19.0).abs() < 1e-6, "{why:?}");
        assert!((why.in_hand - 10.0).abs() < 1e-6, "half of them on average: {why:?}");
    }

    #[test]
    fn weights_count_in_percentiles_and_rates() {
        let traces = many(10, |i| CommandTrace {
            weight: if i == 0 { 1 } else { 100 },
            ..trace(
                TraceKind::Read,
                i * 1_000_000,
                &[(TraceStage::Drive, if i == 0 { 9_000 * US } else { 50 * US })],
            )
        });
        let why = look(&traces, Context::default());
        let total = why.kinds[0].total;
        assert_eq!((total.p50_ns, total.p99_ns, total.max_ns), (50 * US, 50 * US, 9_000 * US));
        assert!((why.per_second - 901.0 / 0.009).abs() < 1.0);
    }

    #[test]
    fn silence_has_an_answer_and_every_stage_has_words() {
        let why = look(&VolumeTraces::default(), Context::default());
        assert!(why.verdicts[0].contains("nothing comes"));
        for stage in TraceStage::ALL {
            let traces = many(30, |i| trace(TraceKind::Other(4), i * 1_000_000, &[(stage, 1_000_000)]));
            let why = look(&traces, Context::default());
            assert!(why.verdicts[0].contains("100 %"), "{:?}", why.verdicts);
        }
    }
}
