//! `dolmen policy ...`: snapshot policies.

use super::{
    args::{PolicyCommand, PolicyCreateArgs},
    client::Client,
    error::{CliError, Exit},
    output::{Align, Output, pairs, table, text},
};
use dolmen_types::Uuid;
use serde_json::{Value, json};

const POLICIES: &str = "/api/v2/projects/default/resourcePolicies";

pub(crate) fn run(client: &Client, output: &Output, command: PolicyCommand) -> Result<(), CliError> {
    match command {
        PolicyCommand::Create(args) => create(client, output, args),
        PolicyCommand::List => list(client, output),
        PolicyCommand::Show { policy } => show(client, output, &policy),
        PolicyCommand::Delete { policy } => delete(client, output, &policy),
    }
}

/// A policy by name or UUID; the API finds only the latter.
fn fetch(client: &Client, policy: &str) -> Result<Value, CliError> {
    let all = client.get(POLICIES)?;
    let is_it = |p: &&Value| text(p, "name") == policy || text(p, "UUID").eq_ignore_ascii_case(policy);
    let found = all["resourcePolicies"].as_array().and_then(|list| list.iter().find(is_it)).cloned();
    found.ok_or_else(|| {
        CliError::new(Exit::NotFound, format!("snapshot policy '{policy}' does not exist"))
            .hint(format!("this tells which policies there are: {}", client.suggest("policy list")))
    })
}

fn create(client: &Client, output: &Output, args: PolicyCreateArgs) -> Result<(), CliError> {
    let start = args.start.as_deref();
    let with_start = |mut schedule: Value| {
        if let Some(start) = start {
            schedule["startTime"] = start.into();
        }
        schedule
    };
    let schedule = if let Some(hours) = args.often.hours {
        json!({"hourlySchedule": with_start(json!({"hoursInCycle": hours}))})
    } else if let Some(days) = args.often.days {
        json!({"dailySchedule": with_start(json!({"daysInCycle": days}))})
    } else {
        let days: Vec<Value> =
            args.often.weekday.iter().map(|day| with_start(json!({"day": format!("{day:?}")}))).collect();
        json!({"weeklySchedule": {"daysOfWeek": days}})
    };
    let mut body = json!({
        "name": args.name,
        "description": args.description,
        "schedulePolicy": {
            "snapshotSchedulePolicy": schedule,
            "retentionTime": args.keep.map_or_else(|| "0s".to_string(), |seconds| format!("{seconds}s")),
        },
    });
    let field = if args.volume.parse::<Uuid>().is_ok() { "resourceUUID" } else { "resourceName" };
    body[field] = args.volume.into();
    let made = client.post(POLICIES, &body)?;
    output.put(&made, |p| {
        format!("snapshot policy '{}' of volume '{}' is active", text(p, "name"), text(p, "resourceName"))
    })
}

/// A schedule for people.
fn often(policy: &Value) -> String {
    let schedule = &policy["schedulePolicy"]["snapshotSchedulePolicy"];
    let every = |kind: &str, field: &str, unit: &str| {
        let of = &schedule[kind];
        (!of.is_null()).then(|| format!("every {} {unit} from {}", text(of, field), text(of, "startTime")))
    };
    let weekly = || {
        let days = schedule["weeklySchedule"]["daysOfWeek"].as_array()?;
        let days: Vec<String> =
            days.iter().map(|d| format!("{} from {}", text(d, "day"), text(d, "startTime"))).collect();
        Some(days.join(", "))
    };
    every("hourlySchedule", "hoursInCycle", "hours")
        .or_else(|| every("dailySchedule", "daysInCycle", "days"))
        .or_else(weekly)
        .unwrap_or_default()
}

fn kept(policy: &Value) -> String {
    match text(&policy["schedulePolicy"], "retentionTime").as_str() {
        "" | "0s" => "ever".into(),
        time => time.into(),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    output.put(&client.get(POLICIES)?["resourcePolicies"], |policies| {
        let columns = [
            ("POLICY", Align::Left),
            ("VOLUME", Align::Left),
            ("TAKES A SNAPSHOT", Align::Left),
            ("KEPT FOR", Align::Right),
            ("UUID", Align::Left),
        ];
        let rows = policies
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .map(|p| vec![text(p, "name"), text(p, "resourceName"), often(p), kept(p), text(p, "UUID")]);
        let make = client.suggest("policy create NAME VOLUME --days 1");
        table(&columns, rows.collect(), &format!("There are no snapshot policies. Make one: {make}"))
    })
}

fn show(client: &Client, output: &Output, policy: &str) -> Result<(), CliError> {
    output.put(&fetch(client, policy)?, |p| {
        pairs(&[
            ("Name", text(p, "name")),
            ("UUID", text(p, "UUID")),
            ("Volume", format!("{} ({})", text(p, "resourceName"), text(p, "resourceUUID"))),
            ("Takes a snapshot", often(p)),
            ("Kept for", kept(p)),
            ("Description", text(p, "description")),
            ("State", text(p, "state")),
        ])
    })
}

fn delete(client: &Client, output: &Output, policy: &str) -> Result<(), CliError> {
    let seen = fetch(client, policy)?;
    let done = client.delete(&format!("{POLICIES}/{}", text(&seen, "UUID")))?;
    output.put(&done, |_| format!("snapshot policy '{}' is deleted; its snapshots stay", text(&seen, "name")))
}
