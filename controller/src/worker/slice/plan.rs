//! What has to be done for a slice in this cluster.

use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{MANAGED_BY, WORKER_FINALIZER, WORKER_MANAGER};
use slicewire_api::{Slice, SliceSpec, WorkerSlice};
use slicewire_core::violation::Violation;
use slicewire_core::vni;

use super::isolation;
use super::observe::{Observed, Word};
use super::validate::Valid;
use crate::kubernetes::change::{Change, Steps};

/// A slice's next steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    /// What a removal waits for: a reason and a sentence.
    pub(super) waiting: Option<(&'static str, String)>,
    /// The hub wants the slice gone, and nothing of it is left here.
    pub(super) removed: bool,
}

/// Decides.
pub(super) fn plan(observed: &Observed, validated: &Option<Result<Valid, Vec<Violation>>>) -> Plan {
    let unwanted = match &observed.told {
        Word::Unknown => false,
        Word::Absent => true,
        Word::Told(_, slice) => slice.metadata.deletion_timestamp.is_some(),
    };
    let leaving = observed.slice.as_ref().filter(|s| s.metadata.deletion_timestamp.is_some());
    if let Some(slice) = leaving {
        return remove(observed, slice);
    }
    if unwanted {
        return match &observed.slice {
            Some(slice) => Plan {
                steps: vec![Change::delete(&**slice).into_iter().collect()],
                waiting: Some(("Removing", "the slice is being removed".to_owned())),
                removed: false,
            },
            None => leftovers(observed),
        };
    }
    // What others have changed is repaired without a hub, too.
    let kept = isolation::converge(observed);
    let (Some(told), Some(Ok(_))) = (observed.told.slice(), validated) else {
        return Plan { steps: vec![kept], ..Plan::default() };
    };
    let mirrored = mirror(observed, told)
        .and_then(|wanted| Change::converge(&wanted, observed.slice.as_deref()));
    Plan { steps: vec![mirrored.into_iter().collect(), kept], ..Plan::default() }
}

/// The mirror of what the hub says.
fn mirror(observed: &Observed, told: &WorkerSlice) -> Option<Slice> {
    let name = told.name_any();
    let vni = vni::assign(&name, &observed.vnis)?;
    let spec = told.spec.clone();
    let mut slice = Slice::new(
        &name,
        SliceSpec {
            project: spec.project,
            cluster: spec.cluster,
            prefixes: spec.prefixes,
            pools: spec.pools,
            gateway_prefixes: spec.gateway_prefixes,
            service_prefixes: spec.service_prefixes,
            remotes: spec.remotes,
            namespaces: spec.namespaces,
            vni: i32::try_from(vni).ok()?,
            mtu: spec.mtu,
            policy: spec.policy,
            isolation: spec.isolation,
            policy_keys: spec.policy_keys,
            qos: spec.qos,
            services: spec.services,
        },
    );
    slice.metadata = ObjectMeta {
        labels: Some([(MANAGED_BY.to_owned(), WORKER_MANAGER.to_owned())].into()),
        finalizers: Some(vec![WORKER_FINALIZER.to_owned()]),
        ..slice.metadata
    };
    Some(slice)
}

/// Nodes first, then gateways, then what isolates namespaces, then the mirror itself.
fn remove(observed: &Observed, slice: &Slice) -> Plan {
    let waiting = |reason, what: String| Plan { waiting: Some((reason, what)), ..Plan::default() };
    if !observed.nodes.is_empty() {
        let nodes: Vec<&str> = observed.nodes.iter().map(|n| n.spec.node.as_str()).collect();
        return waiting(
            "DetachingPods",
            format!(
                "waiting for netop-daemon on {} to detach pods and remove the slice router; if this lasts, see that its pod runs there, or delete the Node if the machine is gone",
                nodes.join(", ")
            ),
        );
    }
    if let Some(gateway) = &observed.gateway {
        let steps = vec![Change::delete(&**gateway).into_iter().collect()];
        let what = "waiting for the gateways' pods, services and keys to be gone".to_owned();
        return Plan { steps, waiting: Some(("RemovingGateways", what)), removed: false };
    }
    let release = Change::release(slice, WORKER_FINALIZER).into_iter().collect();
    let steps = vec![isolation::remove(observed, slice), release];
    Plan { steps, waiting: Some(("Removing", "the slice is being removed".into())), removed: false }
}

/// What is left of a slice whose mirror is gone.
fn leftovers(observed: &Observed) -> Plan {
    match &observed.gateway {
        Some(gateway) => Plan {
            steps: vec![Change::delete(&**gateway).into_iter().collect()],
            waiting: Some(("RemovingGateways", "waiting for the gateways to be gone".into())),
            removed: false,
        },
        None => Plan { removed: observed.nodes.is_empty(), ..Plan::default() },
    }
}
