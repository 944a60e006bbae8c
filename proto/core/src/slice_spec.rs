//! What a user asks of a slice, checked: a domain value, or every fault at once.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::ipam::{Demand, Holding, Holdings, NoRoom, allocate, length_that_fits};
use crate::name::{
    ClusterName, Lane, MAX_CLUSTER_NAME, MAX_LANES, MAX_SLICE_NAME, SliceName, check, check_label,
};
use crate::prefix::{self, Family, overlap};
use crate::violation::Violation;

/// Bytes that fit through WireGuard over a path of 1,500 in both families, in whole 4s.
pub const DEFAULT_MTU: u16 = 1420;
/// Least MTU of a slice: IPv6 needs it (RFC 8200, section 5).
pub const MIN_MTU: i32 = 1280;
/// Most: jumbo frames.
pub const MAX_MTU: i32 = 9000;

/// Prefixes no slice may touch: they mean something else on every host.
const SPECIAL: [(&str, &str); 6] = [
    ("0.0.0.0/8", "means this host (RFC 1122)"),
    ("127.0.0.0/8", "is the loopback network (RFC 1122)"),
    ("169.254.0.0/16", "is link-local (RFC 3927) and used for next hops"),
    ("224.0.0.0/3", "is multicast or reserved (RFC 5771, RFC 1112)"),
    ("::/8", "is reserved (RFC 4291)"),
    ("fe80::/9", "is link-local, site-local or multicast (RFC 4291)"),
];

/// A SliceConfig as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawSlice {
    /// `metadata.name`.
    pub name: String,
    /// `spec.prefixes`.
    pub prefixes: Vec<String>,
    /// Names in `spec.clusters`.
    pub clusters: Vec<String>,
    /// `spec.gateways.replicas`.
    pub replicas: i32,
    /// `spec.mtu`.
    pub mtu: Option<i32>,
    /// Per rule of `spec.namespaces`: the clusters it names and the namespaces it names.
    pub rules: Vec<RawRule>,
}

/// A rule of `spec.namespaces`, without its selectors, which are checked where they are converted.
#[derive(Debug, Clone, Default)]
pub struct RawRule {
    /// `clusters`.
    pub clusters: Vec<String>,
    /// `names`.
    pub names: Vec<String>,
}

/// What a slice is checked against.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// The project's clusters.
    pub clusters: BTreeMap<String, ClusterFacts>,
    /// What the clusters of the running slice hold; empty before it runs.
    pub held: Holdings,
    /// The running slice's prefixes.
    pub running: Vec<IpNet>,
    /// What the running slice keeps for services' virtual addresses.
    pub services: Vec<IpNet>,
}

/// What is known about a cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterFacts {
    /// Prefixes its pods and services use.
    pub reserved: Vec<IpNet>,
    /// It is being deleted.
    pub leaving: bool,
}

/// A slice that can be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedSlice {
    /// Its name.
    pub name: SliceName,
    /// Its prefixes, none overlapping another.
    pub prefixes: Vec<IpNet>,
    /// Its clusters, all known.
    pub clusters: BTreeSet<ClusterName>,
    /// Gateways per cluster.
    pub lanes: Lane,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// Checks a slice.
///
/// # Errors
/// Every fault, in the order of fields.
pub fn validate(raw: &RawSlice, world: &World) -> Result<ValidatedSlice, Vec<Violation>> {
    let mut faults = check("metadata.name", &raw.name, MAX_SLICE_NAME);
    let prefixes = prefixes(&raw.prefixes, &mut faults);
    let clusters = clusters(&raw.clusters, world, &mut faults);
    reserved(&prefixes, &clusters, world, &mut faults);
    removed(&prefixes, world, &mut faults);
    let lanes = lanes(raw.replicas, &mut faults);
    let mtu = mtu(raw.mtu, &mut faults);
    rules(raw, &mut faults);
    // Room can be asked about whenever prefixes, clusters and lanes are what was meant: a
    // cluster that is not registered yet needs as much of it as one that is.
    let meant = |f: &Violation| {
        matches!(f.reason, "UnknownCluster" | "ClusterLeaving")
            || !["spec.prefixes", "spec.clusters", "spec.gateways"]
                .iter()
                .any(|field| f.field.starts_with(field))
    };
    if faults.iter().all(meant) {
        room(&prefixes, &clusters, lanes, world, &mut faults);
    }
    let name = SliceName::parse(&raw.name);
    match name {
        Ok(name) if faults.is_empty() => Ok(ValidatedSlice {
            name,
            prefixes: prefixes.into_iter().map(|(_, p)| p).collect(),
            clusters: clusters.into_iter().map(|(_, c)| c).collect(),
            lanes,
            mtu,
        }),
        _ => Err(faults),
    }
}

/// Prefixes with their place in the list.
type Placed<T> = Vec<(usize, T)>;

fn prefixes(raw: &[String], faults: &mut Vec<Violation>) -> Placed<IpNet> {
    let mut good: Placed<IpNet> = Vec::new();
    if raw.is_empty() {
        faults.push(Violation::new(
            "spec.prefixes",
            "",
            "NoPrefix",
            "is empty; at least one prefix is needed, as 10.77.0.0/16 or fd77::/48",
        ));
    }
    for (i, text) in raw.iter().enumerate() {
        let field = format!("spec.prefixes[{i}]");
        let net = match prefix::parse(&field, text) {
            Ok(net) => net,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        for (special, why) in SPECIAL {
            if special.parse().is_ok_and(|s: IpNet| overlap(&s, &net)) {
                faults.push(Violation::new(
                    &field,
                    text,
                    "SpecialPrefix",
                    format!("overlaps {special}, which {why}; private prefixes as 10.77.0.0/16 or fd77::/48 are accepted"),
                ));
            }
        }
        if let Some((j, other)) = good.iter().find(|(_, g)| overlap(g, &net)) {
            let (reason, what) = if *other == net {
                ("DuplicatePrefix", "is the same as")
            } else {
                ("OverlappingPrefixes", "overlaps")
            };
            faults.push(Violation::new(
                &field,
                text,
                reason,
                format!("{what} spec.prefixes[{j}] ({other}); prefixes of a slice must be apart"),
            ));
        }
        good.push((i, net));
    }
    good
}

fn clusters(raw: &[String], world: &World, faults: &mut Vec<Violation>) -> Placed<ClusterName> {
    let mut good: Placed<ClusterName> = Vec::new();
    if raw.is_empty() {
        faults.push(Violation::new(
            "spec.clusters",
            "",
            "NoCluster",
            "is empty; at least one cluster is needed",
        ));
    }
    for (i, text) in raw.iter().enumerate() {
        let field = format!("spec.clusters[{i}].name");
        let Ok(name) = ClusterName::parse(text) else {
            faults.extend(check(&field, text, MAX_CLUSTER_NAME));
            continue;
        };
        if let Some((j, _)) = good.iter().find(|(_, g)| *g == name) {
            faults.push(Violation::new(
                &field,
                text,
                "DuplicateCluster",
                format!("is named twice; spec.clusters[{j}] is the same"),
            ));
            continue;
        }
        match world.clusters.get(text) {
            None => faults.push(unknown_cluster(&field, text, world)),
            // A member that is being deleted stays until it is taken out of the list.
            Some(facts) if facts.leaving && !world.held.contains_key(&name) => {
                faults.push(Violation::new(
                    &field,
                    text,
                    "ClusterLeaving",
                    "is being deleted; wait until it is gone and register it anew",
                ));
            }
            Some(_) => {}
        }
        good.push((i, name));
    }
    good
}

fn unknown_cluster(field: &str, text: &str, world: &World) -> Violation {
    let known: Vec<&str> = world.clusters.keys().map(String::as_str).collect();
    let accepted = if known.is_empty() {
        "the project has no clusters yet; register one first".to_owned()
    } else {
        format!("the project has {}", known.join(", "))
    };
    Violation::new(
        field,
        text,
        "UnknownCluster",
        format!("is not a cluster of this project; {accepted}"),
    )
}

/// A slice must not hide a cluster's own pods and services from the slice's pods. Where a running
/// slice does, because the cluster says something new, that is the cluster's trouble and no reason
/// to refuse the others a change.
fn reserved(
    prefixes: &Placed<IpNet>,
    clusters: &Placed<ClusterName>,
    world: &World,
    faults: &mut Vec<Violation>,
) {
    for (i, net) in prefixes {
        for (_, cluster) in clusters {
            if world.running.contains(net) && world.held.contains_key(cluster) {
                continue;
            }
            let taken = world.clusters.get(cluster.as_str()).map(|c| c.reserved.as_slice());
            for other in taken.unwrap_or_default().iter().filter(|r| overlap(r, net)) {
                faults.push(Violation::new(
                    format!("spec.prefixes[{i}]"),
                    net.to_string(),
                    "ReservedPrefix",
                    format!("overlaps {other}, which cluster {cluster} uses for its pods or services; a prefix that no cluster of the slice uses is accepted"),
                ));
            }
        }
    }
}

/// Prefixes that addresses in use come from must stay.
fn removed(prefixes: &Placed<IpNet>, world: &World, faults: &mut Vec<Violation>) {
    let covered = |net: &IpNet| prefixes.iter().any(|(_, p)| p.contains(net));
    for old in world.running.iter().filter(|old| !covered(old)) {
        let users: Vec<&str> = world
            .held
            .iter()
            .filter(|(_, h)| h.all().any(|net| old.contains(net) && !covered(net)))
            .map(|(cluster, _)| cluster.as_str())
            .collect();
        if !users.is_empty() {
            faults.push(Violation::new(
                "spec.prefixes",
                old.to_string(),
                "PrefixInUse",
                format!(
                    "was removed while {} {} addresses of it; put it back, or take those clusters out of the slice first",
                    users.join(", "),
                    if users.len() == 1 { "uses" } else { "use" },
                ),
            ));
        }
    }
}

fn lanes(replicas: i32, faults: &mut Vec<Violation>) -> Lane {
    match Lane::try_from(replicas) {
        Ok(lanes) if (1..=MAX_LANES).contains(&lanes) => lanes,
        _ => {
            faults.push(Violation::new(
                "spec.gateways.replicas",
                replicas.to_string(),
                "Replicas",
                format!("is outside 1 to {MAX_LANES}"),
            ));
            1
        }
    }
}

fn mtu(asked: Option<i32>, faults: &mut Vec<Violation>) -> u16 {
    let mtu = asked.unwrap_or_else(|| i32::from(DEFAULT_MTU));
    if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
        faults.push(Violation::new(
            "spec.mtu",
            mtu.to_string(),
            "Mtu",
            format!("is outside {MIN_MTU} to {MAX_MTU}"),
        ));
    }
    u16::try_from(mtu).unwrap_or(DEFAULT_MTU)
}

fn rules(raw: &RawSlice, faults: &mut Vec<Violation>) {
    for (i, rule) in raw.rules.iter().enumerate() {
        for (j, cluster) in rule.clusters.iter().enumerate() {
            if !raw.clusters.contains(cluster) {
                faults.push(Violation::new(
                    format!("spec.namespaces[{i}].clusters[{j}]"),
                    cluster,
                    "UnknownCluster",
                    format!("is not a cluster of this slice; {} are", raw.clusters.join(", ")),
                ));
            }
        }
        for (j, name) in rule.names.iter().enumerate() {
            faults.extend(check_label(&format!("spec.namespaces[{i}].names[{j}]"), name, 63));
        }
    }
}

/// Whether everybody fits; asked of the same allocation that is carried out later.
fn room(
    prefixes: &Placed<IpNet>,
    clusters: &Placed<ClusterName>,
    lanes: Lane,
    world: &World,
    faults: &mut Vec<Violation>,
) {
    let nets: Vec<IpNet> = prefixes.iter().map(|(_, p)| *p).collect();
    let demand = Demand {
        clusters: clusters.iter().map(|(_, c)| c.clone()).collect(),
        lanes,
        grow: BTreeMap::new(),
        reserved: world.services.clone(),
    };
    let (_, refused) = allocate(&nets, &world.held, &demand);
    let running = world.held.values().any(|h| h != &Holding::default());
    for family in [Family::V4, Family::V6] {
        let without: Vec<&NoRoom> = refused.iter().filter(|r| r.family == family).collect();
        let Some((i, widest)) = prefixes
            .iter()
            .filter(|(_, p)| Family::of(p) == family)
            .min_by_key(|(_, p)| p.prefix_len())
        else {
            continue;
        };
        if without.is_empty() {
            continue;
        }
        let who: Vec<&str> = without.iter().map(|r| r.cluster.as_str()).collect();
        let would_do = match length_that_fits(widest, clusters.len(), lanes) {
            Some(length) if !running => format!("/{length} or shorter would do"),
            _ => "add another prefix of this family to the slice".to_owned(),
        };
        faults.push(Violation::new(
            format!("spec.prefixes[{i}]"),
            widest.to_string(),
            "PrefixTooSmall",
            format!(
                "has no room for {}, of {} clusters with {lanes} gateway(s) each; {would_do}",
                who.join(", "),
                clusters.len(),
            ),
        ));
    }
}

#[cfg(test)]
mod tests;
