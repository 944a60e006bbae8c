//! Services as a node is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use slicewire_core::name::ClusterName;
use slicewire_core::prefix::Family;
use slicewire_core::service::balance::Here;
use slicewire_core::service::model::{
    Affinity, Endpoint, Import, InternalTraffic, Kind, Port, Protocol,
};
use slicewire_core::service::translate::Translation;

/// The port of every virtual address.
pub(crate) const PORT: u16 = 80;
/// The port of every endpoint.
pub(crate) const INNER: u16 = 8080;

/// A service's name; those of greater numbers come later.
pub(crate) fn name(number: u32) -> Arc<str> {
    format!("blue.shop.web-{number:05}").into()
}

/// A service's virtual address.
pub(crate) fn virtual_address(number: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 240, 0, 0)) + number).into()
}

/// An endpoint's address.
pub(crate) fn endpoint(service: u32, number: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 64, 0, 0)) + service * 32 + number).into()
}

/// What is told of services, and where.
pub(crate) struct World {
    cluster: ClusterName,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let cluster = ClusterName::parse("east").map_err(|_| anyhow!("no cluster's name"))?;
        Ok(Self { cluster })
    }

    /// A service's part, worked out from what is told of it: its endpoints by their numbers.
    pub(crate) fn part(&self, service: u32, endpoints: impl Iterator<Item = u32>) -> Translation {
        let endpoints = endpoints.map(|number| endpoint(service, number).into());
        let ports = BTreeMap::from([(PORT, INNER)]);
        self.lead(virtual_address(service).into(), &ports, endpoints.collect())
    }

    /// An address whose ports lead to others of endpoints.
    pub(crate) fn lead(
        &self,
        address: IpAddr,
        ports: &BTreeMap<u16, u16>,
        endpoints: Vec<IpAddr>,
    ) -> Translation {
        let name = |port: u16| format!("port-{port}");
        let inner = ports.iter().map(|(port, inner)| ((Protocol::Tcp, name(*port)), *inner));
        let inner: Arc<BTreeMap<_, _>> = Arc::new(inner.collect());
        let import = Import {
            kind: Kind::ClusterSetIp,
            ports: ports.keys().map(|port| tcp(*port, name(*port))).collect(),
            affinity: Affinity::None,
            internal_traffic: InternalTraffic::Cluster,
            distribution: None,
            families: BTreeSet::from([Family::of_addr(&address)]),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            clusters: BTreeSet::from([self.cluster.clone()]),
            weights: BTreeMap::new(),
        };
        let ready = |address| Endpoint {
            addresses: vec![address],
            ports: inner.clone(),
            ready: true,
            serving: true,
            ..Endpoint::default()
        };
        let endpoints = endpoints.into_iter().map(ready).collect();
        let endpoints = BTreeMap::from([(self.cluster.clone(), endpoints)]);
        let reach = BTreeMap::new();
        let spread = Default::default();
        let here =
            Here { cluster: &self.cluster, node: "east-1", zone: None, reach: &reach, spread };
        Translation::of(&import, &[address], &endpoints, here)
    }
}

fn tcp(port: u16, name: String) -> Port {
    Port { name, protocol: Protocol::Tcp, port, app_protocol: None }
}
