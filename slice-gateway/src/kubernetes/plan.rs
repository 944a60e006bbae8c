//! From a SliceGateway to what one lane's gateway has to be: validation at the border.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use slicewire_api::{GatewayLane, NextKey, SliceGatewaySpec, Tunnel};
use slicewire_core::name::{Lane, SliceName};
use slicewire_core::prefix;
use slicewire_core::qos::{Qos, QosFields, Rate};
use slicewire_core::rotation::Generation;
use slicewire_core::violation::Violation;
use slicewire_engine::{Config, PeerConfig, PresharedKey, PrivateKey, PublicKey};

/// How often a peer hears from us when there is no traffic: less than half of what the shortest
/// NAT mappings live (RFC 4787 recommends 2 minutes, many give 30 s).
const KEEPALIVE: Duration = Duration::from_secs(12);

/// What one gateway has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) slice: SliceName,
    pub(super) cluster: String,
    pub(super) lane: Lane,
    /// Of the device, in bytes.
    pub(super) mtu: u16,
    /// Of the device, one a family.
    pub(super) addresses: Vec<IpAddr>,
    /// The whole slice's.
    pub(super) prefixes: Vec<IpNet>,
    /// The open generations of keys: the one that all have, and the one they are changing to.
    pub(super) generations: Vec<PlannedGeneration>,
    /// What this gateway alone may send and receive.
    pub(super) qos: Option<Qos>,
}

/// The tunnels by one generation of keys, which has a device of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedGeneration {
    pub(super) generation: Generation,
    /// Whether tunnels have to have a pre-shared key.
    pub(super) protected: bool,
    pub(super) tunnels: Vec<PlannedTunnel>,
}

/// A peer to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedTunnel {
    pub(super) cluster: String,
    pub(super) public_key: PublicKey,
    /// Where to call it, best first; empty: it calls us.
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) prefixes: Vec<IpNet>,
    /// Mixed into the handshake; known when the keys have been read.
    pub(super) preshared_key: Option<PresharedKey>,
}

/// Reads the plan of a lane. Tunnels with faults are left out and their faults returned beside
/// the plan: one broken cluster must not cut the others off.
///
/// # Errors
/// All faults, where the gateway itself cannot be what is asked for.
pub(super) fn of_lane(
    spec: &SliceGatewaySpec,
    lane: Lane,
) -> Result<(Plan, Vec<Violation>), Vec<Violation>> {
    let mut faults = Vec::new();
    let slice = SliceName::parse(&spec.slice).map_err(|found| {
        faults.extend(found.into_iter().map(|f| Violation { field: "spec.slice".into(), ..f }));
    });
    let mtu = u16::try_from(spec.mtu).ok().filter(|mtu| *mtu >= 576);
    if mtu.is_none() {
        let text = "must be 576 to 65535 bytes";
        faults.push(Violation::new("spec.mtu", spec.mtu.to_string(), "MtuRange", text));
    }
    let prefixes = read(&spec.prefixes, "spec.prefixes", prefix::parse, &mut faults);
    let found = spec.lanes.iter().enumerate().find(|(_, l)| l.lane == lane);
    if found.is_none() {
        let lanes: Vec<_> = spec.lanes.iter().map(|l| l.lane.to_string()).collect();
        let text = format!("has no lane {lane}, which this gateway is");
        faults.push(Violation::new("spec.lanes", lanes.join(","), "UnknownLane", text));
    }
    let addresses = found.map(|(i, l)| {
        read(&l.addresses, &format!("spec.lanes[{i}].addresses"), address, &mut faults)
    });
    match (slice, mtu, found, addresses) {
        (Ok(slice), Some(mtu), Some((i, found)), Some(addresses)) if faults.is_empty() => {
            let generations = generations(spec, i, found, &mut faults);
            let cluster = spec.cluster.clone();
            let qos = qos(spec, &mut faults);
            Ok((Plan { slice, cluster, lane, mtu, addresses, prefixes, generations, qos }, faults))
        }
        _ => Err(faults),
    }
}

/// The gateway's equal part of what the slice may send in this cluster. A fault in it is told, and
/// then nothing is limited: packets matter more.
fn qos(spec: &SliceGatewaySpec, faults: &mut Vec<Violation>) -> Option<Qos> {
    let asked = QosFields::from(spec.qos.as_ref()?).parse("spec.qos");
    let asked = asked.map_err(|found| faults.extend(found)).ok()?;
    let lanes = u64::try_from(spec.lanes.len()).unwrap_or(1).max(1);
    let part = |rate: Rate| Rate(rate.0 / lanes);
    Some(Qos { ceiling: asked.ceiling.map(part), ..asked })
}

/// The generation that all have, and the next one: with it come the peers that have published
/// their keys for it, and nothing of them but key and endpoints differs.
fn generations(
    spec: &SliceGatewaySpec,
    lane: usize,
    from: &GatewayLane,
    faults: &mut Vec<Violation>,
) -> Vec<PlannedGeneration> {
    let current = spec.generation;
    let tunnels = tunnels(lane, from, faults);
    let mut all = vec![PlannedGeneration { generation: current, protected: false, tunnels }];
    match spec.next_generation {
        Some(next) if current.checked_add(1) != Some(next) => {
            let text = format!("must be the generation after spec.generation, {current}");
            let field = "spec.nextGeneration";
            faults.push(Violation::new(field, next.to_string(), "Generation", text));
        }
        Some(generation) => {
            let renewed = |t: &Tunnel| {
                let NextKey { public_key, endpoints } = t.next.clone()?;
                Some(Tunnel { public_key, endpoints, ..t.clone() })
            };
            let tunnels = from.tunnels.iter().filter_map(renewed).collect();
            let from = GatewayLane { tunnels, ..from.clone() };
            let tunnels = self::tunnels(lane, &from, faults);
            all.push(PlannedGeneration { generation, protected: true, tunnels });
        }
        None => {}
    }
    all
}

fn tunnels(lane: usize, from: &GatewayLane, faults: &mut Vec<Violation>) -> Vec<PlannedTunnel> {
    let mut tunnels: Vec<PlannedTunnel> = Vec::new();
    for (i, from) in from.tunnels.iter().enumerate() {
        let at = format!("spec.lanes[{lane}].tunnels[{i}]");
        let mut found = Vec::new();
        let read = tunnel(&at, from, &mut found);
        match read {
            Some(t) if tunnels.iter().any(|other| other.public_key == t.public_key) => {
                let text = "is another tunnel's key, too; every gateway has its own";
                let key = from.public_key.as_str();
                faults.push(Violation::new(format!("{at}.publicKey"), key, "DuplicateKey", text));
            }
            Some(tunnel) if found.is_empty() => tunnels.push(tunnel),
            _ => {}
        }
        faults.append(&mut found);
    }
    tunnels
}

fn tunnel(at: &str, from: &Tunnel, faults: &mut Vec<Violation>) -> Option<PlannedTunnel> {
    let public_key = PublicKey::from_base64(&from.public_key).map_err(|error| {
        let field = format!("{at}.publicKey");
        faults.push(Violation::new(field, &from.public_key, "MalformedKey", error.to_string()));
    });
    let endpoints = read(&from.endpoints, &format!("{at}.endpoints"), endpoint, faults);
    let addresses = read(&from.addresses, &format!("{at}.addresses"), address, faults);
    let prefixes = read(&from.prefixes, &format!("{at}.prefixes"), prefix::parse, faults);
    let cluster = from.cluster.clone();
    let public_key = public_key.ok()?;
    let preshared_key = None;
    Some(PlannedTunnel { cluster, public_key, endpoints, addresses, prefixes, preshared_key })
}

fn read<T>(
    texts: &[String],
    field: &str,
    parse: impl Fn(&str, &str) -> Result<T, Violation>,
    faults: &mut Vec<Violation>,
) -> Vec<T> {
    let one = |(i, text): (usize, &String)| {
        parse(&format!("{field}[{i}]"), text).map_err(|fault| faults.push(fault)).ok()
    };
    texts.iter().enumerate().filter_map(one).collect()
}

fn address(field: &str, text: &str) -> Result<IpAddr, Violation> {
    text.parse().map_err(|_| {
        let message = "is not an IP address; write it as 10.20.0.1 or fd00:20::1";
        Violation::new(field, text, "MalformedAddress", message)
    })
}

fn endpoint(field: &str, text: &str) -> Result<SocketAddr, Violation> {
    text.parse().map_err(|_| {
        let message =
            "is not an address and port; write it as 192.0.2.1:31820 or [2001:db8::1]:31820";
        Violation::new(field, text, "MalformedEndpoint", message)
    })
}

/// The WireGuard configuration of a generation's device, calling every peer at the endpoint that
/// `endpoint` picks for it, without the peers that are `left_out`.
pub(super) fn config(
    tunnels: &[PlannedTunnel],
    key: &PrivateKey,
    listen_port: u16,
    endpoint: impl Fn(&PlannedTunnel) -> Option<SocketAddr>,
    left_out: &[PublicKey],
) -> Config {
    let peers = tunnels.iter().filter(|t| !left_out.contains(&t.public_key));
    let peers = peers.map(|tunnel| PeerConfig {
        endpoint: endpoint(tunnel),
        preshared_key: tunnel.preshared_key.clone(),
        allowed_ips: tunnel.prefixes.clone(),
        // Without an endpoint there is nobody to keep a mapping to; once the peer has called,
        // its own keepalives do.
        keepalive: (!tunnel.endpoints.is_empty()).then_some(KEEPALIVE),
        ..PeerConfig::new(tunnel.public_key)
    });
    Config { private_key: Some(key.clone()), listen_port, fwmark: 0, peers: peers.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const OTHER: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

    fn spec() -> SliceGatewaySpec {
        let tunnel = |cluster: &str, key: &str, third: u8| Tunnel {
            cluster: cluster.into(),
            public_key: key.into(),
            endpoints: vec![format!("192.0.2.{third}:31820"), "[2001:db8::2]:31820".into()],
            addresses: vec![format!("10.20.{third}.1")],
            prefixes: vec![format!("10.20.{third}.0/24"), format!("fd00:20:{third}::/48")],
            next: None,
        };
        SliceGatewaySpec {
            slice: "blue".into(),
            cluster: "east".into(),
            prefixes: vec!["10.20.0.0/16".into()],
            mtu: 1400,
            lanes: vec![GatewayLane {
                lane: 1,
                addresses: vec!["10.20.0.2".into()],
                tunnels: vec![tunnel("west", KEY, 1), tunnel("south", OTHER, 2)],
            }],
            ..SliceGatewaySpec::default()
        }
    }

    #[test]
    fn a_lanes_plan_becomes_a_configuration() {
        let (plan, faults) = of_lane(&spec(), 1).unwrap();
        assert_eq!((plan.mtu, faults), (1400, vec![]));
        let key = PrivateKey::from_bytes([7; 32]);
        let tunnels = &plan.generations[0].tunnels;
        let config = super::config(tunnels, &key, 51820, |t| t.endpoints.last().copied(), &[]);
        assert_eq!(config.listen_port, 51820);
        let peers: Vec<_> = config.peers.iter().map(|p| p.public_key.to_string()).collect();
        assert_eq!(peers, [KEY, OTHER]);
        assert_eq!(config.peers[0].endpoint, Some("[2001:db8::2]:31820".parse().unwrap()));
        assert_eq!(config.peers[1].allowed_ips[0], "10.20.2.0/24".parse::<IpNet>().unwrap());
        let keepalive = config.peers[0].keepalive.unwrap();
        assert!((10..=15).contains(&keepalive.as_secs()));
        let left = super::config(tunnels, &key, 51820, |_| None, &[tunnels[0].public_key]);
        assert_eq!(left.peers.len(), 1);
    }

    #[test]
    fn gateways_share_the_slices_ceiling() {
        let mut spec = spec();
        spec.lanes.push(GatewayLane { lane: 2, ..spec.lanes[0].clone() });
        let ceiling = |text: &str| slicewire_api::QosLimits {
            ceiling: Some(text.into()),
            dscp: Some("EF".into()),
            ..slicewire_api::QosLimits::default()
        };
        spec.qos = Some(ceiling("100M"));
        let qos = of_lane(&spec, 1).unwrap().0.qos.unwrap();
        assert_eq!((qos.ceiling, qos.dscp.unwrap().0), (Some(Rate(50_000_000)), 46));
        spec.qos = Some(ceiling("much"));
        let (plan, faults) = of_lane(&spec, 1).unwrap();
        assert_eq!((plan.qos, faults[0].reason), (None, "MalformedRate"));
        assert_eq!(plan.generations[0].tunnels.len(), 2);
    }

    #[test]
    fn a_broken_tunnel_does_not_cut_the_others_off() {
        let mut broken = spec();
        let tunnel = &mut broken.lanes[0].tunnels[0];
        tunnel.endpoints[0] = "west.example:1".into();
        tunnel.prefixes[0] = "10.20.1.1/24".into();
        tunnel.public_key = "short".into();
        let (plan, faults) = of_lane(&broken, 1).unwrap();
        assert_eq!(plan.generations[0].tunnels.len(), 1);
        assert_eq!(plan.generations[0].tunnels[0].cluster, "south");
        let told: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.reason)).collect();
        assert_eq!(
            told,
            [
                ("spec.lanes[0].tunnels[0].publicKey", "MalformedKey"),
                ("spec.lanes[0].tunnels[0].endpoints[0]", "MalformedEndpoint"),
                ("spec.lanes[0].tunnels[0].prefixes[0]", "HostBitsSet"),
            ]
        );
    }

    #[test]
    fn a_key_twice_is_refused_the_second_time() {
        let mut twice = spec();
        twice.lanes[0].tunnels[1].public_key = KEY.into();
        let (plan, faults) = of_lane(&twice, 1).unwrap();
        assert_eq!(plan.generations[0].tunnels.len(), 1);
        assert_eq!(faults[0].reason, "DuplicateKey");
    }

    #[test]
    fn what_the_gateway_itself_cannot_be_is_refused_as_a_whole() {
        let mut bad = spec();
        bad.slice = "Blue".into();
        bad.mtu = 100;
        let told: Vec<_> = of_lane(&bad, 0).unwrap_err().iter().map(|f| f.reason).collect();
        assert_eq!(told, ["NameCharacters", "MtuRange", "UnknownLane"]);
        let mut address = spec();
        address.lanes[0].addresses[0] = "10.20.0.2/29".into();
        assert_eq!(of_lane(&address, 1).unwrap_err()[0].field, "spec.lanes[0].addresses[0]");
    }

    #[test]
    fn the_next_generation_has_the_same_tunnels_by_other_keys_and_ports() {
        let mut renewing = spec();
        (renewing.generation, renewing.next_generation) = (6, Some(7));
        let endpoints = vec!["192.0.2.1:31821".to_owned()];
        renewing.lanes[0].tunnels[0].next =
            Some(NextKey { public_key: OTHER.into(), endpoints: endpoints.clone() });
        let (plan, faults) = of_lane(&renewing, 1).unwrap();
        assert_eq!(faults, []);
        let [current, next] = plan.generations.as_slice() else { panic!("{plan:?}") };
        assert_eq!((current.generation, current.protected, current.tunnels.len()), (6, false, 2));
        // South has not published its next key yet.
        assert_eq!((next.generation, next.protected, next.tunnels.len()), (7, true, 1));
        let (old, new) = (&current.tunnels[0], &next.tunnels[0]);
        assert_eq!((&old.prefixes, &old.addresses), (&new.prefixes, &new.addresses));
        assert_eq!(new.public_key.to_string(), OTHER);
        assert_eq!(new.endpoints, [endpoints[0].parse().unwrap()]);
        for wrong in [6, 8, 0] {
            renewing.next_generation = Some(wrong);
            let (plan, faults) = of_lane(&renewing, 1).unwrap();
            assert_eq!((plan.generations.len(), faults[0].reason), (1, "Generation"));
        }
    }
}
