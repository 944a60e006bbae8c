//! What the clusters export → what every cluster imports.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Affinity, Export, Import, Port};
use crate::name::ClusterName;
use crate::prefix::Family;

/// Most clusters a conflict's message names, so that it fits into a condition.
const MAX_TOLD: usize = 8;

/// What clusters disagree about; the words are those of the standard's `Conflict` condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictReason {
    /// Ports.
    Port,
    /// Headless or not.
    Type,
    /// Session affinity.
    SessionAffinity,
    /// Its timeout.
    SessionAffinityConfig,
    /// Exported labels.
    Labels,
    /// Exported annotations.
    Annotations,
    /// Internal traffic policy.
    InternalTrafficPolicy,
    /// Traffic distribution.
    TrafficDistribution,
    /// IP families.
    IpFamily,
}

impl ConflictReason {
    /// The word in the condition's reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::Labels => "LabelsConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::IpFamily => "IPFamilyConflict",
        }
    }

    /// The reason that this word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    const ALL: [Self; 9] = [
        Self::Port,
        Self::Type,
        Self::SessionAffinity,
        Self::SessionAffinityConfig,
        Self::Labels,
        Self::Annotations,
        Self::InternalTrafficPolicy,
        Self::TrafficDistribution,
        Self::IpFamily,
    ];
}

/// One disagreement, as all exporting clusters are told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// About what.
    pub reason: ConflictReason,
    /// Who differs from the oldest export; never empty.
    pub clusters: BTreeSet<ClusterName>,
    /// Who wants what, what is used, and what to do; one sentence.
    pub message: String,
}

/// A service made of its exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// What every cluster imports.
    pub import: Import,
    /// What the exports disagree about, in the order of reasons; the standard asks to tell every
    /// one of them.
    pub conflicts: Vec<Conflict>,
}

/// Makes one service of what the clusters export of it; `None` when nobody does.
///
/// Ports are united, first by name, then by protocol and number; all else is as the oldest export
/// has it, and of two of one age, the one of the first cluster by name (KEP-1645, Constraints and
/// Conflict Resolution).
pub fn merge(exports: &BTreeMap<ClusterName, Export>) -> Option<Merged> {
    let mut by_age: Vec<(&ClusterName, &Export)> = exports.iter().collect();
    by_age.sort_by_key(|(cluster, export)| (export.created, *cluster));
    let (oldest, first) = *by_age.first()?;
    let import = Import {
        kind: first.kind,
        ports: united(by_age.iter().flat_map(|(_, e)| &e.ports)),
        affinity: first.affinity,
        internal_traffic: first.internal_traffic,
        distribution: first.distribution.clone(),
        families: first.families.clone(),
        labels: first.labels.clone(),
        annotations: first.annotations.clone(),
        clusters: exports.keys().cloned().collect(),
        // Each speaks for its own endpoints: nothing to disagree about.
        weights: exports.iter().filter_map(|(c, e)| Some((c.clone(), e.weight?))).collect(),
    };
    let conflicts = Comparison { oldest, first, others: by_age.get(1..).unwrap_or_default() };
    Some(Merged { import, conflicts: conflicts.all() })
}

fn united<'a>(ports: impl Iterator<Item = &'a Port>) -> Vec<Port> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut union = Vec::new();
    for port in ports {
        let number = (port.protocol, port.port);
        if !names.contains(port.name.as_str()) && !numbers.contains(&number) {
            names.insert(port.name.as_str());
            numbers.insert(number);
            union.push(port.clone());
        }
    }
    union
}

struct Comparison<'a> {
    oldest: &'a ClusterName,
    first: &'a Export,
    others: &'a [(&'a ClusterName, &'a Export)],
}

impl Comparison<'_> {
    fn all(&self) -> Vec<Conflict> {
        use ConflictReason as R;
        let found = [
            self.ports(),
            self.differ(R::Type, "type", |e| e.kind.as_str().to_owned()),
            self.differ(R::SessionAffinity, "session affinity", |e| {
                affinity(e.affinity).to_owned()
            }),
            self.timeouts(),
            self.differ(R::Labels, "exported labels", |e| pairs(&e.labels)),
            self.differ(R::Annotations, "exported annotations", |e| pairs(&e.annotations)),
            self.differ(R::InternalTrafficPolicy, "internal traffic policy", |e| {
                format!("{:?}", e.internal_traffic)
            }),
            self.differ(R::TrafficDistribution, "traffic distribution", |e| {
                e.distribution.clone().unwrap_or_else(|| "none".to_owned())
            }),
            self.differ(R::IpFamily, "IP families", |e| families(&e.families)),
        ];
        found.into_iter().flatten().collect()
    }

    fn differ(
        &self,
        reason: ConflictReason,
        what: &str,
        value: impl Fn(&Export) -> String,
    ) -> Option<Conflict> {
        let used = value(self.first);
        let others = self.others.iter().map(|(cluster, export)| (*cluster, value(export)));
        let differing: Vec<_> = others.filter(|(_, v)| *v != used).collect();
        let told = format!("{what} {used}, of {} that exported first, is used", self.oldest);
        self.conflict(reason, &differing, &told)
    }

    /// Timeouts count between those that have one.
    fn timeouts(&self) -> Option<Conflict> {
        let Affinity::ClientIp { timeout: used } = self.first.affinity else { return None };
        let differing: Vec<_> = self
            .others
            .iter()
            .filter_map(|(cluster, export)| match export.affinity {
                Affinity::ClientIp { timeout } if timeout != used => {
                    Some((*cluster, format!("{timeout} s")))
                }
                _ => None,
            })
            .collect();
        let told = format!(
            "session affinity timeout {used} s, of {} that exported first, is used",
            self.oldest
        );
        self.conflict(ConflictReason::SessionAffinityConfig, &differing, &told)
    }

    fn ports(&self) -> Option<Conflict> {
        let sorted = |ports: &[Port]| {
            let mut ports = ports.to_vec();
            ports.sort();
            ports
        };
        let used = sorted(&self.first.ports);
        let differing: Vec<_> = self
            .others
            .iter()
            .map(|(cluster, export)| (*cluster, sorted(&export.ports)))
            .filter(|(_, ports)| *ports != used)
            .map(|(cluster, ports)| (cluster, list(&ports)))
            .collect();
        let told = format!(
            "the union of all ports is used, and of two with one name or number the one of the older \
             export; {} that exported first has {}",
            self.oldest,
            list(&used)
        );
        self.conflict(ConflictReason::Port, &differing, &told)
    }

    fn conflict(
        &self,
        reason: ConflictReason,
        differing: &[(&ClusterName, String)],
        told: &str,
    ) -> Option<Conflict> {
        if differing.is_empty() {
            return None;
        }
        let mut have: Vec<String> = differing
            .iter()
            .take(MAX_TOLD)
            .map(|(cluster, value)| format!("{cluster} has {value}"))
            .collect();
        if let Some(more) = differing.len().checked_sub(MAX_TOLD).filter(|more| *more > 0) {
            have.push(format!("and {more} more clusters differ"));
        }
        Some(Conflict {
            reason,
            clusters: differing.iter().map(|(cluster, _)| (*cluster).clone()).collect(),
            message: format!(
                "{told}; {}; make the Services equal, or give those that differ another name",
                have.join(", ")
            ),
        })
    }
}

fn affinity(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::None => "None",
        Affinity::ClientIp { .. } => "ClientIP",
    }
}

fn families(families: &BTreeSet<Family>) -> String {
    let names: Vec<String> = families.iter().map(|f| format!("IP{f:?}").to_lowercase()).collect();
    names.join("+")
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "none".to_owned() } else { pairs.join(",") }
}

fn list(ports: &[Port]) -> String {
    let ports: Vec<String> = ports.iter().map(Port::to_string).collect();
    if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
}

#[cfg(test)]
mod tests;
