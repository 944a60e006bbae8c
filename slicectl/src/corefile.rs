//! Our part of a Corefile: between two marks, and nothing else of it is ever changed.

use std::net::IpAddr;

/// Where our part begins.
const BEGIN: &str = "# slicewire: begin (made by 'slicectl join', removed by 'slicectl uninstall')";
/// Every beginning starts so, whatever version wrote it.
const BEGINS: &str = "# slicewire: begin";
/// Where it ends.
const END: &str = "# slicewire: end";
/// The zones that are ours.
const ZONES: [&str; 2] = ["clusterset.local", "slice.local"];

/// Why a Corefile is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
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

/// The Corefile with our part in it, that forwards our zones to these addresses.
///
/// # Errors
/// Why it is better left alone.
pub(crate) fn with_block(corefile: &str, servers: &[IpAddr]) -> Result<String, Refusal> {
    let rest = without_block(corefile)?;
    balanced(&rest)?;
    if let Some(zone) = ZONES.into_iter().find(|zone| has_zone(&rest, zone)) {
        return Err(Refusal::ByHand(zone));
    }
    let between = if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{rest}{between}{BEGIN}\n{}{END}\n", block(servers)))
}

/// What lets a CoreDNS ask these servers for names of slices.
pub(crate) fn block(servers: &[IpAddr]) -> String {
    let zones: Vec<String> = ZONES.iter().map(|zone| format!("{zone}:53")).collect();
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    let (zones, servers) = (zones.join(" "), servers.join(" "));
    format!("{zones} {{\n    errors\n    forward . {servers}\n}}\n")
}

/// Where a Corefile leads questions for names of slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leads {
    /// To the nodes, by our block.
    Here,
    /// To the nodes, by a block that somebody has written.
    HereByHand,
    /// Our block leads to other addresses than the Service has now.
    Outdated,
    /// Somebody's block for a zone leads elsewhere.
    Elsewhere(&'static str),
    /// No block of it is for a zone.
    Nowhere(&'static str),
    /// Nobody can tell.
    Broken(Refusal),
}

/// Says where a Corefile leads names of slices, `servers` being where the nodes are asked.
pub(crate) fn leads(corefile: &str, servers: &[IpAddr]) -> Leads {
    let rest = match without_block(corefile).and_then(|rest| balanced(&rest).map(|()| rest)) {
        Ok(rest) => rest,
        Err(refusal) => return Leads::Broken(refusal),
    };
    if rest != corefile {
        let inside = corefile.contains(&block(servers));
        return if inside { Leads::Here } else { Leads::Outdated };
    }
    for zone in ZONES {
        match forwards(corefile, zone) {
            None => return Leads::Nowhere(zone),
            Some(to) if !servers.iter().any(|s| to.contains(s)) => return Leads::Elsewhere(zone),
            Some(_) => {}
        }
    }
    Leads::HereByHand
}

/// The addresses that a zone's block forwards to; none where no block is for the zone.
fn forwards(corefile: &str, zone: &str) -> Option<Vec<IpAddr>> {
    let from = corefile.lines().position(|line| has_zone(line, zone))?;
    let mut depth = 0usize;
    let mut to = Vec::new();
    for line in corefile.lines().skip(from) {
        let words: Vec<&str> =
            line.split_whitespace().take_while(|w| !w.starts_with('#')).collect();
        depth += words.iter().filter(|word| word.ends_with('{')).count();
        if let ["forward", _, servers @ ..] = words.as_slice() {
            to.extend(servers.iter().filter_map(|word| address(word)));
        }
        depth = depth.saturating_sub(words.iter().filter(|word| word.starts_with('}')).count());
        if depth == 0 {
            break;
        }
    }
    Some(to)
}

/// The address in a word like `dns://10.96.0.9:53`.
fn address(word: &str) -> Option<IpAddr> {
    let bare = word.rsplit("://").next().unwrap_or(word);
    let socket = || bare.parse().map(|at: std::net::SocketAddr| at.ip());
    bare.parse().or_else(|_| socket()).ok()
}

/// The Corefile without our part: as it was before.
///
/// # Errors
/// A mark without its other one: nobody knows where our part ends.
pub(crate) fn without_block(corefile: &str) -> Result<String, Refusal> {
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

/// Whether some block's head names the zone.
fn has_zone(corefile: &str, zone: &str) -> bool {
    let code = corefile.lines().map(|line| line.split('#').next().unwrap_or_default());
    let heads = code.filter(|line| line.trim_end().ends_with('{'));
    let mut words = heads.flat_map(str::split_whitespace);
    words.any(|word| {
        let name = word.rsplit("://").next().unwrap_or_default().trim_end_matches(',');
        let name = name.split(':').next().unwrap_or_default().trim_end_matches('.');
        name.eq_ignore_ascii_case(zone)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = ".:53 {\n    errors\n    kubernetes cluster.local {\n        ttl 30\n    }\n    forward . /etc/resolv.conf\n}\n";

    fn servers() -> Vec<IpAddr> {
        vec!["10.96.0.9".parse().unwrap(), "fd96::9".parse().unwrap()]
    }

    #[test]
    fn the_block_comes_once_and_goes_without_a_trace() {
        for before in [USUAL, USUAL.trim_end()] {
            let with = with_block(before, &servers()).unwrap();
            assert!(with.contains("clusterset.local:53 slice.local:53 {"));
            assert!(with.contains("forward . 10.96.0.9 fd96::9\n"));
            assert_eq!(with_block(&with, &servers()), Ok(with.clone()), "again is the same");
            let moved = with_block(&with, &servers()[..1]).unwrap();
            assert_eq!(moved.matches("clusterset.local").count(), 1);
            assert_eq!(without_block(&with).unwrap().trim_end(), before.trim_end());
        }
    }

    #[test]
    fn what_people_keep_by_hand_is_left_alone() {
        for head in
            ["clusterset.local {", "dns://Slice.Local.:53 {", "a.local clusterset.local:53 {"]
        {
            let by_hand = format!("{USUAL}{head}\n    forward . 192.0.2.1\n}}\n");
            assert!(matches!(with_block(&by_hand, &servers()), Err(Refusal::ByHand(_))), "{head}");
        }
        let like = format!("{USUAL}not-slice.local {{\n}}\n");
        assert!(with_block(&like, &servers()).is_ok());
    }

    #[test]
    fn where_names_of_slices_lead_is_told() {
        let ours = with_block(USUAL, &servers()).unwrap();
        assert_eq!(leads(&ours, &servers()), Leads::Here);
        assert_eq!(leads(&ours, &servers()[..1]), Leads::Outdated);
        assert_eq!(leads(USUAL, &servers()), Leads::Nowhere("clusterset.local"));
        assert_eq!(leads(".:53 {\n", &servers()), Leads::Broken(Refusal::Unbalanced));
        let by_hand = |first: &str, second: &str| {
            let one = format!(
                "clusterset.local {{\n    cache 5 {{\n        denial 0\n    }}\n    {first}\n}}\n"
            );
            leads(&format!("{one}{USUAL}slice.local:53 {{ # names\n  {second}\n}}\n"), &servers())
        };
        let here = "forward . dns://10.96.0.9:53 192.0.2.1";
        assert_eq!(by_hand(here, "forward . fd96::9"), Leads::HereByHand);
        assert_eq!(by_hand(here, "forward . 192.0.2.1"), Leads::Elsewhere("slice.local"));
        assert_eq!(by_hand("# forward . 10.96.0.9", here), Leads::Elsewhere("clusterset.local"));
    }

    #[test]
    fn a_corefile_that_is_broken_is_left_alone() {
        assert_eq!(with_block(".:53 {\n", &servers()), Err(Refusal::Unbalanced));
        assert_eq!(with_block("}\n.:53 {\n", &servers()), Err(Refusal::Unbalanced));
        let with = with_block(USUAL, &servers()).unwrap();
        for mark in [BEGIN, END] {
            let half = with.replace(&format!("{mark}\n"), "");
            assert_eq!(without_block(&half), Err(Refusal::HalfMarked));
        }
    }
}
