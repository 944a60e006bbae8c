//! Joining by token, joining again, leaving, and being evicted.

use std::net::IpAddr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use slicewire_testbed::moments::{answered, now};
use slicewire_tests::member::{Stolen, secret_of};
use slicewire_tests::world::{PROJECT, PROJECT_NS, World, not_yet};

use crate::permissions::token_name;

const EAST: (&str, &str, &str) = ("east", "shop", "web");
const WEST: (&str, &str, &str) = ("west", "shop", "web");
/// Any X25519 public key: RFC 7748, section 6.1.
const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// Everything that keeps somebody from joining is told apart, with what to do; uses are counted
/// exactly, whoever asks at once.
pub(crate) fn tokens(world: &mut World) -> Result<String> {
    let begun = Instant::now();
    let short = world.token(&["--cluster", "brief", "--expires", "60s"])?;
    let open = world.token(&["--cluster", "*"])?;
    refused(
        world,
        &open[..open.len() - 20],
        &["--cluster", "west"],
        &["cut off", "copy it whole"],
    )?;
    refused(world, &open, &[], &["--cluster"])?;
    let expected = ["west of project demo already", "slicectl leave"];
    refused(world, &open, &["--cluster", "other"], &expected)?;

    // As a cluster that is no member yet.
    let secret = world.get("west", "-n slicewire-system secret slicewire-hub")?;
    world.k("west", "-n slicewire-system scale deployment slicewire-worker --replicas=0")?;
    world.k("west", "-n slicewire-system delete secret slicewire-hub")?;
    let told = as_a_stranger(world, &open);
    let mut secret = secret;
    for field in ["resourceVersion", "uid", "creationTimestamp", "managedFields"] {
        secret["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    world.apply("west", &secret.to_string())?;
    world.k("west", "-n slicewire-system scale deployment slicewire-worker --replicas=1")?;
    told?;

    let counted = count_at_once(world)?;
    let left = Duration::from_secs(62).saturating_sub(begun.elapsed());
    sleep(left);
    let Err(error) = world.join("west", &short, &["--cluster", "west"]) else {
        bail!("an expired token lets somebody in");
    };
    let said = format!("{error:#}");
    ensure!(said.contains("TokenExpired"), "{said}");
    let holder = world.stolen(&secret_of(&short))?;
    World::wait("the expired secret is dead", 15, || {
        let answer =
            holder.ask("POST", &request_path(&short, world)?, Some(&request("brief", 1)))?;
        if answer.is_denied() { Ok(()) } else { not_yet(answer.code) }
    })?;
    let list = world.slicectl(&["token", "list", "--kubeconfig", &world.kubeconfig("hub")])?;
    for part in ["TokenExpired", "TokenUsedUp", "flock-*"] {
        ensure!(list.contains(part), "token list lacks {part}: {list}");
    }
    ensure!(!list.contains(&secret_of(&open)), "a list shows secrets");
    Ok(format!("eight kinds of refusal told apart; {counted}"))
}

/// West is not let in, and is told these words.
fn refused(world: &World, token: &str, options: &[&str], expected: &[&str]) -> Result<()> {
    let Err(error) = world.join("west", token, options) else {
        bail!("west was let in, and {expected:?} was expected");
    };
    let said = format!("{error:#}");
    for part in expected {
        ensure!(said.contains(part), "{part} is missing in: {said}");
    }
    Ok(())
}

/// What a cluster is told that does not know any more that it is a member.
fn as_a_stranger(world: &World, open: &str) -> Result<()> {
    let expected = ["NameTaken", "slicectl evict east", "west already"];
    refused(world, open, &["--cluster", "east"], &expected)?;
    let edge = world.token(&["--cluster", "edge-*"])?;
    let expected = ["OtherName", "edge-*", "slicectl token create --cluster west"];
    refused(world, &edge, &["--cluster", "west"], &expected)?;
    let name = token_name(world, "edge-*")?;
    let hub = world.kubeconfig("hub");
    world.slicectl(&["token", "revoke", &name, "--project", PROJECT, "--kubeconfig", &hub])?;
    let expected = ["TokenRevoked", "slicectl token create"];
    refused(world, &edge, &["--cluster", "edge-1"], &expected)?;
    let far = world.token(&["--cluster", "west", "--server", "https://192.0.2.1:6443"])?;
    refused(world, &far, &[], &["192.0.2.1", "cannot be reached", "--server"])?;
    let server = "config view --minify -o jsonpath={.clusters[0].cluster.server}";
    let server = world.k("east", server)?;
    let wrong = world.token(&["--cluster", "west", "--server", server.trim()])?;
    refused(world, &wrong, &[], &["not the hub the token was made on"])
}

/// Where requests with this token are made.
fn request_path(ticket: &str, world: &World) -> Result<String> {
    let tokens = world.get("hub", &format!("-n {PROJECT_NS} jointokens"))?;
    let all = tokens["items"].as_array().context("no tokens")?;
    let secret = secret_of(ticket);
    // The account's namespace is in the token's second part; names are enough here.
    let found = all.iter().filter_map(|t| t["status"]["namespace"].as_str());
    let found: Vec<String> = found.map(str::to_owned).collect();
    let own = found.into_iter().find(|ns| holds(&secret, ns));
    let own = own.context("no token's namespace")?;
    Ok(format!("/apis/slicewire.dev/v1alpha1/namespaces/{own}/joinrequests"))
}

/// Whether the secret's claims name the namespace.
fn holds(secret: &str, namespace: &str) -> bool {
    let claims = secret.split('.').nth(1).unwrap_or_default();
    let decoded = slicewire_tests::member::base64url(claims);
    String::from_utf8_lossy(&decoded).contains(&format!("\"{namespace}\""))
}

fn request(cluster: &str, number: u32) -> Value {
    json!({
        "apiVersion": "slicewire.dev/v1alpha1", "kind": "JoinRequest",
        "metadata": {"generateName": "join-"},
        "spec": {
            "cluster": cluster, "publicKey": KEY,
            "clusterUid": format!("0b1e4f5a-0000-4000-8000-{number:012}"),
        },
    })
}

/// Twenty ask at once with a token for three.
fn count_at_once(world: &World) -> Result<String> {
    let ticket = world.token(&["--cluster", "flock-*", "--uses", "3"])?;
    let holder = world.stolen(&secret_of(&ticket))?;
    let path = request_path(&ticket, world)?;
    let all: Vec<_> =
        (0..20).map(|i| ("POST", path.clone(), Some(request(&format!("flock-{i}"), i)))).collect();
    let made = holder.ask_all(&all)?;
    let names: Vec<String> = made
        .iter()
        .filter_map(|a| a.body["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    ensure!(names.len() == 20, "{} of 20 requests were taken", names.len());
    let verdicts = World::wait("everybody is answered", 60, || {
        names
            .iter()
            .map(|name| {
                let object = holder.ask("GET", &format!("{path}/{name}"), None)?.body;
                let told = object["status"]["conditions"][0]["reason"].as_str().map(str::to_owned);
                told.context("not answered yet")
            })
            .collect::<Result<Vec<String>>>()
    })?;
    let admitted = verdicts.iter().filter(|v| *v == "Admitted").count();
    let used_up = verdicts.iter().filter(|v| *v == "TokenUsedUp").count();
    ensure!((admitted, used_up) == (3, 17), "{admitted} let in, {used_up} refused: {verdicts:?}");
    let clusters = world.k("hub", &format!("-n {PROJECT_NS} get clusters -o name"))?;
    let flock: Vec<&str> = clusters.lines().filter(|l| l.contains("flock-")).collect();
    world.k("hub", &format!("-n {PROJECT_NS} delete {} --timeout=60s", flock.join(" ")))?;
    ensure!(flock.len() == 3, "{flock:?}");
    Ok("of 20 who asked at once with a token for 3, 3 were let in".to_owned())
}

/// The same cluster joins again, also after it has lost its credential: packets go on, what it held
/// before is dead, and the token's secret is nowhere in it.
pub(crate) fn join_again(world: &mut World) -> Result<String> {
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    world.reaches(EAST, to, 30)?;
    let old = world.worker_token("west")?;
    let thief = world.stolen(&old)?;
    let path = "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-demo--west/workerslices";
    ensure!(thief.ask("GET", path, None)?.code == 200, "the credential works");
    let traffic = world.traffic(EAST, WEST, to, 30)?;
    world.k("west", "-n slicewire-system delete secret slicewire-hub")?;
    let ticket = world.token(&["--cluster", "west"])?;
    world.join("west", &ticket, &[])?;
    let dead = World::wait("the old credential is dead", 20, || {
        let answer = thief.ask("GET", path, None)?;
        if answer.is_denied() { Ok(answer.code) } else { not_yet(answer.code) }
    })?;
    let new = world.stolen(&world.worker_token("west")?)?;
    ensure!(new.ask("GET", path, None)?.code == 200, "the new credential works");
    let objects = world.k("west", "get secrets,configmaps,deployments,daemonsets -A -o json")?;
    let secret = secret_of(&ticket);
    let encoded = slicewire_tests::member::base64(secret.as_bytes());
    ensure!(
        !objects.contains(&secret) && !objects.contains(&encoded),
        "the token's secret is stored in the worker"
    );
    let lost = traffic.lost()?;
    ensure!(lost == 0, "{lost} pings lost while west joined again");
    world.k(
        "hub",
        &format!("-n {PROJECT_NS} wait cluster/west --for=condition=Ready --timeout=60s"),
    )?;
    Ok(format!(
        "joined again after losing its credential: no ping lost, the old one answers {dead}"
    ))
}

/// Evicts west while everything of it runs, and once more while nobody there obeys.
pub(crate) fn evict(world: &mut World) -> Result<String> {
    let mut told = Vec::new();
    for (what, controllers) in [("all of it running", 1), ("its controller away", 0)] {
        let scale = "-n slicewire-system scale deployment slicewire-worker";
        world.k("west", &format!("{scale} --replicas={controllers}"))?;
        let (cut, dead) = evict_once(world)?;
        told.push(format!(
            "{what}: last packet {cut:.1} s, last request {dead:.1} s after the command"
        ));
        world.k("west", &format!("{scale} --replicas=1"))?;
        let ticket = world.token(&["--cluster", "west"])?;
        world.join("west", &ticket, &[])?;
        let to = back_on_the_slice(world)?;
        world.reaches(EAST, to, 30)?;
    }
    let wait = "--for=condition=Ready --timeout=60s";
    world.k("hub", &format!("-n {PROJECT_NS} wait sliceconfig/blue {wait}"))?;
    Ok(told.join("; "))
}

/// Seconds from the command to the last packet and to the last request that was answered.
fn evict_once(world: &World) -> Result<(f64, f64)> {
    let to = world.addresses("east", "shop", "web", "blue")?[0];
    world.reaches(WEST, to, 60)?;
    let member = world.stolen(&world.worker_token("west")?)?;
    let line = format!("ping -D -i 0.05 -w 15 -W 1 {to}");
    let ping = world
        .testbed
        .kubectl_command("west")
        .args(["-n", "shop", "exec", "web", "--", "sh", "-c", &line])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")?;
    sleep(Duration::from_secs(2));
    let begun = now();
    let hub = world.kubeconfig("hub");
    let evict = ["evict", "west", "--project", PROJECT, "--kubeconfig", &hub];
    let (evicted, dead) = std::thread::scope(|scope| {
        let evicting = scope.spawn(|| world.slicectl(&evict));
        let dead = last_answer(&member, begun);
        (evicting.join(), dead)
    });
    evicted.map_err(|_| anyhow!("slicectl was not run to its end"))??;
    let dead = dead?;
    let said = ping.wait_with_output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let stamps: Vec<f64> = said.lines().filter_map(answered).collect();
    ensure!(stamps.iter().any(|t| *t < begun), "no packet passed before: {said}");
    let last = stamps.iter().copied().fold(begun, f64::max) - begun;
    ensure!(last <= 5.0, "packets pass {last:.1} s after the eviction");
    ensure!(dead <= 5.0, "the credential works {dead:.1} s after the eviction");
    World::wait("nothing of it is left on the hub", 30, || {
        let left = world.k("hub", "get namespaces -o name")?;
        if left.contains("slicewire-demo--west") { not_yet(left) } else { Ok(()) }
    })?;
    no_tunnel_to_west(world)?;
    Ok((last, dead))
}

/// Asks until it is denied; seconds from `begun` to the last answer that was not.
fn last_answer(member: &Stolen, begun: f64) -> Result<f64> {
    let path = "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-demo--west/workergateways";
    let mut last = 0.0;
    for _ in 0..200 {
        if member.ask("GET", path, None)?.is_denied() {
            return Ok(last);
        }
        last = now() - begun;
        sleep(Duration::from_millis(50));
    }
    bail!("the credential of an evicted cluster is not refused")
}

/// West leaves a running slice by itself: nothing of it is left there or on the hub, and it comes
/// back.
pub(crate) fn leave(world: &mut World) -> Result<String> {
    let token = world.worker_token("west")?;
    world.slicectl(&["leave", "--kubeconfig", &world.kubeconfig("west")])?;
    let member = world.stolen(&token)?;
    let path = "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-demo--west/clusters";
    ensure!(member.ask("GET", path, None)?.is_denied(), "its credential still works");
    World::wait("nothing of west is left on the hub", 60, || {
        let left = world.k("hub", "get clusters,namespaces -A -o name")?;
        if left.contains("west") { not_yet(left) } else { Ok(()) }
    })?;
    let kinds = "crd,clusterrole,namespace,mutatingwebhookconfiguration,priorityclass";
    let left = world.k("west", &format!("get {kinds} -o name"))?;
    ensure!(!left.contains("slicewire"), "west still has {left}");
    let nics = world.sh("west", "shop", "web", "ip -o link").context("the pod runs on")?;
    ensure!(!nics.contains("slice0"), "the pod still has its NIC: {nics}");
    no_tunnel_to_west(world)?;
    world.join("west", &world.token(&["--cluster", "west"])?, &[])?;
    let to = back_on_the_slice(world)?;
    world.reaches(EAST, to, 30)?;
    Ok("gone from both sides, its credential dead, and back by a new token".to_owned())
}

/// Waits until west answers on blue; the address of its pod.
fn back_on_the_slice(world: &World) -> Result<IpAddr> {
    World::wait("west is back on the slice", 60, || {
        let all = world.addresses_now("west", "shop", "web", "blue")?;
        let to = *all.first().context("no address")?;
        world.sh("east", "shop", "web", &format!("ping -c 1 -W 1 {to}"))?;
        Ok(to)
    })
}

fn no_tunnel_to_west(world: &World) -> Result<()> {
    let gateway = world.get("east", "-n slicewire-system slicegateway blue")?;
    let peers = gateway["spec"]["lanes"].to_string();
    ensure!(!peers.contains("west"), "east still has a tunnel to west: {peers}");
    Ok(())
}
