//! The daemons of a machine: what an init system's unit files would say.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{self, CONTAINERD_SOCKET, NODE_ETC};
use crate::pki;
use crate::plan::{API_PORT, Cluster, Machine, Role};

/// What a daemon needs before it is worth starting. After 20 s it is started
/// anyway, as a real machine would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// Somebody listens on a TCP address.
    Tcp(Ipv4Addr, u16),
    /// A socket exists.
    Socket(PathBuf),
}

/// One daemon, started again whenever it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The program's name, found on the machine's PATH; its log's name, too.
    pub name: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// What it waits for.
    pub needs: Vec<Need>,
}

/// The daemons of a machine of this cluster, in the order they start.
pub fn units(cluster: &Cluster, machine: &Machine) -> Vec<Unit> {
    match machine.role {
        Role::ControlPlane => {
            let mut units = vec![etcd(), api_server(cluster), controller_manager(cluster)];
            if !cluster.workers.is_empty() {
                units.push(scheduler(cluster));
            }
            units
        }
        Role::Worker { .. } => vec![containerd(), kubelet(cluster, machine), kube_proxy(cluster)],
    }
}

fn unit(name: &str, needs: Vec<Need>, args: &[String]) -> Unit {
    Unit { name: name.to_owned(), args: args.to_vec(), needs }
}

fn etc(file: &str) -> String {
    format!("{NODE_ETC}/{file}")
}

fn api(cluster: &Cluster) -> Need {
    Need::Tcp(cluster.control.wan4, API_PORT)
}

fn etcd() -> Unit {
    let client = "http://127.0.0.1:2379";
    let peer = "http://127.0.0.1:2380";
    unit(
        "etcd",
        vec![],
        &[
            "--name=default".into(),
            "--data-dir=/var/lib/etcd".into(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // A power-off here never takes the page cache along.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
    )
}

fn api_server(cluster: &Cluster) -> Unit {
    unit(
        "kube-apiserver",
        vec![Need::Tcp(Ipv4Addr::LOCALHOST, 2379)],
        &[
            format!("--advertise-address={}", cluster.control.wan4),
            "--bind-address=::".into(),
            format!("--secure-port={API_PORT}"),
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--service-cluster-ip-range={}", config::service_cidrs()),
            format!("--client-ca-file={}", etc("ca.crt")),
            format!("--tls-cert-file={}", etc("apiserver.crt")),
            format!("--tls-private-key-file={}", etc("apiserver.key")),
            format!("--kubelet-client-certificate={}", etc("kubelet-client.crt")),
            format!("--kubelet-client-key={}", etc("kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", etc("sa.pub")),
            format!("--service-account-signing-key-file={}", etc("sa.key")),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            // Webhooks are reached at their pods: no kube-proxy runs here.
            "--enable-aggregator-routing=true".into(),
            format!("--requestheader-client-ca-file={}", etc("ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            format!("--proxy-client-cert-file={}", etc("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", etc("front-proxy-client.key")),
        ],
    )
}

fn controller_manager(cluster: &Cluster) -> Unit {
    let kubeconfig = etc("controller-manager.kubeconfig");
    unit(
        "kube-controller-manager",
        vec![api(cluster)],
        &[
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            format!("--cluster-cidr={}", config::pod_cidrs()),
            format!("--service-cluster-ip-range={}", config::service_cidrs()),
            // The nodes' prefixes are part of the address plan.
            "--allocate-node-cidrs=false".into(),
            format!("--root-ca-file={}", etc("ca.crt")),
            format!("--service-account-private-key-file={}", etc("sa.key")),
            format!("--cluster-signing-cert-file={}", etc("ca.crt")),
            format!("--cluster-signing-key-file={}", etc("ca.key")),
            "--use-service-account-credentials=true".into(),
        ],
    )
}

fn scheduler(cluster: &Cluster) -> Unit {
    let kubeconfig = etc("scheduler.kubeconfig");
    unit(
        "kube-scheduler",
        vec![api(cluster)],
        &[
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
        ],
    )
}

fn containerd() -> Unit {
    unit("containerd", vec![], &["--config".into(), etc("containerd.toml")])
}

fn kubelet(cluster: &Cluster, machine: &Machine) -> Unit {
    unit(
        "kubelet",
        vec![Need::Socket(CONTAINERD_SOCKET.into()), api(cluster)],
        &[
            format!("--config={}", etc("kubelet.json")),
            format!("--kubeconfig={}", etc(&format!("{}.kubeconfig", pki::kubelet_name(machine)))),
            format!("--hostname-override={}", machine.name),
            format!("--node-ip={},{}", machine.wan4, machine.wan6),
            "--root-dir=/var/lib/kubelet".into(),
            "--cert-dir=/var/lib/kubelet/pki".into(),
        ],
    )
}

fn kube_proxy(cluster: &Cluster) -> Unit {
    let config = format!("--config={}", etc("kube-proxy.json"));
    unit("kube-proxy", vec![api(cluster)], &[config])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::spec::Spec;

    fn names(machine: &str) -> Vec<String> {
        let plan = Plan::new(&Spec::standard("main"), 0);
        let machine = plan.machine(machine).unwrap();
        let cluster = plan.cluster(&machine.cluster).unwrap();
        units(cluster, machine).into_iter().map(|unit| unit.name).collect()
    }

    #[test]
    fn each_role_runs_its_daemons() {
        assert_eq!(names("hub-cp"), ["etcd", "kube-apiserver", "kube-controller-manager"]);
        assert!(names("east-cp").contains(&"kube-scheduler".to_owned()));
        assert_eq!(names("west-2"), ["containerd", "kubelet", "kube-proxy"]);
    }

    #[test]
    fn a_kubelet_speaks_for_its_own_node() {
        let plan = Plan::new(&Spec::standard("main"), 0);
        let node = plan.machine("east-2").unwrap();
        let kubelet = kubelet(plan.cluster("east").unwrap(), node);
        assert!(kubelet.args.contains(&"--node-ip=198.18.1.3,fd53:4c57::1:3".to_owned()));
        assert!(kubelet.args.iter().any(|arg| arg.ends_with("/kubelet-east-2.kubeconfig")));
    }
}
