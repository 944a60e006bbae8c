use slicewire_api::policy::keys_from;
use slicewire_api::{
    PodIdentity, PolicyEndpoint, PolicyKeys, PolicyPeer, PolicyRule, PolicySubject, RuleAction,
    SliceCluster, SliceConfig, SliceConfigSpec, SlicePolicy, SlicePolicySpec, WorkerSlice,
    WorkerSliceSpec, WorkerSliceStatus,
};

use super::*;

fn selector(app: &str) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector> {
    serde_json::from_value(serde_json::json!({"matchLabels": {"app": app}})).unwrap()
}

/// Two clusters with a pod `web` each, of which the hub knows what `keys` say.
fn known(keys: Option<PolicyKeys>) -> Known {
    let clusters = ["east", "west"].map(|name| SliceCluster { name: name.into() }).to_vec();
    let spec = SliceConfigSpec { clusters, ..SliceConfigSpec::default() };
    let mut slice = Slice::new(SliceConfig::new("blue", spec));
    for (number, name) in ["east", "west"].into_iter().enumerate() {
        let cluster = ClusterName::parse(name).unwrap();
        let spec = WorkerSliceSpec { policy_keys: keys.clone(), ..WorkerSliceSpec::default() };
        let mut worker = WorkerSlice::new("blue", spec);
        let status = WorkerSliceStatus { attached_pods: 1, ..WorkerSliceStatus::default() };
        worker.status = Some(status);
        if let Some(keys) = &keys {
            let endpoint = PolicyEndpoint {
                namespace: "shop".into(),
                pod: "web".into(),
                addresses: vec![format!("10.77.{number}.7")],
                identity: PodIdentity {
                    labels: [("app".to_owned(), "web".to_owned())].into(),
                    ..PodIdentity::default()
                },
            };
            let id = format!("{name}/shop/web").into();
            let pods = [(id, endpoint.endpoint(&cluster))].into();
            slice.pods.insert(cluster.clone(), ClusterPods { keys: keys_from(keys), pods });
        }
        slice.workers.insert(cluster, worker);
    }
    Known { slices: [(("demo".to_owned(), "blue".to_owned()), slice)].into() }
}

fn with_cut(mut known: Known) -> Known {
    let spec = SlicePolicySpec {
        slice: "blue".into(),
        priority: Some(10),
        subject: PolicySubject { pod_selector: selector("web"), ..PolicySubject::default() },
        egress: Some(vec![PolicyRule {
            action: RuleAction::Deny,
            peers: vec![PolicyPeer { clusters: vec!["west".into()], ..PolicyPeer::default() }],
            ..PolicyRule::default()
        }]),
        ..SlicePolicySpec::default()
    };
    let slice = known.slices.values_mut().next().unwrap();
    slice.policies.insert("cut".into(), SlicePolicy::new("cut", spec));
    known
}

fn app() -> PolicyKeys {
    PolicyKeys { pods: vec!["app".into()], ..PolicyKeys::default() }
}

#[test]
fn a_pair_that_closes_is_listed_and_no_other() {
    let before = known(Some(app()));
    let compared = changed(&before, &with_cut(before.clone()));
    let (text, same) = render(&compared, 100).unwrap();
    assert!(!same, "{text}");
    assert!(text.contains("slice blue of project demo: 1 pair closed"), "{text}");
    let row = text.lines().nth(2).unwrap();
    for part in ["closes", "east/shop/web", "-> ", "west/shop/web", "every protocol and port"] {
        assert!(row.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 3, "{text}");
    let (text, same) = render(&changed(&before, &before), 100).unwrap();
    assert!(same && text.contains("the same"), "{text}");
}

#[test]
fn what_the_hub_does_not_know_is_no_answer() {
    let before = known(None);
    let told = render(&changed(&before, &with_cut(before.clone())), 100).unwrap_err().to_string();
    assert!(told.contains("of east's pods the label app"), "{told}");
    assert!(
        told.contains("--cluster NAME=KUBECONFIG") && told.contains("enforce: audit"),
        "{told}"
    );
}

#[test]
fn a_cluster_that_is_asked_is_taken_at_its_word() {
    let before = known(None);
    let mut compared = changed(&before, &with_cut(before.clone()));
    let pods = known(Some(app())).slices.values().next().unwrap().pods.clone();
    for (cluster, known) in pods {
        let told = pods::Told { pods: known.pods, policies: BTreeMap::new() };
        assert!(compared[0].has(&cluster));
        compared[0].learn(&cluster, told);
    }
    let (text, same) = render(&compared, 100).unwrap();
    assert!(!same && text.contains("closes"), "{text}");
    let (text, _) = render(&compared, 0).unwrap();
    assert!(text.contains("and 1 more"), "{text}");
}
