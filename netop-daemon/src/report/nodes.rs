//! SliceNode objects of this node: claimed when a pod wants the slice, filled with what is there,
//! given back when nothing is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource as _};
use serde_json::json;
use slicewire_api::condition::{self, QOS_HONOURED, READY};
use slicewire_api::labels;
use slicewire_api::{AttachFailure, Nic, SliceNode, SliceNodeSpec, SliceNodeStatus};
use slicewire_core::name;
use slicewire_core::name::SliceName;
use slicewire_core::onboarding::SYSTEM_NAMESPACE;
use slicewire_core::prefix::Family;

use super::Report;
use crate::decide::Node;
use crate::shaping::ShapedSlice;
use crate::world;

/// Failures listed in a status.
const MAX_FAILURES: usize = 32;

fn api(client: &Client) -> Api<SliceNode> {
    Api::namespaced(client.clone(), SYSTEM_NAMESPACE)
}

/// Makes this node's SliceNode of a slice, with no blocks yet: the worker controller grants them.
///
/// # Errors
/// The API server refused; that one is there already is no error.
pub(crate) async fn claim(client: &Client, slice: &str, node: &str) -> Result<(), kube::Error> {
    let Ok(slice_name) = SliceName::parse(slice) else { return Ok(()) };
    let spec = SliceNodeSpec { slice: slice.to_owned(), node: node.to_owned(), blocks: Vec::new() };
    let mut object = SliceNode::new(&name::slice_node(&slice_name, node), spec);
    let meta = object.meta_mut();
    meta.namespace = Some(SYSTEM_NAMESPACE.to_owned());
    meta.finalizers = Some(vec![labels::NODE_FINALIZER.to_owned()]);
    meta.labels = Some(
        [
            (labels::MANAGED_BY, labels::DAEMON_MANAGER),
            (labels::OF_SLICE, slice),
            (labels::OF_NODE, node),
        ]
        .into_iter()
        // A label's value holds 63 bytes; a node's name may be longer and is in the spec anyway.
        .filter(|(_, value)| value.len() <= 63)
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect(),
    );
    let params =
        PostParams { field_manager: Some(labels::DAEMON_MANAGER.to_owned()), dry_run: false };
    match api(client).create(&params, &object).await {
        Ok(_) => {
            tracing::info!(slice, "asked for address blocks");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a SliceNode back: its finalizer first, then the object.
///
/// # Errors
/// The API server refused; that it is gone already is no error.
pub(super) async fn give_back(
    client: &Client,
    object: &str,
    node: &world::SliceNode,
) -> Result<(), kube::Error> {
    let api = api(client);
    if node.deleting || node.finalizers.iter().any(|f| f == labels::NODE_FINALIZER) {
        let kept: Vec<&String> =
            node.finalizers.iter().filter(|f| *f != labels::NODE_FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": kept}});
        let params = PatchParams::default();
        gone_is_fine(api.patch(object, &params, &Patch::Merge(patch)).await)?;
    }
    if !node.deleting {
        let params =
            DeleteParams { preconditions: None::<Preconditions>, ..DeleteParams::default() };
        gone_is_fine(api.delete(object, &params).await)?;
    }
    tracing::info!(slice = node.slice, "gave the address blocks back");
    Ok(())
}

fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Writes the status.
///
/// # Errors
/// The API server refused.
pub(super) async fn write_status(
    client: &Client,
    object: &str,
    status: &SliceNodeStatus,
) -> Result<(), kube::Error> {
    let patch = json!({
        "apiVersion": SliceNode::api_version(&()),
        "kind": SliceNode::kind(&()),
        "status": status,
    });
    let params = PatchParams::apply(labels::DAEMON_MANAGER).force();
    gone_is_fine(api(client).patch_status(object, &params, &Patch::Apply(patch)).await)
}

/// The status as it should be. `old` is what it was: times move only when something else does.
pub(super) fn status(
    report: &Report,
    node: &Node,
    object: &world::SliceNode,
    is_gateway: impl Fn(&str) -> bool,
    old: &SliceNodeStatus,
) -> SliceNodeStatus {
    let slice = object.slice.as_str();
    let of_slice = || report.nics.iter().filter(move |((s, _), _)| s == slice);
    let mut nics: Vec<Nic> = of_slice()
        .map(|(key, nic)| Nic {
            namespace: nic.pod.0.clone(),
            pod: nic.pod.1.clone(),
            interface: nic.nic.clone(),
            addresses: nic.port.addresses.iter().map(ToString::to_string).collect(),
            identity: report.identities.get(key).cloned(),
        })
        .collect();
    nics.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    let pods = of_slice().filter(|((_, uid), _)| !is_gateway(uid)).count();
    let mut failures: Vec<AttachFailure> = report
        .failures
        .iter()
        .filter(|f| f.slice == slice)
        .map(|f| AttachFailure {
            pod: format!("{}/{}", f.pod.0, f.pod.1),
            node: node.name.clone(),
            reason: f.reason.to_owned(),
            message: f.message.clone(),
        })
        .collect();
    failures.sort_by(|a, b| a.pod.cmp(&b.pod));
    let ready = ready(report, object, &failures);
    failures.truncate(MAX_FAILURES);
    let mut conditions = old.conditions.clone();
    condition::set(&mut conditions, ready);
    let low = report.low.get(slice).into_iter().flatten();
    SliceNodeStatus {
        observed_generation: object.generation,
        underlay: node.underlay.iter().map(ToString::to_string).collect(),
        attached_pods: i32::try_from(pods).unwrap_or(i32::MAX),
        nics,
        policies: report.policies.get(slice).cloned().unwrap_or_default(),
        low_families: low.map(|f| family(*f).to_owned()).collect(),
        failures,
        qos: None,
        conditions,
    }
}

/// Tells what the slice's shapers do, and whether what it is promised can be kept.
pub(super) fn add_qos(
    status: &mut SliceNodeStatus,
    shaped: Option<&ShapedSlice>,
    object: &world::SliceNode,
) {
    status.qos = shaped.and_then(|s| s.traffic.clone());
    match shaped.and_then(|s| s.honoured.as_ref()) {
        None => status.conditions.retain(|c| c.type_ != QOS_HONOURED),
        Some(honoured) => {
            let one = condition::condition(
                QOS_HONOURED,
                honoured.kept,
                honoured.reason,
                honoured.message.clone(),
                object.generation,
                Time(Timestamp::now()),
            );
            condition::set(&mut status.conditions, one);
        }
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn ready(report: &Report, object: &world::SliceNode, failures: &[AttachFailure]) -> Condition {
    let now = Time(Timestamp::now());
    let make = |status, reason: &str, message: String| {
        condition::condition(READY, status, reason, message, object.generation, now.clone())
    };
    match report.routers.get(&object.slice) {
        None if object.blocks.is_empty() => make(
            false,
            "NoAddressBlock",
            "waiting for the worker controller to grant an address block".to_owned(),
        ),
        None => make(true, "Idle", "no pod of this node is on the slice".to_owned()),
        Some(router) => match &router.fault {
            Some((reason, message)) => make(false, reason, message.clone()),
            None if !failures.is_empty() => make(
                false,
                "PodsNotAttached",
                format!(
                    "{} of the node's pods are not attached; see status.failures",
                    failures.len()
                ),
            ),
            None => make(true, "Attached", "the router and all pods are attached".to_owned()),
        },
    }
}
