//! Slices' prefixes → reverse zones in the block that joining has put into CoreDNS' Corefile. Where no
//! such block is, nothing is written: whether the cluster's DNS asks the nodes is its owner's word.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::json;
use slicewire_api::cluster_dns::{ENTRY, NAME, PLACE, SERVICE, own_prefixes, wanted};
use slicewire_core::dns::corefile::{Refusal, Wanted, Written, renewed};
use slicewire_runtime::reconcile::Next;

use super::Worker;
use crate::kubernetes::change::{Change, Steps};
use crate::kubernetes::write::next;

/// One round.
pub(super) async fn reconcile(worker: &Worker) -> Next {
    let Some(observed) = observe(worker) else { return Next::Wait };
    let steps = plan(&observed);
    if !steps.is_empty() {
        report(&observed);
    }
    let outcome = worker.writer.run(steps, |object| worker.note(object)).await;
    next(&outcome, Next::Wait)
}

/// The Corefile, and what is to be in it.
#[derive(Debug)]
struct Observed {
    map: Arc<ConfigMap>,
    wanted: Wanted,
}

impl Observed {
    fn text(&self) -> &str {
        let text = self.map.data.as_ref().and_then(|data| data.get(ENTRY));
        text.map(String::as_str).unwrap_or_default()
    }

    fn renewed(&self) -> Result<Option<Written>, Refusal> {
        renewed(self.text(), &self.wanted)
    }
}

/// `None` where there is no CoreDNS, and while the nodes answer no questions.
fn observe(worker: &Worker) -> Option<Observed> {
    let local = &worker.local;
    let map = local.corefiles.get(PLACE, NAME)?;
    let service = worker.services.service(&worker.namespace, SERVICE)?;
    let (nodes, cidrs) = (local.nodes.list(), local.service_cidrs.list());
    let own = own_prefixes(nodes.iter().map(|n| &**n), cidrs.iter().map(|c| &**c));
    let slices = local.slices.list();
    let wanted = wanted(&service, slices.iter().map(|s| &**s), own);
    Some(Observed { map, wanted })
}

/// The Corefile with the zones of now, if it has others. Somebody who wrote it meanwhile is asked
/// first: what cannot be read is left alone, and `slicectl dns` says so.
fn plan(observed: &Observed) -> Steps {
    let Ok(Some(written)) = observed.renewed() else { return Vec::new() };
    if written.text == observed.text() || observed.wanted.servers.is_empty() {
        return Vec::new();
    }
    let version = observed.map.resource_version();
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {ENTRY: written.text}});
    vec![vec![Change::merge(&*observed.map, patch)]]
}

fn report(observed: &Observed) {
    let left_out = observed.renewed().ok().flatten().map(|w| w.left_out).unwrap_or_default();
    for out in &left_out {
        tracing::warn!(prefix = %out.prefix, zones = out.zones.len(), "{out}");
    }
    tracing::info!(
        prefixes = observed.wanted.prefixes.len(),
        "CoreDNS is told slices' reverse zones"
    );
}

#[cfg(test)]
mod tests {
    use slicewire_core::dns::corefile::with_block;

    use super::*;
    use crate::kubernetes::change::Verb;

    const USUAL: &str = ".:53 {\n    reload\n    forward . /etc/resolv.conf\n}\n";

    fn slices(prefixes: &[&str]) -> Wanted {
        let prefixes = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        let servers = vec!["10.96.0.9".parse().unwrap()];
        Wanted { servers, prefixes, own: vec!["10.200.0.0/16".parse().unwrap()] }
    }

    fn observed(corefile: &str, wanted: Wanted) -> Observed {
        let map = json!({
            "metadata": {"namespace": PLACE, "name": NAME, "resourceVersion": "7"},
            "data": {ENTRY: corefile, "other": "kept"},
        });
        Observed { map: Arc::new(serde_json::from_value(map).unwrap()), wanted }
    }

    /// The Corefile as the plan has it, if it changes.
    fn planned(observed: &Observed) -> Option<String> {
        let change = plan(observed).concat().pop()?;
        let Verb::Merge(patch) = change.verb else { panic!("{:?}", change.verb) };
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["data"].as_object().unwrap().len(), 1);
        Some(patch["data"][ENTRY].as_str().unwrap().to_owned())
    }

    #[test]
    fn zones_follow_the_slices_and_nothing_is_written_twice() {
        let joined = with_block(USUAL, &slices(&[])).unwrap().text;
        assert_eq!(planned(&observed(&joined, slices(&[]))), None);
        let both = slices(&["10.77.0.0/16", "10.200.0.0/16", "fd77::/48"]);
        let text = planned(&observed(&joined, both.clone())).unwrap();
        assert!(text.contains(" 77.10.in-addr.arpa:53 ") && !text.contains("200.10"), "{text}");
        assert!(text.starts_with(USUAL));
        assert_eq!(planned(&observed(&text, both)), None);
        assert_eq!(planned(&observed(&text, slices(&[]))), Some(joined));
    }

    #[test]
    fn what_joining_has_not_written_is_left_alone() {
        let some = || slices(&["10.77.0.0/16"]);
        let joined = with_block(USUAL, &some()).unwrap().text;
        for other in [
            USUAL.to_owned(),
            joined.replace("# slicewire: end\n", ""),
            format!("{joined}slice.local {{\n}}\n"),
            joined.replace("    reload\n", ""),
        ] {
            assert_eq!(planned(&observed(&other, slices(&[]))), None, "{other}");
        }
        // A Service that has no address yet is no reason to forward to nowhere.
        let nowhere = Wanted { servers: vec![], ..some() };
        assert_eq!(planned(&observed(&joined, nowhere)), None);
    }
}
