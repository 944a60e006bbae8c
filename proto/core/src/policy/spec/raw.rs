//! Policies as they were written.

use std::collections::BTreeMap;

/// A policy as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawPolicy {
    /// `spec.priority`: set for admin policies only.
    pub priority: Option<i64>,
    /// The namespace whose policy it is: set for namespaced policies only.
    pub namespace: Option<String>,
    /// `spec.enforce`: `enforce` or `audit`; empty: `enforce`.
    pub enforce: String,
    /// `spec.subject`.
    pub subject: RawWho,
    /// `spec.ingress`.
    pub ingress: Option<Vec<RawRule>>,
    /// `spec.egress`.
    pub egress: Option<Vec<RawRule>>,
}

/// Endpoints as they were written.
#[derive(Debug, Clone, Default)]
pub struct RawWho {
    /// `clusters`.
    pub clusters: Vec<String>,
    /// `namespaces`.
    pub namespaces: Vec<String>,
    /// `namespaceSelector`.
    pub namespace_selector: Option<RawSelector>,
    /// `serviceAccounts`.
    pub service_accounts: Vec<String>,
    /// `podSelector`.
    pub pod_selector: Option<RawSelector>,
}

impl RawWho {
    pub(super) fn is_empty(&self) -> bool {
        self.clusters.is_empty()
            && self.namespaces.is_empty()
            && self.namespace_selector.is_none()
            && self.service_accounts.is_empty()
            && self.pod_selector.is_none()
    }
}

/// A label selector as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawSelector {
    /// `matchLabels`.
    pub match_labels: BTreeMap<String, String>,
    /// `matchExpressions`.
    pub match_expressions: Vec<RawRequirement>,
}

/// A requirement on a label as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawRequirement {
    /// `key`.
    pub key: String,
    /// `operator`.
    pub operator: String,
    /// `values`.
    pub values: Vec<String>,
}

/// A rule as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawRule {
    /// `action`; empty: `Allow`.
    pub action: String,
    /// `peers`; empty: every address.
    pub peers: Vec<RawPeer>,
    /// `ports`; empty: every protocol and port.
    pub ports: Vec<RawPort>,
}

/// A peer as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawPeer {
    /// `slice: true`: every endpoint of the slice.
    pub slice: bool,
    /// Some endpoints of the slice.
    pub who: RawWho,
    /// `cidr`: addresses.
    pub cidr: Option<String>,
    /// `except`: addresses of `cidr` that are not meant.
    pub except: Vec<String>,
}

/// A port as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawPort {
    /// `protocol`; empty: `TCP`.
    pub protocol: String,
    /// `port`.
    pub port: Option<RawPortValue>,
    /// `endPort`.
    pub end_port: Option<i64>,
}

/// A port's number or name.
#[derive(Debug, Clone)]
pub enum RawPortValue {
    /// A number.
    Number(i64),
    /// A name.
    Name(String),
}
