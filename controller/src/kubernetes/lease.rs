//! Leadership by a Lease (coordination.k8s.io): one replica acts, the others are ready to.
//!
//! The decision is [`claim`], a pure function. A free Lease, one of our own from before a restart
//! and one that was given back are taken at once, so that a single replica starts without delay.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::write::{causes, status_code};

/// How long a Lease holds without being renewed.
const HOLDS: SignedDuration = SignedDuration::from_secs(15);
/// How often it is renewed, and how often others look.
const RENEW: Duration = Duration::from_secs(4);

/// What a look at the Lease says.
#[derive(Debug, Clone, PartialEq)]
enum Claim {
    /// It is ours when this write succeeds.
    Take(LeaseSpec),
    /// Somebody else leads.
    Leave(String),
}

/// Whose a Lease is, seen by `me` at `now`.
fn claim(lease: Option<&LeaseSpec>, me: &str, now: Timestamp) -> Claim {
    let empty = LeaseSpec::default();
    let lease = lease.unwrap_or(&empty);
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let holds = SignedDuration::from_secs(i64::from(lease.lease_duration_seconds.unwrap_or(0)));
    let fresh = lease.renew_time.as_ref().is_some_and(|t| t.0 + holds > now);
    if !holder.is_empty() && holder != me && fresh {
        return Claim::Leave(holder.to_owned());
    }
    let ours = holder == me;
    let changes = lease.lease_transitions.unwrap_or(0) + i32::from(!ours);
    Claim::Take(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
        acquire_time: if ours { lease.acquire_time.clone() } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(changes),
        ..LeaseSpec::default()
    })
}

/// What became of a claim.
enum Attempt {
    Ours,
    /// This one leads.
    Theirs(String),
    /// Somebody wrote the Lease in between, maybe this process itself by a request that was sent
    /// twice; the next look tells who.
    Undecided,
}

/// A Lease this process competes for.
pub(crate) struct Leadership {
    api: Api<Lease>,
    name: String,
    me: String,
}

impl Leadership {
    /// The Lease `name` in `namespace`, for the process `me`.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me: me.to_owned() }
    }

    /// Waits until this process leads; `false` when `stop` comes first.
    pub(crate) async fn acquire(&self, stop: &CancellationToken) -> bool {
        let mut told = String::new();
        loop {
            match self.attempt().await {
                Ok(Attempt::Ours) => return true,
                Ok(Attempt::Theirs(holder)) if holder != told => {
                    tracing::info!(lease = %self.name, %holder, "another replica leads; waiting");
                    told = holder;
                }
                Ok(Attempt::Theirs(_) | Attempt::Undecided) => {}
                Err(error) => {
                    let error = causes(&error);
                    tracing::warn!(lease = %self.name, %error, "cannot take the lease");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RENEW / 2) => {}
            }
        }
    }

    /// Renews until `stop`, then gives the Lease back; cancels `lost` when another replica took it.
    ///
    /// An API server that cannot be reached takes leadership from nobody: no other replica can
    /// take it there either.
    pub(crate) async fn keep(&self, stop: &CancellationToken, lost: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RENEW) => {}
            }
            match self.attempt().await {
                Ok(Attempt::Ours | Attempt::Undecided) => {}
                Ok(Attempt::Theirs(holder)) => {
                    tracing::warn!(lease = %self.name, %holder, "another replica leads now; ending");
                    lost.cancel();
                    return;
                }
                Err(error) => {
                    let error = causes(&error);
                    tracing::warn!(lease = %self.name, %error, "cannot renew the lease");
                }
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), self.release()).await;
    }

    /// Takes or renews the Lease.
    async fn attempt(&self) -> Result<Attempt, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let spec = found.as_ref().and_then(|l| l.spec.as_ref());
        let spec = match claim(spec, &self.me, Timestamp::now()) {
            Claim::Leave(holder) => return Ok(Attempt::Theirs(holder)),
            Claim::Take(spec) => spec,
        };
        let how = PostParams::default();
        let written = match found {
            Some(found) => {
                let lease = Lease { spec: Some(spec), ..found };
                self.api.replace(&self.name, &how, &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..Default::default() };
                self.api.create(&how, &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match written {
            Ok(_) => Ok(Attempt::Ours),
            Err(error) if status_code(&error) == Some(409) => Ok(Attempt::Undecided),
            Err(error) => Err(error),
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(self.me.as_str()) {
            spec.holder_identity = None;
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn held(by: &str, ago: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(now() - SignedDuration::from_secs(ago))),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn takes(lease: Option<&LeaseSpec>) -> bool {
        matches!(claim(lease, "me", now()), Claim::Take(_))
    }

    #[test]
    fn free_expired_returned_and_own_leases_are_taken_at_once() {
        assert!(takes(None));
        assert!(takes(Some(&held("other", 16))));
        assert!(takes(Some(&held("", 0))));
        assert!(takes(Some(&held("me", 0))));
    }

    #[test]
    fn anothers_fresh_lease_is_left() {
        assert_eq!(claim(Some(&held("other", 14)), "me", now()), Claim::Leave("other".into()));
    }

    #[test]
    fn transitions_count_changes_of_the_holder_only() {
        let transitions = |lease: &LeaseSpec| match claim(Some(lease), "me", now()) {
            Claim::Take(spec) => spec.lease_transitions,
            Claim::Leave(_) => None,
        };
        assert_eq!(transitions(&held("me", 0)), Some(3));
        assert_eq!(transitions(&held("other", 60)), Some(4));
    }
}
