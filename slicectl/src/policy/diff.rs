//! Which pairs of pods a change opens and closes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Result, bail};
use kube::Client;
use slicewire_api::policy::ClusterPods;
use slicewire_core::member;
use slicewire_core::name::ClusterName;
use slicewire_core::policy::preview::{Changed, Effect, preview};
use slicewire_core::policy::{Endpoint, EndpointId, Keys, PolicySet};

use super::known::{Known, Slice};
use super::pods;
use crate::table::layout;

/// A slice whose policies would change.
pub(super) struct Compared {
    project: String,
    slice: String,
    before: PolicySet,
    after: PolicySet,
    /// NetworkPolicies hold on it: before, afterwards.
    applies: (bool, bool),
    clusters: BTreeMap<ClusterName, Pods>,
}

/// What is known of a cluster's pods.
struct Pods {
    /// What the hub knows.
    known: ClusterPods,
    /// How many there are.
    attached: usize,
    /// The cluster itself was asked.
    asked: bool,
}

/// Slices whose policies are not the same.
pub(super) fn changed(before: &Known, after: &Known) -> Vec<Compared> {
    let mut compared = Vec::new();
    for ((project, name), slice) in &after.slices {
        let old = before.slices.get(&(project.clone(), name.clone()));
        let was = old.map(|old| old.sources().set()).unwrap_or_default();
        let is = slice.sources().set();
        let applies = |slice: &Slice| slice.config.spec.policy.apply_network_policies;
        let applies = (old.is_some_and(applies), applies(slice));
        if was != is || applies.0 != applies.1 {
            compared.push(Compared {
                project: project.clone(),
                slice: name.clone(),
                before: was,
                after: is,
                applies,
                clusters: clusters(slice),
            });
        }
    }
    compared
}

fn clusters(slice: &Slice) -> BTreeMap<ClusterName, Pods> {
    let one = |(name, worker): (&ClusterName, &slicewire_api::WorkerSlice)| {
        let attached = worker.status.as_ref().map_or(0, |s| member::pods(s.attached_pods));
        let pods = Pods {
            known: slice.pods.get(name).cloned().unwrap_or_default(),
            attached: usize::try_from(attached).unwrap_or_default(),
            asked: false,
        };
        (name.clone(), pods)
    };
    slice.workers.iter().map(one).collect()
}

impl Compared {
    /// Whether the cluster has the slice.
    pub(super) fn has(&self, cluster: &ClusterName) -> bool {
        self.clusters.contains_key(cluster)
    }

    /// Asks a cluster of the slice itself.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn ask(&mut self, cluster: &ClusterName, client: &Client) -> Result<()> {
        let told = pods::ask(client, cluster, &self.slice).await?;
        self.learn(cluster, told);
        Ok(())
    }

    fn learn(&mut self, cluster: &ClusterName, told: pods::Told) {
        for (set, applies) in
            [(&mut self.before, self.applies.0), (&mut self.after, self.applies.1)]
        {
            if applies {
                let own = told.policies.iter();
                set.policies.extend(own.map(|(name, p)| (name.as_str().into(), p.clone().into())));
            }
        }
        let attached = told.pods.len();
        let known = ClusterPods { keys: Keys::default(), pods: told.pods };
        self.clusters.insert(cluster.clone(), Pods { known, attached, asked: true });
    }

    /// What has to be known of pods and is not, one sentence a cluster.
    fn missing(&self) -> Vec<String> {
        let policies = self.before.policies.values().chain(self.after.policies.values());
        let asked = Keys::of(policies.map(|policy| &**policy));
        let one = |(name, pods): (&ClusterName, &Pods)| {
            if pods.asked || pods.attached == 0 {
                return None;
            }
            let missing = asked.missing_in(&pods.known.keys);
            if !missing.is_empty() {
                return Some(format!("of {name}'s pods {}", missing.join(", ")));
            }
            (pods.known.pods.is_empty()).then(|| format!("{name}'s pods"))
        };
        self.clusters.iter().filter_map(one).collect()
    }

    fn endpoints(&self) -> BTreeMap<EndpointId, Endpoint> {
        self.clusters.values().flat_map(|pods| pods.known.pods.clone()).collect()
    }

    /// What the comparison leaves out.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (name, pods) in &self.clusters {
            let known = pods.known.pods.len();
            if known < pods.attached {
                notes.push(format!(
                    "the hub has been told of {known} of {}'s {} pods",
                    name, pods.attached
                ));
            }
            if !pods.asked && (self.applies.0 || self.applies.1) {
                notes.push(format!(
                    "{name}'s own NetworkPolicies hold on the slice, too, and are left out; --cluster {name}=KUBECONFIG takes them in"
                ));
            }
        }
        notes
    }
}

/// What the changes come to, and whether it is nothing.
///
/// # Errors
/// Less is known of pods than the policies select on.
pub(super) fn render(compared: &[Compared], limit: usize) -> Result<(String, bool)> {
    let (mut text, mut same) = (String::new(), true);
    for one in compared {
        let missing = one.missing();
        if !missing.is_empty() {
            bail!(
                "slice {}: the hub does not know {}, because no policy selects on it yet. Either say --cluster NAME=KUBECONFIG for each of them, or apply the policy with `enforce: audit`, which drops nothing, and compare when it is Programmed",
                one.slice,
                missing.join("; ")
            );
        }
        let changes = preview(&one.before, &one.after, &one.endpoints());
        same &= changes.is_empty();
        slice(&mut text, one, &changes, limit);
    }
    if compared.is_empty() {
        text.push_str("the policies would be the same\n");
    }
    Ok((text, same))
}

fn slice(text: &mut String, one: &Compared, changes: &[Changed], limit: usize) {
    let counts = counts(changes);
    let told = counts.iter().map(|(effect, count)| {
        let pairs = if *count == 1 { "1 pair".to_owned() } else { format!("{count} pairs") };
        match effect {
            Effect::Opens => format!("{pairs} opened"),
            Effect::Closes => format!("{pairs} closed"),
            Effect::Audits => format!("{pairs} counted by audit"),
            Effect::AuditsNoMore => format!("{pairs} no longer counted by audit"),
        }
    });
    let told = told.collect::<Vec<_>>().join(", ");
    let told = if told.is_empty() { "no pair of pods opened or closed".to_owned() } else { told };
    let _ = writeln!(text, "slice {} of project {}: {told}", one.slice, one.project);
    let pairs = changes.iter().flat_map(|c| c.pairs().map(move |pair| (c, pair)));
    let rows: Vec<Vec<String>> = pairs
        .take(limit)
        .map(|(change, (from, to))| {
            let word = match change.effect {
                Effect::Opens => "opens",
                Effect::Closes => "closes",
                Effect::Audits => "audits",
                Effect::AuditsNoMore => "audits no more",
            };
            [word, from, "->", to]
                .map(str::to_owned)
                .into_iter()
                .chain([change.traffic.to_string()])
                .collect()
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&layout(&["EFFECT", "FROM", "", "TO", "TRAFFIC"], &rows));
    }
    let all: usize = counts.values().sum();
    if all > rows.len() {
        let _ = writeln!(text, "and {} more; --limit says how many are listed", all - rows.len());
    }
    for note in one.notes() {
        let _ = writeln!(text, "note: {note}");
    }
}

/// How many pairs each effect has; one that opens for some ports and closes for others counts as
/// both.
fn counts(changes: &[Changed]) -> BTreeMap<Effect, usize> {
    let mut counts = BTreeMap::new();
    let effects: BTreeSet<Effect> = changes.iter().map(|c| c.effect).collect();
    for effect in effects {
        let own = changes.iter().filter(|c| c.effect == effect);
        counts.insert(effect, own.map(Changed::count).fold(0, usize::saturating_add));
    }
    counts
}

#[cfg(test)]
mod tests;
