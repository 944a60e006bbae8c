//! What this cluster's own NetworkPolicies ask of the slice's pods in all clusters, where they hold
//! on the slice.

use std::collections::BTreeSet;

use kube::ResourceExt;
use slicewire_api::PolicyKeys;
use slicewire_api::policy::{keys_into, own_policies};
use slicewire_core::name::ClusterName;
use slicewire_core::policy::Keys;

use super::isolation::is_ours;
use super::observe::Observed;
use super::status::member_namespaces;

/// What the hub is told to have the others tell; none where nothing is asked. Policies are taken in
/// the order of their names as far as there is room.
pub(super) fn keys(observed: &Observed) -> Option<PolicyKeys> {
    let slice = observed.slice.as_ref().filter(|s| s.spec.policy.apply_network_policies)?;
    let cluster = ClusterName::parse(&slice.spec.cluster).ok()?;
    let namespaces: BTreeSet<String> = member_namespaces(observed).collect();
    let theirs = observed.network_policies.iter().filter(|policy| {
        !is_ours(policy) && policy.namespace().is_some_and(|ns| namespaces.contains(&ns))
    });
    let policies = own_policies(&cluster, theirs.map(|policy| &**policy));
    if policies.is_empty() {
        return None;
    }
    let mut keys = Keys::default();
    for (name, policy) in &policies {
        let with = keys.clone().and(Keys::of([policy]));
        if with.is_too_much() {
            tracing::warn!(policy = name, "selects on more labels than clusters tell each other");
        } else {
            keys = with;
        }
    }
    Some(keys_into(keys))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::json;
    use slicewire_api::labels::{MANAGED_BY, WORKER_MANAGER};
    use slicewire_api::{NamespaceRule, Slice, SliceSpec};

    use super::*;

    fn policy(namespace: &str, name: &str, label: &str) -> Arc<NetworkPolicy> {
        let spec = json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {(label): "x"}}}],
                         "ports": [{"port": "http"}]}],
        });
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn observed(policies: Vec<Arc<NetworkPolicy>>) -> Observed {
        let mut spec = SliceSpec {
            cluster: "east".into(),
            namespaces: vec![NamespaceRule { names: vec!["shop".into()], ..Default::default() }],
            ..SliceSpec::default()
        };
        spec.policy.apply_network_policies = true;
        let mut observed = Observed {
            slice: Some(Arc::new(Slice::new("blue", spec))),
            network_policies: policies,
            ..Observed::default()
        };
        observed.namespaces.insert("shop".into(), Default::default());
        observed.namespaces.insert("lab".into(), Default::default());
        observed
    }

    #[test]
    fn only_policies_of_the_slices_namespaces_ask_and_none_of_ours() {
        let mut ours = policy("shop", "isolation", "secret");
        Arc::make_mut(&mut ours).metadata.labels =
            Some([(MANAGED_BY.to_owned(), WORKER_MANAGER.to_owned())].into());
        let policies = vec![policy("shop", "own", "role"), policy("lab", "other", "team"), ours];
        let mut observed = observed(policies);
        let asked = keys(&observed).unwrap();
        assert_eq!(
            (asked.pods, asked.ports),
            (vec!["app".into(), "role".into()], vec!["http".into()])
        );
        observed.network_policies.truncate(0);
        assert_eq!(keys(&observed), None);
    }

    #[test]
    fn where_they_do_not_hold_nothing_is_asked() {
        let mut observed = observed(vec![policy("shop", "own", "role")]);
        Arc::make_mut(observed.slice.as_mut().unwrap()).spec.policy.apply_network_policies = false;
        assert_eq!(keys(&observed), None);
    }

    #[test]
    fn one_that_asks_too_much_keeps_no_other_from_being_heard() {
        let mut big = policy("shop", "big", "role");
        let many: Vec<_> =
            (0..200).map(|i| json!({"key": format!("k{i}"), "operator": "Exists"})).collect();
        let spec = json!({"podSelector": {"matchExpressions": many}});
        Arc::make_mut(&mut big).spec = Some(serde_json::from_value(spec).unwrap());
        let asked = keys(&observed(vec![big, policy("shop", "small", "role")])).unwrap();
        assert_eq!(asked.pods, ["app", "role"]);
    }
}
