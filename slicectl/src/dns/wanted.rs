//! What the cluster's DNS is to ask the nodes for.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use slicewire_api::Slice;
use slicewire_api::cluster_dns::{SERVICE, own_prefixes, wanted};
use slicewire_api::labels::SYSTEM_NAMESPACE;
use slicewire_core::dns::corefile::Wanted;

use crate::apply::is_gone;

/// Where the nodes are asked; nowhere without the Service.
///
/// # Errors
/// The cluster cannot be read.
pub(super) async fn servers(client: &Client) -> Result<Vec<IpAddr>> {
    let services: Api<Service> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let service = services.get_opt(SERVICE).await?;
    Ok(service.map(|service| wanted(&service, [], vec![]).servers).unwrap_or_default())
}

/// Reads it; none where the nodes answer no questions.
///
/// # Errors
/// The cluster cannot be read.
pub(super) async fn read(client: &Client) -> Result<Option<Wanted>> {
    let services: Api<Service> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let Some(service) = services.get_opt(SERVICE).await? else { return Ok(None) };
    let all = ListParams::default();
    let slices = Api::<Slice>::all(client.clone()).list(&all).await;
    let slices = slices.context("cannot list Slices")?.items;
    let nodes = Api::<Node>::all(client.clone()).list(&all).await;
    let nodes = nodes.context("cannot list Nodes")?.items;
    let cidrs = match Api::<ServiceCIDR>::all(client.clone()).list(&all).await {
        Ok(list) => list.items,
        // Kubernetes before 1.33 does not tell.
        Err(error) if is_gone(&error) => Vec::new(),
        Err(error) => return Err(error).context("cannot list ServiceCIDRs"),
    };
    Ok(Some(wanted(&service, &slices, own_prefixes(&nodes, &cidrs))))
}
