//! What policies ask of endpoints, and so what clusters tell each other of their pods: nothing more.

use std::collections::BTreeSet;

use super::model::{Direction, Peer, Policy, Ports, Who};
use crate::selector::{Labels, Selector};

/// Most labels of pods, and of namespaces, and most names of ports, that a slice's policies may
/// select on: what every cluster tells of every pod stays small.
pub const MAX_KEYS: usize = 128;

/// What is told of a pod, besides its cluster, namespace and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keys {
    /// Its labels with these keys.
    pub pods: BTreeSet<String>,
    /// Its namespace's labels with these keys.
    pub namespaces: BTreeSet<String>,
    /// Numbers of its ports with these names.
    pub ports: BTreeSet<String>,
    /// Its service account.
    pub service_accounts: bool,
}

impl Keys {
    /// What these policies ask.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut keys = Self::default();
        for policy in policies {
            keys.who(&policy.subject);
            let rules = Direction::BOTH.into_iter().filter_map(|d| policy.rules(d)).flatten();
            for rule in rules {
                for peer in &rule.peers {
                    if let Peer::Endpoints(who) = peer {
                        keys.who(who);
                    }
                }
                for port in &rule.ports {
                    if let Ports::Named(name) = &port.ports {
                        keys.ports.insert(name.clone());
                    }
                }
            }
        }
        keys
    }

    /// All that either asks.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.pods.extend(other.pods);
        self.namespaces.extend(other.namespaces);
        self.ports.extend(other.ports);
        self.service_accounts |= other.service_accounts;
        self
    }

    /// Whether it is more than is told.
    pub fn is_too_much(&self) -> bool {
        [&self.pods, &self.namespaces, &self.ports].iter().any(|all| all.len() > MAX_KEYS)
    }

    /// What these policies ask that is not told, in words; nothing where all of it is.
    pub fn missing_in(&self, told: &Self) -> Vec<String> {
        let asked = [
            ("the label", &self.pods, &told.pods),
            ("the namespace's label", &self.namespaces, &told.namespaces),
            ("the port", &self.ports, &told.ports),
        ];
        let mut missing: Vec<String> = Vec::new();
        for (what, asked, told) in asked {
            missing.extend(asked.difference(told).map(|name| format!("{what} {name}")));
        }
        if self.service_accounts && !told.service_accounts {
            missing.push("the service account".to_owned());
        }
        missing
    }

    /// The labels that are told of a pod.
    pub fn of_pod(&self, labels: &Labels) -> Labels {
        chosen(&self.pods, labels)
    }

    /// The labels that are told of a pod's namespace.
    pub fn of_namespace(&self, labels: &Labels) -> Labels {
        chosen(&self.namespaces, labels)
    }

    /// Whether the numbers of ports of this name are told.
    pub fn has_port(&self, name: &str) -> bool {
        self.ports.contains(name)
    }

    fn who(&mut self, who: &Who) {
        let keys = |selector: &Selector| -> Vec<String> {
            selector.requirements.iter().map(|r| r.key.clone()).collect()
        };
        self.pods.extend(keys(&who.pods));
        self.namespaces.extend(keys(&who.namespace_selector));
        self.service_accounts |= !who.service_accounts.is_empty();
    }
}

fn chosen(keys: &BTreeSet<String>, labels: &Labels) -> Labels {
    labels
        .iter()
        .filter(|(key, _)| keys.contains(*key))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::evaluate::{Directory, evaluate};
    use crate::policy::sample;

    #[test]
    fn what_is_asked_and_not_told_is_named() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        let asked = Keys {
            pods: names(&["app", "tier"]),
            namespaces: names(&["stage"]),
            ports: names(&["web"]),
            service_accounts: true,
        };
        let told =
            Keys { pods: names(&["app", "zone"]), ports: names(&["web"]), ..Keys::default() };
        assert_eq!(
            asked.missing_in(&told),
            ["the label tier", "the namespace's label stage", "the service account"]
        );
        assert!(asked.missing_in(&asked).is_empty());
    }

    proptest! {
        /// What is left out of what is told changes no verdict.
        #[test]
        fn what_is_told_is_enough(world in sample::world(), flows in vec(sample::flow(), 1..20)) {
            let keys = Keys::of(world.policies.policies.values().map(|policy| &**policy));
            let mut told = world.endpoints.clone();
            for endpoint in told.values_mut() {
                let mut identity = (*endpoint.identity).clone();
                identity.labels = keys.of_pod(&identity.labels);
                identity.namespace_labels = keys.of_namespace(&identity.namespace_labels);
                if !keys.service_accounts {
                    identity.service_account = String::new();
                }
                endpoint.identity = identity.into();
                endpoint.named_ports.retain(|(_, name), _| keys.has_port(name));
            }
            for flow in &flows {
                let whole = evaluate(&world.policies, &Directory::new(&world.endpoints), flow);
                let by_told = evaluate(&world.policies, &Directory::new(&told), flow);
                prop_assert_eq!(whole, by_told);
            }
        }
    }
}
