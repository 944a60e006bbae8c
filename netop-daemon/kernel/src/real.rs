//! The running kernel.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::OnceCell;

use crate::error::{Error, Errors};
use crate::model::{Address, Fdb, Link, Neighbour, Route, Rule, State};
use crate::netns::{self, NsId};
use crate::nft::Filter;
use crate::op::{LinkChange, LinkEnd, Op};
use crate::port::{Namespace, Network, Ns, OnError, Rules};
use crate::sysctl;
use crate::visit::{Opened, Visit};
use crate::wireguard::{self, WireguardDevice, WireguardUpdate};

/// The network of the kernel we run on. Each handle it opens has a netlink connection of its own.
#[derive(Debug, Default)]
pub struct Kernel {
    wireguard: OnceCell<bool>,
}

impl Kernel {
    /// The running kernel.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Network for Kernel {
    async fn open(&self, id: &NsId) -> Result<Ns, Error> {
        let wanted = id.clone();
        let opened = blocking(move || RealNs::open(wanted)).await;
        opened
            .map(|ns| Arc::new(ns) as Ns)
            .map_err(|error| Error::new("open", "network namespace", id, error))
    }

    async fn create(&self, name: &str) -> Result<Ns, Error> {
        let id = NsId::named(name);
        let (wanted, name) = (id.clone(), name.to_owned());
        let made = blocking(move || {
            let made = netns::create(&name)?;
            let ns = RealNs::open(wanted)?;
            if made {
                let change = LinkChange::up(true);
                ns.visit()?.carry_out(&Op::SetLink { dev: "lo".to_owned(), change })?;
            }
            Ok(ns)
        });
        made.await
            .map(|ns| Arc::new(ns) as Ns)
            .map_err(|error| Error::new("create", "network namespace", &id, error))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        let wanted = name.to_owned();
        let deleted = blocking(move || netns::delete(&wanted)).await;
        deleted
            .map(|_| ())
            .map_err(|error| Error::new("delete", "network namespace", NsId::named(name), error))
    }

    async fn rules(&self, id: &NsId) -> Result<Rules, Error> {
        Ok(Arc::new(Filter::open(id).await?))
    }

    async fn list(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let wanted = prefix.to_owned();
        let listed = blocking(move || netns::list(&wanted)).await;
        listed.map_err(|error| {
            Error::new("list", "network namespaces", NsId::named(&format!("{prefix}*")), error)
        })
    }

    async fn wireguard_available(&self) -> bool {
        *self.wireguard.get_or_init(|| async { blocking(try_wireguard).await.is_ok() }).await
    }
}

/// Makes and removes a WireGuard device in the current namespace; there is no other way to know
/// without privileges over modules.
fn try_wireguard() -> io::Result<()> {
    let ns = RealNs::open(NsId::Current)?;
    let name = format!("swtry{}", std::process::id());
    ns.visit()?.carry_out(&Op::AddWireguard { end: LinkEnd::new(&name) })?;
    ns.visit()?.carry_out(&Op::DeleteLink { dev: name })
}

/// Runs what may block: the kernel's network lock is held for long by others, at times.
///
/// On a runtime of several threads the caller's thread does it, and its other tasks go to another
/// one: attaching a pod asks the kernel a dozen times, and waiting for a thread each time took
/// longer, on a busy node, than the kernel's answers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return tokio::task::block_in_place(work);
    }
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the runtime is shutting down")))
}

#[derive(Debug)]
struct RealNs {
    id: NsId,
    inner: Arc<Opened>,
}

impl RealNs {
    fn open(id: NsId) -> io::Result<Self> {
        let inner = Arc::new(Opened::open(&id)?);
        Ok(Self { id, inner })
    }

    fn visit(&self) -> io::Result<Visit<'_>> {
        self.inner.visit()
    }

    async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        object: &str,
        work: impl FnOnce(&Opened) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        let answer = blocking(move || work(&inner)).await;
        answer.map_err(|error| Error::new(operation, object, &self.id, error))
    }

    async fn list<T: Send + 'static>(
        &self,
        object: &str,
        list: impl FnOnce(&mut Visit<'_>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.ask("list", object, move |inner| list(&mut inner.visit()?)).await
    }
}

#[async_trait]
impl Namespace for RealNs {
    fn id(&self) -> &NsId {
        &self.id
    }

    async fn execute(&self, ops: Vec<Op>, on_error: OnError) -> Result<(), Errors> {
        let (inner, id) = (self.inner.clone(), self.id.clone());
        let done = blocking(move || Ok(inner.visit()?.carry_out_all(&id, &ops, on_error))).await;
        let errors = done.map_err(|error| Error::new("change", "it", &self.id, error))?;
        if errors.is_empty() { Ok(()) } else { Err(Errors(errors)) }
    }

    async fn observe(&self) -> Result<State, Error> {
        self.list("everything", |visit| visit.observe()).await
    }

    async fn links(&self) -> Result<BTreeSet<Link>, Error> {
        self.list("links", |visit| visit.links()).await
    }

    async fn link(&self, dev: &str) -> Result<Option<Link>, Error> {
        let wanted = dev.to_owned();
        self.ask("read", dev, move |inner| inner.visit()?.find(&wanted)).await
    }

    async fn addresses(&self) -> Result<BTreeSet<Address>, Error> {
        self.list("addresses", |visit| {
            let names = visit.names()?;
            visit.addresses(&names)
        })
        .await
    }

    async fn routes(&self) -> Result<BTreeSet<Route>, Error> {
        self.list("routes", |visit| {
            let names = visit.names()?;
            visit.routes(&names)
        })
        .await
    }

    async fn rules(&self) -> Result<BTreeSet<Rule>, Error> {
        self.list("rules", |visit| visit.rules()).await
    }

    async fn neighbours(&self) -> Result<BTreeSet<Neighbour>, Error> {
        self.list("neighbours", |visit| {
            let names = visit.names()?;
            visit.neighbours(&names)
        })
        .await
    }

    async fn fdb(&self) -> Result<BTreeSet<Fdb>, Error> {
        self.list("forwarding entries", |visit| {
            let names = visit.names()?;
            visit.fdb(&names)
        })
        .await
    }

    async fn sysctl(&self, key: &str) -> Result<String, Error> {
        let wanted = key.to_owned();
        self.ask("read sysctl", key, move |inner| inner.inside(|| sysctl::read(&wanted))).await
    }

    async fn wireguard(&self, dev: &str) -> Result<WireguardDevice, Error> {
        let wanted = dev.to_owned();
        self.ask("read wireguard", dev, move |inner| {
            inner.visit()?.index(&wanted)?;
            inner.inside(|| wireguard::get(&wanted))
        })
        .await
    }

    async fn set_wireguard(&self, dev: &str, update: WireguardUpdate) -> Result<(), Error> {
        let wanted = dev.to_owned();
        self.ask("change wireguard", dev, move |inner| {
            inner.visit()?.index(&wanted)?;
            inner.inside(|| wireguard::set(&wanted, update))
        })
        .await
    }
}
