//! Which slices are shaped on this node, and how.

use std::collections::{BTreeMap, BTreeSet};

use slicewire_core::name::VXLAN_DEVICE;
use slicewire_core::qos::rate::MAX_RATE;
use slicewire_core::qos::shape::{Limit, Shape, class_numbers};
use slicewire_core::qos::share::{Terms, overcommitted, usable};
use slicewire_core::qos::{Dscp, Qos, Rate};

use crate::apply::ROUTER_PREFIX;
use crate::report::Report;
use crate::world::World;

/// How the routers of this node should be shaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What of the uplink slices can use, where it is known.
    pub(super) uplink: Option<Rate>,
    /// The same, where slices share it.
    pub(super) sharing: Option<Rate>,
    /// By slice: every router there is.
    pub(super) wants: BTreeMap<String, Want>,
    /// Why not all guarantees can be kept, if they cannot.
    pub(super) overcommitted: Option<String>,
}

/// How one router should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) netns: String,
    /// What is asked for; none: nothing.
    pub(super) qos: Option<Qos>,
    pub(super) terms: Terms,
    /// None: it is not shaped.
    pub(super) shape: Option<Shape>,
    pub(super) dscp: Option<Dscp>,
}

impl Want {
    /// Bytes that may pass at once.
    pub(super) fn burst(&self) -> Option<u64> {
        self.qos.and_then(|q| q.burst).map(|b| b.0)
    }
}

impl Plan {
    /// The most a slice may leave with and receive.
    pub(super) fn limits(&self, want: &Want) -> (Rate, Rate) {
        let most = want.shape.as_ref().map_or(MAX_RATE, |s| s.leaving.rate);
        (most, most)
    }
}

/// Decides. `uplink` is the node's capacity, where it is known.
///
/// A slice is shaped where it has a ceiling, and, when some slice of the node asks for anything at
/// all, where it shares the uplink with others: one that is not shaped would fill it.
pub(super) fn plan(report: &Report, world: &World, uplink: Option<Rate>) -> Plan {
    let slices: BTreeMap<&String, Option<Qos>> = report
        .routers
        .keys()
        .filter_map(|slice| Some((slice, world.slices.get(slice)?.valid.as_ref()?.qos)))
        .collect();
    let mtu = report.nics.values().map(|nic| nic.mtu).max().unwrap_or(1_500);
    let uplink = uplink.map(|link| usable(link, mtu));
    let asked = slices.values().flatten().any(|qos| Qos { dscp: None, ..*qos } != Qos::default());
    let sharing = uplink.filter(|_| asked && slices.len() > 1);
    let guarantees: BTreeMap<String, Rate> = slices
        .iter()
        .filter_map(|(slice, qos)| Some(((*slice).clone(), qos.as_ref()?.guarantee?)))
        .collect();
    let wants = slices.iter().map(|(slice, qos)| {
        let asked = qos.unwrap_or_default();
        let limited = asked.ceiling.is_some() || asked.pod_ceiling.is_some() || sharing.is_some();
        let want = Want {
            netns: format!("{ROUTER_PREFIX}{slice}"),
            qos: *qos,
            terms: Terms {
                ceiling: asked.ceiling,
                guarantee: asked.guarantee,
                priority: asked.priority,
            },
            shape: limited.then(|| shape(report, slice, &asked, sharing)),
            dscp: asked.dscp,
        };
        ((*slice).clone(), want)
    });
    Plan {
        uplink,
        sharing,
        wants: wants.collect(),
        overcommitted: uplink.and_then(|link| overcommitted(link, &guarantees)),
    }
}

fn shape(report: &Report, slice: &str, qos: &Qos, sharing: Option<Rate>) -> Shape {
    let nics = || report.nics.iter().filter(|((s, _), _)| s == slice);
    let pods = || nics().filter(|(_, nic)| !nic.gateway);
    let numbers = class_numbers(pods().map(|((_, uid), _)| uid.as_str()));
    let gateways = nics().filter(|(_, nic)| nic.gateway).map(|(_, nic)| nic.port.device.clone());
    let devices: BTreeSet<String> =
        gateways.chain(std::iter::once(VXLAN_DEVICE.to_owned())).collect();
    let most = match (qos.ceiling, sharing) {
        (Some(ceiling), Some(link)) => Some(ceiling.min(link)),
        (ceiling, link) => ceiling.or(link),
    };
    let limit = Limit::new(most, qos);
    let classes = pods().filter_map(|((_, uid), nic)| {
        Some((*numbers.get(uid.as_str())?, nic.port.addresses.clone()))
    });
    Shape {
        devices,
        leaving: limit,
        arriving: limit,
        pod_ceiling: qos.pod_ceiling,
        pods: classes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slicewire_core::name::SliceName;

    use super::*;
    use crate::plan::{NicWant, PortWant};
    use crate::report::RouterReport;
    use crate::world::{Slice, SliceEntry};

    const M: u64 = 1_000_000;

    fn qos(ceiling: u64, guarantee: u64) -> Option<Qos> {
        let some = |rate: u64| (rate > 0).then_some(Rate(rate * M));
        Some(Qos { ceiling: some(ceiling), guarantee: some(guarantee), ..Qos::default() })
    }

    fn node(slices: &[(&str, Option<Qos>)]) -> (Report, World) {
        let (mut report, mut world) = (Report::default(), World::default());
        for (slice, qos) in slices {
            report.routers.insert((*slice).to_owned(), RouterReport::new(None));
            for (n, gateway) in [(1, false), (2, false), (3, true)] {
                let uid = format!("{slice}-{n}");
                let port = PortWant {
                    device: format!("swp{uid}"),
                    addresses: [format!("10.0.0.{n}").parse().unwrap()].into(),
                };
                let nic = NicWant {
                    slice: (*slice).to_owned(),
                    uid: uid.clone(),
                    pod: ("a".into(), uid.clone()),
                    netns: "/x".into(),
                    nic: "slice0".into(),
                    port,
                    prefixes: vec![],
                    mtu: 1_400,
                    gateway,
                };
                report.nics.insert(((*slice).to_owned(), uid), Arc::new(nic));
            }
            let valid = Slice {
                name: SliceName::parse(slice).unwrap(),
                prefixes: vec![],
                families: BTreeSet::new(),
                remotes: BTreeMap::new(),
                cluster: slicewire_core::name::ClusterName::parse("east").unwrap(),
                policy: crate::world::SlicePolicy::default(),
                rules: vec![],
                vni: 1,
                mtu: 1_400,
                qos: *qos,
                balancing: crate::world::Balancing::default(),
            };
            let entry = SliceEntry { valid: Some(valid), deleting: false };
            world.slices.insert((*slice).to_owned(), entry);
        }
        (report, world)
    }

    fn planned(slices: &[(&str, Option<Qos>)], uplink: Option<Rate>) -> Plan {
        let (report, world) = node(slices);
        plan(&report, &world, uplink)
    }

    #[test]
    fn nothing_asked_for_is_nothing_shaped() {
        let plan = planned(&[("a", None), ("b", Some(Qos::default()))], Some(Rate(1_000 * M)));
        assert!(plan.sharing.is_none() && plan.wants.values().all(|w| w.shape.is_none()));
    }

    #[test]
    fn a_ceiling_is_kept_on_all_ways_and_pods_have_classes() {
        let plan = planned(&[("a", qos(100, 0)), ("b", None)], None);
        assert!(plan.wants["b"].shape.is_none());
        let shape = plan.wants["a"].shape.clone().unwrap();
        assert_eq!(shape.devices, ["swpa-3".to_owned(), VXLAN_DEVICE.to_owned()].into());
        assert_eq!((shape.leaving.rate, shape.pods.len()), (Rate(100 * M), 2));
    }

    #[test]
    fn whoever_shares_the_uplink_is_shaped() {
        let link = Rate(1_000 * M);
        let plan = planned(&[("a", qos(0, 100)), ("b", None)], Some(link));
        let usable = usable(link, 1_400);
        assert_eq!(plan.sharing, Some(usable));
        for want in plan.wants.values() {
            assert_eq!(want.shape.as_ref().unwrap().leaving.rate, usable);
        }
        assert!(planned(&[("a", qos(0, 100))], Some(link)).wants["a"].shape.is_none());
    }

    #[test]
    fn promises_beyond_the_uplink_are_told() {
        let plan = planned(&[("a", qos(0, 80)), ("b", qos(0, 40))], Some(Rate(100 * M)));
        assert!(plan.overcommitted.unwrap().contains("120M"));
        let plan = planned(&[("a", qos(0, 50)), ("b", qos(0, 40))], Some(Rate(100 * M)));
        assert_eq!(plan.overcommitted, None);
    }
}
