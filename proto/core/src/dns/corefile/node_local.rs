//! NodeLocal DNSCache: a CoreDNS on every node, between the pods and the cluster's own, that asks it for
//! the cluster's names only.

use super::blocks::{Block, blocks};
use super::{Refusal, Wanted, ZONES, balanced, block_with};

/// Why pods that ask the cache are not told names of slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uncached {
    /// No block of its Corefile is for the zone.
    Nowhere(&'static str),
    /// The zone's block leads elsewhere.
    Elsewhere(&'static str),
    /// The zone's block does not listen where the others do, so that no pod's question comes to it.
    Unbound(&'static str),
    /// Nobody can tell.
    Broken(Refusal),
}

/// Whether pods that ask the cache are told names of slices. Reverse names are not looked at: it asks
/// the cluster's DNS for all of them, and that one the nodes.
///
/// # Errors
/// Why they are not.
pub fn cached(corefile: &str, wanted: &Wanted) -> Result<(), Uncached> {
    balanced(corefile).map_err(Uncached::Broken)?;
    let all = blocks(corefile);
    let places = places(&all);
    for zone in ZONES {
        let Some(block) = all.iter().find(|block| block.has(zone)) else {
            return Err(Uncached::Nowhere(zone));
        };
        let to = block.forwards();
        if !wanted.servers.iter().any(|server| to.contains(server)) {
            return Err(Uncached::Elsewhere(zone));
        }
        let own = block.binds();
        if !places.iter().all(|place| own.contains(place)) {
            return Err(Uncached::Unbound(zone));
        }
    }
    Ok(())
}

/// What lets the cache ask the nodes for names of slices, where its other blocks listen.
pub fn cache_advice(corefile: &str, wanted: &Wanted) -> String {
    let places = places(&blocks(corefile)).join(" ");
    let bind = if places.is_empty() { String::new() } else { format!("    bind {places}\n") };
    block_with(&bind, &wanted.servers, &[])
}

/// Where the cache listens: as its first block does that is not for names of slices and says so.
fn places<'a>(all: &[Block<'a>]) -> Vec<&'a str> {
    let others = all.iter().filter(|block| !ZONES.iter().any(|zone| block.has(zone)));
    others.map(Block::binds).find(|places| !places.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is installed, with places that the cache fills in itself.
    const USUAL: &str = "cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__
    }
.:53 {
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__UPSTREAM__SERVERS__
    }
";

    fn wanted() -> Wanted {
        let servers = vec!["10.96.0.9".parse().unwrap(), "fd96::9".parse().unwrap()];
        let prefixes = ["10.77.0.0/16".parse().unwrap()].into();
        Wanted { servers, prefixes, own: vec![] }
    }

    #[test]
    fn what_is_advised_is_enough_and_listens_where_the_cache_does() {
        assert_eq!(cached(USUAL, &wanted()), Err(Uncached::Nowhere("clusterset.local")));
        let advice = cache_advice(USUAL, &wanted());
        assert!(advice.starts_with("clusterset.local:53 slice.local:53 {\n"), "{advice}");
        assert!(advice.contains("\n    bind 169.254.20.10 10.96.0.10\n"), "{advice}");
        for with in [format!("{USUAL}{advice}"), format!("{advice}{USUAL}")] {
            assert_eq!(cached(&with, &wanted()), Ok(()));
            assert_eq!(cache_advice(&with, &wanted()), advice);
        }
        let everywhere = ".:53 {\n    forward . 192.0.2.1\n}\n";
        let advice = cache_advice(everywhere, &wanted());
        assert!(!advice.contains("bind"), "{advice}");
        assert_eq!(cached(&format!("{everywhere}{advice}"), &wanted()), Ok(()));
    }

    #[test]
    fn a_block_that_pods_do_not_come_to_is_told() {
        let advice = cache_advice(USUAL, &wanted());
        for (old, new, why) in [
            ("    bind 169.254.20.10 10.96.0.10\n", "", Uncached::Unbound("clusterset.local")),
            (" 10.96.0.10\n", "\n", Uncached::Unbound("clusterset.local")),
            ("10.96.0.9 fd96::9", "192.0.2.1", Uncached::Elsewhere("clusterset.local")),
            (" slice.local:53", "", Uncached::Nowhere("slice.local")),
            ("}\n", "", Uncached::Broken(Refusal::Unbalanced)),
        ] {
            let with = format!("{USUAL}{}", advice.replace(old, new));
            assert_eq!(cached(&with, &wanted()), Err(why), "{with}");
        }
    }
}
