//! The generations of a slice's keys: what is booked, what is asked for, and how far it has come.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::labels::ROTATE_KEYS;
use slicewire_api::{SliceConfigStatus, SliceKeys, TunnelStatus, WorkerGateway};
use slicewire_core::name::{ClusterName, Lane};
use slicewire_core::rotation::{Demand, Generation, Keys, interval};
use slicewire_core::violation::Violation;

use super::observe::Observed;
use crate::kubernetes::event::Notice;

/// Longest request that is taken up, in bytes.
const MAX_REQUEST: usize = 256;
/// How many of those that are waited for are named.
const NAMED: usize = 4;

/// Faults of what is asked for.
pub(super) fn faults(observed: &Observed) -> Vec<Violation> {
    let asked = observed.config.spec.gateways.key_rotation_interval.as_deref();
    asked.and_then(|text| interval(FIELD, text).err()).into_iter().collect()
}

const FIELD: &str = "spec.gateways.keyRotationInterval";

/// The keys as they are from now on.
pub(super) fn next(observed: &Observed, now: Timestamp) -> Keys {
    let keys = booked(observed);
    if observed.deleting() {
        return keys;
    }
    keys.step(&demand(observed, &keys), now.as_second())
}

/// When to look again although nothing has changed.
pub(super) fn wake(observed: &Observed, keys: &Keys, now: Timestamp) -> Option<Duration> {
    keys.wake(&demand(observed, keys), now.as_second())
}

fn demand<'a>(observed: &'a Observed, keys: &Keys) -> Demand<'a> {
    let spec = &observed.config.spec.gateways;
    let request = observed.config.annotations().get(ROTATE_KEYS).map(String::as_str);
    // A slice of one cluster has nothing to renew.
    let running = observed.gateways.len() > 1;
    Demand {
        interval: spec
            .key_rotation_interval
            .as_deref()
            .and_then(|text| interval(FIELD, text).ok())
            .filter(|_| running),
        request: request.filter(|r| running && !r.is_empty() && r.len() <= MAX_REQUEST),
        ready: all(observed, |_, tunnel| tunnel.is_some_and(|t| t.up)),
        bare: bare(observed),
        moved: keys.next.is_some_and(|next| waiting(observed, next).is_empty()),
    }
}

/// Whether some tunnel has no pre-shared key: neither of its ends says so, for one alone may lie.
fn bare(observed: &Observed) -> bool {
    let has = |tunnel: Option<&TunnelStatus>| tunnel.is_some_and(|t| t.preshared_key);
    let mut bare = false;
    for_each(observed, |(cluster, lane, remote), tunnel| {
        let other = observed.gateways.get(remote).and_then(|g| reported(g, lane, cluster));
        bare |= !has(tunnel) && !has(other);
    });
    bare
}

/// What the status books.
fn booked(observed: &Observed) -> Keys {
    let booked = observed.config.status.as_ref().and_then(|s| s.keys.clone()).unwrap_or_default();
    let second = |text: Option<String>| Some(text?.parse::<Timestamp>().ok()?.as_second());
    // Where the book has been lost, the clusters know.
    let told = observed.gateways.values().map(|g| (g.spec.generation, g.spec.next_generation));
    let (generation, next) = told
        .filter(|(generation, _)| *generation > booked.generation)
        .max()
        .unwrap_or((booked.generation, booked.next_generation));
    Keys {
        generation,
        next,
        renewed_at: second(booked.renewed_at),
        started_at: second(booked.started_at),
        moved_at: second(booked.moved_at),
        request: booked.request,
    }
}

/// Enters the keys in a status; those of a slice that never had others are not worth a word.
pub(super) fn book(status: &mut SliceConfigStatus, keys: &Keys) {
    if *keys == Keys::default() && status.keys.is_none() {
        return;
    }
    let time = |second: Option<i64>| Some(Timestamp::from_second(second?).ok()?.to_string());
    let preshared = status.keys.as_ref().and_then(|k| k.preshared.clone());
    status.keys = Some(SliceKeys {
        generation: keys.generation,
        next_generation: keys.next,
        renewed_at: time(keys.renewed_at),
        started_at: time(keys.started_at),
        moved_at: time(keys.moved_at),
        request: keys.request.clone(),
        preshared,
    });
}

/// The keys as they are booked, with how many ends of tunnels have a pre-shared key.
pub(super) fn told(observed: &Observed) -> Option<SliceKeys> {
    let keys = observed.config.status.as_ref()?.keys.clone()?;
    let (mut with, mut planned) = (0, 0);
    for_each(observed, |_, tunnel| {
        planned += 1;
        with += usize::from(tunnel.is_some_and(|t| t.up && t.preshared_key));
    });
    Some(SliceKeys { preshared: (planned > 0).then(|| format!("{with}/{planned}")), ..keys })
}

/// The condition `KeysCurrent`.
pub(super) fn current(observed: &Observed) -> Option<(bool, &'static str, String)> {
    observed.config.status.as_ref()?.keys.as_ref()?;
    let keys = booked(observed);
    let Some(next) = keys.next else {
        let generation = keys.generation;
        return Some((
            true,
            "Renewed",
            format!("Every gateway has keys of generation {generation}."),
        ));
    };
    let waiting = waiting(observed, next);
    if waiting.is_empty() {
        let text = format!(
            "Every gateway sends by keys of generation {next}; the old ones are closed in a moment."
        );
        return Some((false, "Draining", text));
    }
    let named = waiting.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = match waiting.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let text = format!(
        "Changing to keys of generation {next}; the old ones work on. Waiting: {named}{more}. A cluster that does not come back can be taken out by slicectl evict."
    );
    Some((false, "Renewing", text))
}

/// Events of what has turned.
pub(super) fn notices(observed: &Observed, keys: &Keys) -> Vec<Notice> {
    let before = booked(observed);
    let notice = |reason: &str, note: String| {
        vec![Notice { warning: false, reason: reason.to_owned(), note }]
    };
    match (before.next, keys.next) {
        (None, Some(next)) => {
            notice("KeysRenewing", format!("The gateways change to keys of generation {next}."))
        }
        (Some(next), None) => {
            notice("KeysRenewed", format!("Every gateway has keys of generation {next} now."))
        }
        _ => Vec::new(),
    }
}

/// What it takes until every end sends by the next generation.
fn waiting(observed: &Observed, next: Generation) -> Vec<String> {
    let mut waiting = Vec::new();
    for (cluster, gateway) in &observed.gateways {
        let said = gateway.status.as_ref().and_then(|s| s.exchange.as_ref());
        if gateway.spec.next_generation != Some(next) {
            waiting.push(format!("{cluster} has not been told yet"));
        } else if said.is_none_or(|said| said.generation != next) {
            waiting.push(format!("{cluster} has published no keys yet"));
        }
    }
    if !waiting.is_empty() {
        return waiting;
    }
    for_each(observed, |(cluster, lane, remote), tunnel| {
        if !tunnel.is_some_and(|t| t.up && t.generation == Some(next)) {
            let why = tunnel.and_then(|t| t.reason.as_deref()).unwrap_or("still by the old ones");
            let why = slicewire_core::member::sentence(why);
            waiting.push(format!("{cluster} to {remote}, lane {lane} ({why})"));
        }
    });
    waiting
}

/// Whether all ends of tunnels that should be are as asked, and there are some.
fn all(observed: &Observed, good: impl Fn(End<'_>, Option<&TunnelStatus>) -> bool) -> bool {
    let (mut some, mut all) = (false, true);
    for_each(observed, |end, tunnel| {
        some = true;
        all &= good(end, tunnel);
    });
    some && all
}

/// A cluster, a lane, and the cluster at the other end.
type End<'a> = (&'a ClusterName, Lane, &'a ClusterName);

/// Every end of a tunnel that should be, with what is reported of it.
fn for_each<'a>(observed: &'a Observed, mut see: impl FnMut(End<'a>, Option<&'a TunnelStatus>)) {
    for (cluster, gateway) in &observed.gateways {
        for lane in &gateway.spec.lanes {
            for remote in observed.gateways.keys().filter(|remote| *remote != cluster) {
                see((cluster, lane.lane, remote), reported(gateway, lane.lane, remote));
            }
        }
    }
}

fn reported<'a>(
    gateway: &'a WorkerGateway,
    lane: Lane,
    remote: &ClusterName,
) -> Option<&'a TunnelStatus> {
    let lanes = gateway.status.as_ref().map(|s| s.lanes.as_slice()).unwrap_or_default();
    let lane = lanes.iter().find(|l| l.lane == lane)?;
    lane.tunnels.iter().find(|t| t.cluster == remote.as_str())
}
