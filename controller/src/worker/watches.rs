//! Which change of which object asks for which reconcile.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::{Api, Client, Resource, ResourceExt};
use slicewire_api::cluster_dns::{NAME, PLACE};
use slicewire_api::labels::{GATEWAY_LABEL, OF_SLICE, PART_OF, PRODUCT, RPC_LABEL};
use tokio_util::sync::CancellationToken;

use super::{Queues, Worker, ours, services};
use crate::kubernetes::watch::Watch;

/// Starts every watch of this cluster's own API server.
pub(super) fn start(worker: &Worker, client: &Client, stop: &CancellationToken) {
    mirrors(worker, client, stop);
    gateways(worker, client, stop);
    certificates(worker, client, stop);
    surroundings(worker, client, stop);
    services::start(worker, client, stop);
}

/// Slices, gateways' plans and slices on nodes.
fn mirrors(worker: &Worker, client: &Client, stop: &CancellationToken) {
    let local = &worker.local;
    let queues = worker.queues.clone();
    let told = worker.told.endpoints.clone();
    let of_services = worker.services.clone();
    Watch::new(Api::all(client.clone()), &local.slices, stop).spawn(
        move |slice: &slicewire_api::Slice| {
            queues.touch(&slice.name_any());
            services::touch(&of_services);
            // What was told before the slice was here.
            let of_slice = |e: &&std::sync::Arc<slicewire_api::WorkerEndpoints>| {
                e.spec.slice == slice.name_any()
            };
            told.list().iter().filter(of_slice).for_each(|e| queues.endpoints.add(e.name_any()));
        },
    );
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.gateways, stop).spawn(
        move |gateway: &slicewire_api::SliceGateway| {
            queues.gateways.add(gateway.name_any());
            queues.slices.add(gateway.name_any());
        },
    );
    let (queues, of_services) = (worker.queues.clone(), worker.services.clone());
    Watch::new(ours(client, &worker.namespace), &local.slice_nodes, stop).spawn(
        move |node: &slicewire_api::SliceNode| {
            services::touch(&of_services);
            queues.blocks.add(node.spec.slice.clone());
            queues.slices.add(node.spec.slice.clone());
            queues.policies.add(node.spec.slice.clone());
            queues.pods.add(node.spec.slice.clone());
            queues.listed.add(node.spec.slice.clone());
        },
    );
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.rules, stop).spawn(
        move |rules: &slicewire_api::SliceRules| {
            queues.policies.add(rules.spec.slice.clone());
        },
    );
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.endpoints, stop).spawn(
        move |endpoints: &slicewire_api::SliceEndpoints| {
            queues.endpoints.add(endpoints.name_any());
        },
    );
}

/// Gateway pods and what is around them.
fn gateways(worker: &Worker, client: &Client, stop: &CancellationToken) {
    let local = &worker.local;
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.pods, stop)
        .labels(GATEWAY_LABEL)
        .trim(trim_pod)
        .spawn(move |pod| by_label(&queues, pod, GATEWAY_LABEL));
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.services, stop)
        .labels(OF_SLICE)
        .spawn(move |service| by_label(&queues, service, OF_SLICE));
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.workloads, stop)
        .labels(OF_SLICE)
        .spawn(move |workload| by_label(&queues, workload, OF_SLICE));
}

/// Certificates: one that is damaged or deleted is made anew.
fn certificates(worker: &Worker, client: &Client, stop: &CancellationToken) {
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &worker.local.certificates, stop)
        .labels(RPC_LABEL)
        .spawn(move |_: &Secret| queues.certificates.add(()));
}

/// What slices live in: nodes, namespaces, our own components.
fn surroundings(worker: &Worker, client: &Client, stop: &CancellationToken) {
    let local = &worker.local;
    let (queues, slices) = (worker.queues.clone(), local.slices.clone());
    Watch::new(Api::all(client.clone()), &local.nodes, stop).trim(trim_node).spawn(move |_| {
        queues.cluster.add(());
        queues.corefile.add(());
        // Addresses of gateways, and nodes that are gone. Statuses of nodes hardly change: leases
        // carry their heartbeats.
        for slice in slices.list() {
            queues.gateways.add(slice.name_any());
            queues.blocks.add(slice.name_any());
        }
    });
    let (queues, slices) = (worker.queues.clone(), local.slices.clone());
    let of_services = worker.services.clone();
    Watch::new(Api::all(client.clone()), &local.namespaces, stop).trim(trim_namespace).spawn(
        move |_| {
            services::touch(&of_services);
            for slice in slices.list() {
                queues.slices.add(slice.name_any());
            }
        },
    );
    let (queues, slices) = (worker.queues.clone(), local.slices.clone());
    Watch::new(Api::all(client.clone()), &local.network_policies, stop).spawn(move |_| {
        let concerned = |s: &&std::sync::Arc<slicewire_api::Slice>| {
            s.spec.isolation.is_some() || s.spec.policy.apply_network_policies
        };
        slices.list().iter().filter(concerned).for_each(|s| queues.slices.add(s.name_any()));
    });
    let queues = worker.queues.clone();
    Watch::new(Api::all(client.clone()), &local.service_cidrs, stop).spawn(move |_| {
        queues.cluster.add(());
        queues.corefile.add(());
    });
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), PLACE), &local.corefiles, stop)
        .fields(&format!("metadata.name={NAME}"))
        .spawn(move |_: &ConfigMap| queues.corefile.add(()));
    let product = format!("{PART_OF}={PRODUCT}");
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.daemon_sets, stop)
        .labels(&product)
        .spawn(move |_| queues.cluster.add(()));
    let queues = worker.queues.clone();
    Watch::new(ours(client, &worker.namespace), &local.deployments, stop)
        .labels(&product)
        .spawn(move |_| queues.cluster.add(()));
}

fn by_label<K: Resource>(queues: &Queues, object: &K, label: &str) {
    if let Some(slice) = object.labels().get(label) {
        queues.gateways.add(slice.clone());
    }
}

/// Nodes carry lists of images and volumes that nobody here reads.
fn trim_node(node: &mut Node) {
    node.metadata.annotations = None;
    node.metadata.labels = None;
    if let Some(status) = &mut node.status {
        let addresses = status.addresses.take();
        *status = k8s_openapi::api::core::v1::NodeStatus { addresses, ..Default::default() };
    }
}

fn trim_namespace(namespace: &mut Namespace) {
    namespace.metadata.annotations = None;
    namespace.spec = None;
    namespace.status = None;
}

fn trim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    if let Some(spec) = &mut pod.spec {
        let node_name = spec.node_name.take();
        *spec = k8s_openapi::api::core::v1::PodSpec { node_name, ..Default::default() };
    }
}
