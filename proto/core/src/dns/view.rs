//! What a node knows of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::name::{SliceName, fnv1a};
use crate::service::balance::Here;
use crate::service::model::{Endpoint, Import, Kind, Numbers, Port, ServiceName};
use crate::service::spec::is_label;

/// A service as it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// It is exported: it has a name below `clusterset.local`, too.
    pub exported: bool,
    /// How it is reached.
    pub kind: Kind,
    /// Its virtual addresses; none when it is headless.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The pods a client may use, of a headless service; in the order of their clusters and names.
    pub hosts: Vec<Host>,
}

/// A pod with a name below its service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// Its cluster: a DNS label.
    pub cluster: String,
    /// Its own name: a DNS label.
    pub name: String,
    /// Its slice addresses.
    pub addresses: Vec<IpAddr>,
    /// The numbers of the service's ports on it.
    pub ports: Numbers,
    /// It is in the client's cluster.
    pub near: bool,
    /// How often it comes first among those as near as it; never 0.
    pub weight: u16,
}

impl Service {
    /// A service as it is named on a node: of a headless one's endpoints, those that are ready, in
    /// clusters that the node can reach.
    pub fn of(
        import: &Import,
        exported: bool,
        addresses: &[IpAddr],
        endpoints: &BTreeMap<crate::name::ClusterName, Vec<Endpoint>>,
        here: Here<'_>,
    ) -> Self {
        let mut hosts = Vec::new();
        let listed = endpoints.iter().filter(|_| import.kind == Kind::Headless);
        for (cluster, all) in listed.filter(|(cluster, _)| import.clusters.contains(*cluster)) {
            let weight = here.weight(import, cluster);
            for endpoint in all.iter().filter(|e| e.ready && weight > 0) {
                let Some(name) = endpoint.host().filter(|name| is_label(name)) else { continue };
                hosts.push(Host {
                    cluster: cluster.to_string(),
                    name,
                    addresses: endpoint.addresses.clone(),
                    ports: endpoint.ports.clone(),
                    near: cluster == here.cluster,
                    weight,
                });
            }
        }
        hosts.sort();
        let virtual_ones = import.kind == Kind::ClusterSetIp;
        let addresses = addresses.iter().copied().filter(|_| virtual_ones).collect();
        Self { exported, kind: import.kind, addresses, ports: import.ports.clone(), hosts }
    }

    fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(self.hosts.iter().flat_map(|h| &h.addresses)).copied()
    }
}

#[derive(Debug, Clone, Default)]
struct Slice {
    prefixes: Vec<IpNet>,
    /// By namespace.
    services: BTreeMap<String, Named>,
}

/// Services by their names. A number made of the name comes first: numbers are compared where they are
/// in the map, names somewhere else in memory each, and finding the service is most of an answer.
#[derive(Debug, Clone, Default)]
struct Named(BTreeMap<(u64, String), Service>);

impl Named {
    fn get(&self, name: &str) -> Option<&Service> {
        self.0.get(&Self::key(name))
    }

    fn set(&mut self, name: &str, service: Option<Service>) -> Option<Service> {
        match service {
            Some(new) => self.0.insert(Self::key(name), new),
            None => self.0.remove(&Self::key(name)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &Service)> {
        self.0.iter().map(|((_, name), service)| (name.as_str(), service))
    }

    fn key(name: &str) -> (u64, String) {
        (fnv1a(&[name]), name.to_owned())
    }
}

type Owner = Arc<(SliceName, ServiceName)>;

/// Everything a node can answer from. Changes are made one by one and cost what changes.
#[derive(Debug, Clone, Default)]
pub struct View {
    slices: BTreeMap<SliceName, Slice>,
    /// Whose an address is, in the order of slices and services; most have one owner, and many
    /// addresses the same.
    owners: BTreeMap<IpAddr, Vec<Owner>>,
    servers: Vec<IpAddr>,
    serial: u32,
}

impl View {
    /// Where this node's DNS server can be reached: the addresses of `ns.dns.<zone>`.
    pub fn set_servers(&mut self, servers: Vec<IpAddr>) {
        self.servers = servers;
        self.serial = self.serial.wrapping_add(1);
    }

    /// Adds a slice, or changes its prefixes; the services it has stay.
    pub fn set_slice(&mut self, slice: &SliceName, prefixes: &[IpNet]) {
        self.slices.entry(slice.clone()).or_default().prefixes = prefixes.to_vec();
        self.serial = self.serial.wrapping_add(1);
    }

    /// Forgets a slice and its services.
    pub fn remove_slice(&mut self, slice: &SliceName) {
        let Some(gone) = self.slices.remove(slice) else { return };
        for (namespace, services) in &gone.services {
            for (name, service) in services.iter() {
                self.disown(slice, &ServiceName::new(namespace, name), service);
            }
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// Adds or changes a service of a slice, or removes it. Slices that are not there have none.
    pub fn set(&mut self, slice: &SliceName, name: &ServiceName, service: Option<Service>) {
        let Some(entry) = self.slices.get_mut(slice) else { return };
        let services = entry.services.entry(name.namespace.clone()).or_default();
        let changes = services.get(&name.name) != service.as_ref();
        let addresses: Vec<IpAddr> = service.iter().flat_map(Service::all_addresses).collect();
        let old = services.set(&name.name, service);
        if services.0.is_empty() {
            entry.services.remove(&name.namespace);
        }
        if let Some(old) = &old {
            self.disown(slice, name, old);
        }
        self.own(slice, name, &addresses);
        if changes {
            self.serial = self.serial.wrapping_add(1);
        }
    }

    fn own(&mut self, slice: &SliceName, name: &ServiceName, addresses: &[IpAddr]) {
        let owner = Owner::new((slice.clone(), name.clone()));
        for address in addresses {
            let owners = self.owners.entry(*address).or_default();
            if let Err(at) = owners.binary_search(&owner) {
                owners.reserve_exact(1);
                owners.insert(at, owner.clone());
            }
        }
    }

    fn disown(&mut self, slice: &SliceName, name: &ServiceName, service: &Service) {
        for address in service.all_addresses() {
            if let Some(owners) = self.owners.get_mut(&address) {
                owners.retain(|owner| (&owner.0, &owner.1) != (slice, name));
                if owners.is_empty() {
                    self.owners.remove(&address);
                }
            }
        }
    }

    /// Changes with every change of anything: the serial of the zones.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    pub(super) fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// The slices of a scope, with a service of this name.
    pub(super) fn find<'v>(
        &'v self,
        scope: Scope<'v>,
        namespace: &str,
        name: &str,
    ) -> Vec<&'v Service> {
        let of = |slice: &'v Slice| slice.services.get(namespace)?.get(name);
        self.scope(scope).filter_map(of).filter(|s| s.exported || !scope.exported).collect()
    }

    /// Whether a namespace has a service in a scope.
    pub(super) fn has_namespace(&self, scope: Scope<'_>, namespace: &str) -> bool {
        self.scope(scope).any(|slice| {
            let mut services = slice.services.get(namespace).into_iter().flat_map(Named::iter);
            services.any(|(_, s)| s.exported || !scope.exported)
        })
    }

    pub(super) fn has_slice(&self, scope: Scope<'_>) -> bool {
        self.scope(scope).next().is_some()
    }

    fn scope<'v>(&'v self, scope: Scope<'v>) -> impl Iterator<Item = &'v Slice> {
        let member = move |slice: &SliceName| scope.slices.is_none_or(|s| s.contains(slice));
        let named = move |slice: &SliceName| scope.slice.is_none_or(|s| s == slice.as_str());
        self.slices.iter().filter(move |(n, _)| member(n) && named(n)).map(|(_, slice)| slice)
    }

    /// The longest prefix of any slice that holds all of `net`.
    pub(super) fn prefix_of(&self, net: &IpNet) -> Option<IpNet> {
        let all = self.slices.values().flat_map(|s| &s.prefixes);
        all.copied().filter(|p| p.contains(net)).max_by_key(IpNet::prefix_len)
    }

    /// Whose address it is: the first service by name in each of the asker's slices.
    pub(super) fn owners<'v>(
        &'v self,
        address: &IpAddr,
        slices: Option<&'v BTreeSet<SliceName>>,
    ) -> impl Iterator<Item = (&'v SliceName, &'v ServiceName, &'v Service)> {
        let owners = self.owners.get(address).into_iter().flatten();
        let owners = owners.map(|owner| (&owner.0, &owner.1));
        let mut last = None;
        let first = owners.filter(move |(slice, _)| last.replace(*slice) != Some(*slice));
        let member = move |slice: &SliceName| slices.is_none_or(|s| s.contains(slice));
        first.filter(move |(slice, _)| member(slice)).filter_map(|(slice, name)| {
            let services = self.slices.get(slice)?.services.get(&name.namespace)?;
            Some((slice, name, services.get(&name.name)?))
        })
    }
}

/// Which services a name can mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The asker's slices; `None` when nobody knows who asks: all.
    pub(super) slices: Option<&'a BTreeSet<SliceName>>,
    /// The slice that the name names.
    pub(super) slice: Option<&'a str>,
    /// Only services that are exported.
    pub(super) exported: bool,
}
