//! The rules of the network in memory.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use crate::model::{
    Address, Fdb, Hop, Link, LinkKind, Mac, Neighbour, NextHops, Route, State, Vxlan,
};
use crate::netns::NsId;
use crate::op::{LinkChange, LinkEnd, Op};
use crate::wireguard::WireguardDevice;

type Outcome = Result<(), Errno>;

/// One namespace.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) state: State,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) wireguard: BTreeMap<String, WireguardDevice>,
}

/// All namespaces.
#[derive(Debug)]
pub(super) struct World {
    pub(super) namespaces: BTreeMap<NsId, Space>,
    next_index: u32,
    /// The namespace that holds a VXLAN's socket, and what is on it, by the device's index.
    sockets: BTreeMap<u32, (NsId, Vxlan)>,
}

impl Default for World {
    fn default() -> Self {
        let mut world =
            Self { namespaces: BTreeMap::new(), next_index: 1, sockets: BTreeMap::new() };
        world.add_namespace(&NsId::Current);
        world
    }
}

impl World {
    pub(super) fn add_namespace(&mut self, id: &NsId) {
        if self.namespaces.contains_key(id) {
            return;
        }
        let mut space = Space::default();
        let end = LinkEnd { name: "lo".to_owned(), mtu: Some(65536), up: true, mac: None };
        space.state.links.insert(self.link(&end, LinkKind::Other(String::new())));
        self.namespaces.insert(id.clone(), space);
    }

    pub(super) fn remove_namespace(&mut self, id: &NsId) {
        let Some(space) = self.namespaces.get(id) else { return };
        let names: Vec<String> = space.state.links.iter().map(|link| link.name.clone()).collect();
        for name in names {
            self.delete_link(id, &name);
        }
        self.namespaces.remove(id);
    }

    pub(super) fn carry_out(&mut self, id: &NsId, op: &Op) -> Outcome {
        match op {
            Op::AddVeth { end, peer_ns, peer } => self.add_veth(id, end, peer_ns, peer),
            Op::AddVxlan { end, into, vxlan } => self.add_vxlan(id, end, into, vxlan),
            Op::AddWireguard { end } => self.add_wireguard(id, end),
            Op::SetLink { dev, change } => self.set_link(id, dev, change),
            Op::DeleteLink { dev } => {
                self.delete_link(id, dev);
                Ok(())
            }
            Op::AddFilterPlace { dev } => self.existing(id, dev)?.map(|_| ()).ok_or(Errno::ENODEV),
            _ => self.space(id)?.entry(op),
        }
    }

    fn space(&mut self, id: &NsId) -> Result<&mut Space, Errno> {
        self.namespaces.get_mut(id).ok_or(Errno::ENOENT)
    }

    fn link(&mut self, end: &LinkEnd, kind: LinkKind) -> Link {
        let index = self.next_index;
        self.next_index += 1;
        let [a, b, c, d] = index.to_be_bytes();
        Link {
            name: end.name.clone(),
            index,
            kind,
            alias: None,
            mac: Some(end.mac.unwrap_or(Mac([2, 0xfa, a, b, c, d]))),
            mtu: end.mtu.unwrap_or(1500),
            up: end.up,
            peer: None,
        }
    }

    fn existing(&mut self, id: &NsId, name: &str) -> Result<Option<Link>, Errno> {
        Ok(self.space(id)?.state.link(name).cloned())
    }

    fn add_veth(&mut self, id: &NsId, end: &LinkEnd, peer_ns: &NsId, peer: &LinkEnd) -> Outcome {
        match (self.existing(id, &end.name)?, self.existing(peer_ns, &peer.name)?) {
            (None, None) => {}
            (Some(here), Some(there)) if here.peer == Some(there.index) => return Ok(()),
            _ => return Err(Errno::EEXIST),
        }
        let mut here = self.link(end, LinkKind::Veth);
        let mut there = self.link(peer, LinkKind::Veth);
        (here.peer, there.peer) = (Some(there.index), Some(here.index));
        self.space(id)?.state.links.insert(here);
        self.space(peer_ns)?.state.links.insert(there);
        Ok(())
    }

    fn add_vxlan(&mut self, id: &NsId, end: &LinkEnd, into: &NsId, vxlan: &Vxlan) -> Outcome {
        let kind = LinkKind::Vxlan(vxlan.clone());
        if let Some(there) = self.existing(into, &end.name)? {
            return if there.kind == kind { Ok(()) } else { Err(Errno::EEXIST) };
        }
        let same = |(socket, other): &(NsId, Vxlan)| {
            socket == id && (other.vni, other.port) == (vxlan.vni, vxlan.port)
        };
        if self.sockets.values().any(same) {
            return Err(Errno::EEXIST);
        }
        let link = self.link(end, kind);
        self.sockets.insert(link.index, (id.clone(), vxlan.clone()));
        self.space(into)?.state.links.insert(link);
        Ok(())
    }

    fn add_wireguard(&mut self, id: &NsId, end: &LinkEnd) -> Outcome {
        if let Some(there) = self.existing(id, &end.name)? {
            return if there.kind == LinkKind::Wireguard { Ok(()) } else { Err(Errno::EEXIST) };
        }
        let link = Link { mac: None, ..self.link(end, LinkKind::Wireguard) };
        let device = WireguardDevice { public_key: None, listen_port: None, peers: Vec::new() };
        let space = self.space(id)?;
        space.state.links.insert(link);
        space.wireguard.insert(end.name.clone(), device);
        Ok(())
    }

    fn set_link(&mut self, id: &NsId, dev: &str, change: &LinkChange) -> Outcome {
        let mut link = self.existing(id, dev)?.ok_or(Errno::ENODEV)?;
        let (name, target) = (change.rename.as_deref(), change.move_to.as_ref());
        if (name.is_some_and(|name| name != dev) || target.is_some_and(|target| target != id))
            && self.existing(target.unwrap_or(id), name.unwrap_or(dev))?.is_some()
        {
            return Err(Errno::EEXIST);
        }
        let space = self.space(id)?;
        space.state.links.remove(&link);
        // The kernel takes a device down to move it.
        let up = if target.is_some() { Some(false) } else { change.up };
        if up == Some(false) {
            space.forget_routes(dev);
        }
        link.up = up.unwrap_or(link.up);
        link.mtu = change.mtu.unwrap_or(link.mtu);
        if change.mac.is_some_and(|mac| link.mac != Some(mac)) {
            space.state.neighbours.retain(|entry| entry.dev != dev);
        }
        link.mac = change.mac.or(link.mac);
        if let Some(alias) = &change.alias {
            link.alias = Some(alias.clone()).filter(|alias| !alias.is_empty());
        }
        match target {
            Some(_) => space.forget_entries(dev),
            None => space.rename_entries(dev, name.unwrap_or(dev)),
        }
        name.unwrap_or(dev).clone_into(&mut link.name);
        self.space(target.unwrap_or(id))?.state.links.insert(link);
        Ok(())
    }

    fn delete_link(&mut self, id: &NsId, dev: &str) {
        let Ok(Some(link)) = self.existing(id, dev) else { return };
        self.sockets.remove(&link.index);
        for space in self.namespaces.values_mut() {
            let doomed: Vec<Link> = space
                .state
                .links
                .iter()
                .filter(|other| other.index == link.index || link.peer == Some(other.index))
                .cloned()
                .collect();
            for link in doomed {
                space.state.links.remove(&link);
                space.wireguard.remove(&link.name);
                space.forget_routes(&link.name);
                space.forget_entries(&link.name);
            }
        }
    }
}

impl Space {
    fn require(&self, dev: &str) -> Result<&Link, Errno> {
        self.state.link(dev).ok_or(Errno::ENODEV)
    }

    /// An operation on anything but a device.
    fn entry(&mut self, op: &Op) -> Outcome {
        match op {
            Op::ReplaceAddress(address) => {
                self.require(&address.dev)?;
                self.state.addresses.insert(address.clone());
            }
            Op::DeleteAddress(address) => {
                self.state.addresses.remove(address);
            }
            Op::ReplaceRoute(route) => return self.replace_route(route),
            Op::DeleteRoute { table, dst } => {
                self.state.routes.retain(|r| (r.table, r.dst) != (*table, dst.trunc()));
            }
            Op::AddRule(rule) => {
                self.state.rules.insert(rule.clone());
            }
            Op::DeleteRule(rule) => {
                self.state.rules.remove(rule);
            }
            Op::ReplaceNeighbour(new) => {
                self.require(&new.dev)?;
                self.forget_neighbour(&new.dev, new.addr);
                self.state.neighbours.insert(new.clone());
            }
            Op::DeleteNeighbour { dev, addr } => self.forget_neighbour(dev, *addr),
            Op::ReplaceFdb(new) => {
                if !matches!(self.require(&new.dev)?.kind, LinkKind::Vxlan(_)) {
                    return Err(Errno::EOPNOTSUPP);
                }
                self.state.fdb.retain(|old| (&old.dev, old.mac) != (&new.dev, new.mac));
                self.state.fdb.insert(new.clone());
            }
            Op::DeleteFdb(entry) => {
                self.state.fdb.remove(entry);
            }
            Op::SetSysctl { key, value } => {
                self.sysctls.insert(key.clone(), value.clone());
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn replace_route(&mut self, route: &Route) -> Outcome {
        let hops: Vec<&Hop> = match &route.next {
            NextHops::Unreachable => Vec::new(),
            NextHops::One(hop) => vec![hop],
            NextHops::Multi(hops) if hops.is_empty() => return Err(Errno::EINVAL),
            NextHops::Multi(hops) => hops.iter().collect(),
        };
        for hop in hops {
            if !self.require(&hop.dev)?.up {
                return Err(Errno::ENETDOWN);
            }
        }
        self.state.routes.retain(|old| (old.table, old.dst) != (route.table, route.dst));
        self.state.routes.insert(route.clone());
        Ok(())
    }

    fn forget_neighbour(&mut self, dev: &str, addr: std::net::IpAddr) {
        self.state.neighbours.retain(|old| (old.dev.as_str(), old.addr) != (dev, addr));
    }

    /// A device that goes down takes its routes along.
    fn forget_routes(&mut self, dev: &str) {
        let routes = std::mem::take(&mut self.state.routes);
        self.state.routes = routes
            .into_iter()
            .filter_map(|route| {
                let next = match route.next {
                    NextHops::One(hop) if hop.dev == dev => return None,
                    NextHops::Multi(hops) => {
                        let left: Vec<Hop> = hops.into_iter().filter(|h| h.dev != dev).collect();
                        if left.is_empty() {
                            return None;
                        }
                        NextHops::balanced(left)
                    }
                    next => next,
                };
                Some(Route { next, ..route })
            })
            .collect();
    }

    /// A device that leaves takes its entries along; rules name devices and stay.
    fn forget_entries(&mut self, dev: &str) {
        self.state.addresses.retain(|entry| entry.dev != dev);
        self.state.neighbours.retain(|entry| entry.dev != dev);
        self.state.fdb.retain(|entry| entry.dev != dev);
    }

    fn rename_entries(&mut self, dev: &str, name: &str) {
        if dev == name {
            return;
        }
        let new = |old: String| if old == dev { name.to_owned() } else { old };
        let hop = |hop: Hop| Hop { dev: new(hop.dev), ..hop };
        let state = &mut self.state;
        replace(&mut state.addresses, |e: Address| Address { dev: new(e.dev), ..e });
        replace(&mut state.neighbours, |e: Neighbour| Neighbour { dev: new(e.dev), ..e });
        replace(&mut state.fdb, |e: Fdb| Fdb { dev: new(e.dev), ..e });
        replace(&mut state.routes, |route: Route| {
            let next = match route.next {
                NextHops::Unreachable => NextHops::Unreachable,
                NextHops::One(one) => NextHops::One(hop(one)),
                NextHops::Multi(hops) => NextHops::Multi(hops.into_iter().map(hop).collect()),
            };
            Route { next, ..route }
        });
    }
}

fn replace<T: Ord>(set: &mut BTreeSet<T>, change: impl Fn(T) -> T) {
    *set = std::mem::take(set).into_iter().map(change).collect();
}
