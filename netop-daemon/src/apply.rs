//! Carries plans out in the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use slicewire_kernel::{Errors, Link, LinkKind, Network, Ns, NsId, Op, State};

use crate::plan::{At, NicWant, RouterWant, Settings, Step, nic, router};

/// Why a NIC or a router is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] Errors),
    /// The pod has such a device already.
    #[error(transparent)]
    NameTaken(#[from] nic::NameTaken),
}

impl ApplyError {
    /// One stable word for conditions, events and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Kernel(errors) => errors.reason(),
            Self::NameTaken(_) => nic::NameTaken::reason(),
        }
    }
}

impl From<slicewire_kernel::Error> for ApplyError {
    fn from(error: slicewire_kernel::Error) -> Self {
        Self::Kernel(error.into())
    }
}

/// The kernel, with the namespaces that stay open.
pub(crate) struct Applier {
    network: Arc<dyn Network>,
    host: Ns,
    routers: BTreeMap<String, Ns>,
}

impl Applier {
    /// Opens the node's own namespace.
    pub(crate) async fn new(network: Arc<dyn Network>) -> Result<Self, ApplyError> {
        let host = network.open(&NsId::Current).await?;
        Ok(Self { network, host, routers: BTreeMap::new() })
    }

    /// Where everything is made.
    pub(crate) fn network(&self) -> &dyn Network {
        &*self.network
    }

    /// Names of the namespaces of slice routers that there are.
    pub(crate) async fn routers(&self) -> Result<Vec<String>, ApplyError> {
        Ok(self.network.list(ROUTER_PREFIX).await?.into_iter().collect())
    }

    /// A router's namespace, made if need be.
    pub(crate) async fn router(&mut self, netns: &str) -> Result<Ns, ApplyError> {
        if let Some(ns) = self.routers.get(netns) {
            return Ok(ns.clone());
        }
        let ns = self.network.create(netns).await?;
        self.routers.insert(netns.to_owned(), ns.clone());
        Ok(ns)
    }

    /// Forgets namespaces that somebody else has removed, so that they are made anew.
    pub(crate) async fn forget_lost(&mut self) -> Result<(), ApplyError> {
        let there = self.network.list(ROUTER_PREFIX).await?;
        self.routers.retain(|name, _| there.contains(name));
        Ok(())
    }

    /// Makes a router right; returns what it was like before, and what could not be done.
    pub(crate) async fn converge_router(
        &mut self,
        want: &RouterWant,
    ) -> Result<(State, Option<ApplyError>), ApplyError> {
        let ns = self.router(&want.netns).await?;
        let state = ns.observe().await?;
        let settings = settings(&ns, &want.settings()).await;
        let plan = router::plan(want, &state, &settings);
        let mut errors = Vec::new();
        for step in plan {
            tracing::debug!(router = want.netns, ops = ?step.ops, "converging");
            let ns = if step.at == At::Host { &self.host } else { &ns };
            if let Err(mut e) = ns.apply(step.ops).await {
                errors.append(&mut e.0);
            }
        }
        let failed = (!errors.is_empty()).then(|| Errors(errors).into());
        Ok((state, failed))
    }

    /// Gives a pod its NIC, or makes it right. `router` is what the router was observed to be.
    pub(crate) async fn converge_nic(
        &mut self,
        want: &NicWant,
        netns: &str,
        router: &State,
    ) -> Result<(), ApplyError> {
        let pod = self.network.open(&NsId::path(&want.netns)).await?;
        let mut wanted = want.pod_settings();
        // Of a pod without its NIC nothing else is of interest, and pods wait for theirs.
        let state = if pod.link(&want.nic).await?.is_some() {
            wanted.extend(want.nic_settings());
            pod.observe().await?
        } else {
            State::default()
        };
        let settings = settings(&pod, &wanted).await;
        let plan = nic::plan(want, router, &state, &settings)?;
        let router = self.router(netns).await?;
        for Step { at, ops } in plan {
            tracing::debug!(pod = ?want.pod, ?at, ?ops, "attaching");
            let ns = match at {
                At::Host => &self.host,
                At::Router => &router,
                At::Pod => &pod,
            };
            ns.sequence(ops).await?;
        }
        Ok(())
    }

    /// Removes all ports of a router: pods leave, the router stays for those that may follow.
    pub(crate) async fn remove_ports(&mut self, netns: &str) -> Result<(), ApplyError> {
        self.delete_links(netns, |link| link.kind == LinkKind::Veth).await.map(drop)
    }

    /// One of a router's devices, as all that is known of the router.
    pub(crate) async fn router_port(
        &mut self,
        netns: &str,
        dev: &str,
    ) -> Result<State, ApplyError> {
        let links = self.router(netns).await?.link(dev).await?.into_iter().collect();
        Ok(State { links, ..State::default() })
    }

    /// What a router holds.
    pub(crate) async fn observe_router(&mut self, netns: &str) -> Result<State, ApplyError> {
        Ok(self.router(netns).await?.observe().await?)
    }

    async fn delete_links(
        &mut self,
        netns: &str,
        which: impl Fn(&Link) -> bool,
    ) -> Result<(), ApplyError> {
        let ns = self.router(netns).await?;
        let links = ns.links().await?;
        let delete: Vec<Op> = links
            .iter()
            .filter(|l| which(l))
            .map(|l| Op::DeleteLink { dev: l.name.clone() })
            .collect();
        if delete.is_empty() {
            return Ok(());
        }
        Ok(ns.apply(delete).await?)
    }

    /// Removes a router with all its ports, so that nothing of it is left when this returns.
    pub(crate) async fn remove_router(&mut self, netns: &str) -> Result<(), ApplyError> {
        self.delete_links(netns, |link| link.name.starts_with("sw")).await?;
        self.routers.remove(netns);
        Ok(self.network.delete(netns).await?)
    }

    /// What a pod's namespace holds.
    pub(crate) async fn observe_pod(&self, netns: &std::path::Path) -> Result<State, ApplyError> {
        Ok(self.network.open(&NsId::path(netns)).await?.observe().await?)
    }
}

/// Begins the name of every router's namespace.
pub(crate) const ROUTER_PREFIX: &str = "sw-";

/// What those settings are now; one that cannot be read is left out.
async fn settings(ns: &Ns, wanted: &Settings) -> Settings {
    let mut settings = Settings::new();
    for key in wanted.keys() {
        if let Ok(value) = ns.sysctl(key).await {
            settings.insert(key.clone(), value);
        }
    }
    settings
}
