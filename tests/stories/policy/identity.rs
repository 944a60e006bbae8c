//! Who a pod is decides what passes: one that sends as somebody else is not heard, and a new one is
//! held to its policies from its first packet on.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use slicewire_tests::pods::{IMAGE, manifest};
use slicewire_tests::world::{PROJECT_NS, World, not_yet};

use super::{EAST, FAR, settings};

const LIAR: (&str, &str, &str) = ("east", "shop", "liar");
/// Packets of each lie.
const EACH: u64 = 20;

/// A pod with every right over its own network sends with others' addresses.
pub(crate) fn spoofing(world: &mut World) -> Result<String> {
    let mut pod: Value = serde_json::from_str(&manifest("liar", "shop", Some("east-1")))?;
    pod["spec"]["securityContext"] = json!({});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    world.apply("east", &pod.to_string())?;
    world.k("east", "-n shop wait pod/liar --for=condition=Ready --timeout=60s")?;
    let web = world.addresses("east", "shop", "web", "blue")?;
    let far = world.addresses("east", "shop", "far", "blue")?;
    world.addresses("east", "shop", "liar", "blue")?;
    let (to, other) = (v4(&web)?, v4(&far)?);
    world.reaches(LIAR, to, 20)?;
    let count = format!("-c {EACH} -i 0.02 -W 1");
    let heard = echoes(world)?;
    lie(world, &format!("ping {count} {to}"))?;
    ensure!(echoes(world)? == heard + EACH, "what is sent honestly is heard");

    let mut counted = 0;
    // The address of a pod on the other node, and one that is nobody's.
    for source in [other.to_string(), "192.0.2.9".to_owned()] {
        counted += dropped(
            world,
            &Lie {
                begin: format!("ip addr add {source}/32 dev slice0"),
                send: format!("ping {count} -I {source} {to}"),
                stands: format!("ip -4 addr show dev slice0 | grep -F ' {source}/32'"),
                end: format!("ip addr del {source}/32 dev slice0"),
            },
        )?;
    }
    // The right address from a MAC address that is not its own. With it the kernel forgets the way
    // to the router.
    let mac = world.sh(LIAR.0, LIAR.1, LIAR.2, "cat /sys/class/net/slice0/address")?;
    let router = router(world)?;
    counted += dropped(
        world,
        &Lie {
            begin: format!("ip link set slice0 address 02:00:00:00:be:ef; {router}"),
            send: format!("ping {count} {to}"),
            stands: "grep -Fx 02:00:00:00:be:ef /sys/class/net/slice0/address".to_owned(),
            end: format!("ip link set slice0 address {}; {router}", mac.trim()),
        },
    )?;
    // It is heard again once it is honest.
    world.reaches(LIAR, to, 10)?;
    world.k("east", "-n shop delete pod liar --now")?;
    Ok(format!("{} packets under other addresses, none heard, {counted} counted", 3 * EACH))
}

/// One lie, as shell lines.
struct Lie {
    begin: String,
    /// Sends [`EACH`] packets.
    send: String,
    /// Succeeds while the NIC is as the lie has made it.
    stands: String,
    end: String,
}

/// How many packets of a lie were dropped and counted, which must be all. The daemon looks at each
/// NIC once a minute and puts right what was changed; a lie that it ended has to be told again.
fn dropped(world: &World, told: &Lie) -> Result<u64> {
    for _ in 0..3 {
        let (heard, before) = (echoes(world)?, spoofed(world)?);
        lie(world, &format!("{}; {}", told.begin, told.send))?;
        let stood = world.sh(LIAR.0, LIAR.1, LIAR.2, &told.stands).is_ok();
        lie(world, &told.end)?;
        if stood {
            let (heard, counted) = (echoes(world)? - heard, spoofed(world)? - before);
            ensure!(heard == 0, "{}: the peer has heard {heard} lies", told.send);
            ensure!(counted >= EACH, "{}: {counted} lies were counted", told.send);
            return Ok(counted);
        }
    }
    bail!("{}: the lie never lasts", told.begin)
}

/// The command that makes the router the NIC's neighbour as it is now.
fn router(world: &World) -> Result<String> {
    let known = world.sh(LIAR.0, LIAR.1, LIAR.2, "ip -4 neigh show dev slice0")?;
    let mut lines = known.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = lines.find_map(|words| match words[..] {
        [address, "lladdr", mac, ..] => {
            Some(format!("ip neigh replace {address} lladdr {mac} dev slice0 nud permanent"))
        }
        _ => None,
    });
    found.with_context(|| format!("the router is no neighbour: {known}"))
}

fn v4(addresses: &[IpAddr]) -> Result<IpAddr> {
    addresses.iter().find(|a| a.is_ipv4()).copied().context("no IPv4 address")
}

fn lie(world: &World, line: &str) -> Result<()> {
    world.sh(LIAR.0, LIAR.1, LIAR.2, &format!("{line} >/dev/null 2>&1 || true")).map(drop)
}

/// Requests that east's web has heard, whoever sent them.
fn echoes(world: &World) -> Result<u64> {
    let (cluster, namespace, pod) = EAST;
    let lines = world.sh(cluster, namespace, pod, "grep '^Icmp:' /proc/net/snmp")?;
    let mut lines = lines.lines().map(|line| line.split_whitespace());
    let (names, values) = (lines.next(), lines.next());
    let mut columns = names.context("no names")?.zip(values.context("no values")?);
    let found = columns.find(|(name, _)| *name == "InEchos").context("no InEchos")?;
    Ok(found.1.parse()?)
}

/// What east-1's slice router has dropped because its sender was not who it said.
fn spoofed(world: &World) -> Result<u64> {
    let command = ["ip", "netns", "exec", "sw-blue", "nft", "list", "counters"];
    let said = world.testbed.exec_checked("east-1", &command)?;
    let lines = said.lines().zip(said.lines().skip(1));
    let ours = lines.filter(|(line, _)| line.trim() == "counter spoofed {");
    let packets = ours.filter_map(|(_, next)| next.split_whitespace().nth(1)?.parse::<u64>().ok());
    let all: Vec<u64> = packets.collect();
    ensure!(!all.is_empty(), "there is no counter: {said}");
    Ok(all.iter().sum())
}

/// A pod that sends from its container's first instant on, in a slice that denies by default.
pub(crate) fn first_packet(world: &mut World) -> Result<String> {
    world.apply("hub", &allowance())?;
    let programmed = format!("-n {PROJECT_NS} wait slicepolicy/first --for=condition=Programmed");
    world.k("hub", &format!("{programmed} --timeout=30s"))?;
    settings(world, &json!({"policy": {"default": "deny"}}))?;
    let web = v4(&world.addresses("east", "shop", "web", "blue")?)?;
    let far = v4(&world.addresses("east", "shop", "far", "blue")?)?;
    World::wait("the slice denies by default", 20, || {
        if world.reachable(EAST, far) { not_yet("web still reaches far") } else { Ok(()) }
    })?;
    let told = (1..=5).map(|number| begin(world, number, web, far)).collect::<Result<Vec<_>>>();
    settings(world, &json!({"policy": {"default": "open"}}))?;
    world.k("hub", &format!("-n {PROJECT_NS} delete slicepolicy first"))?;
    world.reaches(EAST, far, 20)?;
    world.reaches(FAR, web, 20)?;
    let told = told?;
    Ok(format!(
        "{} new pods: the first packet of each to the peer it may reach was answered, none of {} to another",
        told.len(),
        told.iter().sum::<usize>()
    ))
}

/// What new pods may reach: web, and nothing else.
fn allowance() -> String {
    let labelled = |key: &str, value: &str| json!({"podSelector": {"matchLabels": {(key): value}}});
    json!({
        "apiVersion": "slicewire.dev/v1alpha1", "kind": "SlicePolicy",
        "metadata": {"name": "first", "namespace": PROJECT_NS},
        "spec": {
            "slice": "blue", "priority": 10, "subject": {"namespaces": ["shop"]},
            "egress": [{"peers": [labelled("app", "web")]}],
            "ingress": [{"peers": [labelled("role", "new")]}],
        },
    })
    .to_string()
}

/// Starts a pod that pings who it may reach once, and somebody else many times; how many times.
fn begin(world: &World, number: usize, web: IpAddr, far: IpAddr) -> Result<usize> {
    let name = format!("new-{number}");
    let mut pod: Value = serde_json::from_str(&manifest(&name, "shop", Some("east-1")))?;
    pod["metadata"]["labels"]["role"] = json!("new");
    let line = format!(
        "ping -c 1 -W 1 {web} >/tmp/web 2>&1 && echo allowed answered; \
         ping -c 20 -i 0.05 -W 1 {far} | grep -c 'bytes from'; echo done; exec echo-http"
    );
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", line]);
    pod["spec"]["containers"][0]["image"] = json!(IMAGE);
    world.apply("east", &pod.to_string())?;
    let said = World::wait("the new pod has sent what it sends", 60, || {
        let said = world.k("east", &format!("-n shop logs {name}"))?;
        if said.contains("done") { Ok(said) } else { not_yet(said) }
    })?;
    world.k("east", &format!("-n shop delete pod {name} --now"))?;
    ensure!(said.contains("allowed answered"), "the first packet to {web} had no answer: {said}");
    ensure!(
        said.lines().any(|line| line == "0"),
        "{far} answered a pod that may not reach it: {said}"
    );
    Ok(20)
}
