//! The ports: what everybody else may ask of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use slicewire_core::policy::Delta;
use slicewire_core::service::translate::TranslationDelta;

use crate::error::{Error, Errors};
use crate::model::{Address, Fdb, Link, Neighbour, Route, Rule, State};
use crate::netns::NsId;
use crate::nft::Count;
use crate::op::Op;
use crate::wireguard::{WireguardDevice, WireguardUpdate};

/// An open network namespace; cheap to clone. It keeps the namespace alive even when its last
/// process and mount are gone, so drop handles of pods when done with them.
pub type Ns = Arc<dyn Namespace>;

/// The packet rules of a network namespace; cheap to clone. They keep the namespace alive.
pub type Rules = Arc<dyn PacketRules>;

/// Changes and reads the packet rules of one network namespace, in tables of our own.
#[async_trait]
pub trait PacketRules: Send + Sync {
    /// Makes all changes of a delta, or none.
    ///
    /// # Errors
    /// The first change that the kernel refused. `NotFound` and `Conflict` say that the rules are
    /// not those the delta was made for: replace them, by [`Delta::whole`].
    async fn apply(&self, delta: Delta) -> Result<(), Error>;

    /// Changes what becomes of packets to virtual addresses: all of the delta, or nothing.
    ///
    /// # Errors
    /// The first change that the kernel refused. `NotFound` and `Conflict` say that things are not
    /// as the delta takes them to be: replace them, by a change from what nobody knows.
    async fn translate(&self, delta: TranslationDelta) -> Result<(), Error>;

    /// Counters of the table for IP packets, by name; none where there is no table.
    ///
    /// # Errors
    /// What the kernel said.
    async fn counters(&self) -> Result<BTreeMap<String, Count>, Error>;
}

/// Makes, opens and removes network namespaces.
#[async_trait]
pub trait Network: Send + Sync {
    /// Opens a namespace.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Denied` without the privilege to enter it.
    async fn open(&self, id: &NsId) -> Result<Ns, Error>;

    /// Makes the named namespace ([`NsId::named`]), its loopback up, and opens it; one that is
    /// there is only opened.
    ///
    /// # Errors
    /// `Denied` without CAP_SYS_ADMIN, and whatever mounting says.
    async fn create(&self, name: &str) -> Result<Ns, Error>;

    /// Removes a named namespace: its devices go with it as soon as no process and no handle is
    /// left in it. One that is gone is success.
    ///
    /// # Errors
    /// Whatever unmounting says.
    async fn delete(&self, name: &str) -> Result<(), Error>;

    /// Opens a namespace's packet rules.
    ///
    /// # Errors
    /// `NotFound` where there is no such namespace, `Denied` without the privilege to enter it.
    async fn rules(&self, id: &NsId) -> Result<Rules, Error>;

    /// Names of the named namespaces that begin with `prefix`.
    ///
    /// # Errors
    /// Where `/run/netns` cannot be read.
    async fn list(&self, prefix: &str) -> Result<BTreeSet<String>, Error>;

    /// Whether this kernel has WireGuard; tried once by making a device, then remembered.
    async fn wireguard_available(&self) -> bool;
}

/// What to do after an operation of a list failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Carry out the rest, return all errors.
    GoOn,
    /// Leave the rest, return the error.
    Stop,
}

/// Observes and changes one network namespace. Calls on one namespace are served one by one.
#[async_trait]
pub trait Namespace: Send + Sync {
    /// Which one it is.
    fn id(&self) -> &NsId;

    /// Carries out operations in order.
    ///
    /// # Errors
    /// Those the kernel refused; the others of the list are done as far as `on_error` says.
    async fn execute(&self, ops: Vec<Op>, on_error: OnError) -> Result<(), Errors>;

    /// All there is, at one time.
    ///
    /// # Errors
    /// What the kernel said to the first list it refused.
    async fn observe(&self) -> Result<State, Error>;

    /// Devices.
    ///
    /// # Errors
    /// What the kernel said.
    async fn links(&self) -> Result<BTreeSet<Link>, Error>;

    /// One device; none where there is none of that name.
    ///
    /// # Errors
    /// What the kernel said.
    async fn link(&self, dev: &str) -> Result<Option<Link>, Error>;

    /// Addresses of all devices.
    ///
    /// # Errors
    /// What the kernel said.
    async fn addresses(&self) -> Result<BTreeSet<Address>, Error>;

    /// Our routes, all tables, both families.
    ///
    /// # Errors
    /// What the kernel said.
    async fn routes(&self) -> Result<BTreeSet<Route>, Error>;

    /// Our rules, both families.
    ///
    /// # Errors
    /// What the kernel said.
    async fn rules(&self) -> Result<BTreeSet<Rule>, Error>;

    /// Permanent neighbours, both families.
    ///
    /// # Errors
    /// What the kernel said.
    async fn neighbours(&self) -> Result<BTreeSet<Neighbour>, Error>;

    /// VXLAN forwarding entries that have a destination.
    ///
    /// # Errors
    /// What the kernel said.
    async fn fdb(&self) -> Result<BTreeSet<Fdb>, Error>;

    /// A setting below `/proc/sys/net` of this namespace, without the line's end.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    async fn sysctl(&self, key: &str) -> Result<String, Error>;

    /// State of a WireGuard device of the kernel.
    ///
    /// # Errors
    /// `NoSuchDevice`, `Unsupported`.
    async fn wireguard(&self, dev: &str) -> Result<WireguardDevice, Error>;

    /// Changes a WireGuard device of the kernel; sessions of peers that stay are kept.
    ///
    /// # Errors
    /// `NoSuchDevice`, `Unsupported`.
    async fn set_wireguard(&self, dev: &str, update: WireguardUpdate) -> Result<(), Error>;

    /// [`Namespace::execute`], going on after errors: for reconciling.
    ///
    /// # Errors
    /// Every operation that was refused.
    async fn apply(&self, ops: Vec<Op>) -> Result<(), Errors> {
        self.execute(ops, OnError::GoOn).await
    }

    /// [`Namespace::execute`], stopping at the first error: where later operations announce that
    /// earlier ones are done.
    ///
    /// # Errors
    /// The operation that was refused.
    async fn sequence(&self, ops: Vec<Op>) -> Result<(), Errors> {
        self.execute(ops, OnError::Stop).await
    }
}
