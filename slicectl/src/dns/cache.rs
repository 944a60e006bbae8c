//! NodeLocal DNSCache, where a cluster has it.

use anyhow::Result;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};
use slicewire_core::dns::corefile::{Uncached, Wanted, cache_advice, cached};

use super::{ENTRY, PLACE, config, corefile};

/// What the cache is called, and its ConfigMap.
pub(super) const NAME: &str = "node-local-dns";

/// Whether it asks the nodes, or what to do that it does; none where there is none.
///
/// # Errors
/// The cluster cannot be read.
pub(super) async fn leads(client: &Client, wanted: &Wanted) -> Result<Option<Result<(), String>>> {
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), PLACE);
    if daemons.get_opt(NAME).await?.is_none() {
        return Ok(None);
    }
    let map = config(client, NAME).await?.unwrap_or_default();
    Ok(Some(asked(&corefile(&map), wanted)))
}

fn asked(corefile: &str, wanted: &Wanted) -> Result<(), String> {
    cached(corefile, wanted).map_err(|why| match why {
        Uncached::Nowhere(zone) => format!(
            "NodeLocal DNSCache does not know {zone}; let the entry {ENTRY} of its ConfigMap {PLACE}/{NAME} have this:\n{}it reads that within two minutes, or at once after: kubectl -n {PLACE} rollout restart daemonset/{NAME}",
            cache_advice(corefile, wanted)
        ),
        Uncached::Elsewhere(zone) | Uncached::Unbound(zone) => format!(
            "NodeLocal DNSCache does not ask the nodes for {zone}; let the blocks for names of slices in the entry {ENTRY} of its ConfigMap {PLACE}/{NAME} be this one:\n{}",
            cache_advice(corefile, wanted)
        ),
        Uncached::Broken(refusal) => format!("NodeLocal DNSCache (ConfigMap {PLACE}/{NAME}): {refusal}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_does_not_ask_is_told_with_the_block_it_needs() {
        let wanted = Wanted { servers: vec!["10.96.0.9".parse().unwrap()], ..Wanted::default() };
        let usual = ".:53 {\n    bind 169.254.20.10\n    forward . /etc/resolv.conf\n}\n";
        let told = asked(usual, &wanted).unwrap_err();
        let block = "clusterset.local:53 slice.local:53 {\n    errors\n    bind 169.254.20.10\n    forward . 10.96.0.9\n}\n";
        assert!(told.contains(block), "{told}");
        assert_eq!(asked(&format!("{usual}{block}"), &wanted), Ok(()));
        let unbound = block.replace("    bind 169.254.20.10\n", "");
        let told = asked(&format!("{usual}{unbound}"), &wanted).unwrap_err();
        assert!(told.contains("does not ask") && told.contains(block), "{told}");
    }
}
