//! Who may join a project: what a token allows, and what is answered to who asks with it.
//!
//! Security: a token proves only that somebody was allowed to join. It opens no name that another
//! cluster has, no name outside its pattern, and no more clusters than it was made for. Time is
//! the hub's: no clock of who joins is asked.

use std::fmt;

use crate::name::{ClusterName, MAX_CLUSTER_NAME, check};
use crate::violation::Violation;

/// Shortest life of a token, in seconds.
pub const MIN_EXPIRATION: i64 = 60;
/// Longest life of a token, in seconds: 30 days.
pub const MAX_EXPIRATION: i64 = 30 * 24 * 3600;
/// Most clusters a token lets in.
pub const MAX_USES: u32 = 1000;
/// Longest name of a token, in bytes; its namespace on the hub carries it.
pub const MAX_TOKEN_NAME: usize = 20;

/// Which names a token opens: a cluster's name, in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Every rule it breaks: what is left without its stars has to be possible in a name.
    pub fn parse(field: &str, text: &str) -> Result<Self, Vec<Violation>> {
        if !text.contains('*') {
            let faults = check(field, text, MAX_CLUSTER_NAME);
            return if faults.is_empty() { Ok(Self(text.to_owned())) } else { Err(faults) };
        }
        let possible = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-*".contains(&b);
        if text.len() <= MAX_CLUSTER_NAME && text.bytes().all(possible) && !text.contains("--") {
            return Ok(Self(text.to_owned()));
        }
        let what = format!(
            "is neither a cluster's name nor a pattern of one: at most {MAX_CLUSTER_NAME} lower-case letters, digits, '-' and '*', as edge-*"
        );
        Err(vec![Violation::new(field, text, "NamePattern", what)])
    }

    /// Whether the name is one of those meant.
    pub fn matches(&self, name: &ClusterName) -> bool {
        let mut parts = self.0.split('*');
        let (Some(first), name) = (parts.next(), name.as_str()) else { return false };
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    /// The only name it means, if there is only one.
    pub fn only(&self) -> Option<ClusterName> {
        ClusterName::parse(&self.0).ok()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which names it opens.
    pub pattern: Pattern,
    /// How many clusters it lets in.
    pub uses: u32,
    /// How many it has let in.
    pub used: u32,
    /// When it ends, in seconds since 1970 by the hub's clock.
    pub expires: i64,
    /// It has been taken back.
    pub revoked: bool,
}

impl Token {
    /// A token as somebody wrote it, made at `created` (seconds since 1970), unused.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(
        name: &str,
        clusters: &str,
        uses: i64,
        expiration_seconds: i64,
        created: i64,
    ) -> Result<Self, Vec<Violation>> {
        let mut faults = check("metadata.name", name, MAX_TOKEN_NAME);
        let pattern = Pattern::parse("spec.clusters", clusters);
        let counted = u32::try_from(uses).ok().filter(|u| (1..=MAX_USES).contains(u));
        if counted.is_none() {
            let what = format!("is outside 1 to {MAX_USES}");
            faults.push(Violation::new("spec.uses", uses.to_string(), "Uses", what));
        }
        if !(MIN_EXPIRATION..=MAX_EXPIRATION).contains(&expiration_seconds) {
            let what = format!("is outside {MIN_EXPIRATION} to {MAX_EXPIRATION} seconds");
            let value = expiration_seconds.to_string();
            faults.push(Violation::new("spec.expirationSeconds", value, "Expiration", what));
        }
        match (pattern, counted) {
            (Ok(pattern), Some(uses)) if faults.is_empty() => {
                let expires = created.saturating_add(expiration_seconds);
                Ok(Self { pattern, uses, used: 0, expires, revoked: false })
            }
            (pattern, _) => {
                faults.extend(pattern.err().unwrap_or_default());
                Err(faults)
            }
        }
    }

    /// Whether it has ended at `now`.
    pub fn expired(&self, now: i64) -> bool {
        now >= self.expires
    }
}

/// Who asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// Under which name.
    pub cluster: ClusterName,
    /// Which cluster it is: the uid of its namespace `kube-system`, which lives as long as the
    /// cluster and is no other's.
    pub uid: String,
}

impl Applicant {
    /// Who asks, as the request says it.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(cluster: &str, uid: &str) -> Result<Self, Vec<Violation>> {
        let mut faults = check("spec.cluster", cluster, MAX_CLUSTER_NAME);
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-';
        if uid.len() != 36 || !uid.bytes().all(hex) {
            let shown: String = uid.chars().take(36).collect();
            let what = "is not the uid of a namespace, as 0b1e4f5a-0000-4000-8000-000000000000";
            faults.push(Violation::new("spec.clusterUid", shown, "MalformedUid", what));
        }
        match ClusterName::parse(cluster) {
            Ok(cluster) if faults.is_empty() => Ok(Self { cluster, uid: uid.to_owned() }),
            _ => Err(faults),
        }
    }
}

/// A cluster of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Which cluster has joined under it, if one has.
    pub uid: Option<String>,
    /// It is being deleted.
    pub leaving: bool,
}

/// How somebody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// For the first time.
    New,
    /// The same cluster once more: what it held before is to die.
    Again,
}

/// Why somebody is not let in, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token was taken back.
    #[error("the token was revoked; make a new one on the hub: slicectl token create")]
    Revoked,
    /// The token has ended.
    #[error(
        "the token expired {ago} s ago by the hub's clock; make a new one on the hub: slicectl token create"
    )]
    Expired {
        /// Seconds since then.
        ago: i64,
    },
    /// The token has let in as many as it may.
    #[error(
        "the token has been used {uses} of {uses} times; make a new one on the hub: slicectl token create"
    )]
    UsedUp {
        /// How many it may.
        uses: u32,
    },
    /// The token is for other names.
    #[error(
        "the token is for clusters named {pattern}, not for {name}; join under such a name (--cluster), or make a token for {name} on the hub: slicectl token create --cluster {name}"
    )]
    OtherName {
        /// For which.
        pattern: String,
        /// What was asked for.
        name: String,
    },
    /// Another cluster has the name.
    #[error(
        "another cluster has joined as {name} already; join under another name (--cluster), or, when that cluster is gone or was built anew, remove it on the hub first: slicectl evict {name}"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The cluster is a member under another name.
    #[error(
        "this cluster is a member as {name} already; join as {name} again, or leave first: slicectl leave"
    )]
    MemberAs {
        /// That name.
        name: String,
    },
    /// The cluster of this name is being removed.
    #[error("cluster {name} is being removed from the hub; try again when it is gone")]
    Leaving {
        /// The name.
        name: String,
    },
}

impl Refusal {
    /// A short stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Revoked => "TokenRevoked",
            Self::Expired { .. } => "TokenExpired",
            Self::UsedUp { .. } => "TokenUsedUp",
            Self::OtherName { .. } => "OtherName",
            Self::NameTaken { .. } => "NameTaken",
            Self::MemberAs { .. } => "MemberAs",
            Self::Leaving { .. } => "Leaving",
        }
    }
}

/// Whether somebody is let in.
///
/// # Errors
/// Every reason why not, the token's first.
pub fn decide(
    token: &Token,
    applicant: &Applicant,
    clusters: &[Registered],
    now: i64,
) -> Result<Admission, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let name = applicant.cluster.to_string();
    if token.revoked {
        refusals.push(Refusal::Revoked);
    }
    if token.expired(now) {
        refusals.push(Refusal::Expired { ago: now.saturating_sub(token.expires) });
    }
    if token.used >= token.uses {
        refusals.push(Refusal::UsedUp { uses: token.uses });
    }
    if !token.pattern.matches(&applicant.cluster) {
        let pattern = token.pattern.to_string();
        refusals.push(Refusal::OtherName { pattern, name: name.clone() });
    }
    let mut admission = Admission::New;
    for cluster in clusters {
        let same = cluster.uid.as_deref() == Some(applicant.uid.as_str());
        if cluster.name != name {
            if same && !cluster.leaving {
                refusals.push(Refusal::MemberAs { name: cluster.name.clone() });
            }
            continue;
        }
        if cluster.leaving {
            refusals.push(Refusal::Leaving { name: name.clone() });
        }
        match &cluster.uid {
            Some(_) if same => admission = Admission::Again,
            Some(_) => refusals.push(Refusal::NameTaken { name: name.clone() }),
            None => {}
        }
    }
    if refusals.is_empty() { Ok(admission) } else { Err(refusals) }
}

#[cfg(test)]
mod tests;
