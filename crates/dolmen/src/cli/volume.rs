//! `dolmen volume ...`

use super::{
    args::{AccessArgs, CreateArgs, Kind, UpdateArgs, VolumeCommand},
    check,
    client::{Client, operand},
    discard,
    error::{CliError, Exit},
    output::{Align, Output, pairs, ratio, size, table, text, texts},
    snapshot,
};
use crate::config::Switch;
use dolmen_types::{ByteSize, Nqn, Uuid};
use serde_json::{Value, json};
use std::{thread, time::Duration};

/// How often a new volume is looked at until it is Available, and how long in all.
const POLL: Duration = Duration::from_millis(200);
const POLLS: u32 = 150;

/// Tries of a change that others keep getting in between.
const TRIES: u32 = 8;

const ANY: &str = "ALLOW_ANY";
const NONE: &str = "ALLOW_NONE";

pub(crate) fn run(client: &Client, output: &Output, command: VolumeCommand) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(args) => create(client, output, args),
        VolumeCommand::List => list(client, output),
        VolumeCommand::Show { volume } => show(client, output, &volume),
        VolumeCommand::Resize { volume, size } => resize(client, output, &volume, size),
        VolumeCommand::Rollback { volume, to, yes } => discard::roll_back(client, output, &volume, &to, yes),
        VolumeCommand::Update(args) => update(client, output, args),
        VolumeCommand::Delete { volume, yes } => discard::delete(client, output, &volume, yes),
        VolumeCommand::Allow(args) => {
            let seen = access(client, output, &args, allowed)?;
            for (field, given, flag) in [("acl", &args.hosts, ""), ("IPAcl", &args.ip, "--ip ")] {
                if texts(&seen[field]["values"]) == [ANY] && given.iter().any(|word| word != ANY) {
                    let deny = client
                        .suggest(&format!("volume deny {}", operand(&args.volume, &format!(" {flag}{ANY}"))));
                    output.remark(&format!(
                        "That narrows nothing: the list said {ANY} already. To admit only some, first: {deny}"
                    ));
                }
            }
            Ok(())
        }
        VolumeCommand::Deny(args) => access(client, output, &args, denied).map(drop),
    }
}

/// The path of a volume by name or UUID under `base`.
pub(super) fn path(base: &str, volume: &str) -> Result<String, CliError> {
    if volume.parse::<Uuid>().is_ok() {
        return Ok(format!("{base}/{volume}"));
    }
    dolmen_cluster::volume::check_name("VOLUME", volume).map_err(|why| CliError::usage(why.text))?;
    Ok(format!("{base}/?name={volume}"))
}

/// The volume as the daemon tells it, with our additions.
pub(crate) fn fetch(client: &Client, volume: &str) -> Result<Value, CliError> {
    client.get(&path("/dolmen/v1/volumes", volume)?).map_err(|why| missing(client, why))
}

/// A volume that is not there, with the way to see which are.
pub(super) fn missing(client: &Client, error: CliError) -> CliError {
    match error.exit {
        Exit::NotFound => {
            error.hint(format!("this tells which volumes there are: {}", client.suggest("volume list")))
        }
        _ => error,
    }
}

/// A list as the API wants it: `ALLOW_NONE` where it is empty.
fn list_value(values: Vec<String>) -> Value {
    if values.is_empty() { json!({"values": [NONE]}) } else { json!({ "values": values }) }
}

fn create(client: &Client, output: &Output, args: CreateArgs) -> Result<(), CliError> {
    let nobody = args.acl.is_empty() || args.acl == [NONE];
    let kind = match args.kind {
        Kind::Durable => "durable",
        Kind::Null => "null",
        Kind::Memory => "memory",
    };
    let mut body = json!({
        "name": args.name,
        "acl": list_value(args.acl),
        "sectorSize": args.sector_size,
        "kind": kind,
    });
    if let Some(snapshot) = &args.from_snapshot {
        let field = snapshot::field("sourceSnapshot", snapshot);
        body[field] = snapshot.as_str().into();
    }
    body["size"] = match (args.size, &args.from_snapshot) {
        (Some(size), _) => size.0.to_string().into(),
        (None, Some(snapshot)) => snapshot::fetch(client, snapshot)?["size"].clone(),
        (None, None) => return Err(CliError::usage("give a --size")),
    };
    if !args.ip_acl.is_empty() {
        body["IPAcl"] = list_value(args.ip_acl.iter().map(ToString::to_string).collect());
    }
    if let Some(switch) = args.compression {
        body["compression"] = (switch == Switch::On).into();
    }
    if let Some(switch) = args.encryption {
        body["encryption"] = (switch == Switch::On).into();
    }
    if !args.label.is_empty() {
        let labels = args.label.iter().map(|(key, value)| json!({"key": key, "value": value}));
        body["labels"] = labels.collect();
    }
    if let Some(policy) = args.qos {
        let field = qos_field(&policy);
        body[field] = policy.into();
    }
    let made = client.post("/dolmen/v1/volumes", &body).map_err(|error| match error.exit {
        Exit::Conflict if error.text.contains("exists") => {
            error.hint("choose another name, or resize the one there")
        }
        _ => error,
    })?;
    let made = when_available(client, made)?;
    output.put(&made, |v| {
        format!("volume '{}' of {} is available (UUID {})", text(v, "name"), size(v, "size"), text(v, "UUID"))
    })?;
    let name = text(&made, "name");
    if nobody {
        output.remark(&format!(
            "Nobody is admitted yet. On the host: cat /etc/nvme/hostnqn; then here: {}",
            client.suggest(&format!("volume allow {}", operand(&name, " NQN")))
        ));
    }
    output.remark(&format!(
        "How a host connects: {}",
        client.suggest(&format!("connect-help {}", operand(&name, "")))
    ));
    Ok(())
}

/// Waits until a volume that is being made is in use.
fn when_available(client: &Client, mut volume: Value) -> Result<Value, CliError> {
    for _ in 0..POLLS {
        if volume["state"] != "Creating" {
            return Ok(volume);
        }
        thread::sleep(POLL);
        volume = fetch(client, &text(&volume, "UUID"))?;
    }
    let why = format!("volume '{}' is still being made", text(&volume, "name"));
    let look = client.suggest("volume list");
    Err(CliError::new(Exit::TryAgain, why).hint(format!("look again: {look}; the daemon's log may say why")))
}

fn admitted(volume: &Value) -> String {
    match texts(&volume["acl"]["values"]).as_slice() {
        [word] if word == NONE => "nobody".into(),
        [word] if word == ANY => "any host".into(),
        [one] => one.clone(),
        many => format!("{} hosts", many.len()),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let mut volumes = Vec::new();
    loop {
        // In pages, since the API bounds each.
        let after = volumes.last().map_or_else(String::new, |v| format!("&offsetUUID={}", text(v, "UUID")));
        let page = client.get(&format!("/dolmen/v1/volumes?showAll=true{after}"))?;
        let page = page["volumes"].as_array().cloned().unwrap_or_default();
        if page.is_empty() {
            break;
        }
        volumes.extend(page);
    }
    volumes.sort_by_key(|v| text(v, "name"));
    output.put(&Value::Array(volumes), |volumes| {
        let columns = [
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("USED", Align::Right),
            ("RATIO", Align::Right),
            ("STATE", Align::Left),
            ("PROTECTION", Align::Left),
            ("DATA LOST", Align::Left),
            ("ADMITTED", Align::Left),
            ("CONNECTED", Align::Right),
            ("UUID", Align::Left),
        ];
        let rows = volumes.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|v| {
            vec![
                text(v, "name"),
                size(v, "size"),
                size(&v["statistics"], "logicalUsedStorage"),
                ratio(&v["statistics"], "compressionRatio"),
                text(v, "state"),
                text(v, "protectionState"),
                lost(v),
                admitted(v),
                texts(&v["connectedHosts"]).len().to_string(),
                text(v, "UUID"),
            ]
        });
        let make = client.suggest("volume create NAME --size 10GiB");
        table(&columns, rows.collect(), &format!("There are no volumes. Make one: {make}"))
    })
}

fn show(client: &Client, output: &Output, volume: &str) -> Result<(), CliError> {
    output.put(&fetch(client, volume)?, |v| {
        let labels = v["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
        let source: Vec<String> =
            Some(text(v, "sourceSnapshotName")).filter(|s| !s.is_empty()).into_iter().collect();
        let labels: Vec<String> =
            labels.iter().map(|l| format!("{}={}", text(l, "key"), text(l, "value"))).collect();
        pairs(&[
            ("Name", text(v, "name")),
            ("UUID", text(v, "UUID")),
            ("State", text(v, "state")),
            ("Protection", text(v, "protectionState")),
            ("Data lost", lost_ranges(v)),
            ("Size", format!("{} ({} bytes)", size(v, "size"), text(v, "size"))),
            ("Written", size(&v["statistics"], "logicalUsedStorage")),
            ("Stored", size(&v["statistics"], "physicalUsedStorage")),
            ("Compression", compression(v)),
            ("Encryption", if text(v, "encryption") == "true" { "on" } else { "off" }.into()),
            ("Sector size", text(v, "sectorSize")),
            ("NSID", text(v, "nsid")),
            ("Kind", text(v, "kind")),
            ("QoS policy", text(v, "qosPolicyName")),
            ("Cloned from", none_if_empty(source)),
            ("Only its own", size(&v["statistics"], "physicalOwnedCapacity")),
            ("For its snapshots", size(v, "snapshotBytes")),
            ("Admitted hosts", texts(&v["acl"]["values"]).join("\n")),
            ("Admitted addresses", texts(&v["IPAcl"]["values"]).join("\n")),
            ("Connected hosts", none_if_empty(texts(&v["connectedHosts"]))),
            ("Labels", none_if_empty(labels)),
            ("Created", text(v, "creationTime")),
            ("ETag", text(v, "ETag")),
        ])
    })
}

/// How much of a volume is lost, in a word.
fn lost(volume: &Value) -> String {
    match volume["lostRanges"].as_array().map_or(0, Vec::len) {
        0 => "nothing".into(),
        1 => "1 range".into(),
        ranges => format!("{ranges} ranges"),
    }
}

/// Which blocks of a volume are lost, a range a line.
fn lost_ranges(volume: &Value) -> String {
    let all = volume["lostRanges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sector = volume["sectorSize"].as_u64().unwrap_or(1);
    let line = |r: &Value| {
        let [lbas, bytes, size] = check::place_of(r, sector);
        format!("LBA {lbas}, bytes {bytes} ({size}): {}", check::why(&text(r, "cause")))
    };
    let mut lines: Vec<String> = all.iter().take(check::RANGES).map(line).collect();
    let more = all.len() - lines.len();
    lines.extend((more > 0).then(|| format!("and {more} ranges more: --output json lists them")));
    if lines.is_empty() { "nothing that is known of".into() } else { lines.join("\n") }
}

fn compression(volume: &Value) -> String {
    match text(volume, "compression").as_str() {
        "true" => format!("on, ratio {}", ratio(&volume["statistics"], "compressionRatio")),
        _ => "off".into(),
    }
}

fn none_if_empty(values: Vec<String>) -> String {
    if values.is_empty() { "none".into() } else { values.join("\n") }
}

/// Changes a volume with what `body_of` makes of its present state; again if someone else changed it in between.
/// `None` means that there is nothing to change.
fn change(
    client: &Client,
    volume: &str,
    body_of: impl Fn(&Value) -> Result<Option<Value>, CliError>,
) -> Result<Value, CliError> {
    let put = |uuid: &str, etag: &str, body: &Value| {
        client.put(&path("/api/v2/volumes", uuid)?, etag, body).map_err(|why| missing(client, why))
    };
    repeat(volume, |volume| fetch(client, volume), put, body_of)
}

/// Fetches and puts until that is done. What was answered as not done may be done all the same: the volume is told by its
/// identity from the first look on, since its name may be another then.
fn repeat(
    volume: &str,
    fetch: impl Fn(&str) -> Result<Value, CliError>,
    put: impl Fn(&str, &str, &Value) -> Result<Value, CliError>,
    body_of: impl Fn(&Value) -> Result<Option<Value>, CliError>,
) -> Result<Value, CliError> {
    let mut seen = fetch(volume)?;
    let uuid = text(&seen, "UUID");
    for tries in 0.. {
        let Some(body) = body_of(&seen)? else { break };
        match put(&uuid, &text(&seen, "ETag"), &body) {
            Ok(_) => return fetch(&uuid),
            Err(why) if tries < TRIES && matches!(why.exit, Exit::Conflict | Exit::TryAgain) => {
                thread::sleep(POLL);
            }
            Err(why) => return Err(why),
        }
        seen = fetch(&uuid)?;
    }
    Ok(seen)
}

fn resize(client: &Client, output: &Output, volume: &str, new: ByteSize) -> Result<(), CliError> {
    let changed = change(client, volume, |_| Ok(Some(json!({"size": new.0.to_string()}))))?;
    output.put(&changed, |v| format!("volume '{}' has {}", text(v, "name"), size(v, "size")))
}

/// The field that takes a QoS policy as the user named it.
fn qos_field(policy: &str) -> &'static str {
    if policy.parse::<Uuid>().is_ok() { "qosPolicyUUID" } else { "qosPolicyName" }
}

fn update(client: &Client, output: &Output, args: UpdateArgs) -> Result<(), CliError> {
    let changed = change(client, &args.volume, |seen| Ok(update_body(&args, seen)))?;
    output.put(&changed, |v| {
        let name = text(v, "name");
        let named = args.name.as_ref().map(|_| format!("volume '{}' is named '{name}' now", args.volume));
        let has = || format!("volume '{name}' has the QoS policy '{}'", text(v, "qosPolicyName"));
        let lines: Vec<String> = named.into_iter().chain(args.qos.as_ref().map(|_| has())).collect();
        lines.join("\n")
    })
}

/// What is to be changed of the volume as it is; nothing when it has that name already.
fn update_body(args: &UpdateArgs, seen: &Value) -> Option<Value> {
    let mut body = json!({});
    if let Some(policy) = &args.qos {
        body[qos_field(policy)] = policy.as_str().into();
    }
    if let Some(name) = args.name.as_ref().filter(|name| **name != text(seen, "name")) {
        body["newName"] = name.as_str().into();
    }
    body.as_object().is_some_and(|fields| !fields.is_empty()).then_some(body)
}

/// Makes a new list from the old one, the words of the command line and the field's name.
type Edit = fn(&[String], &[String], &str) -> Result<Vec<String>, CliError>;

/// Edits the lists; the volume as it is then.
fn access(client: &Client, output: &Output, args: &AccessArgs, edit: Edit) -> Result<Value, CliError> {
    let changed = change(client, &args.volume, |seen| {
        let mut body = json!({});
        for (field, words) in [("acl", &args.hosts), ("IPAcl", &args.ip)] {
            let old = texts(&seen[field]["values"]);
            let new = if words.is_empty() { old.clone() } else { edit(&old, words, field)? };
            if new != old {
                body[field] = list_value(new);
            }
        }
        Ok(body.as_object().is_some_and(|fields| !fields.is_empty()).then_some(body))
    })?;
    output.put(&changed, |v| {
        let addresses = texts(&v["IPAcl"]["values"]).join(", ");
        let hosts = texts(&v["acl"]["values"]).join(", ");
        format!("volume '{}' admits hosts {hosts} from addresses {addresses}", text(v, "name"))
    })?;
    Ok(changed)
}

/// The list with `words` added.
fn allowed(old: &[String], words: &[String], field: &str) -> Result<Vec<String>, CliError> {
    if words.iter().any(|w| w == ANY) {
        return Ok(vec![ANY.into()]);
    }
    if words.iter().any(|w| w == NONE) {
        return Err(CliError::usage("ALLOW_NONE admits nobody; to stop admitting: dolmen volume deny"));
    }
    if field == "acl" {
        for word in words {
            Nqn::of_host(word).map_err(|why| CliError::usage(format!("'{word}' is {why}")))?;
        }
    }
    if old == [ANY] {
        // Every host is admitted already; a list would narrow that.
        return Ok(old.to_vec());
    }
    let mut new: Vec<String> = old.iter().filter(|v| *v != NONE).cloned().collect();
    for word in words {
        if !new.contains(word) {
            new.push(word.clone());
        }
    }
    Ok(new)
}

/// The list with `words` taken away.
fn denied(old: &[String], words: &[String], field: &str) -> Result<Vec<String>, CliError> {
    if words.iter().any(|w| w == ANY) {
        return Ok(vec![NONE.into()]);
    }
    if old == [ANY] {
        let what = if field == "acl" { "every host" } else { "every address" };
        let why = format!("the volume admits {what}, so a single one can't be taken out");
        return Err(CliError::new(Exit::Failed, why)
            .hint("deny ALLOW_ANY first (nobody is admitted then), and allow those that may"));
    }
    let new: Vec<String> = old.iter().filter(|v| !words.contains(v)).cloned().collect();
    Ok(if new.is_empty() { vec![NONE.into()] } else { new })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).into()).collect()
    }

    #[test]
    fn allowing_adds_and_denying_takes_away() {
        let add = |old: &[&str], words: &[&str]| allowed(&list(old), &list(words), "IPAcl").unwrap();
        assert_eq!(add(&[NONE], &["a"]), ["a"]);
        assert_eq!(add(&["a"], &["b", "a"]), ["a", "b"]);
        assert_eq!(add(&["a"], &[ANY]), [ANY]);
        assert_eq!(add(&[ANY], &["a"]), [ANY], "a volume open to all is not narrowed by accident");
        let take = |old: &[&str], words: &[&str]| denied(&list(old), &list(words), "acl");
        assert_eq!(take(&["a", "b"], &["a"]).unwrap(), ["b"]);
        assert_eq!(take(&["a"], &["a"]).unwrap(), [NONE]);
        assert_eq!(take(&[ANY], &[ANY]).unwrap(), [NONE]);
        assert_eq!(take(&["a", "b"], &[ANY]).unwrap(), [NONE]);
        assert_eq!(take(&[NONE], &["a"]).unwrap(), [NONE]);
        assert!(take(&[ANY], &["a"]).is_err());
        assert!(allowed(&list(&["a"]), &list(&[NONE]), "acl").is_err());
        let manual = "nqn.2014-08.org.nvmexpress:uuid:...";
        assert_eq!(allowed(&list(&[NONE]), &list(&[manual]), "acl").unwrap_err().exit, Exit::Usage);
        assert_eq!(take(&[manual], &[manual]).unwrap(), [NONE]);
    }

    /// The answer "not now" may be wrong.
    #[test]
    fn a_rename_that_was_made_unheard_is_seen_as_made() {
        let uuid = "5c1d3f4e-0000-4000-8000-000000000009";
        let name = RefCell::new("x".to_string());
        let puts = Cell::new(0);
        let fetch = |key: &str| match key == uuid || key == *name.borrow() {
            true => Ok(json!({"UUID": uuid, "name": *name.borrow(), "ETag": "1"})),
            false => Err(CliError::new(Exit::NotFound, "no such volume")),
        };
        let put = |key: &str, _: &str, body: &Value| {
            assert_eq!(key, uuid);
            puts.set(puts.get() + 1);
            *name.borrow_mut() = text(body, "newName");
            Err(CliError::new(Exit::TryAgain, "not in time"))
        };
        let args = UpdateArgs { volume: "x".into(), qos: None, name: Some("y".into()) };
        let seen = repeat("x", fetch, put, |seen| Ok(update_body(&args, seen))).unwrap();
        assert_eq!((text(&seen, "name").as_str(), puts.get()), ("y", 1));
    }

    #[test]
    fn names_and_uuids_have_their_paths() {
        assert_eq!(path("/v", "a.b").unwrap(), "/v/?name=a.b");
        let uuid = "5c1d3f4e-0000-4000-8000-000000000009";
        assert_eq!(path("/v", uuid).unwrap(), format!("/v/{uuid}"));
        assert_eq!(path("/v", "a&b=c").unwrap_err().exit, Exit::Usage);
    }
}
