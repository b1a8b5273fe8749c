//! Codes, formats and limits of the API over real TLS: what is refused, how, and that nothing refused leaves a trace.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

#[path = "support/page.rs"]
mod page;
mod support;

use serde_json::{Value, json};
use support::{Node, plane};

const VOLUMES: &str = "/api/v2/volumes";

fn spec(name: &str) -> Value {
    json!({"name": name, "size": "1gib", "acl": {"values": ["ALLOW_ANY"]}})
}

async fn started() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), plane::Log::default()).await;
    (dir, node)
}

#[tokio::test]
async fn no_token_no_call() {
    let (_dir, node) = started().await;
    for path in ["/api/v2/version", VOLUMES, "/metrics", "/dolmen/v1/status", "/", "/no/such/path"] {
        let answer = node.request("GET", path, &[], "").await;
        answer.refusal(401, 16);
        assert!(answer.head.to_ascii_lowercase().contains("www-authenticate: bearer"));
        for bad in ["Bearer ", "Bearer x.y.z", "Basic abc", "Bearer", &"x".repeat(40_000)] {
            node.request("GET", path, &[("Authorization", bad)], "").await.refusal(401, 16);
        }
    }
    let mut forged = node.token.clone().into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let forged = format!("Bearer {}", String::from_utf8(forged).unwrap());
    node.request("GET", VOLUMES, &[("Authorization", &forged)], "").await.refusal(401, 16);
    assert_eq!(node.call("GET", "/api/v2/version", "").await.ok(), json!({"apiVersion": "v2.0"}));
    node.stop().await;
}

#[tokio::test]
async fn roles_bound_what_a_caller_may_do() {
    let (_dir, node) = started().await;
    node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    let viewer = format!("Bearer {}", node.token_for(&["system:cluster-viewer"]));
    let viewer = [("Authorization", viewer.as_str())];
    node.request("GET", VOLUMES, &viewer, "").await.ok();
    node.request("POST", VOLUMES, &viewer, &spec("b").to_string()).await.refusal(403, 7);
    node.request("DELETE", &format!("{VOLUMES}/?name=a"), &viewer, "").await.refusal(403, 7);
    let tenant = format!("Bearer {}", node.token_for(&["other:admin"]));
    let tenant = [("Authorization", tenant.as_str())];
    for path in ["/api/v2/clusterinfo", "/api/v2/nodes", "/api/v2/version"] {
        node.request("GET", path, &tenant, "").await.ok();
    }
    let cluster = ["/api/v2/cluster", "/metrics", "/dolmen/v1/status", "/dolmen/v1/key"];
    for path in cluster.into_iter().chain(["/api/v2/projects/default/volumes"]) {
        node.request("GET", path, &tenant, "").await.refusal(403, 7);
    }
    let key = node.request("GET", "/dolmen/v1/key", &viewer, "").await.ok();
    assert_eq!(
        (&key["source"], &key["dataKeys"], &key["staleDataKeys"]),
        (&json!("file"), &json!(3), &json!(0))
    );
    node.request("POST", "/dolmen/v1/key/rotate", &viewer, "{}").await.refusal(403, 7);
    let rotated = node.call("POST", "/dolmen/v1/key/rotate", "{}").await.ok();
    assert_ne!(rotated["id"], key["id"]);
    assert_eq!(node.request("GET", VOLUMES, &tenant, "").await.ok(), json!({"volumes": []}));
    node.request("GET", &format!("{VOLUMES}/?name=a"), &tenant, "").await.refusal(404, 5);
    node.stop().await;
}

#[tokio::test]
async fn why_slow_tells_stages_and_a_verdict_to_whoever_may_see_the_volume() {
    let (_dir, node) = started().await;
    let made = node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    let by_uuid = format!("/dolmen/v1/volumes/{}/why", made["UUID"].as_str().unwrap());
    let why = node.call("GET", &by_uuid, "").await.ok();
    assert_eq!(why, node.call("GET", "/dolmen/v1/volumes//why?name=a", "").await.ok());
    let writes = &why["kinds"][0];
    assert_eq!((&writes["kind"], &writes["sampled"]), (&json!("writes"), &json!(50)));
    assert_eq!(
        (&writes["stages"][0]["stage"], &writes["stages"][0]["p50Nanoseconds"]),
        (&json!("qos"), &json!(9_900_000))
    );
    assert_eq!(writes["total"]["maxNanoseconds"], json!(100_000_000));
    assert_eq!((&why["slowest"][0]["bytes"], &why["slowest"][0]["lba"]), (&json!(8192), &json!(77)));
    let verdict = why["verdicts"][0].as_str().unwrap();
    assert!(verdict.contains("QoS policy") && verdict.contains("99 % of the time of writes"), "{verdict}");
    node.call("GET", "/dolmen/v1/volumes//why?name=b", "").await.refusal(404, 5);
    let tenant = format!("Bearer {}", node.token_for(&["other:admin"]));
    let tenant = [("Authorization", tenant.as_str())];
    node.request("GET", &by_uuid, &tenant, "").await.refusal(404, 5);
    node.request("GET", "/dolmen/v1/stats", &tenant, "").await.refusal(403, 7);
    let viewer = format!("Bearer {}", node.token_for(&["system:cluster-viewer"]));
    let viewer = [("Authorization", viewer.as_str())];
    node.request("GET", &by_uuid, &viewer, "").await.ok();
    let stats = node.request("GET", "/dolmen/v1/stats", &viewer, "").await.ok();
    assert_eq!((&stats["volumes"][0]["name"], &stats["cores"][0]["turns"]), (&json!("a"), &json!(3)));
    assert!(stats["volumes"][0]["reads"]["latency"].as_array().is_some_and(|l| l.len() == 28));
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_field_name() {
    let (_dir, node) = started().await;
    let cases = [
        ("replicaCount", json!(2), 400, 3),
        ("replicaCount", json!("3"), 400, 3),
        ("minReplicas", json!(2), 400, 3),
        ("compression", json!("maybe"), 400, 3),
        ("encryption", json!("maybe"), 400, 3),
        ("sourceSnapshotUUID", json!("x"), 400, 3),
        ("qosPolicyUUID", json!("x"), 400, 3),
        ("qosPolicyUUID", json!("5c1d3f4e-0000-4000-8000-000000000009"), 400, 3),
        ("qosPolicyName", json!("gold"), 400, 3),
        ("placementRestrictions", json!([{"operator": "In"}]), 501, 12),
        ("sectorSize", json!(1024), 400, 3),
        ("size", json!("0"), 400, 3),
        ("size", json!("9223372036854775807"), 400, 3),
        ("size", json!("ten"), 400, 3),
        ("size", json!(null), 400, 3),
        ("name", json!("a b"), 400, 3),
        ("name", json!(""), 400, 3),
        ("acl", json!(null), 400, 3),
        ("acl", json!({"values": []}), 400, 3),
        ("acl", json!({"values": ["ALLOW_ANY", "ALLOW_NONE"]}), 400, 3),
        ("acl", json!({"values": ["host"]}), 400, 3),
        ("acl", json!("ALLOW_ANY"), 400, 3),
        ("IPAcl", json!({"values": ["no address"]}), 400, 3),
        ("labels", json!([{"key": "a b", "value": "x"}]), 400, 3),
        ("labels", json!({"a": "b"}), 400, 3),
        ("projectName", json!("Bad Name"), 400, 3),
    ];
    for (field, value, status, code) in cases {
        let mut body = spec("refused");
        body[field] = value.clone();
        let why = node.call("POST", VOLUMES, &body.to_string()).await.refusal(status, code);
        assert!(why.starts_with(&format!("{field}: ")), "{field} {value}: {why}");
    }
    let made = node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    let path = format!("{VOLUMES}/{}", made["UUID"].as_str().unwrap());
    for (body, status, code) in [
        (json!({"replicaCount": 2, "size": "2gib"}), 400, 3),
        (json!({"compression": "False"}), 400, 3),
        (json!({"compression": "maybe"}), 400, 3),
        (json!({"qosPolicyName": "gold"}), 400, 3),
    ] {
        node.call("PUT", &path, &body.to_string()).await.refusal(status, code);
    }
    assert_eq!(node.call("GET", &path, "").await.ok()["ETag"], made["ETag"], "nothing was changed");
    // An object sent back as it came asks for nothing.
    node.call("PUT", &path, &made.to_string()).await.ok();
    node.call("DELETE", &path, "").await.ok();
    let mut body = spec("refused");
    body["projectName"] = "elsewhere".into();
    node.call("POST", VOLUMES, &body.to_string()).await.refusal(404, 5);
    let why = node.call("POST", VOLUMES, &spec("refused-by-plane").to_string()).await.refusal(429, 8);
    assert_eq!(why, "no room for the record");
    assert_eq!(node.call("GET", VOLUMES, "").await.ok(), json!({"volumes": []}));
    node.stop().await;
}

#[tokio::test]
async fn lenient_input_and_exact_output() {
    let (_dir, node) = started().await;
    let body = json!({"name": "a", "size": "1073741825b", "acl": {"values": ["ALLOW_NONE"]}, "replicaCount": "1",
        "minReplicas": null, "compression": "false", "sectorSize": "sectorSize_512B", "qosPolicyName": "",
        "sourceSnapshotUUID": "", "nobody": {"knows": ["this"]}});
    let made = node.call("POST", "/api/v2/projects/default/volumes", &body.to_string()).await.ok();
    assert_eq!(made["size"], json!("1073745920"), "rounded up to 4 KiB, a text");
    assert_eq!(
        (&made["sectorSize"], &made["nsid"], &made["replicaCount"]),
        (&json!(512), &json!(1), &json!(1))
    );
    assert!(made["ETag"].is_string() && made["statistics"].is_object());
    assert!(made["creationTime"].as_str().unwrap().ends_with('Z'));
    for key in ["UUID", "pgUUID", "primaryNodeUUID"] {
        made[key].as_str().unwrap().parse::<dolmen_types::Uuid>().unwrap();
    }
    // Both forms of the URL, UUID in any case, find the same object.
    let uuid = made["UUID"].as_str().unwrap().to_string();
    for path in [
        format!("{VOLUMES}/{uuid}"),
        format!("{VOLUMES}/{}", uuid.to_uppercase()),
        format!("/api/v2/projects/default/volumes/{uuid}?"),
        format!("{VOLUMES}/?name=a"),
        format!("{VOLUMES}/?UUID={uuid}"),
        format!("{VOLUMES}/?name=a&projectName=default&x=y"),
    ] {
        assert_eq!(node.call("GET", &path, "").await.ok()["UUID"], uuid.as_str(), "{path}");
    }
    node.call("GET", &format!("{VOLUMES}/"), "").await.refusal(400, 3);
    node.call("GET", &format!("{VOLUMES}/not-a-uuid"), "").await.refusal(400, 3);
    node.call("GET", &format!("/api/v2/projects/other/volumes/{uuid}"), "").await.refusal(404, 5);
    node.call("GET", "/api/v2/nope", "").await.refusal(404, 5);
    node.call("GET", "/elsewhere", "").await.refusal(404, 5);
    node.call("PATCH", VOLUMES, "").await.refusal(501, 12);
    node.call("POST", VOLUMES, "{").await.refusal(400, 3);
    node.call("POST", VOLUMES, "[]").await.refusal(400, 3);
    // Read to its end, so that a client that sends all before it listens gets its answer.
    for len in [300_000, 20_000_000] {
        let long = format!("{{\"name\": \"{}\"}}", "x".repeat(len));
        let why = node.call("POST", VOLUMES, &long).await.refusal(400, 3);
        assert!(why.contains("longer than 262144 bytes"), "{why}");
    }
    node.stop().await;
}

#[tokio::test]
async fn updates_and_their_preconditions() {
    let (_dir, node) = started().await;
    let made = node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    node.call("POST", VOLUMES, &spec("b").to_string()).await.ok();
    let item = format!("{VOLUMES}/{}", made["UUID"].as_str().unwrap());
    let put = async |body: Value| node.call("PUT", &item, &body.to_string()).await;
    assert!(put(json!({"size": "1 mib"})).await.refusal(400, 3).starts_with("size: "));
    assert!(put(json!({"size": "1 mib", "Force": true})).await.refusal(400, 3).starts_with("size: "));
    put(json!({"newName": "b"})).await.refusal(409, 6);
    put(json!({"newName": "a/b"})).await.refusal(400, 3);
    assert!(put(json!({"compression": "False"})).await.refusal(400, 3).starts_with("compression: "));
    put(json!({"compression": "True"})).await.ok();
    assert!(put(json!({"encryption": false})).await.refusal(400, 3).starts_with("encryption: "));
    put(json!({"encryption": "True"})).await.ok();
    let before = node.call("GET", &item, "").await.ok();
    assert_eq!(before["ETag"], made["ETag"], "refused changes leave no trace");
    put(json!({"newName": "c", "labels": [{"key": "k", "value": "v"}]})).await.ok();
    let after = node.call("GET", &format!("{VOLUMES}/?name=c"), "").await.ok();
    assert_eq!(after["labels"], json!([{"key": "k", "value": "v"}]));
    node.call("GET", &format!("{VOLUMES}/?name=a"), "").await.refusal(404, 5);
    node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    // By name in the URL, as gRPC's transcoding allows; a stale ETag is refused on delete too.
    let by_name = format!("{VOLUMES}/?name=c");
    node.call("PUT", &by_name, &json!({"size": "3gib"}).to_string()).await.ok();
    let bearer = format!("Bearer {}", node.token);
    let stale = [("Authorization", bearer.as_str()), ("If-Match", "\"1\"")];
    node.request("DELETE", &by_name, &stale, "").await.refusal(412, 9);
    node.call("DELETE", &by_name, "").await.ok();
    node.call("DELETE", &by_name, "").await.refusal(404, 5);
    // The name is free at once, and asking again by UUID while it lingers is no error.
    let again = node.call("DELETE", &item, "").await;
    assert!(matches!(again.status, 200 | 404), "{}", again.text);
    node.call("POST", VOLUMES, &spec("c").to_string()).await.ok();
    node.stop().await;
}

#[tokio::test]
async fn pages_and_filters() {
    let (_dir, node) = started().await;
    for i in 0..5 {
        node.call("POST", VOLUMES, &spec(&format!("v{i}")).to_string()).await.ok();
    }
    let list = async |query: &str| -> Vec<Value> {
        let path = format!("{VOLUMES}?{query}");
        node.call("GET", &path, "").await.ok()["volumes"].as_array().unwrap().clone()
    };
    let all = list("").await;
    assert_eq!(all.len(), 5);
    let first = list("limit=2").await;
    let uuid = |v: &Value| v["UUID"].as_str().unwrap().to_string();
    let rest = list(&format!("limit=1000&offsetUUID={}", uuid(&first[1]))).await;
    let joined: Vec<String> = first.iter().chain(&rest).map(uuid).collect();
    assert_eq!(joined, all.iter().map(uuid).collect::<Vec<_>>());
    assert_eq!(list("name=v3").await.len(), 1);
    assert_eq!(list(&format!("UUID={}", uuid(&all[0]))).await.len(), 1);
    assert_eq!(list("failureDomain=node0").await.len(), 5);
    assert_eq!(list("failureDomain=elsewhere").await.len(), 0);
    node.call("GET", &format!("{VOLUMES}?limit=x"), "").await.refusal(400, 3);
    node.call("DELETE", &format!("{VOLUMES}/?name=v0"), "").await.ok();
    assert_eq!(list("").await.len(), 4, "deleting ones only with showAll");
    node.stop().await;
}

#[tokio::test]
async fn the_rest_of_the_objects() {
    let (_dir, node) = started().await;
    node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    let get = async |path: &str| node.call("GET", path, "").await.ok();
    let node_uuid = get("/api/v2/nodes").await["nodes"][0]["UUID"].as_str().unwrap().to_string();
    assert_eq!(get(&format!("/api/v2/nodes/{node_uuid}")).await["state"], "Active");
    assert_eq!(get("/api/v2/nodes?name=other").await["nodes"], json!([]));
    node.call("GET", "/api/v2/nodes/x", "").await.refusal(404, 5);
    let hosts = get("/api/v2/connectedHosts").await;
    assert_eq!(hosts["connectedHosts"][0]["iPAddress"], "192.0.2.9");
    let nqn = plane::host_nqn();
    assert_eq!(get(&format!("/api/v2/connectedHosts/{nqn}")).await["hostNQN"], nqn.as_str());
    let escaped = nqn.as_str().replace(':', "%3A");
    assert_eq!(get(&format!("/api/v2/connectedHosts/{escaped}")).await["hostNQN"], nqn.as_str());
    node.call("GET", "/api/v2/connectedHosts/nqn.2014-08.org.x:y", "").await.refusal(404, 5);
    let devices = get("/api/v2/nvmeDevices").await;
    let serial = devices["NvmeDevices"][0]["serial"].as_str().unwrap().to_string();
    assert_eq!(get(&format!("/api/v2/nvmeDevices/{serial}")).await["state"], "Healthy");
    assert_eq!(get("/api/v2/projects").await["projects"][0]["name"], "default");
    assert_eq!(get("/api/v2/projects/default").await["name"], "default");
    node.call("GET", "/api/v2/projects/none", "").await.refusal(404, 5);
    let events = get("/api/v2/events?componentType=Volume&severity=Info&severity=High&limit=1").await;
    assert_eq!(events["events"][0]["EventName"], "VolumeCreated");
    assert_eq!(get("/api/v2/events?since=2100-01-01T00:00:00Z").await["events"], json!([]));
    node.call("GET", "/api/v2/events?since=yesterday", "").await.refusal(400, 3);
    assert_eq!(get("/dolmen/v1/status").await["health"]["state"], "OK");
    let pool = get("/dolmen/v1/pool").await;
    assert_eq!(pool["state"], "Ready");
    assert_eq!(
        (&pool["scrub"]["state"], &pool["scrub"]["everySeconds"]),
        (&"Waiting".into(), &1_209_600.into())
    );
    let figures =
        ["writeAmplification", "writeAmplificationCleaning", "writeAmplificationMap", "reserveShare"];
    assert_eq!(figures.map(|f| pool[f].as_f64().unwrap()), [1.5, 0.4, 0.05, 0.07]);
    let encryption = json!({"encryptionState": "Enabled", "rotationState": "NoRotation"});
    assert_eq!(get("/api/v2/cluster").await["encryptionStatus"], encryption);
    assert_eq!(get("/dolmen/v1/drives").await["drives"][0]["path"], "/drives/a");
    assert_eq!(get("/dolmen/v1/hosts").await["hosts"][0]["controllers"][0]["ioQueues"], 2);
    node.stop().await;
}

/// What is spelled wrong on our own paths is not left undone without a word; clients of LightOS send what is none of ours.
#[tokio::test]
async fn fields_that_nobody_knows_are_refused_under_our_own_paths() {
    let (_dir, node) = started().await;
    let mut volume = spec("a");
    volume["compresion"] = true.into();
    for (method, path, body) in [
        ("POST", "/dolmen/v1/volumes", volume.clone()),
        ("POST", "/dolmen/v1/pool/scrub", json!({"pause": true, "start": true})),
        ("PUT", "/dolmen/v1/pool/reprotection", json!({"rate": "1"})),
        ("POST", "/dolmen/v1/drives", json!({"path": "/drives/b", "size": "1"})),
        ("POST", "/dolmen/v1/snapshots", json!({"name": "s", "volumes": ["a"], "keep": "1s"})),
    ] {
        let why = node.call(method, path, &body.to_string()).await.refusal(400, 3);
        assert!(why.contains("is no field of this request"), "{path}: {why}");
    }
    node.call("POST", "/dolmen/v1/pool/scrub", "{}").await.ok();
    node.call("POST", VOLUMES, &volume.to_string()).await.ok();
    node.stop().await;
}

#[tokio::test]
async fn test_volumes_only_where_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut body = spec("n");
    body["kind"] = "null".into();
    let node = Node::start_with(dir.path(), plane::Log::default(), false).await;
    node.call("POST", "/dolmen/v1/volumes", &body.to_string()).await.refusal(400, 3);
    let plain = node.call("POST", VOLUMES, &body.to_string()).await.ok();
    let seen = node.call("GET", "/dolmen/v1/volumes/?name=n", "").await.ok();
    assert_eq!((&seen["kind"], &seen["UUID"]), (&json!("durable"), &plain["UUID"]));
    assert_eq!(
        (&seen["encryption"], &plain["encryption"]),
        (&json!("true"), &Value::Null),
        "ours alone tells it"
    );
    node.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), plane::Log::default(), true).await;
    let made = node.call("POST", "/dolmen/v1/volumes", &body.to_string()).await.ok();
    assert_eq!((&made["kind"], &made["encryption"]), (&json!("null"), &json!("false")));
    body["kind"] = "wooden".into();
    node.call("POST", "/dolmen/v1/volumes", &body.to_string()).await.refusal(400, 3);
    node.stop().await;
}

#[tokio::test]
async fn the_metrics_page_is_well_formed() {
    let (_dir, node) = started().await;
    node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    let plain = node.call("GET", "/metrics", "").await;
    assert!(plain.head.contains("text/plain; version=0.0.4") && !plain.text.contains("# EOF"));
    assert!(plain.text.contains("# TYPE dolmen_core_turns_total counter\n"), "{}", plain.text);
    let bearer = format!("Bearer {}", node.token);
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
    let answer = node.request("GET", "/metrics", &[("Authorization", &bearer), ("Accept", accept)], "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("application/openmetrics-text"));
    page::well_formed(&plain.text);
    page::well_formed(answer.text.strip_suffix("# EOF\n").unwrap());
    for wanted in [
        "dolmen_volume_read_operations_total{volume=",
        "dolmen_volume_write_bytes_total{volume=",
        "dolmen_drive_healthy{drive=\"/drives/a\",uuid=\"08080808-0808-0808-0808-080808080808\"} 1",
        "dolmen_core_busy_seconds_total{core=\"0\"} 1.5",
        "dolmen_connection_sent_bytes_total{peer=\"192.0.2.9:5555\"",
        "dolmen_pool_free_bytes 85899345920",
        "dolmen_pool_write_amplification_ratio 1.5",
        "dolmen_pool_map_written_bytes_total 5368709120",
    ] {
        assert!(answer.text.contains(wanted), "{wanted} is missing in\n{}", answer.text);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_what_is_in_the_log_and_reuses_no_nsid() {
    let dir = tempfile::tempdir().unwrap();
    let log = plane::Log::default();
    let node = Node::start(dir.path(), log.clone()).await;
    let a = node.call("POST", VOLUMES, &spec("a").to_string()).await.ok();
    let b = node.call("POST", VOLUMES, &spec("b").to_string()).await.ok();
    node.call("DELETE", &format!("{VOLUMES}/?name=b"), "").await.ok();
    let info = node.call("GET", "/api/v2/clusterinfo", "").await.ok();
    let token = node.token.clone();
    node.stop().await;
    log.lock().unwrap().retain(|_, d| d.name == "a");

    let node = Node::start(dir.path(), log).await;
    assert_eq!(node.token, token, "a good token is kept");
    let again = node.call("GET", "/api/v2/clusterinfo", "").await.ok();
    assert_eq!((&info["UUID"], &info["subsystemNQN"]), (&again["UUID"], &again["subsystemNQN"]));
    let kept = node.call("GET", &format!("{VOLUMES}/?name=a"), "").await.ok();
    assert_eq!((&kept["UUID"], &kept["nsid"], &kept["ETag"]), (&a["UUID"], &a["nsid"], &a["ETag"]));
    let c = node.call("POST", VOLUMES, &spec("c").to_string()).await.ok();
    assert_eq!(c["nsid"].as_u64(), b["nsid"].as_u64().map(|n| n + 1));
    let events = node.call("GET", "/api/v2/events", "").await.ok();
    let names: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|e| e["EventName"].as_str().unwrap()).collect();
    assert_eq!(names, ["VolumeCreated", "VolumeCreated", "VolumeDeleted", "VolumeCreated"]);
    node.stop().await;
}

#[tokio::test]
async fn garbage_is_answered_or_closed_and_the_server_lives() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (_dir, node) = started().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"\x16\x03\x01\xff\xff\x01", b""] {
        let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    for bytes in [&b"\0\0\0\0\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"GET  \r\n\r\n"] {
        let answer = node.raw(bytes).await;
        assert!(answer.status == 400 || answer.status == 0, "{}", answer.status);
    }
    node.call("GET", "/api/v2/version", "").await.ok();
    node.stop().await;
}

#[tokio::test]
async fn http2_is_spoken_where_the_client_asks_for_it() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (_dir, node) = started().await;
    let mut config = node.tls.clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    for _ in 0..3 {
        let request = hyper::Request::builder()
            .uri(format!("https://{}/api/v2/version", node.address))
            .header("authorization", format!("Bearer {}", node.token))
            .body(Empty::<hyper::body::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({"apiVersion": "v2.0"}));
    }
    // The connection is open and idle: the server's end does not wait for it.
    node.stop().await;
    driving.await.unwrap().unwrap();
}

#[tokio::test]
async fn qos_policies_and_the_volumes_that_have_them() {
    const POLICIES: &str = "/api/v2/policies";
    let dir = tempfile::tempdir().unwrap();
    let log = plane::Log::default();
    let node = Node::start(dir.path(), log.clone()).await;
    let post = async |body: Value| node.call("POST", POLICIES, &body.to_string()).await;
    let limits =
        json!({"limitIOPS": {"readIOPSLimit": 1024, "writeIOPSLimit": "512"}, "policyVisibility": "Global"});
    let made = post(json!({"name": "silver", "description": "d", "qoSRateLimitPolicy": limits})).await.ok();
    let uuid = made["UUID"].as_str().unwrap().to_string();
    assert_eq!(
        (&made["state"], &made["name"], &made["description"]),
        (&json!("Active"), &json!("silver"), &json!("d"))
    );
    let limits = json!({"readIOPSLimit": 1024, "writeIOPSLimit": 512});
    assert_eq!(made["QoSRateLimitPolicy"]["limitIOPS"], limits);
    assert!(made["QoSRateLimitPolicy"].get("limitBw").is_none());
    // What is wrong is told by its field.
    let info = |v: Value| json!({"name": "x", "qoSRateLimitPolicy": v});
    for (field, body) in [
        ("name", json!({"qoSRateLimitPolicy": {}})),
        ("qoSRateLimitPolicy", json!({"name": "x"})),
        ("qoSRateLimitPolicy", info(json!("fast"))),
        ("limitBw", info(json!({"limitBw": 7}))),
        ("writeBWLimit", info(json!({"limitBw": {"writeBWLimit": "much"}}))),
        ("readBWLimit", info(json!({"limitBw": {"readBWLimit": 4_294_967_296_u64}}))),
        ("policyVisibility", info(json!({"policyVisibility": "Secret"}))),
        ("projectsNamesScope", info(json!({"policyVisibility": "Scoped"}))),
        ("projectsNamesScope", info(json!({"policyVisibility": "Global", "projectsNamesScope": ["a"]}))),
        ("projectsNamesScope", info(json!({"projectsNamesScope": ["A B"]}))),
    ] {
        let why = post(body.clone()).await.refusal(400, 3);
        assert!(why.starts_with(&format!("{field}: ")), "{body}: {why}");
    }
    post(json!({"name": "silver", "qoSRateLimitPolicy": {}})).await.refusal(409, 6);
    let scoped = json!({"limitIOPSPerGB": {"readIOPSPerGBLimit": 3}, "projectsNamesScope": ["elsewhere"]});
    post(json!({"name": "theirs", "QoSRateLimitPolicy": scoped})).await.ok();
    // Volumes take what is for them, by name or UUID, and tell it.
    let mut body = spec("a");
    body["qosPolicyName"] = "theirs".into();
    let why = node.call("POST", VOLUMES, &body.to_string()).await.refusal(400, 3);
    assert!(why.starts_with("qosPolicyName: ") && why.contains("project"), "{why}");
    body["qosPolicyName"] = "silver".into();
    let a = node.call("POST", VOLUMES, &body.to_string()).await.ok();
    assert_eq!((&a["qosPolicyUUID"], &a["qosPolicyName"]), (&json!(uuid), &json!("silver")));
    let b = node.call("POST", VOLUMES, &spec("b").to_string()).await.ok();
    assert_eq!(b["qosPolicyName"], "no-limit-policy");
    // A change reaches the volumes that have it.
    let item = format!("{POLICIES}/{uuid}");
    let change = json!({"name": "gold", "qoSRateLimitPolicy": {"limitBw": {"writeBWLimit": 100}}});
    assert_eq!(node.call("PUT", &item, &change.to_string()).await.ok(), json!({}));
    let a = node.call("GET", &format!("{VOLUMES}/?name=a"), "").await.ok();
    for _ in 0..100 {
        if node.call("GET", &item, "").await.ok()["state"] == "Active" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let carried = log.lock().unwrap().values().find(|d| d.name == "a").unwrap().qos.clone().unwrap();
    assert_eq!(
        (carried.name.as_str(), carried.limits.megabytes.write, carried.limits.iops.read),
        ("gold", 100, 0)
    );
    let renamed = node.call("GET", &format!("{VOLUMES}/?name=a"), "").await.ok();
    assert_eq!((&renamed["qosPolicyUUID"], &renamed["qosPolicyName"]), (&a["qosPolicyUUID"], &json!("gold")));
    // Lists and roles.
    let names = async |answer: support::Answer| -> Vec<String> {
        let list = answer.ok()["policies"].as_array().unwrap().clone();
        list.iter().map(|p| p["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(node.call("GET", POLICIES, "").await).await, ["gold", "no-limit-policy", "theirs"]);
    let for_default = format!("{POLICIES}?projectName=default");
    assert_eq!(names(node.call("GET", &for_default, "").await).await, ["gold", "no-limit-policy"]);
    assert_eq!(names(node.call("GET", &format!("{POLICIES}?name=theirs"), "").await).await, ["theirs"]);
    let tenant = format!("Bearer {}", node.token_for(&["default:admin"]));
    let tenant = [("Authorization", tenant.as_str())];
    assert_eq!(names(node.request("GET", POLICIES, &tenant, "").await).await, ["gold", "no-limit-policy"]);
    node.request("GET", &format!("{POLICIES}/?name=theirs"), &tenant, "").await.refusal(404, 5);
    node.request("DELETE", &item, &tenant, "").await.refusal(403, 7);
    node.request("PUT", &item, &tenant, "{}").await.refusal(403, 7);
    // The default of new volumes.
    let parameter = "/api/v2/clusterConfig/DefaultQoSName";
    assert_eq!(node.call("GET", parameter, "").await.ok()["value"], "no-limit-policy");
    let set = json!({"configParam": {"name": "DefaultQoSName", "value": "gold"}});
    node.call("PUT", parameter, &set.to_string()).await.ok();
    let wrong = json!({"configParam": {"value": "theirs"}});
    assert!(
        node.call("PUT", parameter, &wrong.to_string()).await.refusal(400, 3).starts_with("DefaultQoSName: ")
    );
    node.call("GET", "/api/v2/clusterConfig/EnableTrim", "").await.refusal(404, 5);
    let c = node.call("POST", VOLUMES, &spec("c").to_string()).await.ok();
    assert_eq!(c["qosPolicyName"], "gold");
    node.call("DELETE", &item, "").await.refusal(400, 3);
    node.call("DELETE", &format!("{POLICIES}/?name=theirs"), "").await.ok();
    node.call("DELETE", &format!("{POLICIES}/?name=theirs"), "").await.refusal(404, 5);
    node.stop().await;
    // All of it survives a restart; what the state file has lost is told again by the volumes.
    let node = Node::start(dir.path(), log.clone()).await;
    assert_eq!(node.call("GET", parameter, "").await.ok()["value"], "gold");
    assert_eq!(node.call("GET", &item, "").await.ok()["name"], "gold");
    node.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), log).await;
    let again = node.call("GET", &item, "").await.ok();
    assert_eq!(
        (&again["name"], &again["QoSRateLimitPolicy"]["limitBw"]["writeBWLimit"]),
        (&json!("gold"), &json!(100))
    );
    node.stop().await;
}

#[tokio::test]
async fn snapshots_rollback_and_what_differs() {
    const SNAPSHOTS: &str = "/api/v2/projects/default/snapshots";
    let (_dir, node) = started().await;
    let mut body = spec("a");
    body["sectorSize"] = 512.into();
    body["labels"] = json!([{"key": "k", "value": "v"}]);
    let a = node.call("POST", VOLUMES, &body.to_string()).await.ok();
    node.call("POST", VOLUMES, &spec("b").to_string()).await.ok();
    let post = async |body: Value| node.call("POST", SNAPSHOTS, &body.to_string()).await;
    let body = json!({"name": "s", "sourceVolumeUUID": a["UUID"], "sourceVolumeName": "nobody", "description": "d",
        "retentionTime": "86400s"});
    let s = post(body).await.ok();
    assert_eq!((&s["retentionTime"], &s["description"]), (&json!("86400s"), &json!("d")));
    assert_eq!((&s["sectorSize"], &s["labels"], &s["ETag"]), (&json!(512), &a["labels"], &json!("1")));
    assert_eq!(s["statistics"]["userWritten"], "8192");
    for (field, status, code, body) in [
        ("name", 400, 3, json!({"sourceVolumeName": "a"})),
        ("sourceVolumeUUID", 400, 3, json!({"name": "x"})),
        ("sourceVolumeUUID", 400, 3, json!({"name": "x", "sourceVolumeUUID": "y"})),
        ("retentionTime", 400, 3, json!({"name": "x", "sourceVolumeName": "a", "retentionTime": "soon"})),
        (
            "description",
            400,
            3,
            json!({"name": "x", "sourceVolumeName": "a", "description": "x".repeat(257)}),
        ),
        ("volume", 404, 5, json!({"name": "x", "sourceVolumeName": "nobody"})),
    ] {
        let why = post(body.clone()).await.refusal(status, code);
        assert!(why.starts_with(field), "{body}: {why}");
    }
    // By UUID, by name with a capital, in lists with filters; not by what is another's.
    let uuid = s["UUID"].as_str().unwrap();
    for path in
        [format!("{SNAPSHOTS}/{uuid}"), format!("{SNAPSHOTS}/?Name=s"), format!("{SNAPSHOTS}/?UUID={uuid}")]
    {
        assert_eq!(node.call("GET", &path, "").await.ok()["UUID"], uuid, "{path}");
    }
    node.call("GET", &format!("{SNAPSHOTS}/?Name={uuid}"), "").await.refusal(404, 5);
    node.call("GET", &format!("{SNAPSHOTS}/?Name=a"), "").await.refusal(404, 5);
    let count = async |query: &str| {
        let list = node.call("GET", &format!("{SNAPSHOTS}?{query}"), "").await.ok();
        list["snapshots"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("Name=s").await, count("Name=x").await), (1, 1, 0));
    let tenant = format!("Bearer {}", node.token_for(&["other:admin"]));
    let tenant = [("Authorization", tenant.as_str())];
    node.request("GET", &format!("{SNAPSHOTS}/{uuid}"), &tenant, "").await.refusal(404, 5);
    node.request("GET", SNAPSHOTS, &tenant, "").await.refusal(403, 7);
    // A clone inherits what it does not say; it can't be smaller or of another format.
    let mut clone =
        json!({"name": "c", "size": "1gib", "acl": {"values": ["ALLOW_ANY"]}, "sourceSnapshotUUID": uuid});
    let made = node.call("POST", VOLUMES, &clone.to_string()).await.ok();
    assert_eq!((&made["sectorSize"], &made["labels"]), (&json!(512), &a["labels"]));
    for (field, value) in [("size", json!("1mib")), ("sectorSize", json!(4096))] {
        let mut bad = clone.clone();
        bad["name"] = "d".into();
        bad[field] = value;
        let why = node.call("POST", VOLUMES, &bad.to_string()).await.refusal(400, 3);
        assert!(why.starts_with(&format!("{field}: ")), "{why}");
    }
    clone["name"] = "d".into();
    clone["sourceSnapshotUUID"] = "5c1d3f4e-0000-4000-8000-000000000009".into();
    node.call("POST", VOLUMES, &clone.to_string()).await.refusal(404, 5);
    // Rollback, with both forms of the URL and by name; only to a snapshot of the volume itself.
    let item = format!("{VOLUMES}/{}/rollback", a["UUID"].as_str().unwrap());
    assert_eq!(node.call("PUT", &item, &json!({"srcSnapshotName": "s"}).to_string()).await.ok(), json!({}));
    let after = node.call("GET", &format!("{VOLUMES}/?name=a"), "").await.ok();
    assert_eq!((&after["ETag"], &after["state"]), (&json!("2"), &json!("Available")));
    let by_name = "/api/v2/projects/default/volumes//rollback";
    let body = json!({"Name": "a", "srcSnapshotUUID": uuid});
    node.call("PUT", by_name, &body.to_string()).await.ok();
    let body = json!({"Name": "b", "srcSnapshotUUID": uuid});
    let why = node.call("PUT", by_name, &body.to_string()).await.refusal(400, 3);
    assert!(why.starts_with("srcSnapshotUUID: "), "{why}");
    node.call("PUT", &item, "{}").await.refusal(400, 3);
    let bearer = format!("Bearer {}", node.token);
    let stale = [("Authorization", bearer.as_str()), ("If-Match", "1")];
    node.request("PUT", &item, &stale, &json!({"srcSnapshotName": "s"}).to_string()).await.refusal(412, 9);
    // What differs: 64 logical blocks a range, the lowest bit first.
    post(json!({"name": "t", "sourceVolumeName": "a"})).await.ok();
    let path = format!("{SNAPSHOTS}/diff/{uuid}");
    let all = node.call("GET", &path, "").await.ok();
    assert_eq!(all["nextOffsetLBA"], "0");
    assert_eq!(all["lbaRanges"][0], json!({"lbaStart": "0", "lbaEnd": "63", "dataBitMap": "/wAAAAAAAAA="}));
    assert_eq!(all["lbaRanges"][1]["lbaStart"], "768");
    let path = format!("{SNAPSHOTS}/diff/?snapshotName=t&baseSnapshotName=s");
    let some = node.call("GET", &path, "").await.ok();
    assert_eq!(some["lbaRanges"][0]["dataBitMap"], "AP//AAAAAAA=");
    node.call("GET", &format!("{path}&offsetLBA=800"), "").await.ok();
    node.call("GET", &format!("{SNAPSHOTS}/diff/?snapshotName=nobody"), "").await.refusal(404, 5);
    // Several at one instant only where one group orders their writes.
    let body = json!({"name": "g", "volumes": ["a", "b"]});
    let why = node.call("POST", "/dolmen/v1/snapshots", &body.to_string()).await.refusal(400, 3);
    assert!(why.starts_with("volumes: "), "{why}");
    let body = json!({"name": "g", "volumes": ["a", "c"]});
    let both = node.call("POST", "/dolmen/v1/snapshots", &body.to_string()).await.ok();
    assert_eq!(
        (&both["snapshots"][0]["name"], &both["snapshots"][1]["name"]),
        (&json!("g-a"), &json!("g-c"))
    );
    // A stale ETag keeps a snapshot.
    let stale = [("Authorization", bearer.as_str()), ("If-Match", "7")];
    node.request("DELETE", &format!("{SNAPSHOTS}/?Name=t"), &stale, "").await.refusal(412, 9);
    node.call("DELETE", &format!("{SNAPSHOTS}/?Name=t"), "").await.ok();
    // One with a short life ends by itself.
    post(json!({"name": "short", "sourceVolumeName": "b", "retentionTime": "0.1s"})).await.ok();
    for round in 0.. {
        assert!(round < 200, "a retention time has an end");
        if node.call("GET", &format!("{SNAPSHOTS}/?Name=short"), "").await.status == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn snapshot_policies_of_volumes() {
    const POLICIES: &str = "/api/v2/projects/default/resourcePolicies";
    let dir = tempfile::tempdir().unwrap();
    let log = plane::Log::default();
    let node = Node::start(dir.path(), log.clone()).await;
    let v = node.call("POST", VOLUMES, &spec("v").to_string()).await.ok();
    let daily = json!({"snapshotSchedulePolicy": {"dailySchedule": {"startTime": "2100-01-01T03:00:00Z",
        "daysInCycle": 2}}, "retentionTime": "604800s"});
    let body =
        |name: &str, schedule: &Value| json!({"name": name, "resourceName": "v", "schedulePolicy": schedule});
    let post = async |body: Value| node.call("POST", POLICIES, &body.to_string()).await;
    let made = post(body("d", &daily)).await.ok();
    assert_eq!(
        (&made["resourceUUID"], &made["state"], &made["name"]),
        (&v["UUID"], &json!("Active"), &json!("d"))
    );
    let told = &made["schedulePolicy"];
    assert_eq!(told["snapshotSchedulePolicy"]["dailySchedule"]["startTime"], "2100-01-01T03:00:00.000Z");
    assert_eq!(told["retentionTime"], "604800s");
    post(body("d", &daily)).await.refusal(409, 6);
    let of = |schedule: Value| json!({"snapshotSchedulePolicy": schedule});
    for (field, bad) in [
        ("schedulePolicy", json!(null)),
        ("snapshotSchedulePolicy", json!({})),
        ("snapshotSchedulePolicy", of(json!({}))),
        ("snapshotSchedulePolicy", of(json!({"hourlySchedule": {}, "dailySchedule": {}}))),
        ("hoursInCycle", of(json!({"hourlySchedule": {"hoursInCycle": 0}}))),
        ("startTime", of(json!({"hourlySchedule": {"startTime": "dawn"}}))),
        ("daysOfWeek", of(json!({"weeklySchedule": {}}))),
        ("day", of(json!({"weeklySchedule": {"daysOfWeek": [{"day": "Someday"}]}}))),
    ] {
        let why = post(body("x", &bad)).await.refusal(400, 3);
        assert!(why.starts_with(&format!("{field}: ")), "{bad}: {why}");
    }
    let mut lost = body("x", &daily);
    lost["resourceName"] = "nobody".into();
    post(lost).await.refusal(404, 5);
    let weekly = of(json!({"weeklySchedule": {"daysOfWeek": [{"day": "Monday"}, {"day": 7}]}}));
    let made = post(body("w", &weekly)).await.ok();
    assert_eq!(
        made["schedulePolicy"]["snapshotSchedulePolicy"]["weeklySchedule"]["daysOfWeek"][1]["day"],
        "Saturday"
    );
    let item = format!("{POLICIES}/{}", made["UUID"].as_str().unwrap());
    node.call("PUT", &item, &json!({"description": "new", "schedulePolicy": daily}).to_string()).await.ok();
    let seen = node.call("GET", &item, "").await.ok();
    assert_eq!(
        (&seen["description"], &seen["schedulePolicy"]["retentionTime"]),
        (&json!("new"), &json!("604800s"))
    );
    let count = async |query: &str| {
        let list = node.call("GET", &format!("{POLICIES}?{query}"), "").await.ok();
        list["resourcePolicies"].as_array().unwrap().len()
    };
    let by_volume = format!("volumeUUID={}", v["UUID"].as_str().unwrap());
    assert_eq!((count("").await, count(&by_volume).await, count("volumeUUID=x").await), (2, 2, 0));
    node.call("DELETE", &item, "").await.ok();
    node.call("GET", &item, "").await.refusal(404, 5);
    let viewer = format!("Bearer {}", node.token_for(&["default:viewer"]));
    let viewer = [("Authorization", viewer.as_str())];
    assert_eq!(node.request("GET", POLICIES, &viewer, "").await.status, 200);
    node.request("POST", POLICIES, &viewer, &body("x", &daily).to_string()).await.refusal(403, 7);
    // One whose time came while nobody was there takes its snapshot by itself, once.
    let ago = i64::try_from(support::now().0).unwrap() - 1_800_000;
    let start = jiff::Timestamp::from_millisecond(ago).unwrap().to_string();
    let hourly = of(json!({"hourlySchedule": {"startTime": start, "hoursInCycle": 1}}));
    post(body("h", &hourly)).await.ok();
    node.stop().await;
    backdate(dir.path(), "h");
    let node = Node::start(dir.path(), log).await;
    let snapshots = "/api/v2/projects/default/snapshots";
    for round in 0.. {
        assert!(round < 200, "a tick comes");
        let list = node.call("GET", snapshots, "").await.ok();
        if let Some(taken) = list["snapshots"].as_array().unwrap().first() {
            assert!(taken["name"].as_str().unwrap().starts_with("h-2"), "{taken}");
            assert_eq!(taken["sourceVolumeName"], "v");
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(node.call("GET", snapshots, "").await.ok()["snapshots"].as_array().unwrap().len(), 1);
    node.stop().await;
}

/// Lets a snapshot policy have run three hours earlier.
fn backdate(folder: &std::path::Path, name: &str) {
    let first = dolmen_cluster::state::FirstStart {
        cluster_name: Some("test".into()),
        node_name: "node0".into(),
        subsystem_nqn: None,
        uuids: Default::default(),
    };
    let state = dolmen_cluster::state::State::open(folder, &first).unwrap();
    let mut policy = state.snapshot_policies().unwrap().into_iter().find(|p| p.name == name).unwrap();
    policy.last.0 -= 3 * 3_600_000;
    state.put_snapshot_policy(&policy).unwrap();
}

#[tokio::test]
async fn what_the_api_knows_and_this_version_does_not_serve_is_told_apart_from_nonsense() {
    let (_dir, node) = started().await;
    for (method, path) in [
        ("GET", "/logs"),
        ("POST", "/nvmeDevices"),
        ("POST", "/nvmeDevices/x"),
        ("GET", "/servers/x"),
        ("POST", "/servers/x/upgrade"),
        ("POST", "/cluster/upgrade"),
        ("POST", "/cluster/encryption/enable"),
        ("POST", "/nodes/x/replace"),
        ("POST", "/nodes/x/start"),
        ("POST", "/nodes/x/stop"),
        ("POST", "/nodes/x/restart"),
        ("POST", "/projects"),
        ("PUT", "/projects/x"),
        ("DELETE", "/projects/x"),
        ("GET", "/projects/x/credentials/y"),
        ("GET", "/projects/x/roles"),
        ("GET", "/adminEndpoints/1"),
        ("POST", "/featureFlags/x/enable"),
        ("POST", "/cluster/clusterRootKey/rotate"),
        ("GET", "/cluster/clusterRootkey"),
        ("GET", "/cluster/IdpConfiguration"),
        ("GET", "/cluster/idpClientConfs/x"),
        ("GET", "/cluster/authMaps"),
        ("POST", "/cluster/inBandAuth/enable"),
        ("POST", "/cluster/federatedAuthentication/enable"),
        ("GET", "/projects/x/trustedHosts"),
        ("GET", "/projects/x/trustedHostSecrets/y"),
        ("GET", "/hosts"),
        ("POST", "/cflogin"),
        ("GET", "/clusters"),
        ("GET", "/cf-service-credentials"),
        ("GET", "/workflows/x"),
    ] {
        node.call(method, &format!("/api/v2{path}"), "").await.refusal(501, 12);
    }
    node.call("GET", "/api/v2/frobnicate", "").await.refusal(404, 5);
    node.stop().await;
}
