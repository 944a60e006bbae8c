//! `slicectl services` and `slicectl resolve`: what a cluster knows of its slices' services, and what
//! a name means to a pod and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use slicewire_api::labels::{NETWORK_STATUS, SYSTEM_NAMESPACE, ZONE};
use slicewire_api::service::plan_from;
use slicewire_api::{PlannedService, ServiceCluster, Slice, SliceGateway, SliceService};
use slicewire_core::dns::{Asker, Code, Data, Kind, Question, Service, View, answer};
use slicewire_core::name::{ClusterName, SliceName};
use slicewire_core::service::balance::{Here, Reach};
use slicewire_core::service::translate::Translation;

use crate::cluster::ClusterArguments;
use crate::table::layout;

/// What to show.
#[derive(Args)]
pub(crate) struct ServicesArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Only this slice.
    #[arg(long)]
    slice: Option<String>,
}

/// What to ask.
#[derive(Args)]
pub(crate) struct ResolveArguments {
    /// The name, as `web.shop.svc.clusterset.local`.
    name: String,
    /// The pod that asks.
    #[arg(long, value_name = "POD")]
    from: String,
    /// The pod's namespace.
    #[arg(long, short, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// What a cluster knows.
struct Known {
    slices: BTreeMap<String, Slice>,
    services: Vec<SliceService>,
    /// By slice: what this cluster's gateways say.
    gateways: BTreeMap<String, SliceGateway>,
}

impl Known {
    async fn read(client: &kube::Client) -> Result<Self> {
        let all = ListParams::default();
        let slices = Api::<Slice>::all(client.clone()).list(&all).await?;
        let services = Api::<SliceService>::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let services = services.list(&all).await.context("cannot list SliceServices")?;
        let gateways = Api::<SliceGateway>::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let gateways = gateways.list(&all).await.context("cannot list SliceGateways")?;
        Ok(Self {
            slices: slices.items.into_iter().map(|s| (s.name_any(), s)).collect(),
            services: services.items,
            gateways: gateways.items.into_iter().map(|g| (g.name_any(), g)).collect(),
        })
    }

    /// What is to be said of clusters whose endpoints get nothing, however ready they are.
    fn clusters(&self, slice: &str) -> BTreeMap<ClusterName, &'static str> {
        let Some(slice) = self.slices.get(slice) else { return BTreeMap::new() };
        let own = |cluster: &ClusterName| cluster.as_str() == slice.spec.cluster;
        let said = |(cluster, reach): (ClusterName, Reach)| match reach {
            Reach { weight: 0, .. } => Some((cluster, "; its cluster has weight 0")),
            Reach { up: false, .. } if !own(&cluster) => {
                Some((cluster, "; no tunnel to its cluster works"))
            }
            _ => None,
        };
        self.reach(slice).into_iter().filter_map(said).collect()
    }

    /// Which clusters can be reached, and how much each counts, as the nodes have it.
    fn reach(&self, slice: &Slice) -> BTreeMap<ClusterName, Reach> {
        let mut all: BTreeMap<ClusterName, Reach> = BTreeMap::new();
        let status = self.gateways.get(&slice.name_any()).and_then(|g| g.status.as_ref());
        for tunnel in status.iter().flat_map(|s| &s.lanes).flat_map(|lane| &lane.tunnels) {
            let Ok(cluster) = ClusterName::parse(&tunnel.cluster) else { continue };
            let reach = all.entry(cluster).or_insert(Reach { up: false, ..Reach::default() });
            reach.up |= tunnel.up;
        }
        let weights = slice.spec.services.weights("spec.services", None).unwrap_or_default();
        for (cluster, weight) in weights {
            all.entry(cluster).or_default().weight = weight;
        }
        all
    }

    fn prefixes(&self, slice: &str) -> Vec<IpNet> {
        let slice = self.slices.get(slice);
        slice.iter().flat_map(|s| &s.spec.prefixes).filter_map(|p| p.parse().ok()).collect()
    }
}

/// Prints all services of the cluster's slices.
///
/// # Errors
/// The cluster cannot be read.
pub(crate) async fn services(arguments: ServicesArguments) -> Result<ExitCode> {
    let cluster = arguments.cluster.connect().await?;
    let mut known = Known::read(&cluster.client).await?;
    known.services.retain(|s| arguments.slice.as_ref().is_none_or(|n| *n == s.spec.slice));
    io::stdout().write_all(table(&known.services).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 7] = ["SLICE", "NAMESPACE", "SERVICE", "TYPE", "ADDRESSES", "PORTS", "READY"];

fn table(services: &[SliceService]) -> String {
    if services.is_empty() {
        return "no services; make a ServiceExport, or give a Service slicewire.dev/expose: \"true\"\n"
            .to_owned();
    }
    let row = |object: &SliceService| {
        let service = &object.spec.service;
        let kind = match (service.exported, service.shape.headless) {
            (false, _) => "exposed",
            (true, true) => "headless",
            (true, false) => "exported",
        };
        let ports = service.shape.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol));
        vec![
            object.spec.slice.clone(),
            service.namespace.clone(),
            service.name.clone(),
            kind.to_owned(),
            service.ips.join(","),
            ports.collect::<Vec<_>>().join(","),
            service.clusters.iter().map(ready).collect::<Vec<_>>().join(", "),
        ]
    };
    layout(&HEAD, &services.iter().map(row).collect::<Vec<_>>())
}

fn ready(part: &ServiceCluster) -> String {
    let ready = part.endpoints.iter().filter(|e| e.ready).count();
    let weight = part.weight.map(|weight| format!(" (weight {weight})")).unwrap_or_default();
    format!("{} {ready}/{}{weight}", part.cluster, part.endpoints.len())
}

/// Prints what a name means to a pod, and why. Exit status 2: nothing.
///
/// # Errors
/// The cluster cannot be read, or there is no such pod.
pub(crate) async fn resolve(arguments: ResolveArguments) -> Result<ExitCode> {
    let cluster = arguments.cluster.connect().await?;
    let known = Known::read(&cluster.client).await?;
    let (namespace, name) = (&arguments.namespace, &arguments.from);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let Some(pod) = pods.get_opt(name).await? else {
        bail!("there is no pod {namespace}/{name}; name another one with --from and --namespace");
    };
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let zone = zone(cluster.client, &node).await;
    let place = Place { node: &node, zone: zone.as_deref() };
    let (text, found) = explain(&known, &arguments.name, &pod, place);
    io::stdout().write_all(text.as_bytes())?;
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// A node's zone, where it has one and may be read.
async fn zone(client: kube::Client, node: &str) -> Option<String> {
    let found = Api::<Node>::all(client).get_metadata_opt(node).await.ok()??;
    found.labels().get(ZONE).cloned()
}

/// Where who asks is.
#[derive(Clone, Copy)]
struct Place<'a> {
    node: &'a str,
    zone: Option<&'a str>,
}

/// A service of a slice, as who asks sees it.
struct Seen {
    slice: String,
    service: PlannedService,
    /// Endpoints that its virtual addresses lead to from there; none where it has no such address.
    used: Option<BTreeSet<IpAddr>>,
}

/// The slices a pod is on, by its network status.
fn slices_of(pod: &Pod) -> BTreeSet<String> {
    let status = pod.annotations().get(NETWORK_STATUS);
    let entries: Vec<Value> =
        status.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let slice =
        |entry: &Value| Some(entry["name"].as_str()?.strip_prefix("slicewire.dev/")?.to_owned());
    entries.iter().filter_map(slice).collect()
}

/// What the nodes know, as one of them: what names mean, and the services by their slices.
fn learn(known: &Known, Place { node, zone }: Place<'_>) -> (View, Vec<Seen>) {
    let mut view = View::default();
    let mut planned: Vec<Seen> = Vec::new();
    for (slice_name, slice) in &known.slices {
        let prefixes = known.prefixes(slice_name);
        let names = (SliceName::parse(slice_name), ClusterName::parse(&slice.spec.cluster));
        let (Ok(parsed), Ok(cluster)) = names else { continue };
        view.set_slice(&parsed, &prefixes);
        let (reach, spread) = (known.reach(slice), slice.spec.services.spread.into());
        let here = Here { cluster: &cluster, node, zone, reach: &reach, spread };
        let own = known.services.iter().filter(|s| s.spec.slice == *slice_name);
        for service in own.filter_map(|s| plan_from(&s.spec.service, &prefixes).ok()) {
            let PlannedService { import, exported, addresses, endpoints, .. } = &service;
            let named = Service::of(import, *exported, addresses, endpoints, here);
            view.set(&parsed, &service.name, Some(named));
            let led = Translation::of(import, addresses, endpoints, here);
            let used = led.fronts.values().flat_map(|b| &b.targets).map(|t| t.address).collect();
            let used = (!led.fronts.is_empty()).then_some(used);
            planned.push(Seen { slice: slice_name.clone(), service, used });
        }
    }
    (view, planned)
}

fn explain(known: &Known, name: &str, pod: &Pod, place: Place<'_>) -> (String, bool) {
    let on = slices_of(pod);
    let (view, planned) = learn(known, place);
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = lower.split('.').collect();
    let asked = |kind| answer(&view, &Question { labels: &labels, kind }, Asker::default());
    let (four, six) = (asked(Kind::A), asked(Kind::Aaaa));
    let mut text = String::new();
    let mut found = BTreeSet::new();
    for record in four.records.iter().chain(&six.records) {
        match &record.data {
            Data::A(address) => drop(found.insert(address.to_string())),
            Data::Aaaa(address) => drop(found.insert(address.to_string())),
            _ => {}
        }
    }
    match (four.code, found.is_empty()) {
        (Code::Refused, _) => {
            let _ = writeln!(text, "{name} is in none of the slices' zones");
        }
        (Code::NxDomain, _) => {
            let _ = writeln!(text, "{name} does not exist here: NXDOMAIN");
        }
        (Code::NoError, true) => {
            let _ = writeln!(text, "{name} exists, without addresses");
        }
        (Code::NoError, false) => {}
    }
    for address in &found {
        let _ = writeln!(text, "{name} is {address}");
        let meant = |service: &PlannedService| {
            let wanted = [service.name.name.as_str(), service.name.namespace.as_str(), "svc"];
            labels.windows(3).any(|part| part == wanted)
        };
        let owners = planned.iter().filter(|s| meant(&s.service) && has(&s.service, address));
        for Seen { slice, service, used } in owners {
            let on =
                if on.contains(slice) { "" } else { "; the pod is not on it and cannot reach it" };
            let _ = writeln!(text, "  {} on slice {slice}{on}", service.name);
            for line in endpoints(service, used.as_ref(), &known.clusters(slice)) {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    (text, !found.is_empty())
}

fn has(service: &PlannedService, address: &str) -> bool {
    let endpoints = service.endpoints.values().flatten().flat_map(|e| &e.addresses);
    service.addresses.iter().chain(endpoints).any(|a| a.to_string() == *address)
}

fn endpoints(
    service: &PlannedService,
    used: Option<&BTreeSet<IpAddr>>,
    clusters: &BTreeMap<ClusterName, &'static str>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (cluster, all) in &service.endpoints {
        let emptied = service.import.weights.get(cluster) == Some(&0);
        let emptied = emptied.then_some("; its export has weight 0");
        let but = clusters.get(cluster).copied().or(emptied);
        for endpoint in all {
            let far = used.is_some_and(|used| endpoint.addresses.iter().all(|a| !used.contains(a)));
            let far = (endpoint.ready && far)
                .then_some("; not used from the pod's node: others are nearer");
            let but = but.or(far).unwrap_or_default();
            let addresses: Vec<String> =
                endpoint.addresses.iter().map(ToString::to_string).collect();
            let health = match (endpoint.ready, endpoint.serving) {
                (true, _) => "ready",
                (false, true) => "draining",
                (false, false) => "not ready",
            };
            let node = endpoint.node.as_deref().unwrap_or("an unknown node");
            let zone = endpoint.zone.as_ref().map(|z| format!(" ({z})")).unwrap_or_default();
            lines.push(format!(
                "{cluster}: {} on {node}{zone}, {health}{but}",
                addresses.join(", ")
            ));
        }
    }
    if lines.is_empty() { vec!["no endpoints: connections are refused".to_owned()] } else { lines }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use slicewire_api::{
        ClusterWeight, GatewayLaneStatus, ServiceEndpoint, ServicePlan, ServicePort, ServiceShape,
        SliceGatewaySpec, SliceServiceSpec, SliceSpec, WorkerGatewayStatus,
    };

    use super::*;

    const HERE: Place<'_> = Place { node: "east-1", zone: Some("a") };

    fn known() -> Known {
        let spec = SliceSpec {
            cluster: "east".into(),
            prefixes: vec!["10.77.0.0/16".into()],
            ..SliceSpec::default()
        };
        let endpoint = ServiceEndpoint {
            addresses: vec!["10.77.16.5".into()],
            ports: vec!["TCP/=8080".into()],
            node: "west-1".into(),
            ready: true,
            ..ServiceEndpoint::default()
        };
        let service = ServicePlan {
            namespace: "shop".into(),
            name: "web".into(),
            exported: true,
            ips: vec!["10.77.240.9".into()],
            shape: ServiceShape {
                ports: vec![ServicePort { protocol: "TCP".into(), port: 80, ..Default::default() }],
                ..ServiceShape::default()
            },
            clusters: vec![ServiceCluster {
                cluster: "west".into(),
                endpoints: vec![endpoint],
                weight: None,
            }],
        };
        let spec_of = SliceServiceSpec { slice: "blue".into(), service };
        Known {
            slices: [("blue".to_owned(), Slice::new("blue", spec))].into(),
            services: vec![SliceService::new("blue.shop.web", spec_of)],
            gateways: BTreeMap::new(),
        }
    }

    fn pod(slice: &str) -> Pod {
        let status = json!([{ "name": format!("slicewire.dev/{slice}") }]).to_string();
        let pod = json!({ "metadata": { "name": "p", "annotations": { NETWORK_STATUS: status } } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_table_says_who_is_ready_where() {
        let text = table(&known().services);
        assert!(text.contains("exported  10.77.240.9  80/TCP  west 1/1"), "{text}");
    }

    #[test]
    fn a_cluster_that_gets_nothing_is_told_with_the_reason() {
        let name = "web.shop.svc.clusterset.local";
        let mut known = known();
        let lane: GatewayLaneStatus = serde_json::from_value(
            json!({"lane": 0, "tunnels": [{"cluster": "west", "up": false}]}),
        )
        .unwrap();
        let mut gateway = SliceGateway::new("blue", SliceGatewaySpec::default());
        gateway.status = Some(WorkerGatewayStatus { lanes: vec![lane], ..Default::default() });
        known.gateways.insert("blue".into(), gateway);
        let (text, _) = explain(&known, name, &pod("blue"), HERE);
        assert!(text.contains("west-1, ready; no tunnel to its cluster works"), "{text}");
        known.gateways.clear();
        let weight = ClusterWeight { name: "west".into(), weight: 0 };
        known.slices.get_mut("blue").unwrap().spec.services.clusters = vec![weight];
        let (text, _) = explain(&known, name, &pod("blue"), HERE);
        assert!(text.contains("west-1, ready; its cluster has weight 0"), "{text}");
        known.slices.get_mut("blue").unwrap().spec.services.clusters.clear();
        known.services[0].spec.service.clusters[0].weight = Some(0);
        let (text, _) = explain(&known, name, &pod("blue"), HERE);
        assert!(text.contains("west-1, ready; its export has weight 0"), "{text}");
        let text = table(&known.services);
        assert!(text.contains("west 1/1 (weight 0)"), "{text}");
    }

    #[test]
    fn who_gets_nothing_because_others_are_nearer_is_told() {
        let mut known = known();
        let service = &mut known.services[0].spec.service;
        service.shape.traffic_distribution = Some("PreferSameZone".into());
        let mut own = service.clusters[0].clone();
        own.cluster = "east".into();
        let near = |address: &str, zone: &str| ServiceEndpoint {
            addresses: vec![address.into()],
            zone: zone.into(),
            ..own.endpoints[0].clone()
        };
        own.endpoints = vec![near("10.77.0.5", "a"), near("10.77.0.6", "b")];
        service.clusters.push(own);
        let (text, _) = explain(&known, "web.shop.svc.clusterset.local", &pod("blue"), HERE);
        let line = |address: &str| text.lines().find(|l| l.contains(address)).unwrap();
        assert!(line("10.77.0.5").ends_with("(a), ready"), "{text}");
        for far in ["10.77.0.6", "10.77.16.5"] {
            assert!(line(far).ends_with("others are nearer"), "{text}");
        }
    }

    #[test]
    fn a_name_is_told_with_what_is_behind_it_and_who_reaches_it() {
        let name = "Web.shop.svc.clusterset.local.";
        let (text, found) = explain(&known(), name, &pod("blue"), HERE);
        assert!(found && text.contains("10.77.16.5 on west-1, ready"), "{text}");
        assert!(!text.contains("cannot reach"));
        let (text, _) = explain(&known(), name, &pod("red"), HERE);
        assert!(text.contains("cannot reach"), "{text}");
        for (name, word) in [("x.shop.svc.clusterset.local", "NXDOMAIN"), ("example.org", "none")] {
            let (text, found) = explain(&known(), name, &pod("blue"), HERE);
            assert!(!found && text.contains(word), "{text}");
        }
    }
}
