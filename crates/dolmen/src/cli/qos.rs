//! `dolmen qos ...`

use super::{
    args::{LimitArgs, QosCommand, QosCreateArgs, QosUpdateArgs},
    client::Client,
    error::{CliError, Exit},
    output::{Align, Output, pairs, table, text, texts},
};
use dolmen_types::Uuid;
use serde_json::{Value, json};

const POLICIES: &str = "/api/v2/policies";
const DEFAULT: &str = "/api/v2/clusterConfig/DefaultQoSName";

/// The kinds of limits as the API names them, with their fields for reads and writes.
const KINDS: [(&str, &str, &str); 3] = [
    ("limitIOPS", "readIOPSLimit", "writeIOPSLimit"),
    ("limitBw", "readBWLimit", "writeBWLimit"),
    ("limitIOPSPerGB", "readIOPSPerGBLimit", "writeIOPSPerGBLimit"),
];

pub(crate) fn run(client: &Client, output: &Output, command: QosCommand) -> Result<(), CliError> {
    match command {
        QosCommand::Create(args) => create(client, output, args),
        QosCommand::List => list(client, output),
        QosCommand::Show { policy } => show(client, output, &policy),
        QosCommand::Update(args) => update(client, output, args),
        QosCommand::Delete { policy } => delete(client, output, &policy),
        QosCommand::Default { policy } => default(client, output, policy),
    }
}

/// The path of a policy by name or UUID.
fn path(policy: &str) -> Result<String, CliError> {
    if policy.parse::<Uuid>().is_ok() {
        return Ok(format!("{POLICIES}/{policy}"));
    }
    dolmen_cluster::volume::check_name("POLICY", policy).map_err(|why| CliError::usage(why.text))?;
    Ok(format!("{POLICIES}/?name={policy}"))
}

fn fetch(client: &Client, policy: &str) -> Result<Value, CliError> {
    client.get(&path(policy)?).map_err(|error| match error.exit {
        Exit::NotFound => {
            error.hint(format!("this tells which policies there are: {}", client.suggest("qos list")))
        }
        _ => error,
    })
}

/// The limits of the command line laid over those that a policy has, as the API wants them: all that there are.
fn limits(args: &LimitArgs, old: &Value) -> Value {
    let given = [
        (args.read_iops, args.write_iops),
        (args.read_mb, args.write_mb),
        (args.read_iops_per_gib, args.write_iops_per_gib),
    ];
    let mut new = json!({});
    for ((kind, read, write), (r, w)) in KINDS.into_iter().zip(given) {
        let kept = |given: Option<u32>, field: &str| match given {
            Some(limit) => json!(limit),
            None if old[kind][field].is_null() => json!(0),
            None => old[kind][field].clone(),
        };
        new[kind] = json!({read: kept(r, read), write: kept(w, write)});
    }
    new
}

fn create(client: &Client, output: &Output, args: QosCreateArgs) -> Result<(), CliError> {
    let mut info = limits(&args.limits, &Value::Null);
    if args.project.is_empty() {
        info["policyVisibility"] = "Global".into();
    } else {
        info["projectsNamesScope"] = args.project.into();
    }
    let body = json!({"name": args.name, "description": args.description, "qoSRateLimitPolicy": info});
    let made = client.post(POLICIES, &body)?;
    output.put(&made, |p| format!("QoS policy '{}' is there (UUID {})", text(p, "name"), text(p, "UUID")))
}

/// A pair of limits for people.
fn limit(policy: &Value, (kind, read, write): (&str, &str, &str)) -> String {
    let one = |field: &str| {
        let limit = text(&policy["QoSRateLimitPolicy"][kind], field);
        if limit.is_empty() || limit == "0" { "-".into() } else { limit }
    };
    format!("{} / {}", one(read), one(write))
}

fn whose(policy: &Value) -> String {
    let info = &policy["QoSRateLimitPolicy"];
    match text(info, "policyVisibility").as_str() {
        "Scoped" => texts(&info["projectsNamesScope"]).join(", "),
        "Global" => "all".into(),
        _ => "none".into(),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let default = text(&client.get(DEFAULT)?, "value");
    output.put(&client.get(POLICIES)?["policies"], |policies| {
        let columns = [
            ("POLICY", Align::Left),
            ("IOPS R/W", Align::Right),
            ("MB/S R/W", Align::Right),
            ("IOPS/GIB R/W", Align::Right),
            ("PROJECTS", Align::Left),
            ("STATE", Align::Left),
            ("DEFAULT", Align::Left),
            ("UUID", Align::Left),
        ];
        let rows = policies.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|p| {
            let mut row = vec![text(p, "name")];
            row.extend(KINDS.map(|kind| limit(p, kind)));
            let mark = if text(p, "name") == default { "yes" } else { "" };
            row.extend([whose(p), text(p, "state"), mark.into(), text(p, "UUID")]);
            row
        });
        table(&columns, rows.collect(), "There are no QoS policies.")
    })
}

fn show(client: &Client, output: &Output, policy: &str) -> Result<(), CliError> {
    output.put(&fetch(client, policy)?, |p| {
        let [iops, megabytes, per_gib] = KINDS.map(|kind| limit(p, kind));
        pairs(&[
            ("Name", text(p, "name")),
            ("UUID", text(p, "UUID")),
            ("Description", text(p, "description")),
            ("State", text(p, "state")),
            ("Projects", whose(p)),
            ("IOPS, reads / writes", iops),
            ("MB/s, reads / writes", megabytes),
            ("IOPS per GiB, reads / writes", per_gib),
        ])
    })
}

fn update(client: &Client, output: &Output, args: QosUpdateArgs) -> Result<(), CliError> {
    let seen = fetch(client, &args.policy)?;
    let uuid = text(&seen, "UUID");
    let mut body = json!({"qoSRateLimitPolicy": limits(&args.limits, &seen["QoSRateLimitPolicy"])});
    if let Some(name) = args.name {
        body["name"] = name.into();
    }
    if let Some(description) = args.description {
        body["description"] = description.into();
    }
    // The API knows no ETags of policies.
    client.put(&path(&uuid)?, "*", &body)?;
    let changed = fetch(client, &uuid)?;
    output.put(&changed, |p| {
        format!("QoS policy '{}' is changed; the volumes that have it follow at once", text(p, "name"))
    })
}

fn delete(client: &Client, output: &Output, policy: &str) -> Result<(), CliError> {
    let seen = fetch(client, policy)?;
    let done = client.delete(&path(&text(&seen, "UUID"))?)?;
    output.put(&done, |_| format!("QoS policy '{}' is deleted", text(&seen, "name")))
}

fn default(client: &Client, output: &Output, policy: Option<String>) -> Result<(), CliError> {
    if let Some(policy) = policy {
        let seen = fetch(client, &policy)?;
        let body = json!({"configParam": {"name": "DefaultQoSName", "value": text(&seen, "name")}});
        client.put(DEFAULT, "*", &body)?;
    }
    output.put(&client.get(DEFAULT)?, |v| {
        format!("new volumes that name no QoS policy get '{}'", text(v, "value"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let args = LimitArgs { write_iops: Some(5), read_mb: Some(0), ..LimitArgs::default() };
        let old =
            json!({"limitIOPS": {"readIOPSLimit": 7, "writeIOPSLimit": 8}, "limitBw": {"readBWLimit": 9}});
        let new = limits(&args, &old);
        assert_eq!(new["limitIOPS"], json!({"readIOPSLimit": 7, "writeIOPSLimit": 5}));
        assert_eq!(new["limitBw"], json!({"readBWLimit": 0, "writeBWLimit": 0}));
        assert_eq!(new["limitIOPSPerGB"], json!({"readIOPSPerGBLimit": 0, "writeIOPSPerGBLimit": 0}));
    }
}
