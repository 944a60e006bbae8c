//! Which peer an address belongs to: a path-compressed binary trie with longest-prefix match.

use std::net::IpAddr;

use ipnet::IpNet;

const NONE: u32 = u32::MAX;

/// A node's key is left-aligned in 128 bits, so that both families share the code.
#[derive(Debug, Clone)]
struct Node {
    key: u128,
    len: u8,
    value: u32,
    child: [u32; 2],
}

#[derive(Debug, Clone)]
struct Trie {
    nodes: Vec<Node>,
    root: u32,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: Vec::new(), root: NONE }
    }
}

fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) }
}

fn bit(key: u128, at: u8) -> usize {
    usize::from(at < 128 && (key >> (127 - u32::from(at.min(127)))) & 1 == 1)
}

impl Trie {
    fn push(&mut self, key: u128, len: u8, value: u32) -> u32 {
        self.nodes.push(Node { key, len, value, child: [NONE; 2] });
        (self.nodes.len() - 1) as u32
    }

    fn insert(&mut self, key: u128, len: u8, value: u32) {
        let key = key & mask(len);
        let (mut at, mut parent) = (self.root, None);
        loop {
            if at == NONE {
                let new = self.push(key, len, value);
                return self.link(parent, new);
            }
            let node = &self.nodes[at as usize];
            let common = ((node.key ^ key).leading_zeros() as u8).min(node.len).min(len);
            if common == node.len && common == len {
                self.nodes[at as usize].value = value;
                return;
            }
            if common == node.len {
                let side = bit(key, common);
                parent = Some((at, side));
                at = node.child[side];
                continue;
            }
            let old_side = bit(node.key, common);
            let split = if common == len {
                self.push(key, len, value)
            } else {
                let split = self.push(key & mask(common), common, NONE);
                let new = self.push(key, len, value);
                self.nodes[split as usize].child[1 - old_side] = new;
                split
            };
            self.nodes[split as usize].child[old_side] = at;
            return self.link(parent, split);
        }
    }

    fn link(&mut self, parent: Option<(u32, usize)>, to: u32) {
        match parent {
            Some((node, side)) => self.nodes[node as usize].child[side] = to,
            None => self.root = to,
        }
    }

    fn find(&self, key: u128) -> Option<u32> {
        let (mut at, mut best) = (self.root, NONE);
        while let Some(node) = self.nodes.get(at as usize) {
            if (node.key ^ key) & mask(node.len) != 0 {
                break;
            }
            if node.value != NONE {
                best = node.value;
            }
            at = node.child[bit(key, node.len)];
        }
        (best != NONE).then_some(best)
    }
}

/// Longest-prefix match from an address to a peer's number. Built once, then only read.
#[derive(Debug, Clone, Default)]
pub struct AllowedIps {
    v4: Trie,
    v6: Trie,
}

impl AllowedIps {
    /// Gives `net` to `peer`; a later call for the same prefix wins.
    pub fn insert(&mut self, net: IpNet, peer: u32) {
        match net {
            IpNet::V4(net) => {
                self.v4.insert(u128::from(net.network().to_bits()) << 96, net.prefix_len(), peer);
            }
            IpNet::V6(net) => self.v6.insert(net.network().to_bits(), net.prefix_len(), peer),
        }
    }

    /// The peer with the longest prefix that holds `address`.
    pub fn find(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(a) => self.v4.find(u128::from(a.to_bits()) << 96),
            IpAddr::V6(a) => self.v6.find(a.to_bits()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// What the trie must agree with: look at every prefix, take the longest.
    fn naive(nets: &[(IpNet, u32)], address: IpAddr) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        for (net, peer) in nets {
            if net.contains(&address) && best.is_none_or(|(len, _)| net.prefix_len() >= len) {
                best = Some((net.prefix_len(), *peer));
            }
        }
        best.map(|(_, peer)| peer)
    }

    /// Few distinct bits, so that prefixes nest and collide.
    fn v4() -> impl Strategy<Value = Ipv4Addr> {
        prop_oneof![
            any::<u32>(),
            (0u32..16).prop_map(|x| 0x0a00_0000 | x << 20),
            (0u32..64).prop_map(|x| 0x0a00_0100 | x)
        ]
        .prop_map(Ipv4Addr::from)
    }

    fn v6() -> impl Strategy<Value = Ipv6Addr> {
        prop_oneof![any::<u128>(), (0u128..64).prop_map(|x| 0xfd00 << 112 | x << 60 | x)]
            .prop_map(Ipv6Addr::from)
    }

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (v4(), 0u8..=32).prop_map(|(a, l)| IpNet::new(a.into(), l).unwrap().trunc()),
            (v6(), 0u8..=128).prop_map(|(a, l)| IpNet::new(a.into(), l).unwrap().trunc()),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model(
            nets in prop::collection::vec((net(), 0u32..1000), 0..80),
            strays in prop::collection::vec(prop_oneof![v4().prop_map(IpAddr::from), v6().prop_map(IpAddr::from)], 0..40),
        ) {
            let mut trie = AllowedIps::default();
            for (net, peer) in &nets {
                trie.insert(*net, *peer);
            }
            let edges = nets.iter().flat_map(|(n, _)| [n.network(), n.broadcast()]);
            for address in edges.chain(strays) {
                prop_assert_eq!(trie.find(address), naive(&nets, address), "{}", address);
            }
        }
    }

    #[test]
    fn families_do_not_mix() {
        let mut trie = AllowedIps::default();
        trie.insert("0.0.0.0/0".parse().unwrap(), 4);
        assert_eq!(trie.find("::1".parse().unwrap()), None);
        trie.insert("::/0".parse().unwrap(), 6);
        assert_eq!(trie.find("::1".parse().unwrap()), Some(6));
        assert_eq!(trie.find("1.2.3.4".parse().unwrap()), Some(4));
    }
}
