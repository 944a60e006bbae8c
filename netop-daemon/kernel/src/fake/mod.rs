//! A network in memory that keeps the kernel's rules, for testing planners against their laws.
//!
//! Devices go with their pair, entries go with their device, routes want a device that is up.
//! Packets do not move here; that is for the tests in real namespaces.

mod rules;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use nix::errno::Errno;
use slicewire_core::policy::Ruleset;
use slicewire_core::service::translate::Translation;

use crate::error::{Error, Errors};
use crate::model::{Address, Fdb, Link, Neighbour, Route, Rule, State};
use crate::netns::NsId;
use crate::op::Op;
use crate::port::{Namespace, Network, Ns, OnError, Rules};
use crate::wireguard::{WireguardDevice, WireguardPeerState, WireguardUpdate};
use rules::FakeRules;
use world::World;

type Fault = Box<dyn FnMut(&NsId, &Op) -> Option<Errno> + Send>;

/// The network in memory; clones are the same network. [`NsId::Current`] exists from the start.
#[derive(Clone, Default)]
pub struct FakeNetwork {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    world: World,
    fault: Option<Fault>,
    done: Vec<(NsId, Op)>,
    wireguard: bool,
    rules: BTreeMap<NsId, Ruleset>,
    translations: BTreeMap<NsId, Translation>,
}

impl fmt::Debug for FakeNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeNetwork").field("world", &self.lock().world).finish()
    }
}

impl FakeNetwork {
    /// An empty network without WireGuard.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a namespace that is not a named one: a pod's.
    pub fn add_namespace(&self, id: &NsId) {
        self.lock().world.add_namespace(id);
    }

    /// Removes a namespace and all devices in it, as the end of a pod does.
    pub fn remove_namespace(&self, id: &NsId) {
        let mut shared = self.lock();
        shared.world.remove_namespace(id);
        shared.rules.remove(id);
        shared.translations.remove(id);
    }

    /// The packet rules of a namespace; none where none have been made.
    pub fn ruleset(&self, id: &NsId) -> Option<Ruleset> {
        self.lock().rules.get(id).cloned()
    }

    /// What becomes of packets to virtual addresses in a namespace; none where nobody said.
    pub fn translation(&self, id: &NsId) -> Option<Translation> {
        self.lock().translations.get(id).cloned()
    }

    /// Takes the packet rules of a namespace away, as somebody else might.
    pub fn flush_rules(&self, id: &NsId) {
        let mut shared = self.lock();
        shared.rules.remove(id);
        shared.translations.remove(id);
    }

    /// Whether this kernel has WireGuard.
    pub fn set_wireguard(&self, available: bool) {
        self.lock().wireguard = available;
    }

    /// What is in a namespace; none: there is no such namespace.
    pub fn state(&self, id: &NsId) -> Option<State> {
        self.lock().world.namespaces.get(id).map(|ns| ns.state.clone())
    }

    /// Asked before every operation; an error number makes it fail and do nothing.
    pub fn fail_where(&self, fault: impl FnMut(&NsId, &Op) -> Option<Errno> + Send + 'static) {
        self.lock().fault = Some(Box::new(fault));
    }

    /// The next `count` operations succeed, all after them fail: a crash in the middle of a plan.
    pub fn fail_after(&self, count: usize, errno: Errno) {
        let mut left = count;
        self.fail_where(move |_, _| match left.checked_sub(1) {
            Some(fewer) => {
                left = fewer;
                None
            }
            None => Some(errno),
        });
    }

    /// No more injected errors.
    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// The operations that were carried out since the last call, in order.
    pub fn take_done(&self) -> Vec<(NsId, Op)> {
        std::mem::take(&mut self.lock().done)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn carry_out(&mut self, id: &NsId, op: &Op) -> Result<(), Error> {
        let refused = self.fault.as_mut().and_then(|fault| fault(id, op));
        let done = match (refused, op) {
            (Some(errno), _) => Err(errno),
            (None, Op::AddWireguard { .. }) if !self.wireguard => Err(Errno::EOPNOTSUPP),
            (None, _) => self.world.carry_out(id, op),
        };
        done.map_err(|errno| Error::new(op.operation(), op.object(), id, errno.into()))?;
        self.done.push((id.clone(), op.clone()));
        Ok(())
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn open(&self, id: &NsId) -> Result<Ns, Error> {
        if !self.lock().world.namespaces.contains_key(id) {
            let missing = Errno::ENOENT.into();
            return Err(Error::new("open", "network namespace", id, missing));
        }
        Ok(Arc::new(FakeNs { id: id.clone(), network: self.clone() }))
    }

    async fn create(&self, name: &str) -> Result<Ns, Error> {
        let id = NsId::named(name);
        self.add_namespace(&id);
        self.open(&id).await
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.remove_namespace(&NsId::named(name));
        Ok(())
    }

    async fn rules(&self, id: &NsId) -> Result<Rules, Error> {
        self.open(id).await?;
        Ok(Arc::new(FakeRules { id: id.clone(), network: self.clone() }))
    }

    async fn list(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let shared = self.lock();
        let names = shared.world.namespaces.keys().filter_map(|id| match id {
            NsId::Path(path) => {
                let name = path.file_name()?.to_str()?;
                (NsId::named(name) == *id && name.starts_with(prefix)).then(|| name.to_owned())
            }
            NsId::Current => None,
        });
        Ok(names.collect())
    }

    async fn wireguard_available(&self) -> bool {
        self.lock().wireguard
    }
}

struct FakeNs {
    id: NsId,
    network: FakeNetwork,
}

impl FakeNs {
    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Error> {
        let shared = self.network.lock();
        match shared.world.namespaces.get(&self.id) {
            Some(ns) => Ok(read(&ns.state)),
            None => Err(self.error("list", "everything", Errno::ENOENT)),
        }
    }

    fn error(&self, operation: &'static str, object: &str, errno: Errno) -> Error {
        Error::new(operation, object, &self.id, errno.into())
    }

    fn with_wireguard<T>(
        &self,
        dev: &str,
        work: impl FnOnce(&mut WireguardDevice) -> T,
    ) -> Result<T, Error> {
        let mut shared = self.network.lock();
        let ns = shared.world.namespaces.get_mut(&self.id);
        let device = ns.and_then(|ns| ns.wireguard.get_mut(dev));
        device.map(work).ok_or_else(|| self.error("use wireguard", dev, Errno::ENODEV))
    }
}

#[async_trait]
impl Namespace for FakeNs {
    fn id(&self) -> &NsId {
        &self.id
    }

    async fn execute(&self, ops: Vec<Op>, on_error: OnError) -> Result<(), Errors> {
        let mut shared = self.network.lock();
        let mut errors = Vec::new();
        for op in &ops {
            errors.extend(shared.carry_out(&self.id, op).err());
            if on_error == OnError::Stop && !errors.is_empty() {
                break;
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Errors(errors)) }
    }

    async fn observe(&self) -> Result<State, Error> {
        self.read(State::clone)
    }

    async fn links(&self) -> Result<BTreeSet<Link>, Error> {
        self.read(|state| state.links.clone())
    }

    async fn link(&self, dev: &str) -> Result<Option<Link>, Error> {
        self.read(|state| state.link(dev).cloned())
    }

    async fn addresses(&self) -> Result<BTreeSet<Address>, Error> {
        self.read(|state| state.addresses.clone())
    }

    async fn routes(&self) -> Result<BTreeSet<Route>, Error> {
        self.read(|state| state.routes.clone())
    }

    async fn rules(&self) -> Result<BTreeSet<Rule>, Error> {
        self.read(|state| state.rules.clone())
    }

    async fn neighbours(&self) -> Result<BTreeSet<Neighbour>, Error> {
        self.read(|state| state.neighbours.clone())
    }

    async fn fdb(&self) -> Result<BTreeSet<Fdb>, Error> {
        self.read(|state| state.fdb.clone())
    }

    async fn sysctl(&self, key: &str) -> Result<String, Error> {
        let shared = self.network.lock();
        let ns = shared.world.namespaces.get(&self.id);
        let value = ns.and_then(|ns| ns.sysctls.get(key)).cloned();
        value.ok_or_else(|| self.error("read sysctl", key, Errno::ENOENT))
    }

    async fn wireguard(&self, dev: &str) -> Result<WireguardDevice, Error> {
        self.with_wireguard(dev, |device| device.clone())
    }

    async fn set_wireguard(&self, dev: &str, update: WireguardUpdate) -> Result<(), Error> {
        self.with_wireguard(dev, |device| {
            let mut peers: BTreeMap<_, _> =
                device.peers.drain(..).map(|state| (state.peer.public_key, state)).collect();
            for key in &update.remove_peers {
                peers.remove(key);
            }
            for peer in update.set_peers {
                let new = WireguardPeerState {
                    peer: peer.clone(),
                    last_handshake: None,
                    rx_bytes: 0,
                    tx_bytes: 0,
                };
                peers.entry(new.peer.public_key).or_insert(new).peer = peer;
            }
            device.peers = peers.into_values().collect();
            device.listen_port = update.listen_port.or(device.listen_port);
        })
    }
}

#[cfg(test)]
mod tests;
