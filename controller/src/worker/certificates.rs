//! Certificates with which the processes of this cluster know each other: gateways towards nodes,
//! nodes and this controller towards gateways.
//!
//! Security: the authorities' keys live in one Secret that only this controller may read, and a
//! gateway's certificate is no client's, so that a gateway that was taken over can ask nobody.

mod authority;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use slicewire_api::SliceGateway;
use slicewire_api::labels::{
    DAEMON_CERTIFICATE, MANAGED_BY, OF_SLICE, RPC_AUTHORITY, RPC_LABEL, WORKER_MANAGER,
};
use slicewire_core::name::{SliceName, gateway_certificate_secret, gateway_server_name};
use slicewire_rpc::tls::Credentials;
use slicewire_runtime::reconcile::Next;

use self::authority::{Authorities, Failed, Signed, Usage};
use super::{Worker, ours};
use crate::kubernetes::change::owned_by;
use crate::kubernetes::write::causes;

/// How often it is seen whether something ends soon.
const AGAIN: Duration = Duration::from_secs(3600);
const CONTROLLER: &str = "controller.slicewire.internal";
const DAEMON: &str = "netop-daemon.slicewire.internal";

/// This process's own certificate; `None` before there is one. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Own(Arc<RwLock<Option<Signed>>>);

impl Own {
    /// What to show to a gateway.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        Some(self.read()?.credentials)
    }

    fn read(&self) -> Option<Signed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, signed: Signed) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(signed);
    }
}

/// Certificates could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// The Secret cannot be written.
    #[error("Secret {0}: {cause}", cause = causes(.1))]
    Secret(String, kube::Error),
    /// No certificate could be made.
    #[error(transparent)]
    Make(#[from] Failed),
}

/// One round for all that belongs to no slice: the authorities, the nodes' certificate, our own.
pub(super) async fn reconcile(worker: &Worker) -> Next {
    if let Err(error) = of_cluster(worker, SystemTime::now()).await {
        tracing::warn!(%error, "processes of this cluster cannot know each other; trying again");
        return Next::Retry;
    }
    for gateway in worker.local.gateways.list() {
        worker.queues.gateways.add(gateway.name_any());
    }
    Next::After(AGAIN)
}

async fn of_cluster(worker: &Worker, now: SystemTime) -> Result<(), CertificateError> {
    let authorities = authorities(worker, now).await?;
    if !worker.own.read().is_some_and(|own| own.good(&authorities, CONTROLLER, now)) {
        worker.own.write(authorities.sign(CONTROLLER, Usage::Client, now)?);
    }
    let metadata = meta(worker, DAEMON_CERTIFICATE);
    certificate(worker, metadata, &authorities, (DAEMON, Usage::Client), now).await
}

/// Sees that a slice's gateways have a certificate.
///
/// # Errors
/// No certificate could be made, or not written.
pub(super) async fn of_gateway(
    worker: &Worker,
    slice: &SliceName,
    gateway: &SliceGateway,
) -> Result<(), CertificateError> {
    let now = SystemTime::now();
    let authorities = authorities(worker, now).await?;
    let mut metadata = meta(worker, &gateway_certificate_secret(slice));
    metadata.owner_references = owned_by(gateway).map(|owner| vec![owner]);
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(MANAGED_BY.to_owned(), WORKER_MANAGER.to_owned());
    labels.insert(OF_SLICE.to_owned(), slice.to_string());
    let name = gateway_server_name(slice);
    certificate(worker, metadata, &authorities, (&name, Usage::Server), now).await
}

/// The authorities as they should be, written if they were not.
async fn authorities(worker: &Worker, now: SystemTime) -> Result<Authorities, CertificateError> {
    let there = worker.local.certificates.get(&worker.namespace, RPC_AUTHORITY);
    let old = there.as_ref().and_then(|s| Authorities::read(s.data.as_ref()?));
    let Some(new) = Authorities::due(old.as_ref(), now)? else {
        return Ok(old.unwrap_or_default());
    };
    write(worker, meta(worker, RPC_AUTHORITY), new.write()).await?;
    tracing::info!(first = old.is_none(), "made an authority for this cluster's processes");
    Ok(new)
}

/// Sees that there is a good certificate in a Secret.
async fn certificate(
    worker: &Worker,
    metadata: ObjectMeta,
    authorities: &Authorities,
    (name, usage): (&str, Usage),
    now: SystemTime,
) -> Result<(), CertificateError> {
    let secret = metadata.name.clone().unwrap_or_default();
    let there = worker.local.certificates.get(&worker.namespace, &secret);
    let old = there.as_ref().and_then(|s| Signed::read(s.data.as_ref()?));
    if old.is_some_and(|old| old.good(authorities, name, now)) {
        return Ok(());
    }
    write(worker, metadata, authorities.sign(name, usage, now)?.write()).await?;
    tracing::info!(%secret, "made a certificate");
    Ok(())
}

/// Not by the writer that everything else is written by: that one logs what it writes.
async fn write(
    worker: &Worker,
    metadata: ObjectMeta,
    data: BTreeMap<String, ByteString>,
) -> Result<(), CertificateError> {
    let name = metadata.name.clone().unwrap_or_default();
    let secret = Secret { metadata, data: Some(data), ..Secret::default() };
    let api: Api<Secret> = ours(&worker.writer.client, &worker.namespace);
    let how = PatchParams::apply(WORKER_MANAGER).force();
    let written = api.patch(&name, &how, &Patch::Apply(secret)).await;
    worker.local.certificates.note(written.map_err(|e| CertificateError::Secret(name, e))?);
    Ok(())
}

fn meta(worker: &Worker, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(worker.namespace.clone()),
        labels: Some(BTreeMap::from([(RPC_LABEL.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    }
}
