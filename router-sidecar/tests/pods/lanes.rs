//! Two clusters with two gateways each, and packets that are spread over both: a renewal changes the keys
//! of both lanes, and every pod learns of it at another moment.

use crate::keys::{PATIENCE, PRESHARED, flow_of, nothing_lost, sends_by};
use crate::lab::{EAST, Lab, Side, WEST, Watch, lane};
use crate::two_gateways::{SECOND, up};

const EAST_1: Side = Side {
    name: "east1",
    lane: 1,
    private_key: "UEFTfVZmsoviXYm4c/z8a/Dh0B0bkbAw5V3NK6FV/kM=",
    public_key: "Gnj5r7sYVBZIBEk5HaG7OaKN0WU3xACj0PN7payKShw=",
    wan: "198.51.100.4",
    device: ["10.20.0.2", "fd00:20::2"],
    nic: ["10.20.0.67", "fd00:20::67"],
    ..EAST
};

const WEST_1: Side = Side {
    name: "west1",
    lane: 1,
    private_key: "2FPWFA0pjGitmQ0FYttFvRkuFSx9wrZDZrMoHd/krk8=",
    public_key: "Qsnvdr0zVV/cZrQ3r3nFJ7KK28dyPL3Q78P9tXFt/E4=",
    wan: "198.51.100.5",
    device: ["10.20.64.2", "fd00:20:0:1::2"],
    nic: ["10.20.64.67", "fd00:20:0:1::67"],
    ..WEST
};

/// A cluster's gateways, by lane.
type Cluster = [&'static Side; 2];
const EASTERN: Cluster = [&EAST, &EAST_1];
const WESTERN: Cluster = [&WEST, &WEST_1];

/// Private and public keys of the generation after the first: east's and west's, by lane.
const RENEWED: [[(&str, &str); 2]; 2] = [
    [
        (
            "0NNBbdkWVgJS8yE0J1jJpO0+ebXPR+An7SBJkgbcdHQ=",
            "2ow559dRFPrGX98rdgDSrzUg4hd0iIZmLukHt3YCaA8=",
        ),
        (
            "MFXOsxrNL/WR5jKku46P0WiWDDwtWVrZzqvJqDJNPVY=",
            "RpmsBAXYiFqZOR5qEiLDcGsrPog8SmPYlnH7Omj5cns=",
        ),
    ],
    [
        (
            "kGek5fOmitGS0NoruSG4nkuOAL1bGzFsxxM0XwOHAHc=",
            "8swZJ0d88I6dP9Ir9Rax1SzHD8YE8Wn776WO3qd+plo=",
        ),
        (
            "gBgIJkDZ3jRE0fntEJw64DIPhQSmgscEjFGcpsqQvFw=",
            "L1MB6HzxpMUs8WmCbm6k/vAohKJ+E6F8QRYhPk2qRXs=",
        ),
    ],
];

fn renewed(side: &Side) -> (&'static str, &'static str) {
    RENEWED[usize::from(side.cluster == WEST.cluster)][usize::from(side.lane)]
}

/// Both lanes as a plan has them: with the keys of a generation, and where they are to be changed, the next
/// ones.
fn plan(lab: &Lab, pod: &Side, own: Cluster, other: Cluster, generation: u64, renewing: bool) {
    let key = |side: &Side| if generation == 0 { side.public_key } else { renewed(side).1 };
    let next = |side| renewing.then(|| renewed(side).1);
    let lanes = [0, 1].map(|i| lane(own[i], other[i], (generation, key(other[i])), next(other[i])));
    lab.plan_lanes(pod, &lanes, generation, renewing.then_some(generation + 1));
}

/// Gives a pod what its cluster's Secret has: the new keys of both lanes.
fn give_keys(lab: &Lab, pod: &Side, own: Cluster) {
    for side in own {
        let file = lab.path(pod.name).join(format!("lane-{}-generation-1", side.lane));
        std::fs::write(file, renewed(side).0).unwrap();
    }
}

/// The same of the pre-shared keys that the clusters have agreed on.
fn give_preshared(lab: &Lab, pod: &Side, own: Cluster, other: Cluster) {
    for (side, peer) in own.into_iter().zip(other) {
        let file = format!("psk-{}-generation-1-{}", side.lane, peer.cluster);
        let text = format!("{} {} {PRESHARED}\n", renewed(side).1, renewed(peer).1);
        std::fs::write(lab.path(pod.name).join(file), text).unwrap();
    }
}

/// Pods' addresses in a cluster: the usual one, and more, so that packets are spread.
fn apps(side: &Side) -> Vec<String> {
    let (net, last) = side.app[0].rsplit_once('.').unwrap();
    let last: u8 = last.parse().unwrap();
    (last..last + 8).map(|n| format!("{net}.{n}")).collect()
}

/// Does what the node's daemon does: leads packets over both gateways.
fn spread(lab: &Lab, own: Cluster) {
    let router = format!("r{}", own[0].cluster);
    for address in &apps(own[0])[1..] {
        lab.ip(&router, &format!("addr add {address} dev lo"));
    }
    let hops = own.map(|pod| format!("nexthop via {} dev port{} onlink", pod.nic[0], pod.lane));
    let route = format!("route replace 10.20.0.0/16 src {} {}", own[0].app[0], hops.join(" "));
    lab.ip(&router, &route);
}

/// What a gateway has received, in bytes.
fn received(lab: &Lab, pod: &Side) -> u64 {
    let metrics = lab.read_in(pod.name, "curl -s http://127.0.0.1:8081/metrics");
    let of = metrics.lines().filter(|l| l.starts_with("slicewire_gateway_receive_bytes_total{"));
    of.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// Each cluster, and the other one.
const SIDES: [(Cluster, Cluster); 2] = [(EASTERN, WESTERN), (WESTERN, EASTERN)];
const PODS: [&Side; 4] = [&EAST, &WEST, &EAST_1, &WEST_1];

/// All four pods run and forward.
fn working() -> (Lab, [Watch; 4]) {
    let mut lab = Lab::new("l");
    lab.pod(&EAST_1);
    lab.pod(&WEST_1);
    for (own, other) in SIDES {
        for pod in own {
            for side in own {
                let file = lab.path(pod.name).join(format!("lane-{}", side.lane));
                std::fs::write(file, side.private_key).unwrap();
            }
            plan(&lab, pod, own, other, 0, false);
            lab.attach(pod);
            lab.start_gateway(pod);
            lab.start_sidecar(pod);
        }
        spread(&lab, own);
    }
    let mut watches = PODS.map(|pod| lab.watch(pod));
    for watch in &mut watches {
        watch.until("the tunnel works", 15 * SECOND, up);
    }
    (lab, watches)
}

/// Lets every pod know of something, one half a second after the other.
fn each(tell: impl Fn(&'static Side, Cluster, Cluster)) {
    for (own, other) in SIDES {
        for pod in own {
            tell(pod, own, other);
            std::thread::sleep(SECOND / 2);
        }
    }
}

#[test]
fn both_lanes_get_new_keys_and_no_packet_is_lost() {
    let (lab, mut watches) = working();
    let mut flows = Vec::new();
    for (from, to) in [("reast", &WEST), ("rwest", &EAST)] {
        flows.extend(apps(to).iter().map(|app| flow_of(&lab, from, app, 25, 100)));
    }
    std::thread::sleep(SECOND);
    each(|pod, own, other| {
        give_keys(&lab, pod, own);
        plan(&lab, pod, own, other, 0, true);
    });
    each(|pod, own, other| give_preshared(&lab, pod, own, other));
    for watch in &mut watches {
        watch.until("sends by the new keys", PATIENCE, sends_by(1));
    }
    each(|pod, own, other| {
        plan(&lab, pod, own, other, 1, false);
        for old in own {
            std::fs::remove_file(lab.path(pod.name).join(format!("lane-{}", old.lane))).unwrap();
        }
    });
    let before = PODS.map(|pod| received(&lab, pod));
    flows.into_iter().for_each(nothing_lost);
    for ((pod, watch), before) in PODS.into_iter().zip(&mut watches).zip(before) {
        assert!(!lab.try_in(pod.name, "ip link show swwg0"), "{}'s old device is closed", pod.name);
        assert!(sends_by(1)(watch.now().unwrap()));
        let passed = received(&lab, pod) - before;
        assert!(passed > 50_000, "{passed} bytes came through {} since", pod.name);
    }
}
