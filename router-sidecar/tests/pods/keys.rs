//! Renewing the keys of two gateways while packets pass. The test does what the clusters'
//! controllers do: it writes keys and plans, and each side learns of them at another moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use slicewire_core::gateway::Routes;

use crate::lab::{EAST, Lab, Side, WEST, Watch};
use crate::two_gateways::{SECOND, up, working};

/// Private and public keys of the generations after the first: east's and west's.
const RENEWED: [[(&str, &str); 2]; 2] = [
    [
        (
            "MFXOsxrNL/WR5jKku46P0WiWDDwtWVrZzqvJqDJNPVY=",
            "RpmsBAXYiFqZOR5qEiLDcGsrPog8SmPYlnH7Omj5cns=",
        ),
        (
            "gBgIJkDZ3jRE0fntEJw64DIPhQSmgscEjFGcpsqQvFw=",
            "L1MB6HzxpMUs8WmCbm6k/vAohKJ+E6F8QRYhPk2qRXs=",
        ),
    ],
    [
        (
            "2C48U2gDhkW+0r/gj/ar4E1DxEVQbm+Zmx6Vo/8yQns=",
            "moLlAJCUUGiTXXF4YViS0hVItZl0czwrr4akibH7FXA=",
        ),
        (
            "yEgXODRhESLxwq3ljbooZvb8jO2qayka+ShIniV9amQ=",
            "32cEE3WGYdeOhJ78b2ZejXnk1JjLb0rBbHu92+0GXnA=",
        ),
    ],
];
/// Pre-shared keys; any 32 bytes are one.
pub(crate) const PRESHARED: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const ANOTHER: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// A side's key pair of a generation.
fn pair(side: &Side, generation: u64) -> (&'static str, &'static str) {
    let of = usize::from(side.name == WEST.name);
    match generation.checked_sub(1) {
        Some(renewed) => RENEWED[usize::try_from(renewed).unwrap()][of],
        None => [(EAST.private_key, EAST.public_key), (WEST.private_key, WEST.public_key)][of],
    }
}

/// Puts a side's private key of a generation into its pod, as the kubelet does.
fn give_key(lab: &Lab, side: &Side, generation: u64) {
    let file = lab.path(side.name).join(format!("lane-0-generation-{generation}"));
    std::fs::write(file, pair(side, generation).0).unwrap();
}

/// Puts the pre-shared key of its tunnel into a side's pod.
fn give_preshared(lab: &Lab, side: &Side, other: &Side, generation: u64, key: &str) {
    let (own, peer) = (pair(side, generation).1, pair(other, generation).1);
    let file = format!("psk-0-generation-{generation}-{}", other.name);
    std::fs::write(lab.path(side.name).join(file), format!("{own} {peer} {key}\n")).unwrap();
}

/// Tells a side that a generation is to be changed to.
fn open(lab: &Lab, side: &Side, other: &Side, next: u64) {
    let before = (next - 1, pair(other, next - 1).1);
    lab.plan_keys(side, other, before, Some(pair(other, next).1));
}

/// Tells a side that a generation is the only one, and takes the old key away.
fn close(lab: &Lab, side: &Side, other: &Side, generation: u64) {
    lab.plan_keys(side, other, (generation, pair(other, generation).1), None);
    let old = match generation - 1 {
        0 => "lane-0".to_owned(),
        old => format!("lane-0-generation-{old}"),
    };
    std::fs::remove_file(lab.path(side.name).join(old)).unwrap();
}

/// Packets from one pod to another.
pub(crate) struct Flow {
    ping: Child,
    /// What it prints.
    answers: PathBuf,
    packets: usize,
}

/// Starts a flow of a thousand packets a second for so many seconds.
fn flow(lab: &Lab, from: &str, to: &str, seconds: usize) -> Flow {
    flow_of(lab, from, to, seconds, 1000)
}

/// The same of so many packets a second.
pub(crate) fn flow_of(lab: &Lab, from: &str, to: &str, seconds: usize, rate: usize) -> Flow {
    let packets = seconds * rate;
    let answers = lab.path(&format!("{from}-{}", to.replace(':', "-")));
    let interval = Duration::from_secs(1).as_secs_f64() / rate as f64;
    let line = format!("ping -D -i {interval} -c {packets} -W 3 {to}");
    let file = File::create(&answers).unwrap();
    Flow { ping: lab.begin(from, &line, file), answers, packets }
}

/// Waits for a flow's end: every packet has come once, and its answer.
pub(crate) fn nothing_lost(mut flow: Flow) {
    flow.ping.wait().unwrap();
    let said = std::fs::read_to_string(&flow.answers).unwrap();
    let of = |line: &str| {
        let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
        let sequence = rest.split_once("icmp_seq=")?.1.split_once(' ')?.0;
        Some((sequence.parse::<usize>().ok()?, time.to_owned()))
    };
    let answered: BTreeMap<usize, String> = said.lines().filter_map(of).collect();
    let lost = (1..=flow.packets).filter(|n| !answered.contains_key(n));
    // With when the next one was answered.
    let when = |n: usize| (n, answered.range(n..).next().map(|(_, time)| time.clone()));
    let lost: Vec<_> = lost.map(when).collect();
    assert!(lost.is_empty(), "{}: {lost:?}", flow.answers.display());
    assert!(!said.contains("DUP!"), "{} came twice", flow.answers.display());
}

pub(crate) fn sends_by(generation: u64) -> impl Fn(&Routes) -> bool {
    move |routes| {
        let route = &routes.routes[0];
        route.health.up && route.generation == generation && route.preshared
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One renewal, each side a moment after the other.
fn renew(lab: &Lab, watches: [&mut Watch; 2], next: u64, between: impl FnOnce()) {
    give_key(lab, &EAST, next);
    open(lab, &EAST, &WEST, next);
    std::thread::sleep(SECOND);
    give_key(lab, &WEST, next);
    give_preshared(lab, &WEST, &EAST, next, PRESHARED);
    open(lab, &WEST, &EAST, next);
    std::thread::sleep(SECOND);
    between();
    give_preshared(lab, &EAST, &WEST, next, PRESHARED);
    for watch in watches {
        watch.until("sends by the new keys", PATIENCE, sends_by(next));
    }
    close(lab, &EAST, &WEST, next);
    std::thread::sleep(SECOND);
    close(lab, &WEST, &EAST, next);
}

#[test]
fn keys_are_renewed_twice_and_no_packet_is_lost() {
    let (lab, mut east, mut west) = working("h");
    let seconds = 30;
    let flows = [
        flow(&lab, "reast", WEST.app[0], seconds),
        flow(&lab, "rwest", EAST.app[0], seconds),
        flow(&lab, "rwest", EAST.app[1], seconds),
    ];
    std::thread::sleep(SECOND);
    renew(&lab, [&mut east, &mut west], 1, || {});
    std::thread::sleep(2 * SECOND);
    for side in ["east", "west"] {
        assert!(!lab.try_in(side, "ip link show swwg0"), "{side}'s old device is closed");
    }
    renew(&lab, [&mut east, &mut west], 2, || {});
    flows.into_iter().for_each(nothing_lost);
    for (side, watch) in [("east", &mut east), ("west", &mut west)] {
        assert!(!lab.try_in(side, "ip link show swwg1"), "{side}'s old device is closed");
        assert!(sends_by(2)(watch.now().unwrap()));
        let metrics = lab.read_in(side, "curl -s http://127.0.0.1:8082/metrics");
        assert!(metrics.contains("slicewire_tunnel_preshared_key{") && metrics.contains("} 2\n"));
    }
}

#[test]
fn a_sidecar_killed_while_keys_are_renewed_costs_no_packet() {
    let (mut lab, mut east, mut west) = working("i");
    let flows = [flow(&lab, "reast", WEST.app[0], 25), flow(&lab, "rwest", EAST.app[0], 25)];
    give_key(&lab, &EAST, 1);
    give_key(&lab, &WEST, 1);
    give_preshared(&lab, &EAST, &WEST, 1, PRESHARED);
    open(&lab, &EAST, &WEST, 1);
    open(&lab, &WEST, &EAST, 1);
    lab.kill(&EAST, "router-sidecar");
    give_preshared(&lab, &WEST, &EAST, 1, PRESHARED);
    std::thread::sleep(3 * SECOND);
    lab.start_sidecar(&EAST);
    east.until("east sends by the new keys", PATIENCE, sends_by(1));
    west.until("west sends by the new keys", PATIENCE, sends_by(1));
    // The one that comes back finds what its predecessor sent by.
    lab.kill(&WEST, "router-sidecar");
    lab.start_sidecar(&WEST);
    close(&lab, &EAST, &WEST, 1);
    close(&lab, &WEST, &EAST, 1);
    flows.into_iter().for_each(nothing_lost);
    let mut west = lab.watch(&WEST);
    west.until("west goes on", PATIENCE, sends_by(1));
}

#[test]
fn a_gateway_killed_while_keys_are_renewed_finishes() {
    let (mut lab, mut east, mut west) = working("j");
    give_key(&lab, &EAST, 1);
    give_preshared(&lab, &EAST, &WEST, 1, PRESHARED);
    open(&lab, &EAST, &WEST, 1);
    std::thread::sleep(SECOND);
    lab.kill(&EAST, "slice-gateway");
    give_key(&lab, &WEST, 1);
    give_preshared(&lab, &WEST, &EAST, 1, PRESHARED);
    open(&lab, &WEST, &EAST, 1);
    lab.start_gateway(&EAST);
    east.until("east sends by the new keys", PATIENCE, sends_by(1));
    west.until("west sends by the new keys", PATIENCE, sends_by(1));
    close(&lab, &EAST, &WEST, 1);
    close(&lab, &WEST, &EAST, 1);
    // It is killed again, and has only the new key to come back with.
    lab.kill(&WEST, "slice-gateway");
    west.until("west's gateway is gone", PATIENCE, |routes| !up(routes));
    lab.start_gateway(&WEST);
    west.until("west is back", PATIENCE, sends_by(1));
    assert!(lab.try_in("reast", &format!("ping -c 2 -W 2 {}", WEST.app[0])));
}

#[test]
fn ends_that_did_not_agree_on_a_key_stay_with_the_old_ones() {
    let (lab, mut east, mut west) = working("k");
    let flows = [flow(&lab, "reast", WEST.app[0], 10), flow(&lab, "rwest", EAST.app[0], 10)];
    for (side, other, preshared) in [(&EAST, &WEST, PRESHARED), (&WEST, &EAST, ANOTHER)] {
        give_key(&lab, side, 1);
        give_preshared(&lab, side, other, 1, preshared);
        open(&lab, side, other, 1);
    }
    flows.into_iter().for_each(nothing_lost);
    for watch in [&mut east, &mut west] {
        let routes = watch.now().unwrap();
        assert!(up(routes) && routes.routes[0].generation == 0 && !routes.routes[0].preshared);
    }
    // When they agree after all, they change.
    give_preshared(&lab, &WEST, &EAST, 1, PRESHARED);
    open(&lab, &WEST, &EAST, 1);
    east.until("east sends by the new keys", PATIENCE, sends_by(1));
    west.until("west sends by the new keys", PATIENCE, sends_by(1));
}
