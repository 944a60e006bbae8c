//! Standard conditions, as `kstatus` and `kubectl wait` understand them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Everything the object asks for works.
pub const READY: &str = "Ready";
/// The input is valid; when false, the message lists every fault and nothing was changed.
pub const ACCEPTED: &str = "Accepted";
/// Something that worked does not now; `Ready` may still be true for the rest.
pub const DEGRADED: &str = "Degraded";
/// All that a slice is promised can be kept; absent where nothing is asked for.
pub const QOS_HONOURED: &str = "QosHonoured";
/// The gateways' keys are what is asked for; false while they are renewed. Absent before the first
/// renewal.
pub const KEYS_CURRENT: &str = "KeysCurrent";
/// The worker's controller has reported to the hub lately.
pub const CONNECTED: &str = "Connected";
/// Reason of [`READY`] in a worker's report, and then of [`CONNECTED`]: the worker was told to leave,
/// and cleans up without the hub.
pub const LEFT: &str = "Left";
/// Every node that has the slice carries the policy out as it is now.
pub const PROGRAMMED: &str = "Programmed";
/// On a JoinRequest: whether the cluster is let in.
pub const ADMITTED: &str = "Admitted";
/// On a Cluster: whether all that its worker reports can be taken; what cannot is listed and has no
/// effect.
pub const REPORT_ACCEPTED: &str = "ReportAccepted";
/// On the copy of a Cluster in its own namespace, true when its worker leaves for good: the hub
/// removes the Cluster.
pub const LEAVING: &str = "Leaving";
/// On a WorkerSlice that is being deleted: nothing of the slice is left in the cluster.
pub const REMOVED: &str = "Removed";

/// Puts a condition into a list, and tells whether anything but a time changed.
///
/// The transition time moves only when the status does, so that repeated reports are equal and no
/// write follows from them.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) -> bool {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        None => {
            conditions.push(new);
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
            true
        }
        Some(old) => {
            let same = old.status == new.status
                && old.reason == new.reason
                && old.message == new.message
                && old.observed_generation == new.observed_generation;
            if same {
                return false;
            }
            let transition = if old.status == new.status {
                old.last_transition_time.clone()
            } else {
                new.last_transition_time.clone()
            };
            *old = Condition { last_transition_time: transition, ..new };
            true
        }
    }
}

/// A condition. `now` is the caller's clock.
pub fn condition(
    type_: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Time,
) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: now,
    }
}

/// Whether the named condition is true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}
