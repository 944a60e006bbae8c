//! From API objects to what the daemon works with, all faults at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use slicewire_api::policy::{keys_from, named_ports, network_policy as network_policy_of};
use slicewire_api::{PolicyEndpoint, labels};
use slicewire_core::name::{ClusterName, SliceName};
use slicewire_core::policy::{EndpointId, standard};
use slicewire_core::prefix::{self, Family};
use slicewire_core::qos::QosFields;
use slicewire_core::violation::Violation;

use crate::services::ServiceEntry;
use crate::world::{
    Balancing, FarPods, GatewayPod, Pod, Pods, PolicyEntry, Slice, SliceNode, SlicePolicy,
};

/// Smallest and largest MTU of a slice: below, IPv6 does not work; above, no device of ours does.
const MTU: std::ops::RangeInclusive<i32> = 1280..=9216;

/// A Slice.
pub(crate) fn slice(object: &slicewire_api::Slice) -> Result<Slice, Vec<Violation>> {
    let mut faults = Vec::new();
    let spec = &object.spec;
    let name = SliceName::parse(&object.name_any()).map_err(|f| faults.extend(f)).ok();
    let rules = slicewire_api::convert::rules("spec.namespaces", &spec.namespaces, None)
        .map_err(|f| faults.extend(f))
        .unwrap_or_default();
    let prefixes = prefixes("spec.prefixes", &spec.prefixes, &mut faults);
    let pools = self::prefixes("spec.pools", &spec.pools, &mut faults);
    let mut remotes: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    for (i, remote) in spec.remotes.iter().enumerate() {
        let field = format!("spec.remotes[{i}].prefixes");
        let prefixes = self::prefixes(&field, &remote.prefixes, &mut faults);
        remotes.entry(remote.cluster.clone()).or_default().extend(prefixes);
    }
    let vni = u32::try_from(spec.vni).ok().filter(|v| (1..1 << 24).contains(v));
    if vni.is_none() {
        let message = "is no VXLAN network identifier; 1 to 16777215 are";
        faults.push(Violation::new("spec.vni", spec.vni.to_string(), "VniRange", message));
    }
    if !MTU.contains(&spec.mtu) {
        let message = format!("is not between {} and {}", MTU.start(), MTU.end());
        faults.push(Violation::new("spec.mtu", spec.mtu.to_string(), "MtuRange", message));
    }
    let qos = spec.qos.as_ref().map(|q| QosFields::from(q).parse("spec.qos")).transpose();
    let qos = qos.map_err(|f| faults.extend(f)).unwrap_or_default();
    let weights = spec.services.weights("spec.services", None);
    let weights = weights.map_err(|f| faults.extend(f)).unwrap_or_default();
    let cluster = ClusterName::parse(&spec.cluster).map_err(|f| faults.extend(f)).ok();
    match (name, cluster, vni, u32::try_from(spec.mtu)) {
        (Some(name), Some(cluster), Some(vni), Ok(mtu)) if faults.is_empty() => Ok(Slice {
            name,
            prefixes,
            families: pools.iter().map(Family::of).collect::<BTreeSet<_>>(),
            remotes,
            rules,
            cluster,
            policy: policy(spec),
            vni,
            mtu,
            qos,
            balancing: Balancing { spread: spec.services.spread.into(), weights },
        }),
        _ => Err(faults),
    }
}

fn policy(spec: &slicewire_api::SliceSpec) -> SlicePolicy {
    SlicePolicy {
        default: spec.policy.default.domain(),
        mode: spec.policy.enforce.mode(),
        network_policies: spec.policy.apply_network_policies,
        keys: spec.policy_keys.as_ref().map(keys_from),
    }
}

/// A policy of a slice.
pub(crate) fn rules(object: &slicewire_api::SliceRules) -> Result<PolicyEntry, Vec<Violation>> {
    Ok(PolicyEntry {
        slice: Some(object.spec.slice.clone()),
        name: object.spec.policy.clone(),
        revision: Some(object.spec.revision),
        policy: object.spec.rules.parse_alone()?.into(),
    })
}

/// A NetworkPolicy. Which cluster it is of need not be asked: it is judged by here only, and for
/// pods that are here.
pub(crate) fn network_policy(object: &NetworkPolicy) -> Result<PolicyEntry, Vec<Violation>> {
    let here = ClusterName::parse("here")?;
    let mut policy = standard::parse(&network_policy_of(object), &here)?;
    policy.subject.clusters.clear();
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    Ok(PolicyEntry { slice: None, name, revision: None, policy: policy.into() })
}

/// A service of a slice. Its addresses are compared with the slice's where both are known.
pub(crate) fn service(
    object: &slicewire_api::SliceService,
) -> Result<ServiceEntry, Vec<Violation>> {
    let anywhere = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    let planned = slicewire_api::service::plan_from(&object.spec.service, &anywhere)?;
    Ok(ServiceEntry { slice: object.spec.slice.clone(), planned })
}

/// Pods of another cluster.
pub(crate) fn far_pods(object: &slicewire_api::SliceEndpoints) -> Result<FarPods, Vec<Violation>> {
    let cluster = ClusterName::parse(&object.spec.cluster)?;
    let place = object.name_any();
    let pods = object.spec.endpoints.iter().map(|e| (name_of(&place, e), e.endpoint(&cluster)));
    Ok(FarPods { slice: object.spec.slice.clone(), pods: Arc::new(pods.collect()) })
}

fn name_of(place: &str, endpoint: &PolicyEndpoint) -> EndpointId {
    let address = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
    format!("{place}/{}/{}/{address}", endpoint.namespace, endpoint.pod).into()
}

/// What another node tells of its pods. Addresses that are not out of its blocks are left out: by
/// addresses policies know who somebody is.
fn pods_of(node: &slicewire_api::SliceNode, blocks: &[IpNet]) -> Pods {
    // All of them are of this cluster, whatever it is called: slices know.
    let nics = node.status.iter().flat_map(|s| &s.nics);
    let own = |address: &IpAddr| blocks.iter().any(|block| block.contains(address));
    let pods = nics.filter_map(|nic| {
        let told = PolicyEndpoint {
            namespace: nic.namespace.clone(),
            pod: nic.pod.clone(),
            addresses: nic.addresses.clone(),
            identity: nic.identity.clone()?,
        };
        let cluster = ClusterName::parse(HERE).ok()?;
        let mut endpoint = told.endpoint(&cluster);
        endpoint.addresses.retain(own);
        Some((name_of(&node.spec.node, &told), endpoint))
    });
    Arc::new(pods.collect())
}

/// Stands for this cluster where its name on the hub is not at hand.
pub(crate) const HERE: &str = "here";

fn prefixes(field: &str, texts: &[String], faults: &mut Vec<Violation>) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        match prefix::parse(&format!("{field}[{i}]"), text) {
            Ok(net) => prefixes.push(net),
            Err(fault) => faults.push(fault),
        }
    }
    prefixes
}

/// A SliceNode; `own` is this node's name. What does not parse is told and left out.
pub(crate) fn slice_node(
    object: slicewire_api::SliceNode,
    own: &str,
) -> (SliceNode, Vec<Violation>) {
    let mut faults = Vec::new();
    let blocks = prefixes("spec.blocks", &object.spec.blocks, &mut faults);
    let mut underlay = Vec::new();
    let pods = if object.spec.node == own { Pods::default() } else { pods_of(&object, &blocks) };
    let status = object.status;
    for (i, text) in status.iter().flat_map(|s| &s.underlay).enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) => underlay.push(address),
            Err(_) => faults.push(Violation::new(
                format!("status.underlay[{i}]"),
                text,
                "MalformedAddress",
                "is not an IP address",
            )),
        }
    }
    let node = SliceNode {
        status: status.filter(|_| object.spec.node == own),
        slice: object.spec.slice,
        node: object.spec.node,
        blocks,
        underlay,
        pods,
        deleting: object.metadata.deletion_timestamp.is_some(),
        generation: object.metadata.generation,
        finalizers: object.metadata.finalizers.unwrap_or_default(),
    };
    (node, faults)
}

/// A pod of this node.
pub(crate) fn pod(object: core::Pod) -> Pod {
    let mut annotations = object.metadata.annotations.unwrap_or_default();
    let phase = object.status.and_then(|s| s.phase).unwrap_or_default();
    let spec = object.spec.unwrap_or_default();
    Pod {
        ports: named_ports(&spec),
        service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
        namespace: object.metadata.namespace.unwrap_or_default(),
        name: object.metadata.name.unwrap_or_default(),
        labels: object.metadata.labels.unwrap_or_default(),
        host_network: spec.host_network.unwrap_or(false),
        finished: phase == "Succeeded" || phase == "Failed",
        deleting: object.metadata.deletion_timestamp.is_some(),
        network_status: annotations.remove(labels::NETWORK_STATUS),
        resource_version: object.metadata.resource_version.unwrap_or_default(),
    }
}

/// A gateway pod; none when it has ended or its label names no slice.
pub(crate) fn gateway(object: &core::Pod) -> Option<GatewayPod> {
    let status = object.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return None;
    }
    Some(GatewayPod {
        slice: object.labels().get(labels::GATEWAY_LABEL)?.clone(),
        node: object.spec.as_ref()?.node_name.clone()?,
        ip: status.and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()),
        deleting: object.metadata.deletion_timestamp.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_told_all_its_faults_at_once() {
        let spec = slicewire_api::SliceSpec {
            cluster: "east".into(),
            prefixes: vec!["10.77.0.0/16".into(), "10.78.1.2/16".into()],
            pools: vec!["nonsense".into()],
            vni: 0,
            mtu: 100,
            ..Default::default()
        };
        let faults = slice(&slicewire_api::Slice::new("Blue", spec)).unwrap_err();
        let reasons: Vec<_> = faults.iter().map(|f| f.reason).collect();
        assert_eq!(
            reasons,
            ["NameCharacters", "HostBitsSet", "MalformedPrefix", "VniRange", "MtuRange"]
        );
    }
}
