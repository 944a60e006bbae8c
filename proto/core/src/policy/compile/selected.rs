//! The local pods, by the policies that select them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::endpoints::Endpoints;
use super::{Port, Situation};
use crate::policy::model::{Endpoint, Policy, PolicyName};

/// A policy with its name.
pub(super) type Named<'a> = (&'a PolicyName, &'a Arc<Policy>);

/// The ports whose endpoints are known. Few policies select many pods, so what is found out about
/// policies is found out once for all pods that the same ones select.
pub(super) struct Selected<'a> {
    /// In the order they are asked.
    policies: Vec<Named<'a>>,
    /// Pods by the places of their policies.
    pods: BTreeMap<Vec<usize>, Vec<Pod<'a>>>,
}

/// A pod with its port.
pub(super) type Pod<'a> = (&'a Port, &'a Endpoint);

impl<'a> Selected<'a> {
    pub(super) fn of(situation: &'a Situation, endpoints: &'a Endpoints) -> Self {
        let policies: Vec<Named<'a>> = situation.policies.in_order();
        let mut pods: BTreeMap<Vec<usize>, Vec<Pod<'a>>> = BTreeMap::new();
        for (port, id) in situation.pods() {
            let Some(endpoint) = endpoints.get(id) else { continue };
            let all = policies.iter().enumerate();
            let selecting = all.filter(|(_, (_, p))| p.subject.matches(&endpoint.identity));
            let places = selecting.map(|(place, _)| place).collect();
            pods.entry(places).or_default().push((port, endpoint));
        }
        Self { policies, pods }
    }

    /// Policies that select any of them.
    pub(super) fn policies(&self) -> impl Iterator<Item = Named<'a>> {
        let places: BTreeSet<usize> = self.pods.keys().flatten().copied().collect();
        places.into_iter().filter_map(|place| self.policies.get(place).copied())
    }

    /// Pods that the same policies select, with these in the order they are asked.
    pub(super) fn groups(&self) -> impl Iterator<Item = (Vec<Named<'a>>, &[Pod<'a>])> {
        self.pods.iter().map(|(places, pods)| {
            let policies = places.iter().filter_map(|place| self.policies.get(*place).copied());
            (policies.collect(), &**pods)
        })
    }
}
