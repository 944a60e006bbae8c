//! What a member or the holder of a token can do to the others by writing whatever it likes: nothing.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slicewire_tests::member::{Stolen, secret_of};
use slicewire_tests::world::{PROJECT_NS, WORKERS, World, not_yet};

use crate::permissions::token_name;

const OWN: &str = "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-demo--west";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/slicewire-demo--west/leases/worker";
/// Clears a terminal and turns the direction of writing.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}";

/// Writes everything hostile that west's credential can write, while its controller is away.
pub(crate) fn hostile_member(world: &mut World) -> Result<String> {
    for cluster in WORKERS {
        world.namespace(cluster, "target", "")?;
        world.pod(cluster, "target", "web", Some(&format!("{cluster}-1")))?;
    }
    world.pod("east", "target", "far", Some("east-2"))?;
    world.slice("target", "10.66.0.0/20", "target")?;
    let west = world.addresses("west", "target", "web", "target")?[0];
    let far = world.addresses("east", "target", "far", "target")?[0];
    world.reaches(("east", "target", "web"), west, 60)?;
    let east_key = published(world, "east")?;
    let spec = world.get("hub", "-n slicewire-demo--east workerslice target")?["spec"].clone();

    let member = world.stolen(&world.worker_token("west")?)?;
    let scale = "-n slicewire-system scale deployment slicewire-worker";
    world.k("west", &format!("{scale} --replicas=0"))?;
    let gone =
        "-n slicewire-system wait pod -l app.kubernetes.io/name=slicewire-worker --for=delete";
    world.k("west", &format!("{gone} --timeout=30s"))?;
    let tried = attack(world, &member, &east_key);
    let judged = tried.and_then(|()| judge(world, &spec, far));
    // The heartbeat's finalizer goes with the same credential that set it.
    let free = json!({"metadata": {"finalizers": null, "annotations": null}});
    member.ask("PATCH", LEASE, Some(&free))?;
    world.k("west", &format!("{scale} --replicas=1"))?;
    let told = judged?;
    World::wait("west is believed again when it tells the truth", 60, || {
        let cluster = world.get("hub", &format!("-n {PROJECT_NS} cluster west"))?;
        let accepted = condition(&cluster, "ReportAccepted");
        if accepted["status"] == "True" { Ok(()) } else { not_yet(accepted) }
    })?;
    world.reaches(("east", "target", "web"), west, 60)?;
    world.delete_slice("target")?;
    for cluster in WORKERS {
        world.k(cluster, "delete namespace target --wait=false")?;
    }
    Ok(told)
}

fn published(world: &World, cluster: &str) -> Result<String> {
    let words = format!("-n slicewire-demo--{cluster} workergateway target");
    let gateway = world.get("hub", &words)?;
    let key = gateway["status"]["lanes"][0]["publicKey"].as_str();
    Ok(key.context("no public key yet")?.to_owned())
}

fn condition(object: &Value, type_: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == type_);
    found.cloned().unwrap_or(Value::Null)
}

fn lie(type_: &str, reason: &str) -> Value {
    let message = format!("{HOSTILE}{}", "x".repeat(200_000));
    json!({
        "type": type_, "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

fn write(member: &Stolen, what: &str, status: Value) -> Result<u16> {
    let path = format!("{OWN}/{what}/status");
    Ok(member.ask("PATCH", &path, Some(&json!({"status": status})))?.code)
}

fn attack(world: &World, member: &Stolen, east_key: &str) -> Result<()> {
    oversized(member)?;
    lies(member, east_key)?;
    not_its_own(member)?;
    greed(member)?;
    ensure!(world.k("hub", "get --raw /readyz").is_ok(), "the hub's API server suffers");
    Ok(())
}

/// What no worker ever says the API server refuses itself.
fn oversized(member: &Stolen) -> Result<()> {
    let many: Vec<Value> = (0..9).map(|i| json!({"lane": i})).collect();
    let long = vec!["10.0.0.0/24"; 5000];
    let pods = vec![pod("192.0.2.1"); 129];
    let below = json!({"lane": 0, "cluster": "east", "sentBytes": -1});
    for (what, status) in [
        ("workergateways/target", json!({"lanes": many})),
        ("workergateways/target", json!({"lanes": [{"lane": 0, "publicKey": "k".repeat(65)}]})),
        ("clusters/west", json!({"reservedPrefixes": long})),
        ("clusters/west", json!({"version": "v".repeat(257)})),
        ("workerpods/target.0", json!({"pods": pods})),
        ("workertraffics/target", json!({"tunnels": [below]})),
    ] {
        let code = write(member, what, status)?;
        ensure!(code == 422, "{what} was taken: {code}");
    }
    Ok(())
}

/// A pod that says it has this address on the slice.
fn pod(address: &str) -> Value {
    json!({"namespace": "target", "pod": "evil", "node": "west-1", "interface": "slice0",
        "addresses": [address]})
}

/// What is small enough is stored, and has to be judged.
fn lies(member: &Stolen, east_key: &str) -> Result<()> {
    let endpoints = ["127.0.0.1:1", "169.254.169.254:80", "10.66.0.9:7", "x", "[::ffff:0.0.0.0]:1"];
    let lane = json!({"lane": 0, "publicKey": east_key, "endpoints": endpoints, "ready": true,
        "node": HOSTILE, "tunnels": [{"cluster": HOSTILE, "up": true, "reason": HOSTILE}]});
    let gateway = json!({"lanes": [lane], "conditions": [lie("Ready", "A\u{1b}[2J!")]});
    let cluster = json!({
        "reservedPrefixes": ["0.0.0.0/0", "::/0", "10.0.0.0/8"], "kubernetesVersion": HOSTILE,
        "clusterUid": "mine", "namespace": "slicewire-demo--east",
        "conditions": [lie("Ready", HOSTILE)],
    });
    for (what, status) in [
        ("workergateways/target", gateway),
        ("clusters/west", cluster),
        ("workerpods/target.0", json!({"pods": [pod("192.0.2.1")]})),
    ] {
        let code = write(member, what, status)?;
        ensure!(code == 200, "{what}: a member's own status: {code}");
    }
    let lease = json!({"metadata": {
        "finalizers": ["example.org/for-ever"], "annotations": {"a": "x".repeat(100_000)},
    }});
    let code = member.ask("PATCH", LEASE, Some(&lease))?.code;
    ensure!(code == 200, "its own heartbeat: {code}");
    Ok(())
}

/// Specs, marks and other objects are not its to write.
fn not_its_own(member: &Stolen) -> Result<()> {
    for (path, body) in [
        ("workerslices/target", json!({"spec": {"pools": ["10.66.0.0/20"]}})),
        ("workergateways/target", json!({"metadata": {"labels": {"a": "b"}}})),
        ("clusters/west", json!({"metadata": {"annotations": {"slicewire.dev/abandon": "true"}}})),
    ] {
        let answer = member.ask("PATCH", &format!("{OWN}/{path}"), Some(&body))?;
        ensure!(answer.code == 403, "{path} was written: {}", answer.code);
    }
    let mark = json!({"metadata": {"labels": {"hostile": "1"}, "finalizers": ["a.org/b"]}});
    let answer = member.ask("PATCH", &format!("{OWN}/clusters/west/status"), Some(&mark))?;
    let marked = answer.body["metadata"]["labels"]["hostile"] == "1"
        || answer.body["metadata"]["finalizers"].to_string().contains("a.org/b");
    ensure!(!marked, "labels were written through the status");
    Ok(())
}

/// It always wants more addresses.
fn greed(member: &Stolen) -> Result<()> {
    for _ in 0..40 {
        let slice = member.ask("GET", &format!("{OWN}/workerslices/target"), None)?.body;
        let status = json!({
            "observedGeneration": slice["metadata"]["generation"],
            "exhaustedFamilies": ["IPv4", "IPv6"], "attachedPods": i32::MAX,
            "conditions": [lie("Ready", HOSTILE)],
        });
        let code = write(member, "workerslices/target", status)?;
        ensure!(code == 200, "its own slice's status: {code}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What came of it: west is reported, and nobody else notices.
fn judge(world: &World, east_before: &Value, far: IpAddr) -> Result<String> {
    let cluster = World::wait("the lies are reported", 20, || {
        let cluster = world.get("hub", &format!("-n {PROJECT_NS} cluster west"))?;
        let accepted = condition(&cluster, "ReportAccepted");
        let message = accepted["message"].as_str().unwrap_or_default();
        let all =
            ["TooWide", "NotUnicast", "InsideSlice", "NotItsOwn", "Malformed", "slicectl evict"];
        if all.iter().all(|part| message.contains(part)) { Ok(cluster) } else { not_yet(accepted) }
    })?;
    ensure!(cluster["status"]["namespace"] == "slicewire-demo--west", "the namespace is its own");
    ensure!(cluster["status"]["clusterUid"] != "mine", "who has joined is the hub's to say");
    plain(world)?;
    tunnels(world)?;
    world.reaches(("east", "target", "web"), far, 10)?;
    let config = world.get("hub", &format!("-n {PROJECT_NS} sliceconfig target"))?;
    ensure!(condition(&config, "Accepted")["status"] == "True", "the slice is held up: {config}");
    let pods = config["status"]["attachedPods"].as_i64().unwrap_or(-1);
    ensure!((0..=2_000_000).contains(&pods), "{pods} pods");
    let greedy = addresses(world, east_before)?;
    // The slice can still be changed.
    let merge = r#"{"spec":{"mtu":1400}}"#;
    world.testbed.kubectl(
        "hub",
        &["-n", PROJECT_NS, "patch", "sliceconfig", "target", "--type=merge", "-p", merge],
    )?;
    Ok(format!(
        "all lies are reported and without effect; west has {greedy} of 4,096 addresses, and east \
         could still get more"
    ))
}

/// Nothing that is shown to people holds what a terminal obeys, or is endless.
fn plain(world: &World) -> Result<()> {
    for words in ["sliceconfigs", "clusters", "workergateways", "workerslices"] {
        let place = if words.starts_with("worker") { "slicewire-demo--east" } else { PROJECT_NS };
        let shown = world.get("hub", &format!("-n {place} {words}"))?.to_string();
        for bad in ["\\u001b", "\u{1b}", "\u{202e}", "\\u0007"] {
            ensure!(!shown.contains(bad), "{words} show what a terminal obeys");
        }
        ensure!(shown.len() < 200_000, "{words} have {} bytes", shown.len());
    }
    let status = world.slicectl_said(&["status", "--kubeconfig", &world.kubeconfig("hub")])?;
    ensure!(!status.contains('\u{1b}') && !status.contains('\u{202e}'), "slicectl status obeys it");
    Ok(())
}

/// East has no tunnel of a stolen key or to an endpoint that is none.
fn tunnels(world: &World) -> Result<()> {
    let gateway = world.get("hub", "-n slicewire-demo--east workergateway target")?;
    let lanes = gateway["spec"]["lanes"].to_string();
    for bad in ["127.0.0.1", "169.254", "10.66.0.9:7", "0.0.0.0:1"] {
        ensure!(!lanes.contains(bad), "east is told {bad}");
    }
    ensure!(gateway["spec"]["lanes"][0]["tunnels"][0].is_null(), "a stolen key is used: {lanes}");
    Ok(())
}

/// East has what it had, and could get more; how many addresses west has.
fn addresses(world: &World, east_before: &Value) -> Result<u64> {
    let east = world.get("hub", "-n slicewire-demo--east workerslice target")?["spec"].clone();
    for field in ["prefixes", "pools", "gatewayPrefixes"] {
        ensure!(east[field] == east_before[field], "east's {field} changed");
    }
    let west = world.get("hub", "-n slicewire-demo--west workerslice target")?["spec"].clone();
    let size = |spec: &Value| -> u64 {
        let pools = spec["pools"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let lengths = pools.filter_map(|p| p.split_once('/')?.1.parse::<u32>().ok());
        lengths.map(|length| 1 << (32 - length)).sum()
    };
    let (greedy, modest) = (size(&west), size(&east));
    ensure!(greedy > modest, "greed was never tried: {west}");
    ensure!(greedy <= 4096 - 1024, "{greedy} of 4,096 addresses are west's");
    Ok(greedy)
}

/// The holder of a token's secret asks a thousand times: the token is taken back, and others join.
pub(crate) fn hostile_token(world: &mut World) -> Result<String> {
    let ticket = world.token(&["--cluster", "swarm-*", "--uses", "2"])?;
    let name = token_name(world, "swarm-*")?;
    let holder = world.stolen(&secret_of(&ticket))?;
    let place = format!("slicewire-demo--join--{name}");
    let path = format!("/apis/slicewire.dev/v1alpha1/namespaces/{place}/joinrequests");
    let bad = json!({
        "apiVersion": "slicewire.dev/v1alpha1", "kind": "JoinRequest",
        "metadata": {"generateName": "join-", "annotations": {"a": "x".repeat(10_000)}},
        "spec": {"cluster": "a--b", "publicKey": "A".repeat(44), "clusterUid": "\u{1b}".repeat(36)},
    });
    let batch: Vec<_> = (0..50).map(|_| ("POST", path.clone(), Some(bad.clone()))).collect();
    let (mut taken, mut denied) = (0, 0);
    for _ in 0..20 {
        for answer in holder.ask_all(&batch)? {
            if answer.code == 201 { taken += 1 } else { denied += 1 }
        }
    }
    World::wait("the token is taken back", 20, || {
        let token = world.get("hub", &format!("-n {PROJECT_NS} jointoken {name}"))?;
        let ready = condition(&token, "Ready");
        if ready["reason"] == "Flooded" { Ok(()) } else { not_yet(ready) }
    })?;
    ensure!(denied > 0, "all 1,000 requests were taken");
    ensure!(taken > 64, "the flood was none: {taken} requests");
    let ticket = world.token(&["--cluster", "calm"])?;
    let calm = world.stolen(&secret_of(&ticket))?;
    let other = token_name(world, "calm")?;
    let answer = calm.ask("GET", &format!("{path}/any"), None)?;
    ensure!(answer.is_denied(), "a token opens another's namespace");
    World::wait("nothing of the flood is left", 60, || {
        let left = world.k("hub", &format!("-n {place} get joinrequests -o name"))?;
        if left.trim().is_empty() { Ok(()) } else { not_yet(left.lines().count()) }
    })?;
    world.k("hub", &format!("-n {PROJECT_NS} delete jointoken {name} {other} --timeout=60s"))?;
    Ok(format!(
        "of 1,000 requests {taken} were taken before the token was taken back; none is left"
    ))
}
