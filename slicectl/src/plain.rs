//! What members wrote about themselves, before it is shown.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use slicewire_api::AttachFailure;
use slicewire_core::member::{sentence, word};

use crate::status::Found;

/// Members' own words are shown as plain text: what a terminal would obey is taken out.
pub(crate) fn clean(found: &mut Found) {
    let plain = |text: &mut String| *text = sentence(text);
    let conditions = |list: &mut Vec<Condition>| {
        for condition in list {
            condition.reason = word(&condition.reason);
            condition.message = sentence(&condition.message);
        }
    };
    for status in found.slices.iter_mut().filter_map(|s| s.status.as_mut()) {
        conditions(&mut status.conditions);
        for failure in &mut status.failures {
            let AttachFailure { pod, node, reason, message } = failure;
            [pod, node, reason, message].into_iter().for_each(plain);
        }
    }
    for status in found.gateways.iter_mut().filter_map(|g| g.status.as_mut()) {
        conditions(&mut status.conditions);
        for lane in &mut status.lanes {
            lane.node.iter_mut().chain(&mut lane.backend).for_each(plain);
            for tunnel in &mut lane.tunnels {
                plain(&mut tunnel.cluster);
                tunnel.reason.iter_mut().for_each(plain);
            }
        }
    }
}
