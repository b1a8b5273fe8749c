//! The call sequences of the stock clients, header for header, over real TLS: OpenStack Cinder's LightOS driver and
//! the Proxmox plugin.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod support;

use serde_json::{Value, json};
use std::time::Duration;
use support::{Answer, Node, plane};

/// A request with Cinder's headers: an empty Expect, Content-Length 0 and a trailing `?` on DELETE.
async fn cinder(node: &Node, method: &str, path: &str, etag: Option<&str>, body: Value) -> Answer {
    let bearer = format!("Bearer {}", node.token);
    let mut headers = vec![("Expect", ""), ("Accept", "application/json"), ("Authorization", &bearer)];
    if let Some(etag) = etag {
        headers.push(("If-Match", etag));
    }
    let (path, body) = match method {
        "DELETE" => {
            headers.push(("Content-Length", "0"));
            (format!("{path}?"), String::new())
        }
        "POST" | "PUT" => {
            headers.push(("Content-Type", "application/json"));
            (path.to_string(), body.to_string())
        }
        _ => (path.to_string(), String::new()),
    };
    node.request(method, &path, &headers, &body).await
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is not a text in {value}"))
}

#[tokio::test]
async fn cinder_from_setup_to_detach() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), plane::Log::default()).await;
    let base = "/api/v2/projects/default/volumes";
    let name = "volume-5c1d3f4e-0000-4000-8000-000000000001";
    let by_name = format!("{base}/?name={name}");

    // do_setup
    let info = cinder(&node, "GET", "/api/v2/clusterinfo", None, Value::Null).await.ok();
    assert!(text(&info, "subsystemNQN").contains("com.lightbitslabs"));
    let nodes = cinder(&node, "GET", "/api/v2/nodes", None, Value::Null).await.ok();
    assert_eq!(text(&nodes["nodes"][0], "nvmeEndpoint"), "127.0.0.1:4420");

    // create_volume
    cinder(&node, "GET", &by_name, None, Value::Null).await.refusal(404, 5);
    let body = json!({"name": name, "size": "1 gib", "replicaCount": "1", "compression": "False",
        "acl": {"values": ["ALLOW_NONE"]}, "IPAcl": {"values": ["ALLOW_NONE"]},
        "sourceSnapshotUUID": null, "sourceSnapshotName": null});
    let made = cinder(&node, "POST", base, None, body.clone()).await.ok();
    assert_eq!(text(&made, "size"), "1073741824");
    assert_eq!((made["nsid"].as_u64(), made["sectorSize"].as_u64()), (Some(1), Some(4096)));
    cinder(&node, "POST", base, None, body).await.refusal(409, 6);
    let item = format!("{base}/{}", text(&made, "UUID"));
    let got = cinder(&node, "GET", &item, None, Value::Null).await.ok();
    assert_eq!((text(&got, "state"), text(&got, "protectionState")), ("Available", "FullyProtected"));
    assert_eq!(text(&got, "compression"), "false");

    // initialize_connection
    let seen = cinder(&node, "GET", &by_name, None, Value::Null).await.ok();
    let host = plane::host_nqn().to_string();
    let lists = json!({"acl": {"values": [host]}, "IPAcl": {"values": ["fe80::1", "192.0.2.9"]}});
    let etag = text(&seen, "ETag").to_string();
    let done = cinder(&node, "PUT", &item, Some(&etag), lists.clone()).await.ok();
    assert_eq!(done, json!({}));
    cinder(&node, "PUT", &item, Some(&etag), lists).await.refusal(412, 9);
    let seen = cinder(&node, "GET", &by_name, None, Value::Null).await.ok();
    assert_eq!(text(&seen, "state"), "Available");
    assert_eq!(seen["acl"]["values"], json!([host]));
    assert_eq!(seen["IPAcl"]["values"], json!(["192.0.2.9", "fe80::1"]));
    assert_eq!(seen["connectedHosts"], json!([host]));
    assert_ne!(text(&seen, "ETag"), etag);

    // extend_volume
    let grow = json!({"UUID": text(&made, "UUID"), "size": "2 gib"});
    cinder(&node, "PUT", &item, Some(text(&seen, "ETag")), grow).await.ok();
    let seen = cinder(&node, "GET", &by_name, None, Value::Null).await.ok();
    assert_eq!(text(&seen, "size"), "2147483648");
    assert_eq!(seen["acl"]["values"], json!([host]), "an absent list stays as it is");

    // retype to a QoS policy, which Cinder knows by its UUID
    let policy = json!({"name": "gold", "qoSRateLimitPolicy": {"limitIOPS": {"readIOPSLimit": 500}}});
    let policy = node.call("POST", "/api/v2/policies", &policy.to_string()).await.ok();
    let qos = json!({"UUID": text(&made, "UUID"), "qosPolicyUUID": text(&policy, "UUID")});
    cinder(&node, "PUT", &item, Some(text(&seen, "ETag")), qos).await.ok();
    let seen = cinder(&node, "GET", &by_name, None, Value::Null).await.ok();
    assert_eq!((text(&seen, "state"), text(&seen, "qosPolicyName")), ("Available", "gold"));
    assert_eq!(seen["acl"]["values"], json!([host]), "a retype keeps the lists");
    let qos = json!({"qosPolicyUUID": "5c1d3f4e-0000-4000-8000-000000000009"});
    let why = cinder(&node, "PUT", &item, None, qos).await.refusal(400, 3);
    assert!(why.starts_with("qosPolicyUUID: "), "{why}");

    // terminate_connection
    let none = json!({"acl": {"values": ["ALLOW_NONE"]}, "IPAcl": {"values": ["ALLOW_NONE"]}});
    cinder(&node, "PUT", &item, Some(text(&seen, "ETag")), none).await.ok();

    // delete_volume
    assert_eq!(cinder(&node, "DELETE", &item, None, Value::Null).await.ok(), json!({}));
    let gone = cinder(&node, "GET", &item, None, Value::Null).await;
    assert!(gone.status == 404 || text(&gone.json(), "state") == "Deleting", "{}", gone.text);
    cinder(&node, "GET", &by_name, None, Value::Null).await.refusal(404, 5);
    for _ in 0..100 {
        let gone = cinder(&node, "GET", &item, None, Value::Null).await;
        if gone.status == 404 {
            assert!(!gone.text.is_empty());
            cinder(&node, "DELETE", &item, None, Value::Null).await.refusal(404, 5);
            return node.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a deletion has an end");
}

#[tokio::test]
async fn proxmox_from_capacity_to_free() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), plane::Log::default()).await;
    let host = plane::host_nqn().to_string();

    let cluster = node.call("GET", "/api/v2/cluster", "").await.ok();
    assert!(text(&cluster, "subsystemNQN").starts_with("nqn."));
    assert_eq!(text(&cluster["statistics"], "estimatedLogicalStorage"), (90u64 << 30).to_string());
    assert_eq!(text(&cluster["statistics"], "estimatedFreeLogicalStorage"), (80u64 << 30).to_string());
    assert_eq!(cluster["health"]["state"], "OK");

    let labels = json!([{"key": "pveVmid", "value": "100"}, {"key": "pveVmgenid", "value": "g"},
        {"key": "pveNode", "value": "pve1"}]);
    let body = json!({"name": "vm-100-g-disk-0", "size": "4294967296", "replicaCount": 1,
        "projectName": "default", "acl": {"values": [host]}, "labels": labels});
    let made = node.call("POST", "/api/v2/volumes", &body.to_string()).await.ok();
    let item = format!("/api/v2/volumes/{}?projectName=default", text(&made, "UUID"));
    let got = node.call("GET", &item, "").await.ok();
    assert_eq!((text(&got, "state"), text(&got, "size")), ("Available", "4294967296"));
    assert_eq!(text(&got["statistics"], "logicalUsedStorage"), "8192");
    assert_eq!(got["labels"], labels);
    assert_eq!(text(&got, "compression"), "true", "it is not said, so it is on");
    let ratio = |object: &Value| object["statistics"]["compressionRatio"].as_f64().unwrap();
    assert!((ratio(&got) - 8.0 / 3.0).abs() < 1e-9 && (ratio(&cluster) - 1.5).abs() < 1e-9);
    assert_eq!(got["IPAcl"]["values"], json!(["ALLOW_ANY"]));

    let list = node.call("GET", "/api/v2/volumes?projectName=default", "").await.ok();
    assert_eq!(list["volumes"][0]["UUID"], made["UUID"]);

    let grow = json!({"size": "8589934592", "projectName": "default"});
    assert_eq!(node.call("PUT", &item, &grow.to_string()).await.ok(), json!({}));
    assert_eq!(text(&node.call("GET", &item, "").await.ok(), "size"), "8589934592");
    assert_eq!(node.call("DELETE", &item, "").await.ok(), json!({}));
    node.stop().await;
}

#[tokio::test]
async fn cinder_snapshots_and_what_is_made_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), plane::Log::default()).await;
    let volumes = "/api/v2/projects/default/volumes";
    let snapshots = "/api/v2/projects/default/snapshots";
    let body = json!({"name": "volume-a", "size": "1 gib", "replicaCount": "1", "compression": "False",
        "acl": {"values": ["ALLOW_NONE"]}, "IPAcl": {"values": ["ALLOW_NONE"]},
        "sourceSnapshotUUID": null, "sourceSnapshotName": null});
    let made = cinder(&node, "POST", volumes, None, body).await.ok();

    // create_snapshot
    let by_name = format!("{snapshots}/?Name=snapshot-a");
    cinder(&node, "GET", &by_name, None, Value::Null).await.refusal(404, 5);
    let body = json!({"name": "snapshot-a", "sourceVolumeUUID": null, "sourceVolumeName": "volume-a"});
    cinder(&node, "POST", snapshots, None, body.clone()).await.ok();
    cinder(&node, "POST", snapshots, None, body).await.refusal(409, 6);
    let seen = cinder(&node, "GET", &by_name, None, Value::Null).await.ok();
    assert_eq!((text(&seen, "state"), text(&seen, "sourceVolumeName")), ("Available", "volume-a"));
    assert_eq!((&seen["sourceVolumeUUID"], text(&seen, "size")), (&made["UUID"], "1073741824"));
    assert!(seen["creationTime"].is_string() && seen["replicaCount"] == 1 && seen["compression"] == false);

    // create_volume_from_snapshot, then the snapshot is deleted and stays for its clone
    let clone = json!({"name": "volume-b", "size": "2 gib", "replicaCount": "1", "compression": "False",
        "acl": {"values": ["ALLOW_NONE"]}, "IPAcl": {"values": ["ALLOW_NONE"]},
        "sourceSnapshotUUID": null, "sourceSnapshotName": "snapshot-a"});
    let mut other = clone.clone();
    other["compression"] = "True".into();
    let why = cinder(&node, "POST", volumes, None, other).await.refusal(400, 3);
    assert!(why.starts_with("compression: "), "{why}");
    let clone = cinder(&node, "POST", volumes, None, clone).await.ok();
    assert_eq!(text(&clone, "compression"), "false");
    assert_eq!(
        (&clone["sourceSnapshotUUID"], text(&clone, "sourceSnapshotName")),
        (&seen["UUID"], "snapshot-a")
    );
    assert_eq!((&clone["pgUUID"], text(&clone, "size")), (&made["pgUUID"], "2147483648"));
    let of = format!("{volumes}?snapshotUUID={}", text(&seen, "UUID"));
    let listed = cinder(&node, "GET", &of, None, Value::Null).await.ok();
    assert_eq!(listed["volumes"].as_array().unwrap().len(), 1);
    let item = format!("{snapshots}/{}", text(&seen, "UUID"));
    assert_eq!(cinder(&node, "DELETE", &item, None, Value::Null).await.ok(), json!({}));
    for _ in 0..3 {
        let left = cinder(&node, "GET", &item, None, Value::Null).await.ok();
        assert_eq!(text(&left, "state"), "Deleting");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let late = json!({"name": "volume-c", "size": "2 gib", "acl": {"values": ["ALLOW_NONE"]},
        "sourceSnapshotName": "snapshot-a"});
    let why = cinder(&node, "POST", volumes, None, late).await.refusal(400, 3);
    assert!(why.starts_with("sourceSnapshotName: "), "{why}");
    let item_b = format!("{volumes}/{}", text(&clone, "UUID"));
    cinder(&node, "DELETE", &item_b, None, Value::Null).await.ok();
    for round in 0.. {
        assert!(round < 100, "a deletion has an end");
        if cinder(&node, "GET", &item, None, Value::Null).await.status == 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cinder(&node, "DELETE", &item, None, Value::Null).await.refusal(404, 5);
    node.stop().await;
}
