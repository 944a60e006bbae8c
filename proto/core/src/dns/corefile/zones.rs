//! Which reverse zones a cluster's DNS is to ask the nodes for.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use super::Wanted;
use crate::dns::reverse;
use crate::prefix;

/// Most reverse zones in a Corefile: CoreDNS makes a server's plugins for each. A prefix that ends
/// between two labels has up to this many.
pub const MAX_ZONES: usize = 128;

/// The reverse zones of slices' prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reverse {
    /// Those to ask the nodes for, always in the same order.
    pub zones: Vec<String>,
    /// Those that somebody else has to be asked for.
    pub left_out: Vec<LeftOut>,
}

/// Reverse zones of a prefix that the nodes are not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// A slice's prefix.
    pub prefix: IpNet,
    /// Its zones that are left out.
    pub zones: Vec<String>,
    /// Why.
    pub why: Why,
}

/// Why a zone is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The cluster's own pods or services have names in it.
    Own,
    /// The Corefile names it, or a zone below it, outside of our part.
    ByHand,
    /// The Corefile takes in zones from elsewhere: this one may be among them.
    Hidden,
    /// There are too many of them.
    TooMany,
    /// It is all there is.
    TooWide,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Own => "the cluster's own pods or services have addresses there",
            Why::ByHand => "the Corefile has something of it that is not slicewire's",
            Why::Hidden => {
                "the Corefile imports blocks or has variables for zones, and this one may be among them"
            }
            Why::TooMany => "there are too many zones; prefixes of /8, /16 and /24 have one each",
            Why::TooWide => "it holds all addresses",
        };
        write!(f, "reverse names of {}", self.prefix)?;
        match self.zones.as_slice() {
            [] => {}
            [zone] => write!(f, " ({zone})")?,
            [zone, more @ ..] => write!(f, " ({zone} and {} more)", more.len())?,
        }
        write!(f, " are not asked for at the nodes: {why}")
    }
}

/// Chooses the zones that can stand besides `rest`, the Corefile without our part. Where there are
/// too many, prefixes with few zones come first.
pub(super) fn choose(wanted: &Wanted, rest: &str) -> Reverse {
    let named = Named::read(rest);
    let own = wanted.own.iter().copied().chain(wanted.servers.iter().map(|ip| prefix::host(*ip)));
    let own: Vec<IpNet> = own.collect();
    let mut chosen = BTreeSet::new();
    let mut left_out = Vec::new();
    let mut sorted: Vec<_> = wanted.prefixes.iter().map(|p| (count(p), p)).collect();
    sorted.sort();
    for (count, prefix) in sorted {
        let mut out = |zones: &[IpNet], why| {
            let zones = zones.iter().map(reverse::zone_name).collect();
            left_out.push(LeftOut { prefix: *prefix, zones, why });
        };
        if count > MAX_ZONES {
            out(&[], Why::TooWide);
            continue;
        }
        let (zones, theirs): (Vec<_>, Vec<_>) =
            reverse::zones(prefix).partition(|zone| why_not(zone, &own, &named).is_none());
        for why in [Why::Own, Why::ByHand, Why::Hidden] {
            let of_it = theirs.iter().filter(|z| why_not(z, &own, &named) == Some(why));
            let of_it: Vec<IpNet> = of_it.copied().collect();
            if !of_it.is_empty() {
                out(&of_it, why);
            }
        }
        let known = |zone: &IpNet| chosen.contains(zone) || covered(zone, &chosen);
        let new: Vec<IpNet> = zones.into_iter().filter(|zone| !known(zone)).collect();
        if chosen.len() + new.len() > MAX_ZONES {
            out(&new, Why::TooMany);
        } else {
            chosen.extend(new);
        }
    }
    left_out.sort_by_key(|out| (out.prefix, out.why));
    let kept = chosen.iter().filter(|zone| !covered(zone, &chosen));
    Reverse { zones: kept.map(reverse::zone_name).collect(), left_out }
}

/// How many zones a prefix has; more than all when it is all there is.
fn count(prefix: &IpNet) -> usize {
    match prefix.prefix_len() {
        0 => usize::MAX,
        len => 1 << (reverse::whole_labels(prefix) - len),
    }
}

/// Whether a wider zone is there already.
fn covered(zone: &IpNet, by: &BTreeSet<IpNet>) -> bool {
    by.iter().any(|other| other != zone && other.contains(zone))
}

fn why_not(zone: &IpNet, own: &[IpNet], named: &Named) -> Option<Why> {
    if own.iter().any(|own| prefix::overlap(zone, own)) {
        return Some(Why::Own);
    }
    if named.nets.iter().any(|net| net.has(zone)) {
        return Some(Why::ByHand);
    }
    named.hidden.then_some(Why::Hidden)
}

/// What a Corefile says of reverse zones, wherever in it.
#[derive(Debug, Default)]
struct Named {
    nets: Vec<Mention>,
    /// Zones of some blocks cannot be read off it.
    hidden: bool,
}

/// A zone that a Corefile names, by its name or by a prefix.
#[derive(Debug, Clone, Copy)]
struct Mention {
    net: IpNet,
    /// Labels that CoreDNS makes of a prefix between two are more than the prefix says.
    whole: u8,
}

impl Mention {
    /// Whether it is about this zone or something below it.
    fn has(&self, zone: &IpNet) -> bool {
        zone.contains(&self.net) || (self.net.contains(zone) && zone.prefix_len() <= self.whole)
    }
}

impl Named {
    fn read(corefile: &str) -> Self {
        let mut named = Self::default();
        let mut depth = 0usize;
        for line in corefile.lines() {
            let code = line.split('#').next().unwrap_or_default();
            if depth == 0 {
                let mut words = code.split_whitespace();
                let imported = words.next() == Some("import");
                named.hidden |= imported || code.contains("{$") || code.contains("{%");
            }
            named.nets.extend(code.split_whitespace().filter_map(mention));
            depth = (depth + code.matches('{').count()).saturating_sub(code.matches('}').count());
        }
        named
    }
}

/// The reverse zone in a word like `dns://77.10.in-addr.arpa.:53` or `10.77.0.0/16:53`.
fn mention(word: &str) -> Option<Mention> {
    let bare = word.trim_matches([',', '"']);
    let bare = bare.rsplit("://").next().unwrap_or(bare);
    if let Some((address, rest)) = bare.split_once('/') {
        let len = rest.split(':').next().unwrap_or(rest);
        let net: IpNet = format!("{address}/{len}").parse().ok()?;
        return Some(Mention { net: net.trunc(), whole: reverse::whole_labels(&net) });
    }
    let name = bare.split(':').next().unwrap_or(bare).trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = name.split('.').collect();
    // What is above all prefixes leaves room for more special zones, as usual Corefiles mean it.
    let net = reverse::parse(&labels)?.net;
    Some(Mention { net, whole: net.prefix_len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(prefixes: &[&str], own: &[&str], rest: &str) -> Reverse {
        let nets = |texts: &[&str]| texts.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>();
        let servers = vec!["10.96.0.9".parse().unwrap()];
        let prefixes = nets(prefixes).into_iter().collect();
        super::choose(&Wanted { servers, prefixes, own: nets(own) }, rest)
    }

    fn why(reverse: &Reverse) -> Vec<(String, Why)> {
        reverse.left_out.iter().map(|out| (out.prefix.to_string(), out.why)).collect()
    }

    #[test]
    fn zones_are_whole_labels_each_once_and_in_one_order() {
        let got = choose(&["fd77::/48", "10.80.0.0/14", "10.77.0.0/16", "10.77.4.0/22"], &[], "");
        let wanted = [
            "77.10.in-addr.arpa",
            "80.10.in-addr.arpa",
            "81.10.in-addr.arpa",
            "82.10.in-addr.arpa",
            "83.10.in-addr.arpa",
            "0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa",
        ];
        assert_eq!((got.zones, got.left_out), (wanted.map(str::to_owned).to_vec(), vec![]));
        let got = choose(&["fd77:0:4000::/35", "192.0.2.64/30"], &[], "");
        let wanted = [
            "64.2.0.192.in-addr.arpa",
            "65.2.0.192.in-addr.arpa",
            "66.2.0.192.in-addr.arpa",
            "67.2.0.192.in-addr.arpa",
            "4.0.0.0.0.7.7.d.f.ip6.arpa",
            "5.0.0.0.0.7.7.d.f.ip6.arpa",
        ];
        assert_eq!(got.zones, wanted);
    }

    #[test]
    fn what_the_cluster_uses_itself_is_left_to_it() {
        let got = choose(&["10.64.0.0/14", "10.77.0.0/16"], &["10.66.0.0/20"], "");
        let wanted = [
            "64.10.in-addr.arpa",
            "65.10.in-addr.arpa",
            "67.10.in-addr.arpa",
            "77.10.in-addr.arpa",
        ];
        assert_eq!(got.zones, wanted);
        assert_eq!(why(&got), [("10.64.0.0/14".to_owned(), Why::Own)]);
        assert_eq!(got.left_out[0].zones, ["66.10.in-addr.arpa"]);
        // The service that is asked is one of the cluster's, whatever else is known.
        let got = choose(&["10.0.0.0/8"], &[], "");
        assert_eq!((got.zones.len(), why(&got)), (0, vec![("10.0.0.0/8".to_owned(), Why::Own)]));
    }

    #[test]
    fn what_is_there_by_hand_stays_by_hand() {
        let usual = ".:53 {\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n    }\n}\n";
        let of = |words: &str| choose(&["10.76.0.0/15"], &[], &format!("{usual}{words}")).zones;
        let both = ["76.10.in-addr.arpa", "77.10.in-addr.arpa"];
        for other in ["# 77.10.in-addr.arpa {\n}\n", "10.in-addr.arpa {\n}\n", "10.0.0.0/8 {\n}\n"]
        {
            assert_eq!(of(other), both, "{other}");
        }
        for same in [
            "77.10.in-addr.arpa {\n}\n",
            "a.example, dns://77.10.IN-ADDR.arpa.:53 {\n}\n",
            "10.77.0.0/16 {\n}\n",
            "10.77.0.0/16:53 {\n}\n",
            "b.example {\n  file names 5.77.10.in-addr.arpa\n}\n",
            "10.77.5.0/25 {\n}\n",
        ] {
            assert_eq!(of(same), both[..1], "{same}");
        }
        // CoreDNS makes several zones of such a prefix.
        assert_eq!(of("10.76.0.0/14 {\n}\n"), [""; 0]);
        for hidden in ["import more/*.server\n", "{$ZONE}:53 {\n}\n"] {
            assert_eq!(of(hidden), [""; 0], "{hidden}");
        }
        assert_eq!(of("c.example {\n  import snippet\n  forward . {$UPSTREAM}\n}\n"), both);
    }

    #[test]
    fn there_is_an_end_to_zones() {
        let got =
            choose(&["0.0.0.0/0", "172.128.0.0/9", "10.77.0.0/16", "10.78.128.0/17"], &[], "");
        assert_eq!(got.zones, ["77.10.in-addr.arpa"]);
        let left_out = ["0.0.0.0/0", "10.78.128.0/17", "172.128.0.0/9"];
        let whys = [Why::TooWide, Why::TooMany, Why::TooMany];
        let wanted: Vec<_> = left_out.map(str::to_owned).into_iter().zip(whys).collect();
        assert_eq!(why(&got), wanted);
        // What is there already takes no room.
        let whole = choose(&["172.128.0.0/9", "172.130.0.0/16"], &[], "");
        assert_eq!((whole.zones.len(), whole.left_out), (MAX_ZONES, vec![]));
    }

    #[test]
    fn what_is_left_out_is_told_in_one_line() {
        let got = choose(&["10.64.0.0/14"], &["10.64.0.0/15"], "");
        let wanted = "reverse names of 10.64.0.0/14 (64.10.in-addr.arpa and 1 more) are not asked for at the nodes: the cluster's own pods or services have addresses there";
        assert_eq!(got.left_out[0].to_string(), wanted);
    }
}
