//! Whether a Cluster can be had where and as it is written.

use std::net::IpAddr;

use kube::ResourceExt;
use slicewire_core::name::{
    ClusterName, HubNamespace, MAX_CLUSTER_NAME, ProjectName, check, hub_namespace,
};
use slicewire_core::violation::Violation;

use super::observe::Observed;

/// The cluster's place: its project and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ValidatedCluster {
    pub(super) project: ProjectName,
    pub(super) name: ClusterName,
}

/// The place of the cluster, or every fault.
pub(super) fn validate(observed: &Observed) -> Result<ValidatedCluster, Vec<Violation>> {
    let cluster = &observed.cluster;
    let name = cluster.name_any();
    let mut faults = Vec::new();
    let namespace = cluster.namespace().unwrap_or_default();
    let project = match hub_namespace(&namespace) {
        Some(HubNamespace::Project(project)) => Some(project),
        _ => {
            let what = "is not the namespace of a Project; create the Cluster in the namespace that the Project's status names";
            faults.push(Violation::new("metadata.namespace", namespace, "NotAProject", what));
            None
        }
    };
    faults.extend(check("metadata.name", &name, MAX_CLUSTER_NAME));
    for (i, address) in cluster.spec.gateways.addresses.iter().enumerate() {
        if address.parse::<IpAddr>().is_err() {
            faults.push(Violation::new(
                format!("spec.gateways.addresses[{i}]"),
                address,
                "MalformedAddress",
                "is not an IP address; 192.0.2.7 and 2001:db8::7 are",
            ));
        }
    }
    match (project, ClusterName::parse(&name)) {
        (Some(project), Ok(name)) if faults.is_empty() => Ok(ValidatedCluster { project, name }),
        _ => Err(faults),
    }
}
