//! One generation of keys: a WireGuard device of its own, on a port of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slicewire_core::gateway::{Traffic, Tunnel};
use slicewire_core::name::{GATEWAY_DEVICES, gateway_device};
use slicewire_core::rotation::Generation;
use slicewire_engine::{Options, PrivateKey, PublicKey};
use slicewire_kernel::{Kernel, LinkKind, Ns, Op};

use super::device;
use super::endpoints::Endpoints;
use super::gateway::Failure;
use super::keys::Keys;
use super::plan::{self, Plan, PlannedGeneration, PlannedTunnel};
use crate::backend::{Backend, Choice, PeerState};

/// An open generation.
pub(super) struct Slot {
    pub(super) generation: Generation,
    pub(super) backend: Backend,
    key: Arc<PrivateKey>,
    port: u16,
    /// Those that can be had by now.
    tunnels: Vec<PlannedTunnel>,
    endpoints: Endpoints,
}

impl Slot {
    /// Makes the device of a generation, or takes over what an earlier process has left of it.
    pub(super) async fn open(
        generation: Generation,
        key: Arc<PrivateKey>,
        port: u16,
        mtu: u16,
        choice: Choice,
        (kernel, ns): (&Kernel, &Ns),
    ) -> Result<Self, Failure> {
        let name = gateway_device(generation);
        // No control socket: nobody else in the pod has to configure the device.
        let options = Options { mtu, control: None, ..Options::new(name) };
        let backend = Backend::start(choice, kernel, ns, options).await?;
        tracing::info!(
            device = name,
            generation,
            backend = backend.name(),
            "WireGuard device is up"
        );
        // Before there are packets.
        let place = Op::AddFilterPlace { dev: name.to_owned() };
        if let Err(error) = ns.apply(vec![place]).await {
            tracing::info!(%error, "the slice's ceiling cannot be kept at this gateway");
        }
        let (tunnels, endpoints) = (Vec::new(), Endpoints::default());
        Ok(Self { generation, backend, key, port, tunnels, endpoints })
    }

    pub(super) fn device(&self) -> &'static str {
        gateway_device(self.generation)
    }

    /// Whether a peer is being called in quick succession.
    pub(super) fn eager(&self) -> bool {
        self.endpoints.eager()
    }

    /// Makes device and peers what the plan says. Tells whether all keys for it were there.
    pub(super) async fn realise(
        &mut self,
        plan: &Plan,
        planned: &PlannedGeneration,
        keys: &Keys,
        ns: &Ns,
    ) -> Result<bool, Failure> {
        let ops = device::changes(self.device(), plan, &ns.observe().await?);
        if !ops.is_empty() {
            ns.apply(ops).await?;
        }
        let own = self.key.public();
        let with_key = |tunnel: &PlannedTunnel| {
            let (cluster, peer) = (&tunnel.cluster, &tunnel.public_key);
            let found = keys.preshared(self.generation, cluster, &own, peer);
            // One that is taken away while it is used is used on: without it nobody would answer.
            let had = || self.tunnels.iter().find(|t| t.public_key == *peer);
            let preshared_key = found.or_else(|| had()?.preshared_key.clone());
            PlannedTunnel { preshared_key, ..tunnel.clone() }
        };
        let all = planned.tunnels.iter().map(with_key);
        let good = all.filter(|t| !planned.protected || t.preshared_key.is_some());
        self.tunnels = good.collect();
        self.configure(&[]).await?;
        Ok(self.tunnels.len() == planned.tunnels.len())
    }

    async fn configure(&mut self, left_out: &[PublicKey]) -> Result<(), Failure> {
        let pick = |t: &PlannedTunnel| self.endpoints.pick(t);
        let config = plan::config(&self.tunnels, &self.key, self.port, pick, left_out);
        Ok(self.backend.apply(config).await?)
    }

    /// Calls those peers anew that do not answer, and tells how the tunnels are.
    pub(super) async fn attend(&mut self, now: Duration) -> Result<Vec<Tunnel>, Failure> {
        let peers = self.backend.peers().await?;
        let wall = SystemTime::now();
        let age = |key: &PublicKey| {
            let at = peers.get(key)?.last_handshake?;
            Some(wall.duration_since(at).unwrap_or_default())
        };
        let again = self.endpoints.step(&self.tunnels, age, now);
        if !again.is_empty() {
            tracing::debug!(?again, "calling peers anew");
            self.configure(&again).await?;
            self.configure(&[]).await?;
        }
        Ok(self.told(&peers))
    }

    fn told(&self, peers: &BTreeMap<PublicKey, PeerState>) -> Vec<Tunnel> {
        let tunnel = |planned: &PlannedTunnel| {
            let state = peers.get(&planned.public_key).copied().unwrap_or_default();
            Tunnel {
                cluster: planned.cluster.clone(),
                generation: self.generation,
                device: self.device().to_owned(),
                preshared: planned.preshared_key.is_some(),
                public_key: *planned.public_key.as_bytes(),
                addresses: planned.addresses.clone(),
                prefixes: planned.prefixes.clone(),
                endpoint: state.last_handshake.and(state.endpoint),
                traffic: Traffic {
                    last_handshake_ms: state.last_handshake.and_then(epoch_ms),
                    rx_bytes: state.rx_bytes,
                    tx_bytes: state.tx_bytes,
                },
            }
        };
        self.tunnels.iter().map(tunnel).collect()
    }
}

/// Removes devices of the kernel that an earlier process has left and that nothing asks for.
pub(super) async fn remove_left(ns: &Ns, wanted: &[&str]) -> Result<(), Failure> {
    let links = ns.links().await?;
    let left = links.iter().filter(|link| {
        let ours = GATEWAY_DEVICES.contains(&link.name.as_str());
        ours && link.kind == LinkKind::Wireguard && !wanted.contains(&link.name.as_str())
    });
    let ops: Vec<Op> = left.map(|link| Op::DeleteLink { dev: link.name.clone() }).collect();
    if !ops.is_empty() {
        ns.apply(ops).await?;
    }
    Ok(())
}

/// Whole tenths of a second, so that a time computed twice from two clocks is the same.
fn epoch_ms(at: SystemTime) -> Option<u64> {
    let ms = at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis();
    u64::try_from(ms / 100 * 100).ok()
}
