//! The laws about packet rules: there before anything passes, right after every change and start.

use std::sync::Arc;

use slicewire_api::SliceRulesSpec;
use slicewire_api::{
    PolicyEndpoint, SliceEndpoints, SliceEndpointsSpec, SlicePolicySpec, SliceRules,
};
use slicewire_core::policy::ruleset::{Elements, Field};
use slicewire_core::policy::{Keys, Ruleset};

use super::*;
use crate::validate;

fn pod(name: &str, app: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: name.into(),
        labels: labels(&[("app", app), ("secret", "plan")]),
        service_account: "robot".into(),
        ports: BTreeMap::new(),
        host_network: false,
        finished: false,
        deleting: false,
        network_status: None,
        resource_version: "1".into(),
    }
}

/// Devices from which something may come, by the rules.
fn open_ports(ruleset: &Ruleset) -> Vec<String> {
    let mut devices = Vec::new();
    for set in ["senders4", "gateway-senders4"] {
        let Elements::Plain(keys) = &ruleset.inet.sets[set].elements else { panic!() };
        devices.extend(keys.iter().map(|key| match &key[0] {
            Field::Device(name) => name.clone(),
            other => panic!("{other:?}"),
        }));
    }
    devices
}

fn rules(bed: &Bed, router: &str) -> Ruleset {
    bed.network.ruleset(&NsId::named(router)).unwrap()
}

fn port_of(bed: &Bed, uid: &str) -> String {
    let router = bed.state(&NsId::named("sw-blue"));
    let alias = format!("slicewire/blue/{uid}");
    router.links.iter().find(|l| l.alias.as_deref() == Some(&alias)).unwrap().name.clone()
}

fn cut() -> SliceRules {
    let labels = serde_json::json!({"matchLabels": {"app": "ledger"}});
    let rules: SlicePolicySpec = serde_json::from_value(serde_json::json!({
        "slice": "blue", "priority": 1,
        "egress": [{"action": "Deny", "peers": [{"podSelector": labels}]}],
    }))
    .unwrap();
    let spec = SliceRulesSpec { slice: "blue".into(), policy: "cut".into(), revision: 3, rules };
    SliceRules::new("blue.cut", spec)
}

#[tokio::test]
async fn a_pod_has_its_rules_before_its_nic_is_announced_and_not_before_it_is_known() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    let mut process = bed.process().await;
    // What was there when the daemon began is taken for what the runtime says.
    process.engine.node.started -= Duration::from_secs(60);
    process.settle().await;
    let port = port_of(&bed, "web");
    assert!(!open_ports(&rules(&bed, "sw-blue")).contains(&port), "who it is is not known yet");
    bed.shared.change(|w| w.pods.insert("web".into(), Arc::new(pod("web", "web"))).is_none());
    process.settle().await;
    assert!(open_ports(&rules(&bed, "sw-blue")).contains(&port));

    // Whatever fails while a second one is attached: as soon as its port is there, so are the rules.
    bed.shared.change(|w| w.pods.insert("web2".into(), Arc::new(pod("web2", "web"))).is_none());
    for count in 0..12 {
        bed.start("web2", "shop", Labels::new());
        bed.network.fail_after(count, Errno::EIO);
        process.attach("web2").await;
        bed.network.heal();
        let router = bed.state(&NsId::named("sw-blue"));
        let open = open_ports(&rules(&bed, "sw-blue"));
        let ports = router.links.iter().filter(|l| l.kind == LinkKind::Veth);
        for link in ports {
            assert!(open.contains(&link.name), "{} has no rules after {count} steps", link.name);
        }
        bed.end("web2");
        process.settle().await;
        assert!(rules(&bed, "sw-blue").inet.sets["places4"].len() <= 2, "rules of it are left");
    }
}

#[tokio::test]
async fn rules_that_somebody_took_away_come_back_and_a_start_brings_the_same() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    bed.shared.change(|w| w.pods.insert("web".into(), Arc::new(pod("web", "web"))).is_none());
    let mut process = bed.settled().await;
    let port = port_of(&bed, "web");
    bed.network.flush_rules(&NsId::named("sw-blue"));
    process.engine.policies.count().await;
    process.settle().await;
    assert!(open_ports(&rules(&bed, "sw-blue")).contains(&port));
    drop(process);
    let mut process = bed.settled().await;
    assert!(open_ports(&rules(&bed, "sw-blue")).contains(&port));
    bed.end("web");
    bed.end("gw-here");
    bed.shared.change(|w| {
        w.pods.clear();
        w.slices.get_mut("blue").unwrap().deleting = true;
        true
    });
    process.settle().await;
    assert!(bed.network.ruleset(&NsId::named("sw-blue")).is_none());
}

#[tokio::test]
async fn policies_and_pods_of_other_clusters_get_into_the_kernel_and_are_reported() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    let endpoint = PolicyEndpoint {
        namespace: "shop".into(),
        pod: "ledger-0".into(),
        addresses: vec!["10.77.128.9".into()],
        identity: serde_json::from_value(serde_json::json!({"labels": {"app": "ledger"}})).unwrap(),
    };
    let spec = SliceEndpointsSpec {
        slice: "blue".into(),
        cluster: "west".into(),
        endpoints: vec![endpoint],
    };
    let far = SliceEndpoints::new("blue.west.0", spec);
    bed.shared.change(|w| {
        w.pods.insert("web".into(), Arc::new(pod("web", "web")));
        let entry = Arc::new(validate::rules(&cut()).unwrap());
        w.policies.insert("blue.cut".into(), entry);
        w.far_pods.insert("blue.west.0".into(), validate::far_pods(&far).unwrap());
        let keys = Keys { pods: ["app".to_owned()].into(), ..Keys::default() };
        let slice = w.slices.get_mut("blue").unwrap().valid.as_mut().unwrap();
        slice.policy.keys = Some(keys);
        true
    });
    let mut process = bed.settled().await;
    let classes = |bed: &Bed| rules(bed, "sw-blue").inet.sets["class4"].len();
    assert_eq!(classes(&bed), 1, "the one that a rule selects");
    let report = process._reports.borrow().clone();
    assert_eq!(report.policies["blue"][0].revision, Some(3));
    let told = &report.identities[&("blue".to_owned(), "web".to_owned())];
    assert_eq!(told.labels.keys().collect::<Vec<_>>(), ["app"], "nothing that nobody asks");
    assert_eq!(told.service_account, None);

    bed.shared.change(|w| w.far_pods.remove("blue.west.0").is_some());
    process.settle().await;
    assert_eq!(classes(&bed), 0);
    bed.shared.change(|w| w.policies.remove("blue.cut").is_some());
    process.settle().await;
    assert!(process._reports.borrow().policies["blue"].is_empty());
}
