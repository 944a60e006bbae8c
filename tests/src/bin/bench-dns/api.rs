//! An API server with the services, for CoreDNS to learn them from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use slicewire_testbed::build::Toolset;

use crate::names::{NAMESPACES, Number, PORT_NAME};
use crate::servers::Process;

/// Requests at a time.
const AT_ONCE: usize = 32;
const TOKEN: &str = "a-benchmark-in-a-namespace-of-its-own";

/// etcd and an API server; they end with the value.
pub(crate) struct Api {
    _processes: [Process; 2],
    client: Client,
    kubeconfig: PathBuf,
}

impl Api {
    /// Starts both, and waits until they answer.
    pub(crate) async fn start(tools: &Toolset, directory: &Path) -> Result<Self> {
        let kubeconfig = write_files(directory)?;
        let etcd = etcd(tools, directory)?;
        let server = api_server(tools, directory)?;
        let read = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        for _ in 0..120 {
            if has_service_addresses(&client).await {
                return Ok(Self { _processes: [server, etcd], client, kubeconfig });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let log = fs::read_to_string(directory.join("kube-apiserver.log")).unwrap_or_default();
        bail!("the API server does not answer: {}", log.lines().last().unwrap_or("it says nothing"))
    }

    /// Who may do everything there.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// Makes the services and their endpoints.
    pub(crate) async fn fill(&self, services: u32, endpoints: u32) -> Result<()> {
        let namespaces = kube::Api::<Namespace>::all(self.client.clone());
        for number in 0..NAMESPACES {
            let metadata = named(Number(number).namespace(), None);
            let namespace = Namespace { metadata, ..Namespace::default() };
            namespaces.create(&PostParams::default(), &namespace).await?;
        }
        let all = (0..services).map(|s| self.service(Number(s), endpoints));
        stream::iter(all).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn service(&self, number: Number, endpoints: u32) -> Result<()> {
        let namespace = number.namespace();
        let services = kube::Api::<Service>::namespaced(self.client.clone(), &namespace);
        let slices = kube::Api::<EndpointSlice>::namespaced(self.client.clone(), &namespace);
        let fault = || format!("cannot make the service {namespace}/{}", number.name());
        services.create(&PostParams::default(), &service(number)).await.with_context(fault)?;
        slices
            .create(&PostParams::default(), &slice(number, endpoints))
            .await
            .with_context(fault)?;
        Ok(())
    }
}

/// An API server answers before it knows which addresses services may have.
async fn has_service_addresses(client: &Client) -> bool {
    let ranges = kube::Api::<ServiceCIDR>::all(client.clone());
    let Ok(range) = ranges.get("kubernetes").await else { return false };
    let conditions = range.status.and_then(|s| s.conditions).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn named(name: String, labels: Option<BTreeMap<String, String>>) -> ObjectMeta {
    ObjectMeta { name: Some(name), labels, ..ObjectMeta::default() }
}

fn service(number: Number) -> Service {
    let port = ServicePort { name: Some(PORT_NAME.into()), port: 80, ..ServicePort::default() };
    let cluster_ip = number.headless().then(|| "None".to_owned());
    let spec = ServiceSpec { ports: Some(vec![port]), cluster_ip, ..ServiceSpec::default() };
    Service { metadata: named(number.name(), None), spec: Some(spec), ..Service::default() }
}

fn slice(number: Number, endpoints: u32) -> EndpointSlice {
    let conditions = || EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    let endpoint = |e: u32| Endpoint {
        addresses: vec![number.endpoint(e).to_string()],
        conditions: Some(conditions()),
        hostname: number.headless().then(|| format!("{}-{e}", number.name())),
        node_name: Some(format!("east-{}", e % 3)),
        ..Endpoint::default()
    };
    let service = ("kubernetes.io/service-name".to_owned(), number.name());
    EndpointSlice {
        metadata: named(number.name(), Some(BTreeMap::from([service]))),
        address_type: "IPv4".to_owned(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(8080),
            ..EndpointPort::default()
        }]),
    }
}

fn write_files(directory: &Path) -> Result<PathBuf> {
    fs::write(directory.join("tokens"), format!("{TOKEN},admin,admin,system:masters\n"))?;
    let accounts = rcgen::KeyPair::generate()?;
    fs::write(directory.join("accounts.key"), accounts.serialize_pem())?;
    fs::write(directory.join("accounts.pub"), accounts.public_key_pem())?;
    let path = directory.join("kubeconfig");
    let cluster = "server: https://127.0.0.1:6443\n    insecure-skip-tls-verify: true";
    fs::write(
        &path,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: all\n\
             clusters:\n- name: all\n  cluster:\n    {cluster}\n\
             users:\n- name: all\n  user:\n    token: {TOKEN}\n\
             contexts:\n- name: all\n  context:\n    cluster: all\n    user: all\n"
        ),
    )?;
    Ok(path)
}

fn etcd(tools: &Toolset, directory: &Path) -> Result<Process> {
    let mut command = Command::new(tools.program("etcd"));
    command.arg(format!("--data-dir={}", directory.join("etcd").display()));
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    Process::start(command, &File::create(directory.join("etcd.log"))?)
}

fn api_server(tools: &Toolset, directory: &Path) -> Result<Process> {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new(tools.program("kube-apiserver"));
    command.args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"]);
    command.args(["--advertise-address=192.0.2.1", "--service-cluster-ip-range=10.96.0.0/14"]);
    command.args(["--service-account-issuer=https://kubernetes.default.svc"]);
    command.args(["--authorization-mode=AlwaysAllow", "--endpoint-reconciler-type=none"]);
    command.args([
        format!("--cert-dir={}", file("certificates")),
        format!("--token-auth-file={}", file("tokens")),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
    ]);
    Process::start(command, &File::create(directory.join("kube-apiserver.log"))?)
}
