//! Kinds on the hub in which a cluster tells people what runs: nothing is decided by it.

use ipnet::IpNet;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slicewire_core::member::{self, Fault, sentence};
use slicewire_core::policy::parts::PART;

use super::WorkerSlice;

/// Most tunnels of which a cluster tells the traffic.
pub const MAX_TUNNELS: usize = 2_048;
/// Most addresses of a pod on a slice.
const MAX_ADDRESSES: usize = 4;

/// Some of a cluster's pods on a slice, for people to see. Unlike WorkerEndpoints it is told whatever
/// policies ask, to nobody but the hub.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerPods",
    plural = "workerpods",
    namespaced,
    status = "WorkerPodsStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Number", type_ = "integer", json_path = ".spec.number"),
    doc = "Some of a cluster's pods on a slice, for people to see. Written by the hub controller; the worker reports in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPodsSpec {
    /// The slice.
    pub slice: String,
    /// The cluster whose pods these are.
    pub cluster: String,
    /// Which of that cluster's objects this is, from 0.
    pub number: i32,
}

/// What a worker reports of its pods.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPodsStatus {
    /// The pods, gateways not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub pods: Vec<AttachedPod>,
}

/// A pod with a NIC on a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachedPod {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The node it runs on.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The NIC in the pod, as `slice0`.
    #[schemars(length(max = 15))]
    pub interface: String,
    /// Its addresses on the slice, one a family.
    #[schemars(length(max = 4), inner(length(max = 45)))]
    pub addresses: Vec<String>,
}

/// What passes a cluster's tunnels of a slice, for people to see.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerTraffic",
    plural = "workertraffics",
    namespaced,
    status = "WorkerTrafficStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Counted", type_ = "date", json_path = ".status.countedAt"),
    doc = "What passes a cluster's tunnels of a slice, for people to see. Written by the hub controller; the worker reports in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerTrafficSpec {
    /// The slice; also this object's name.
    pub slice: String,
    /// The cluster whose tunnels these are.
    pub cluster: String,
}

/// What a worker reports of its tunnels' traffic: when rates have moved, at most every 15 s, and else
/// every minute in which much has passed.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerTrafficStatus {
    /// When this was counted, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub counted_at: Option<String>,
    /// The tunnels whose gateways have told, by lane and cluster; the first 2,048.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048))]
    pub tunnels: Vec<TunnelTraffic>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub left_out: i32,
}

/// What passed a tunnel, seen from its end here: bytes of IP packets as WireGuard counts them, with
/// its own headers. Counters start over when the gateway does, and when it gets new keys.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelTraffic {
    /// The gateway's number, 0 to 7.
    #[schemars(with = "i32", range(min = 0, max = 7))]
    pub lane: u8,
    /// The cluster at the other end.
    #[schemars(length(max = 63))]
    pub cluster: String,
    /// Bytes sent.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub sent_bytes: i64,
    /// Bytes received.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub received_bytes: i64,
    /// Bits sent a second, on average over the last 15 s before; two significant digits.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub sent_rate: i64,
    /// Bits received a second, likewise.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub received_rate: i64,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

impl WorkerPods {
    /// The pods that can be shown, and what of the report is not taken.
    ///
    /// Security: a report is a stranger's words. Names are names, and addresses those the cluster was
    /// given, so that no member can show another's pods as its own.
    pub fn checked(&self, slice: &WorkerSlice) -> (Vec<AttachedPod>, Vec<(String, Fault)>) {
        let pools: Vec<IpNet> = slice.spec.pools.iter().filter_map(|p| p.parse().ok()).collect();
        let said = self.status.as_ref().map(|s| s.pods.as_slice()).unwrap_or_default();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for pod in said.iter().take(PART) {
            match pod.fault(&pools) {
                None => good.push(pod.clone()),
                Some(fault) => bad.push(fault),
            }
        }
        if said.len() > PART {
            bad.push((said.len().to_string(), Fault::TooMany));
        }
        (good, bad)
    }
}

impl AttachedPod {
    fn fault(&self, pools: &[IpNet]) -> Option<(String, Fault)> {
        let interface =
            self.interface.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let named = member::is_name(&self.namespace, 63)
            && member::is_name(&self.pod, 253)
            && member::is_name(&self.node, 253)
            && interface
            && (1..=15).contains(&self.interface.len());
        if !named {
            return Some((sentence(&format!("{}/{}", self.namespace, self.pod)), Fault::Malformed));
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return Some((self.addresses.len().to_string(), Fault::TooMany));
        }
        let strange =
            |text: &String| Some((sentence(text), member::own_address(text, pools).err()?));
        self.addresses.iter().find_map(strange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerSliceSpec;

    fn pod(name: &str, node: &str, interface: &str, address: &str) -> AttachedPod {
        AttachedPod {
            namespace: "shop".into(),
            pod: name.into(),
            node: node.into(),
            interface: interface.into(),
            addresses: vec![address.into()],
        }
    }

    fn checked(pods: Vec<AttachedPod>) -> (Vec<AttachedPod>, Vec<(String, Fault)>) {
        let spec = WorkerSliceSpec { pools: vec!["10.77.0.0/20".into()], ..Default::default() };
        let mut report = WorkerPods::new("blue.0", WorkerPodsSpec::default());
        report.status = Some(WorkerPodsStatus { pods });
        report.checked(&WorkerSlice::new("blue", spec))
    }

    #[test]
    fn what_a_member_says_of_its_pods_is_checked_one_by_one() {
        let (good, bad) = checked(vec![
            pod("web", "n1", "slice0", "10.77.0.7"),
            pod("evil", "n1", "slice0", "10.77.16.9"),
            pod("red\u{1b}[31m", "n1", "slice0", "10.77.0.8"),
            pod("web-2", "n\n2", "slice0", "10.77.0.8"),
            pod("web-3", "n1", "", "10.77.0.8"),
            pod("web-4", "n1", "slice0", "x"),
        ]);
        assert_eq!(good, [pod("web", "n1", "slice0", "10.77.0.7")]);
        let faults: Vec<Fault> = bad.iter().map(|(_, fault)| *fault).collect();
        let malformed = Fault::Malformed;
        assert_eq!(faults, [Fault::NotItsOwn, malformed, malformed, malformed, malformed]);
        assert!(bad.iter().all(|(value, _)| !value.contains('\u{1b}')), "{bad:?}");
    }

    #[test]
    fn more_than_an_object_holds_is_not_taken() {
        let many = vec![pod("web", "n1", "slice0", "10.77.0.7"); PART + 1];
        let (good, bad) = checked(many);
        assert_eq!((good.len(), bad), (PART, vec![((PART + 1).to_string(), Fault::TooMany)]));
    }
}
