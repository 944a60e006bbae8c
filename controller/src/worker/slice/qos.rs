//! What the nodes say about a slice's promises and its traffic.

use slicewire_api::NodeQos;
use slicewire_api::condition::QOS_HONOURED;

use super::observe::Observed;

/// Most nodes that are listed.
const MAX_NODES: usize = 256;

/// Whether all that the slice is promised can be kept in this cluster, a reason and a sentence;
/// `None` where nothing is asked for.
pub(super) fn honoured(observed: &Observed) -> Option<(bool, String, String)> {
    observed.slice.as_ref()?.spec.qos.as_ref()?;
    let said = observed.nodes.iter().filter_map(|node| {
        let conditions = &node.status.as_ref()?.conditions;
        let found = conditions.iter().find(|c| c.type_ == QOS_HONOURED && c.status != "True")?;
        Some((found.reason.clone(), format!("node {}: {}", node.spec.node, found.message)))
    });
    let mut broken: Vec<(String, String)> = said.collect();
    broken.sort();
    let Some((reason, _)) = broken.first().cloned() else {
        return Some((true, "Honoured".into(), "All that is promised can be kept.".into()));
    };
    let told: Vec<String> = broken.into_iter().map(|(_, message)| message).collect();
    Some((false, reason, told.join("; ")))
}

/// The slice's traffic on the nodes where it is shaped.
pub(super) fn traffic(observed: &Observed) -> Vec<NodeQos> {
    let nodes = observed.nodes.iter();
    let mut list: Vec<NodeQos> = nodes.filter_map(|n| n.status.as_ref()?.qos.clone()).collect();
    list.sort_by(|a, b| a.node.cmp(&b.node));
    list.truncate(MAX_NODES);
    list
}
