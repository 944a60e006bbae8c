//! The services of a slice, as a pure function of what its clusters tell and are told. What members
//! say is a stranger's word: names and messages are cleaned, and what the hub did not take is told
//! as such.

use std::collections::BTreeMap;
use std::sync::Arc;

use slicewire_api::{
    ExportAnswer, ReportedService, ServiceShape, WorkerServiceExport, WorkerServiceImport,
};
use slicewire_core::member::sentence;
use slicewire_rpc::hub::v1alpha1 as rpc;

/// What one cluster tells of services of a slice, and what it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// The cluster's name.
    pub(super) cluster: String,
    /// Whether the caller may see what follows.
    pub(super) shown: bool,
    pub(super) exports: Vec<Arc<WorkerServiceExport>>,
    pub(super) imports: Vec<Arc<WorkerServiceImport>>,
}

/// A service's namespace and name.
type Key = (String, String);

/// All services, by namespace and name; only those of one namespace where one is given.
pub(super) fn services(reports: &[Report], namespace: &str) -> Vec<rpc::OfferedService> {
    let mut all: BTreeMap<Key, rpc::OfferedService> = BTreeMap::new();
    for report in reports.iter().filter(|r| r.shown) {
        for import in &report.imports {
            take_import(&mut all, &report.cluster, import);
        }
    }
    for report in reports.iter().filter(|r| r.shown) {
        for export in &report.exports {
            take_export(&mut all, &report.cluster, export);
        }
    }
    all.into_values().filter(|s| namespace.is_empty() || s.namespace == namespace).collect()
}

/// Clusters that the caller may not see.
pub(super) fn withheld(reports: &[Report]) -> Vec<String> {
    reports.iter().filter(|r| !r.shown).map(|r| r.cluster.clone()).collect()
}

fn entry<'a>(
    all: &'a mut BTreeMap<Key, rpc::OfferedService>,
    namespace: &str,
    name: &str,
) -> &'a mut rpc::OfferedService {
    let key = (namespace.to_owned(), name.to_owned());
    all.entry(key).or_insert_with(|| rpc::OfferedService {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..rpc::OfferedService::default()
    })
}

/// What the hub has told a cluster, which counts before what clusters say.
fn take_import(
    all: &mut BTreeMap<Key, rpc::OfferedService>,
    cluster: &str,
    import: &WorkerServiceImport,
) {
    let told = &import.spec.service;
    let service = entry(all, &told.namespace, &told.name);
    service.exported |= told.exported;
    service.ips.clone_from(&told.ips);
    shape(service, &told.shape);
    service.importing_clusters.push(cluster.to_owned());
}

/// What a cluster tells the hub.
fn take_export(
    all: &mut BTreeMap<Key, rpc::OfferedService>,
    cluster: &str,
    export: &WorkerServiceExport,
) {
    let Some(said) = export.status.as_ref().and_then(|s| s.services.first()) else { return };
    let (namespace, name) = (sentence(&said.namespace), sentence(&said.name));
    // An answer may still be to what was told here before.
    let answer = export.spec.answer.as_ref();
    let answer = answer.filter(|a| (&a.namespace, &a.name) == (&namespace, &name));
    let service = entry(all, &namespace, &name);
    if service.importing_clusters.is_empty() {
        service.exported |= said.exported;
        shape(service, &said.shape);
    }
    service.clusters.push(in_cluster(cluster, said, answer));
}

fn in_cluster(
    cluster: &str,
    said: &ReportedService,
    answer: Option<&ExportAnswer>,
) -> rpc::OfferedServiceCluster {
    let count = |of: usize| i32::try_from(of).unwrap_or(i32::MAX);
    let conflict = |c: &slicewire_api::ServiceConflict| rpc::OfferedServiceConflict {
        reason: c.reason.clone(),
        clusters: c.clusters.clone(),
        message: c.message.clone(),
    };
    rpc::OfferedServiceCluster {
        cluster: cluster.to_owned(),
        exported: said.exported,
        accepted: answer.map(|a| a.accepted),
        message: answer.map(|a| a.message.clone()).unwrap_or_default(),
        conflicts: answer.iter().flat_map(|a| &a.conflicts).map(conflict).collect(),
        ready_endpoints: count(said.endpoints.iter().filter(|e| e.ready).count()),
        endpoints: count(said.endpoints.len()),
        weight: said.weight,
    }
}

fn shape(service: &mut rpc::OfferedService, shape: &ServiceShape) {
    let port = |p: &slicewire_api::ServicePort| rpc::OfferedServicePort {
        name: sentence(&p.name),
        protocol: sentence(&p.protocol),
        port: p.port,
        app_protocol: p.app_protocol.as_deref().map(sentence).unwrap_or_default(),
    };
    service.headless = shape.headless;
    service.ports = shape.ports.iter().map(port).collect();
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn export(name: &str, answer: &Value) -> Arc<WorkerServiceExport> {
        let export = json!({
            "metadata": {"name": "blue.0"},
            "spec": {"slice": "blue", "cluster": "east", "number": 0, "answer": answer},
            "status": {"services": [{
                "namespace": "shop", "name": name, "exported": true,
                "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
                "endpoints": [
                    {"addresses": ["10.77.0.1"], "ready": true},
                    {"addresses": ["10.77.0.2"], "terminating": true},
                ],
            }]},
        });
        Arc::new(serde_json::from_value(export).unwrap())
    }

    fn import(name: &str) -> Arc<WorkerServiceImport> {
        let import = json!({
            "metadata": {"name": format!("blue.shop.{name}")},
            "spec": {"slice": "blue", "cluster": "west", "service": {
                "namespace": "shop", "name": name, "exported": true, "ips": ["10.77.9.1"],
                "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            }},
        });
        Arc::new(serde_json::from_value(import).unwrap())
    }

    fn report(cluster: &str) -> Report {
        Report { cluster: cluster.into(), shown: true, ..Report::default() }
    }

    #[test]
    fn a_service_is_told_once_with_all_its_clusters() {
        let answer = json!({"namespace": "shop", "name": "api", "accepted": true, "conflicts": [
            {"reason": "PortConflict", "clusters": ["east"], "message": "differs"}]});
        let east = Report { exports: vec![export("api", &answer)], ..report("east") };
        let west = Report { imports: vec![import("api"), import("db")], ..report("west") };
        let all = services(&[east, west], "");
        let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["api", "db"]);
        let api = &all[0];
        assert_eq!((&api.ips[..], api.ports[0].port), (&["10.77.9.1".to_owned()][..], 80));
        assert_eq!(api.importing_clusters, ["west"]);
        let [east] = &api.clusters[..] else { unreachable!("one cluster") };
        assert_eq!((east.ready_endpoints, east.endpoints), (1, 2));
        assert_eq!((east.accepted, east.conflicts.len()), (Some(true), 1));
        assert!(services(&[report("east")], "other").is_empty());
    }

    #[test]
    fn what_is_refused_is_told_with_the_reason_and_an_old_answer_is_none() {
        let refused =
            json!({"namespace": "shop", "name": "api", "accepted": false, "message": "no"});
        let east = Report { exports: vec![export("api", &refused)], ..report("east") };
        let told = &services(&[east], "shop")[0].clusters[0];
        assert_eq!((told.accepted, told.message.as_str()), (Some(false), "no"));
        let east = Report { exports: vec![export("new", &refused)], ..report("east") };
        let told = &services(&[east], "shop")[0].clusters[0];
        assert_eq!((told.accepted, told.message.as_str()), (None, ""));
    }

    #[test]
    fn nothing_of_a_withheld_cluster_is_told_and_words_are_cleaned() {
        let hostile = export("a\u{1b}[31mpi", &Value::Null);
        let east = Report { exports: vec![hostile], ..report("east") };
        assert_eq!(services(std::slice::from_ref(&east), "")[0].name, "a[31mpi");
        let hidden = Report { shown: false, ..east };
        assert!(services(std::slice::from_ref(&hidden), "").is_empty());
        assert_eq!(withheld(&[hidden]), ["east"]);
    }
}
