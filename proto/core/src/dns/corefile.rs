//! Our part of a Corefile: between two marks, and nothing else of it is ever changed.

mod blocks;
mod node_local;
mod zones;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use blocks::{blocks, name};
pub use node_local::{Uncached, cache_advice, cached};
pub use zones::{LeftOut, MAX_ZONES, Reverse, Why};

/// Where our part begins.
const BEGIN: &str = "# slicewire: begin (made by 'slicectl join', removed by 'slicectl uninstall')";
/// Every beginning starts so, whatever version wrote it.
const BEGINS: &str = "# slicewire: begin";
/// Where it ends.
const END: &str = "# slicewire: end";
/// The zones that are ours in every cluster.
const ZONES: [&str; 2] = ["clusterset.local", "slice.local"];

/// What a cluster's DNS is to ask its nodes for, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where the nodes are asked.
    pub servers: Vec<IpAddr>,
    /// The prefixes of the cluster's slices.
    pub prefixes: BTreeSet<IpNet>,
    /// What the cluster's own pods and services have, as far as it is known.
    pub own: Vec<IpNet>,
}

impl Wanted {
    /// The reverse zones besides the Corefile without our part.
    fn reverse(&self, rest: &str) -> Reverse {
        zones::choose(self, rest)
    }
}

/// A Corefile with our part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The Corefile.
    pub text: String,
    /// Reverse zones that are not in it.
    pub left_out: Vec<LeftOut>,
}

/// Why a Corefile is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody serves our zones by hand.
    #[error(
        "the Corefile has a block for {0} that is not slicewire's; let that block forward to the Service slicewire-dns, or remove it and join again"
    )]
    ByHand(&'static str),
    /// Braces do not match: whatever is added may end up inside of something else.
    #[error("the Corefile's braces do not match; mend it, then join again")]
    Unbalanced,
    /// A mark without its other one.
    #[error(
        "the Corefile has only one of slicewire's two marks; remove what is left of the block between '# slicewire: begin' and '# slicewire: end', then run this again"
    )]
    HalfMarked,
}

/// The Corefile with our part in it, that forwards our zones to the servers.
///
/// # Errors
/// Why it is better left alone.
pub fn with_block(corefile: &str, wanted: &Wanted) -> Result<Written, Refusal> {
    let rest = without_block(corefile)?;
    balanced(&rest)?;
    if let Some(zone) = ZONES.into_iter().find(|zone| has_zone(&rest, zone)) {
        return Err(Refusal::ByHand(zone));
    }
    let Reverse { zones, left_out } = wanted.reverse(&rest);
    let between = if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" };
    let text = format!("{rest}{between}{BEGIN}\n{}{END}\n", block(&wanted.servers, &zones));
    Ok(Written { text, left_out })
}

/// The Corefile with our part as it is to be now; `None` when joining has put none there, and where
/// CoreDNS would not notice: it has to be started anew then, by whoever watches that it comes back.
///
/// # Errors
/// Why it is better left alone.
pub fn renewed(corefile: &str, wanted: &Wanted) -> Result<Option<Written>, Refusal> {
    let rest = without_block(corefile)?;
    if rest == corefile || !reloads(&rest) {
        return Ok(None);
    }
    with_block(corefile, wanted).map(Some)
}

/// Whether CoreDNS reads the file again when it has changed.
pub fn reloads(corefile: &str) -> bool {
    corefile.lines().any(|line| line.split_whitespace().next() == Some("reload"))
}

/// What lets a CoreDNS that has nothing for our zones yet ask the nodes for names of slices.
pub fn advice(wanted: &Wanted) -> String {
    block(&wanted.servers, &wanted.reverse("").zones)
}

/// The zones that a DNS server with nothing for them yet is to forward to the nodes.
pub fn zones(wanted: &Wanted) -> Vec<String> {
    let own = ZONES.into_iter().map(str::to_owned);
    own.chain(wanted.reverse("").zones).collect()
}

fn block(servers: &[IpAddr], reverse: &[String]) -> String {
    block_with("", servers, reverse)
}

/// Our block with more lines in it.
fn block_with(more: &str, servers: &[IpAddr], reverse: &[String]) -> String {
    let zones = ZONES.into_iter().chain(reverse.iter().map(String::as_str));
    let zones: Vec<String> = zones.map(|zone| format!("{zone}:53")).collect();
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    let (zones, servers) = (zones.join(" "), servers.join(" "));
    format!("{zones} {{\n    errors\n{more}    forward . {servers}\n}}\n")
}

/// Where a Corefile leads questions for names of slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    /// To the nodes, by our block.
    Here,
    /// To the nodes, by a block that somebody has written; these reverse zones are nowhere.
    HereByHand(Vec<String>),
    /// To the nodes, by our block; but its reverse zones are not those of the slices.
    Behind,
    /// Our block leads to other addresses than the Service has now.
    Outdated,
    /// Somebody's block for a zone leads elsewhere.
    Elsewhere(&'static str),
    /// No block of it is for a zone.
    Nowhere(&'static str),
    /// Nobody can tell.
    Broken(Refusal),
}

/// Says where a Corefile leads names of slices, and which reverse zones it does not have.
pub fn leads(corefile: &str, wanted: &Wanted) -> (Leads, Vec<LeftOut>) {
    let rest = match without_block(corefile).and_then(|rest| balanced(&rest).map(|()| rest)) {
        Ok(rest) => rest,
        Err(refusal) => return (Leads::Broken(refusal), vec![]),
    };
    let Reverse { zones, mut left_out } = wanted.reverse(&rest);
    let here = |zone: &str| {
        forwards(corefile, zone).map(|to| wanted.servers.iter().any(|s| to.contains(s)))
    };
    if rest != corefile {
        let whole = corefile.contains(&block(&wanted.servers, &zones));
        let names = || {
            let to: Option<Vec<_>> = forwards(corefile, ZONES[0]);
            to.is_some_and(|to| to == wanted.servers)
        };
        return match whole {
            true => (Leads::Here, left_out),
            false if names() => (Leads::Behind, left_out),
            false => (Leads::Outdated, left_out),
        };
    }
    // What is by hand and leads here is not left out.
    left_out.retain(|out| out.zones.is_empty() || !out.zones.iter().all(|z| here(z) == Some(true)));
    for zone in ZONES {
        match here(zone) {
            None => return (Leads::Nowhere(zone), left_out),
            Some(false) => return (Leads::Elsewhere(zone), left_out),
            Some(true) => {}
        }
    }
    (Leads::HereByHand(zones), left_out)
}

/// The addresses that a zone's block forwards to; none where no block is for the zone.
fn forwards(corefile: &str, zone: &str) -> Option<Vec<IpAddr>> {
    match blocks(corefile).iter().find(|block| block.has(zone)) {
        Some(block) => Some(block.forwards()),
        None => has_zone(corefile, zone).then(Vec::new),
    }
}

/// The zones of blocks that forward to some of these servers.
pub fn forwarded(corefile: &str, servers: &[IpAddr]) -> Vec<String> {
    let all = blocks(corefile).into_iter();
    let led = all.filter(|block| block.forwards().iter().any(|to| servers.contains(to)));
    led.flat_map(|block| block.names().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The Corefile without our part: as it was before.
///
/// # Errors
/// A mark without its other one: nobody knows where our part ends.
pub fn without_block(corefile: &str) -> Result<String, Refusal> {
    let mut rest = String::new();
    let mut inside = false;
    for line in corefile.split_inclusive('\n') {
        let text = line.trim();
        match (text.starts_with(BEGINS), text == END) {
            (true, _) if !inside => inside = true,
            (_, true) if inside => inside = false,
            (true, _) | (_, true) => return Err(Refusal::HalfMarked),
            _ if !inside => rest.push_str(line),
            _ => {}
        }
    }
    if inside { Err(Refusal::HalfMarked) } else { Ok(rest) }
}

fn balanced(corefile: &str) -> Result<(), Refusal> {
    let mut depth = 0i32;
    for line in corefile.lines() {
        let code = line.split('#').next().unwrap_or_default();
        for character in code.chars() {
            depth += match character {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            if depth < 0 {
                return Err(Refusal::Unbalanced);
            }
        }
    }
    if depth == 0 { Ok(()) } else { Err(Refusal::Unbalanced) }
}

/// Whether some block's head names the zone, or that of something inside of a block.
fn has_zone(corefile: &str, zone: &str) -> bool {
    let code = corefile.lines().map(|line| line.split('#').next().unwrap_or_default());
    let heads = code.filter(|line| line.trim_end().ends_with('{'));
    let mut words = heads.flat_map(str::split_whitespace);
    words.any(|word| name(word).eq_ignore_ascii_case(zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = ".:53 {\n    errors\n    kubernetes cluster.local {\n        ttl 30\n    }\n    forward . /etc/resolv.conf\n}\n";

    fn wanted() -> Wanted {
        let servers = vec!["10.96.0.9".parse().unwrap(), "fd96::9".parse().unwrap()];
        Wanted { servers, ..Wanted::default() }
    }

    fn one_server() -> Wanted {
        Wanted { servers: wanted().servers[..1].to_vec(), ..wanted() }
    }

    fn of_slices(prefixes: &[&str]) -> Wanted {
        let prefixes = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        Wanted { prefixes, ..wanted() }
    }

    fn with_block(corefile: &str, wanted: &Wanted) -> Result<String, Refusal> {
        super::with_block(corefile, wanted).map(|written| written.text)
    }

    fn leads(corefile: &str, wanted: &Wanted) -> Leads {
        super::leads(corefile, wanted).0
    }

    #[test]
    fn the_block_comes_once_and_goes_without_a_trace() {
        for before in [USUAL, USUAL.trim_end()] {
            let with = with_block(before, &wanted()).unwrap();
            assert!(with.contains("clusterset.local:53 slice.local:53 {"));
            assert!(with.contains("forward . 10.96.0.9 fd96::9\n"));
            assert_eq!(with_block(&with, &wanted()), Ok(with.clone()), "again is the same");
            let moved = with_block(&with, &one_server()).unwrap();
            assert_eq!(moved.matches("clusterset.local").count(), 1);
            assert_eq!(without_block(&with).unwrap().trim_end(), before.trim_end());
        }
    }

    #[test]
    fn reverse_zones_come_and_go_inside_of_the_block() {
        let none = with_block(USUAL, &wanted()).unwrap();
        let slices = of_slices(&["10.77.0.0/16", "fd77::/48"]);
        let some = with_block(&none, &slices).unwrap();
        let head = "clusterset.local:53 slice.local:53 77.10.in-addr.arpa:53 0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa:53 {\n";
        assert!(some.contains(head), "{some}");
        assert_eq!(with_block(&some, &wanted()), Ok(none.clone()), "no slices: as without");
        assert_eq!(without_block(&some).unwrap(), USUAL);
        assert_eq!(leads(&some, &slices), Leads::Here);
        assert_eq!(
            (leads(&none, &slices), leads(&some, &wanted())),
            (Leads::Behind, Leads::Behind)
        );
    }

    #[test]
    fn only_a_block_that_is_there_is_renewed_and_only_where_that_is_noticed() {
        let slices = of_slices(&["10.77.0.0/16"]);
        let reloading = USUAL.replace("    errors\n", "    errors\n    reload\n");
        assert_eq!(renewed(&reloading, &slices), Ok(None));
        let block = with_block(&reloading, &wanted()).unwrap();
        let new = renewed(&block, &slices).unwrap().unwrap();
        assert_eq!(Ok(new.text), with_block(&block, &slices));
        assert_eq!(renewed(&with_block(USUAL, &wanted()).unwrap(), &slices), Ok(None));
        let half = block.replace(END, "");
        assert_eq!(renewed(&half, &slices), Err(Refusal::HalfMarked));
    }

    #[test]
    fn reverse_zones_by_hand_are_told_apart_from_those_that_are_nowhere() {
        let slices = of_slices(&["10.77.0.0/16", "10.78.0.0/16", "10.79.0.0/16"]);
        let corefile = |to: &str| {
            let head = "clusterset.local slice.local 78.10.in-addr.arpa";
            let other = format!("79.10.in-addr.arpa {{\n  forward . {to}\n}}\n");
            format!("{USUAL}{head} {{\n  forward . 10.96.0.9\n}}\n{other}")
        };
        let nowhere = Leads::HereByHand(vec!["77.10.in-addr.arpa".to_owned()]);
        let (led, left_out) = super::leads(&corefile("192.0.2.1"), &slices);
        assert_eq!(led, nowhere);
        let zones: Vec<_> = left_out.iter().flat_map(|out| &out.zones).collect();
        assert_eq!(zones, ["79.10.in-addr.arpa"]);
        assert_eq!(super::leads(&corefile("10.96.0.9"), &slices), (nowhere, vec![]));
    }

    #[test]
    fn what_people_keep_by_hand_is_left_alone() {
        for head in
            ["clusterset.local {", "dns://Slice.Local.:53 {", "a.local clusterset.local:53 {"]
        {
            let by_hand = format!("{USUAL}{head}\n    forward . 192.0.2.1\n}}\n");
            assert!(matches!(with_block(&by_hand, &wanted()), Err(Refusal::ByHand(_))), "{head}");
        }
        let like = format!("{USUAL}not-slice.local {{\n}}\n");
        assert!(with_block(&like, &wanted()).is_ok());
    }

    #[test]
    fn where_names_of_slices_lead_is_told() {
        let ours = with_block(USUAL, &wanted()).unwrap();
        assert_eq!(leads(&ours, &wanted()), Leads::Here);
        assert_eq!(leads(&ours, &one_server()), Leads::Outdated);
        assert_eq!(leads(USUAL, &wanted()), Leads::Nowhere("clusterset.local"));
        assert_eq!(leads(".:53 {\n", &wanted()), Leads::Broken(Refusal::Unbalanced));
        let by_hand = |first: &str, second: &str| {
            let one = format!(
                "clusterset.local {{\n    cache 5 {{\n        denial 0\n    }}\n    {first}\n}}\n"
            );
            leads(&format!("{one}{USUAL}slice.local:53 {{ # names\n  {second}\n}}\n"), &wanted())
        };
        let here = "forward . dns://10.96.0.9:53 192.0.2.1";
        assert_eq!(by_hand(here, "forward . fd96::9"), Leads::HereByHand(vec![]));
        assert_eq!(by_hand(here, "forward . 192.0.2.1"), Leads::Elsewhere("slice.local"));
        assert_eq!(by_hand("# forward . 10.96.0.9", here), Leads::Elsewhere("clusterset.local"));
    }

    #[test]
    fn blocks_that_lead_to_servers_are_found_by_them() {
        let ours = with_block(USUAL, &of_slices(&["10.77.0.0/16"])).unwrap();
        let zones = ["clusterset.local", "slice.local", "77.10.in-addr.arpa"];
        assert_eq!(forwarded(&ours, &one_server().servers), zones);
        assert_eq!(forwarded(&ours, &["192.0.2.1".parse().unwrap()]), [""; 0]);
        assert_eq!(forwarded(USUAL, &wanted().servers), [""; 0]);
    }

    #[test]
    fn a_corefile_that_is_broken_is_left_alone() {
        assert_eq!(with_block(".:53 {\n", &wanted()), Err(Refusal::Unbalanced));
        assert_eq!(with_block("}\n.:53 {\n", &wanted()), Err(Refusal::Unbalanced));
        let with = with_block(USUAL, &wanted()).unwrap();
        for mark in [BEGIN, END] {
            let half = with.replace(&format!("{mark}\n"), "");
            assert_eq!(without_block(&half), Err(Refusal::HalfMarked));
        }
    }
}
