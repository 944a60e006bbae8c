//! What a node does with packets to virtual addresses, as plain values, and what changes it.

mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use parts::Parts;

use super::balance::{Balance, Here, balance};
use super::model::{Endpoint, Import, Kind, Protocol};
use crate::name::ClusterName;
use crate::prefix::Family;

/// A virtual address and port, or an endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// What becomes of packets to virtual addresses in a slice router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    /// Where new connections go. From a front without targets they are turned away at once.
    pub fronts: BTreeMap<Front, Balance>,
    /// Endpoints that still serve. Connections that were led to others are cut.
    pub live: BTreeSet<Front>,
    /// Addresses of the node's own pods: one may be led to itself.
    pub own: BTreeSet<IpAddr>,
}

impl Translation {
    /// One service's part of it, as a client's node sees it.
    pub fn of(
        import: &Import,
        addresses: &[IpAddr],
        endpoints: &BTreeMap<ClusterName, Vec<Endpoint>>,
        here: Here<'_>,
    ) -> Self {
        let mut one = Self::default();
        one.add(import, addresses, endpoints, here);
        one
    }

    fn add(
        &mut self,
        import: &Import,
        addresses: &[IpAddr],
        endpoints: &BTreeMap<ClusterName, Vec<Endpoint>>,
        here: Here<'_>,
    ) {
        if import.kind == Kind::Headless {
            return;
        }
        for address in addresses {
            let family = Family::of_addr(address);
            for port in &import.ports {
                let spread = balance(import, port, family, endpoints, here);
                let front = Front { address: *address, protocol: port.protocol, port: port.port };
                self.fronts.insert(front, spread);
            }
        }
        for endpoint in endpoints.values().flatten().filter(|e| e.ready || e.serving) {
            for ((protocol, _), port) in endpoint.ports.iter() {
                let front = |address: &IpAddr| Front {
                    address: *address,
                    protocol: *protocol,
                    port: *port,
                };
                self.live.extend(endpoint.addresses.iter().map(front));
            }
        }
    }

    /// Whether there is nothing to be led anywhere.
    pub fn is_empty(&self) -> bool {
        self.fronts.is_empty() && self.live.is_empty()
    }

    /// What makes what is there this one; `None` where nobody knows what is there.
    pub fn change(&self, before: Option<&Self>) -> TranslationDelta {
        match before {
            Some(before) if !before.is_empty() && !self.is_empty() => self.since(before),
            Some(before) if before.is_empty() && self.is_empty() => TranslationDelta::default(),
            _ => self.whole(),
        }
    }

    /// What makes `before` this one.
    fn since(&self, before: &Self) -> TranslationDelta {
        let other = |all: &BTreeMap<Front, Balance>, front: &Front, b: &Balance| {
            all.get(front).is_none_or(|there| there != b)
        };
        let only = |these: &BTreeMap<Front, Balance>, those: &BTreeMap<Front, Balance>| {
            let different = these.iter().filter(|(front, b)| other(those, front, b));
            different.map(|(front, b)| (*front, b.clone())).collect()
        };
        TranslationDelta {
            anew: false,
            set: only(&self.fronts, &before.fronts),
            were: only(&before.fronts, &self.fronts),
            born: self.live.difference(&before.live).copied().collect(),
            died: before.live.difference(&self.live).copied().collect(),
            came: self.own.difference(&before.own).copied().collect(),
            left: before.own.difference(&self.own).copied().collect(),
        }
    }

    /// All of it, whatever there was.
    fn whole(&self) -> TranslationDelta {
        TranslationDelta { anew: true, ..self.since(&Self::default()) }
    }
}

/// A change of a [`Translation`], carried out as a whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TranslationDelta {
    /// Whatever there was goes first.
    pub anew: bool,
    /// Fronts that are new or lead elsewhere.
    pub set: BTreeMap<Front, Balance>,
    /// What was there of these, and fronts that go.
    pub were: BTreeMap<Front, Balance>,
    /// Endpoints that serve from now on.
    pub born: BTreeSet<Front>,
    /// Endpoints that serve no more.
    pub died: BTreeSet<Front>,
    /// Own pods' addresses that are new.
    pub came: BTreeSet<IpAddr>,
    /// Own pods' addresses that go.
    pub left: BTreeSet<IpAddr>,
}

impl TranslationDelta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        !self.anew
            && self.set.is_empty()
            && self.were.is_empty()
            && self.born.is_empty()
            && self.died.is_empty()
            && self.came.is_empty()
            && self.left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Affinity, InternalTraffic, Port};
    use super::*;

    fn import() -> Import {
        Import {
            kind: Kind::ClusterSetIp,
            ports: vec![Port {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                app_protocol: None,
            }],
            affinity: Affinity::None,
            internal_traffic: InternalTraffic::Cluster,
            distribution: None,
            families: BTreeSet::from([Family::V4]),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            clusters: BTreeSet::from([west()]),
            weights: BTreeMap::new(),
        }
    }

    fn west() -> ClusterName {
        ClusterName::parse("west").unwrap()
    }

    fn endpoint(address: &str, ready: bool, serving: bool) -> Endpoint {
        Endpoint {
            addresses: vec![address.parse().unwrap()],
            ports: BTreeMap::from([((Protocol::Tcp, "http".into()), 8080)]).into(),
            ready,
            serving,
            terminating: !ready,
            ..Endpoint::default()
        }
    }

    fn translation(endpoints: Vec<Endpoint>) -> Translation {
        let reach = BTreeMap::new();
        let cluster = west();
        let spread = Default::default();
        let here = Here { cluster: &cluster, node: "n", zone: None, reach: &reach, spread };
        let vip = ["10.77.240.9".parse().unwrap()];
        Translation::of(&import(), &vip, &BTreeMap::from([(west(), endpoints)]), here)
    }

    #[test]
    fn an_endpoint_that_drains_keeps_its_connections_and_gets_no_new_ones() {
        let both =
            translation(vec![endpoint("10.77.0.5", true, true), endpoint("10.77.0.6", true, true)]);
        let drains = translation(vec![
            endpoint("10.77.0.5", true, true),
            endpoint("10.77.0.6", false, true),
        ]);
        let dead = translation(vec![endpoint("10.77.0.5", true, true)]);
        let delta = drains.change(Some(&both));
        assert_eq!((delta.set.len(), delta.were.len(), delta.died.len()), (1, 1, 0));
        let delta = dead.change(Some(&drains));
        assert_eq!((delta.set.len(), delta.died.len()), (0, 1));
        assert!(dead.change(Some(&dead)).is_empty());
    }

    #[test]
    fn a_service_without_endpoints_turns_clients_away() {
        let nobody = translation(vec![endpoint("10.77.0.5", false, false)]);
        assert!(nobody.fronts.values().all(|b| b.targets.is_empty()) && !nobody.is_empty());
        let (some, nothing) =
            (translation(vec![endpoint("10.77.0.5", true, true)]), Translation::default());
        let delta = nobody.change(Some(&some));
        assert_eq!((delta.set.len(), delta.were.len(), delta.died.len()), (1, 1, 1));
        let delta = nothing.change(Some(&some));
        assert!(delta.anew && delta.set.is_empty(), "nothing is left");
        assert!(nothing.change(Some(&nothing)).is_empty());
        for before in [None, Some(&nothing)] {
            let delta = some.change(before);
            assert!(delta.anew && delta.set.len() == 1);
        }
    }
}
