//! The blocks of a Corefile, as far as they have to be told apart.

use std::net::IpAddr;

/// A server's block, in words without what is commented out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// The zones in its head.
    zones: Vec<&'a str>,
    /// What follows on the head, and the lines up to the closing brace.
    lines: Vec<Vec<&'a str>>,
}

/// The blocks, in their order.
pub(super) fn blocks(corefile: &str) -> Vec<Block<'_>> {
    let mut all: Vec<Block<'_>> = Vec::new();
    let mut depth = 0usize;
    for line in corefile.lines() {
        let words: Vec<&str> =
            line.split_whitespace().take_while(|w| !w.starts_with('#')).collect();
        let opened = words.iter().filter(|word| word.ends_with('{')).count();
        let closed = words.iter().filter(|word| word.starts_with('}')).count();
        match (depth, all.last_mut()) {
            (0, _) if opened > 0 => {
                let zones = words.iter().copied().filter(|word| *word != "{").collect();
                all.push(Block { zones, lines: Vec::new() });
            }
            (1.., Some(block)) => block.lines.push(words),
            _ => {}
        }
        depth = (depth + opened).saturating_sub(closed);
    }
    all
}

impl<'a> Block<'a> {
    /// Whether it is for this zone.
    pub(super) fn has(&self, zone: &str) -> bool {
        self.zones.iter().any(|word| name(word).eq_ignore_ascii_case(zone))
    }

    /// The names of its zones.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.zones.iter().map(|word| name(word))
    }

    /// The addresses that it forwards to.
    pub(super) fn forwards(&self) -> Vec<IpAddr> {
        let servers = self.lines.iter().flat_map(|words| match words.as_slice() {
            ["forward", _, servers @ ..] => servers,
            _ => &[],
        });
        servers.filter_map(|word| address(word)).collect()
    }

    /// Where it listens, as it is written; nothing where it does so everywhere.
    pub(super) fn binds(&self) -> Vec<&'a str> {
        let places = self.lines.iter().flat_map(|words| match words.as_slice() {
            ["bind", places @ ..] => places,
            _ => &[],
        });
        places.copied().filter(|word| *word != "{").collect()
    }
}

/// The zone in a word like `dns://slice.local.:53,`.
pub(super) fn name(word: &str) -> &str {
    let name = word.rsplit("://").next().unwrap_or_default().trim_end_matches([',', '{']);
    name.split(':').next().unwrap_or_default().trim_end_matches('.')
}

/// The address in a word like `dns://10.96.0.9:53`.
fn address(word: &str) -> Option<IpAddr> {
    let bare = word.rsplit("://").next().unwrap_or(word);
    let socket = || bare.parse().map(|at: std::net::SocketAddr| at.ip());
    bare.parse().or_else(|_| socket()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart_with_what_matters_in_them() {
        let corefile = "a.example, dns://B.example.:53 { # c.example\n  bind 169.254.20.10 lo {\n    except x\n  }\n  forward . dns://10.96.0.9:53 192.0.2.1\n}\n\n.:53 {\n  # bind 1.2.3.4\n  forward . /etc/resolv.conf {\n    force_tcp\n  }\n}\n";
        let all = blocks(corefile);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].names().collect::<Vec<_>>(), ["a.example", "B.example"]);
        assert!(all[0].has("b.example") && !all[0].has("c.example"));
        assert_eq!(all[0].binds(), ["169.254.20.10", "lo"]);
        let to: Vec<String> = all[0].forwards().iter().map(ToString::to_string).collect();
        assert_eq!(to, ["10.96.0.9", "192.0.2.1"]);
        assert_eq!((all[1].binds(), all[1].forwards()), (vec![], vec![]));
    }
}
