//! The configuration files and objects of Kubernetes' components, as values.
//!
//! Everything is JSON, which every reader of YAML takes.

use serde_json::{Value, json};

use crate::plan::{
    Cluster, Machine, POD_CIDR4, POD_CIDR6, SERVICE_API, SERVICE_CIDR4, SERVICE_CIDR6, SERVICE_DNS,
};

/// Where a node finds its own configuration and certificates.
pub const NODE_ETC: &str = "/etc/kubernetes";
/// The standard containerd socket.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The image that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "slicewire.test/pause:dev";
/// The cluster DNS server's image.
pub const COREDNS_IMAGE: &str = "slicewire.test/coredns:dev";
/// The image for tests' own pods.
pub const TOOLBOX_IMAGE: &str = "slicewire.test/toolbox:dev";

/// A kubeconfig with everything in it: CA, certificate and key as base64 PEM.
pub fn kubeconfig(cluster: &Cluster, user: &str, ca: &str, certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster.name,
        "clusters": [{
            "name": cluster.name,
            "cluster": { "server": cluster.api_url(), "certificate-authority-data": ca },
        }],
        "users": [{
            "name": user,
            "user": { "client-certificate-data": certificate, "client-key-data": key },
        }],
        "contexts": [{
            "name": cluster.name,
            "context": { "cluster": cluster.name, "user": user },
        }],
    })
}

/// The kubelet's configuration. `cgroup` is the node's own, below each hierarchy's root.
pub fn kubelet(cgroup: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "::",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{NODE_ETC}/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "clusterDNS": [SERVICE_DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "makeIPTablesUtilChains": false,
        "failSwapOn": false,
        "maxPods": 250,
        "serializeImagePulls": false,
        // Many nodes share one disk: none of them may evict for its sake.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
            "imagefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        // Lowering the score needs a capability that not every machine gives.
        "oomScoreAdj": 0,
    })
}

/// kube-proxy's configuration, without changes of the host's conntrack limits.
pub fn kube_proxy(node: &Machine) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": "0.0.0.0",
        "hostnameOverride": node.name,
        "clusterCIDR": format!("{POD_CIDR4},{POD_CIDR6}"),
        "clientConnection": { "kubeconfig": format!("{NODE_ETC}/kube-proxy.kubeconfig") },
        "conntrack": { "maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "oomScoreAdj": 0,
    })
}

/// containerd's configuration: TOML, as it reads nothing else.
pub fn containerd() -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
disable_apparmor = true
# Without CAP_SYS_RESOURCE runc cannot lower a container's score.
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins.'io.containerd.nri.v1.nri']
disable = false
socket_path = "/var/run/nri/nri.sock"
"#
    )
}

/// The nftables rules of a node: pods leave the cluster under the node's address.
pub fn masquerade() -> String {
    format!(
        "table inet testbed {{
  chain postrouting {{
    type nat hook postrouting priority srcnat + 10;
    ip saddr {POD_CIDR4} ip daddr != {POD_CIDR4} oifname \"eth0\" masquerade
    ip6 saddr {POD_CIDR6} ip6 daddr != {POD_CIDR6} oifname \"eth0\" masquerade
  }}
}}
"
    )
}

/// What every cluster holds from the start: its nodes with their pod prefixes
/// and, where there are nodes, the cluster DNS, but for its [`corefile`].
pub fn manifests(cluster: &Cluster) -> Value {
    let mut items: Vec<Value> = cluster.workers.iter().filter_map(node).collect();
    if !cluster.workers.is_empty() {
        items.extend(coredns());
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn node(machine: &Machine) -> Option<Value> {
    let cidrs = machine.pod_cidrs()?;
    Some(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": machine.name, "labels": { "kubernetes.io/hostname": machine.name } },
        "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
    }))
}

/// What the cluster DNS is told to do at first.
pub fn corefile() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": of_dns("coredns"),
        "data": { "Corefile": COREFILE },
    })
}

fn of_dns(name: &str) -> Value {
    json!({ "name": name, "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } })
}

fn coredns() -> Vec<Value> {
    let name = "coredns";
    let labels = json!({ "k8s-app": "kube-dns" });
    let port =
        |name: &str, protocol: &str| json!({ "name": name, "port": 53, "protocol": protocol });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": of_dns(name) }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "system:coredns" },
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["endpoints", "services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["list", "watch"],
                },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "system:coredns" },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" }],
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": of_dns("kube-dns"),
            "spec": {
                "clusterIP": SERVICE_DNS,
                "selector": labels,
                "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
            },
        }),
        coredns_deployment(name, &labels),
    ]
}

fn coredns_deployment(name: &str, labels: &Value) -> Value {
    let probe = |path: &str, port: u16| json!({ "path": path, "port": port });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": "kube-system", "labels": labels },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": name,
                    "priorityClassName": "system-cluster-critical",
                    "dnsPolicy": "Default",
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{
                        "name": name,
                        "image": COREDNS_IMAGE,
                        "imagePullPolicy": "Never",
                        "command": ["/usr/bin/coredns", "-conf", "/etc/coredns/Corefile"],
                        "ports": [
                            { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                            { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
                        ],
                        "readinessProbe": { "httpGet": probe("/ready", 8181), "periodSeconds": 1 },
                        "livenessProbe": {
                            "httpGet": probe("/health", 8080),
                            "initialDelaySeconds": 30,
                        },
                        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
                    }],
                    "volumes": [{ "name": "config", "configMap": { "name": name } }],
                },
            },
        },
    })
}

const COREFILE: &str = ".:53 {
    errors
    health {
        lameduck 1s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload 5s
    loadbalance
}
";

/// The names and addresses an API server's certificate must hold.
pub fn api_server_names(cluster: &Cluster) -> Vec<String> {
    [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        SERVICE_API,
        "127.0.0.1",
        "::1",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([
        cluster.control.name.clone(),
        cluster.control.wan4.to_string(),
        cluster.control.wan6.to_string(),
    ])
    .collect()
}

/// Both service ranges as the components' flags take them.
pub fn service_cidrs() -> String {
    format!("{SERVICE_CIDR4},{SERVICE_CIDR6}")
}

/// Both pod ranges as the components' flags take them.
pub fn pod_cidrs() -> String {
    format!("{POD_CIDR4},{POD_CIDR6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::spec::Spec;

    fn plan() -> Plan {
        Plan::new(&Spec::standard("main"), 3)
    }

    #[test]
    fn a_hub_without_nodes_starts_empty_and_a_worker_with_nodes_and_dns() {
        let plan = plan();
        let kinds = |name: &str| -> Vec<String> {
            let list = manifests(plan.cluster(name).unwrap());
            let items = list["items"].as_array().unwrap();
            items.iter().map(|item| item["kind"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds("hub"), Vec::<String>::new());
        assert_eq!(kinds("east").iter().filter(|kind| *kind == "Node").count(), 2);
        assert!(kinds("west").contains(&"Deployment".to_owned()));
    }

    #[test]
    fn the_certificate_covers_every_way_to_the_server() {
        let plan = plan();
        let names = api_server_names(plan.cluster("hub").unwrap());
        for name in ["198.18.48.1", "fd53:4c57:0:3::1", "10.96.0.1", "hub-cp"] {
            assert!(names.iter().any(|n| n == name), "{name} not in {names:?}");
        }
    }

    #[test]
    fn a_kubeconfig_points_into_the_wan() {
        let plan = plan();
        let config = kubeconfig(plan.cluster("west").unwrap(), "admin", "Y2E=", "Y3J0", "a2V5");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://198.18.50.1:6443");
        assert_eq!(config["users"][0]["user"]["client-key-data"], "a2V5");
    }
}
