//! NetworkPolicies that keep the slice's namespaces to themselves on this cluster's own pod network.
//!
//! One in each onboarded namespace: pods there accept connections from namespaces of the slice and
//! from those that the slice lists, and from nobody else. What they send is not restricted, so names
//! are resolved and Services reached as before; kubelets' probes are none of NetworkPolicies' matters.
//! Another's NetworkPolicy is never touched, also where it has the name of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;
use serde_json::json;
use slicewire_api::Slice;
use slicewire_api::labels::{MANAGED_BY, OF_SLICE, WORKER_MANAGER};

use super::observe::Observed;
use super::status::member_namespaces;
use crate::kubernetes::change::Change;
use crate::worker::policy::meta;

/// The label that API servers give every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What the NetworkPolicy of a slice is called, in each of its namespaces.
pub(super) fn name(slice: &str) -> String {
    format!("slicewire-isolation-{slice}")
}

/// Whether we made it: nodes and reports leave those out.
pub(super) fn is_ours(policy: &NetworkPolicy) -> bool {
    policy.labels().get(MANAGED_BY).is_some_and(|by| by == WORKER_MANAGER)
}

/// What has to be made, repaired and deleted while the slice is here.
pub(super) fn converge(observed: &Observed) -> Vec<Change> {
    let Some(slice) = &observed.slice else { return Vec::new() };
    let wanted = wanted(observed, slice);
    let there = of_slice(observed, slice);
    let mut changes = Vec::new();
    for (namespace, policy) in &wanted {
        match there.get(namespace) {
            Some(there) => changes.extend(repair(there, policy)),
            None if foreign(observed, slice).contains(namespace) => {}
            None => changes.push(Change::apply(policy)),
        }
    }
    let gone = there.iter().filter(|(namespace, _)| !wanted.contains_key(*namespace));
    changes.extend(gone.filter_map(|(_, policy)| Change::delete(&**policy)));
    changes
}

/// Deletes all of them.
pub(super) fn remove(observed: &Observed, slice: &Slice) -> Vec<Change> {
    of_slice(observed, slice).values().filter_map(|policy| Change::delete(&**policy)).collect()
}

/// Namespaces in which somebody else's NetworkPolicy has the name of ours.
pub(super) fn foreign(observed: &Observed, slice: &Slice) -> BTreeSet<String> {
    if slice.spec.isolation.is_none() {
        return BTreeSet::new();
    }
    let name = name(&slice.name_any());
    let others = observed.network_policies.iter().filter(|p| p.name_any() == name);
    let others = others.filter(|policy| !is_of(policy, slice));
    others.filter_map(|policy| policy.namespace()).collect()
}

/// Ours by label, or, where somebody took the label off, by owner.
fn is_of(policy: &NetworkPolicy, slice: &Slice) -> bool {
    let labelled = policy.labels().get(OF_SLICE).is_some_and(|of| *of == slice.name_any());
    let owned = policy.owner_references().iter().any(|o| Some(&o.uid) == slice.uid().as_ref());
    (is_ours(policy) && labelled) || owned
}

fn of_slice(observed: &Observed, slice: &Slice) -> BTreeMap<String, Arc<NetworkPolicy>> {
    let ours = observed.network_policies.iter().filter(|policy| is_of(policy, slice));
    ours.filter_map(|policy| Some((policy.namespace()?, policy.clone()))).collect()
}

fn wanted(observed: &Observed, slice: &Slice) -> BTreeMap<String, NetworkPolicy> {
    let Some(isolation) = &slice.spec.isolation else { return BTreeMap::new() };
    let own: Vec<String> = member_namespaces(observed).collect();
    let accepted: BTreeSet<&String> = own.iter().chain(&isolation.allowed_namespaces).collect();
    let accepted: Vec<String> = accepted.into_iter().cloned().collect();
    let one = |namespace: &String| (namespace.clone(), policy(slice, namespace, &accepted));
    own.iter().map(one).collect()
}

fn policy(slice: &Slice, namespace: &str, accepted: &[String]) -> NetworkPolicy {
    let named = LabelSelectorRequirement {
        key: NAMESPACE_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(accepted.to_vec()),
    };
    let peer = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_expressions: Some(vec![named]),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let rule =
        NetworkPolicyIngressRule { from: Some(vec![peer]), ..NetworkPolicyIngressRule::default() };
    NetworkPolicy {
        metadata: meta(namespace, slice, name(&slice.name_any())),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            ingress: Some(vec![rule]),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ..NetworkPolicySpec::default()
        }),
    }
}

/// Makes it what it should be, whoever wrote what is wrong: a field that somebody added narrows what
/// the rest means, so nothing may be there that is not wanted.
fn repair(there: &NetworkPolicy, wanted: &NetworkPolicy) -> Option<Change> {
    if there.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let labels = wanted.labels().iter().all(|(k, v)| there.labels().get(k) == Some(v));
    let owners = wanted.owner_references().iter().all(|o| there.owner_references().contains(o));
    if labels && owners && same(there, wanted) {
        return None;
    }
    let spec = wanted.spec.as_ref()?;
    let patch = json!({
        "metadata": {
            "labels": wanted.labels(),
            "ownerReferences": wanted.owner_references(),
        },
        "spec": {
            "podSelector": {"matchLabels": null, "matchExpressions": null},
            "policyTypes": spec.policy_types,
            "ingress": spec.ingress,
            "egress": null,
        },
    });
    Some(Change::merge(there, patch))
}

fn same(there: &NetworkPolicy, wanted: &NetworkPolicy) -> bool {
    let plain = |policy: &NetworkPolicy| {
        let mut spec = policy.spec.clone().unwrap_or_default();
        spec.pod_selector = Some(spec.pod_selector.unwrap_or_default());
        spec.egress = spec.egress.filter(|rules| !rules.is_empty());
        spec
    };
    plain(there) == plain(wanted)
}

#[cfg(test)]
mod tests {
    use slicewire_api::{NamespaceRule, SliceIsolation, SliceSpec};

    use super::*;
    use crate::kubernetes::fake::Fake;

    fn world(allowed: &[&str]) -> (Observed, Fake) {
        let names = vec!["shop".to_owned(), "bank".to_owned()];
        let spec = SliceSpec {
            namespaces: vec![NamespaceRule { names, ..NamespaceRule::default() }],
            isolation: Some(SliceIsolation {
                allowed_namespaces: allowed.iter().map(|n| (*n).to_owned()).collect(),
            }),
            ..SliceSpec::default()
        };
        let mut slice = Slice::new("blue", spec);
        slice.metadata.uid = Some("u-1".into());
        let mut observed = Observed { slice: Some(Arc::new(slice)), ..Observed::default() };
        for name in ["shop", "bank", "lab", "kube-system"] {
            observed.namespaces.insert(name.into(), Default::default());
        }
        (observed, Fake::default())
    }

    fn look(observed: &mut Observed, fake: &Fake) {
        let all = fake.all().into_iter().map(|o| Arc::new(o.try_parse().unwrap()));
        observed.network_policies = all.collect();
    }

    fn carry_out(observed: &mut Observed, fake: &mut Fake) -> usize {
        let changes = converge(observed);
        for change in &changes {
            fake.carry_out(change).unwrap();
        }
        look(observed, fake);
        assert_eq!(converge(observed), [], "a second round does nothing");
        changes.len()
    }

    fn accepts(fake: &Fake, namespace: &str) -> Option<Vec<String>> {
        let policy = fake.get::<NetworkPolicy>(namespace, "slicewire-isolation-blue")?;
        let rules = policy.spec.clone()?.ingress?;
        let peer = rules[0].from.clone()?[0].clone();
        peer.namespace_selector?.match_expressions?[0].values.clone()
    }

    #[test]
    fn the_slices_namespaces_accept_each_other_and_those_that_are_listed() {
        let (mut observed, mut fake) = world(&["ingress", "shop"]);
        assert_eq!(carry_out(&mut observed, &mut fake), 2);
        for namespace in ["shop", "bank"] {
            let accepted = accepts(&fake, namespace).unwrap();
            assert_eq!(accepted, ["bank", "ingress", "shop"]);
        }
        for namespace in ["lab", "kube-system", "ingress"] {
            assert_eq!(accepts(&fake, namespace), None, "{namespace}");
        }
    }

    #[test]
    fn whatever_others_do_to_it_is_undone() {
        let (mut observed, mut fake) = world(&[]);
        carry_out(&mut observed, &mut fake);
        let before = fake.get::<NetworkPolicy>("shop", "slicewire-isolation-blue").unwrap();
        for damage in [
            json!({"spec": {"podSelector": {"matchLabels": {"app": "nobody"}}}}),
            json!({"spec": {"ingress": [{}]}}),
            json!({"spec": {"egress": [{}], "policyTypes": ["Ingress", "Egress"]}}),
            json!({"metadata": {"labels": {(MANAGED_BY): null}}}),
            json!({"metadata": {"ownerReferences": null}}),
        ] {
            fake.carry_out(&Change::merge(&*before, damage.clone())).unwrap();
            look(&mut observed, &fake);
            assert_eq!(carry_out(&mut observed, &mut fake), 1, "{damage}");
            let after = fake.get::<NetworkPolicy>("shop", "slicewire-isolation-blue").unwrap();
            assert!(same(&after, &before), "{after:?}");
            assert_eq!(after.labels(), before.labels());
            assert_eq!(after.owner_references(), before.owner_references());
        }
        fake.delete::<NetworkPolicy>("bank", "slicewire-isolation-blue");
        look(&mut observed, &fake);
        assert_eq!(carry_out(&mut observed, &mut fake), 1);
    }

    #[test]
    fn it_goes_with_the_namespace_the_profile_and_the_slice() {
        let (mut observed, mut fake) = world(&[]);
        carry_out(&mut observed, &mut fake);
        Arc::make_mut(observed.slice.as_mut().unwrap()).spec.namespaces[0].names.pop();
        carry_out(&mut observed, &mut fake);
        assert_eq!(accepts(&fake, "shop").unwrap(), ["shop"]);
        assert_eq!(accepts(&fake, "bank"), None);
        let slice = observed.slice.clone().unwrap();
        assert_eq!(remove(&observed, &slice).len(), 1);
        Arc::make_mut(observed.slice.as_mut().unwrap()).spec.isolation = None;
        carry_out(&mut observed, &mut fake);
        assert!(fake.all().is_empty());
    }

    #[test]
    fn others_network_policies_stay_as_they_are_also_under_our_name() {
        let (mut observed, mut fake) = world(&[]);
        for (namespace, name) in [("shop", "slicewire-isolation-blue"), ("bank", "own")] {
            let mut theirs = NetworkPolicy::default();
            theirs.metadata.namespace = Some(namespace.into());
            theirs.metadata.name = Some(name.into());
            fake.put(&theirs);
        }
        look(&mut observed, &fake);
        let slice = observed.slice.clone().unwrap();
        assert_eq!(foreign(&observed, &slice), ["shop".to_owned()].into());
        assert_eq!(carry_out(&mut observed, &mut fake), 1);
        assert_eq!(accepts(&fake, "shop"), None);
        let left = remove(&observed, &slice);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].namespace.as_deref(), Some("bank"));
    }
}
