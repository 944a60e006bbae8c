//! From a file to changes of addresses and routes. No IO.

use std::collections::BTreeSet;

use anyhow::ensure;
use ipnet::IpNet;
use slicewire_engine::file::{File, Table};
use slicewire_kernel::{Address, NextHops, Op, Route};

/// What has to be done for `file` after `before` (`None`: a fresh device).
///
/// Routes lead to every peer's prefixes and to the prefixes of the device's own addresses.
///
/// # Errors
/// A default route in the main table: it would catch the tunnel's own packets.
pub(super) fn operations(
    device: &str,
    before: Option<&File>,
    file: &File,
) -> anyhow::Result<Vec<Op>> {
    let everything = file.peers.iter().flat_map(|p| &p.allowed_ips).find(|n| n.prefix_len() == 0);
    ensure!(
        everything.is_none() || file.table != Table::Auto,
        "AllowedIPs with a default route need `Table = off` or a table's number in [Interface]: \
         in the main table it would catch the tunnel's own packets"
    );
    let old = before.map(|f| (addresses(f), routes(f))).unwrap_or_default();
    let new = (addresses(file), routes(file));
    let mut ops = Vec::new();
    for (table, dst) in old.1.difference(&new.1) {
        ops.push(Op::DeleteRoute { table: *table, dst: *dst });
    }
    for net in old.0.difference(&new.0) {
        ops.push(Op::DeleteAddress(Address::new(device, *net)));
    }
    for net in new.0.difference(&old.0) {
        ops.push(Op::ReplaceAddress(Address::new(device, *net)));
    }
    for (table, dst) in new.1.difference(&old.1) {
        ops.push(Op::ReplaceRoute(Route::new(*dst, NextHops::dev(device)).in_table(*table)));
    }
    Ok(ops)
}

fn addresses(file: &File) -> BTreeSet<IpNet> {
    file.addresses.iter().copied().collect()
}

fn routes(file: &File) -> BTreeSet<(u32, IpNet)> {
    let own = file.addresses.iter().filter(|n| n.prefix_len() < n.max_prefix_len());
    let own = own.map(|net| (slicewire_kernel::MAIN_TABLE, net.trunc()));
    let table = match file.table {
        Table::Off => None,
        Table::Auto => Some(slicewire_kernel::MAIN_TABLE),
        Table::Number(number) => Some(number),
    };
    let peers = file.peers.iter().flat_map(|p| &p.allowed_ips);
    let peers = table.into_iter().flat_map(|t| peers.clone().map(move |net| (t, *net)));
    own.chain(peers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slicewire_engine::file::parse;

    fn file(interface: &str, allowed: &str) -> File {
        parse(&format!(
            "[Interface]\nPrivateKey=dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n{interface}\n\
             [Peer]\nPublicKey=hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\nAllowedIPs={allowed}\n"
        ))
        .unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_fresh_device_and_the_same_file_again() {
        let file = file("Address=10.9.0.1/24", "10.9.0.0/24, fd00::/64");
        let route = |dst| Op::ReplaceRoute(Route::new(net(dst), NextHops::dev("wg7")));
        assert_eq!(
            operations("wg7", None, &file).unwrap(),
            [
                Op::ReplaceAddress(Address::new("wg7", net("10.9.0.1/24"))),
                route("10.9.0.0/24"),
                route("fd00::/64"),
            ]
        );
        assert_eq!(operations("wg7", Some(&file), &file).unwrap(), []);
    }

    #[test]
    fn what_is_gone_is_removed() {
        let before = file("Address=10.9.0.1/32\nTable=9", "10.1.0.0/16");
        let after = file("Table=off", "10.1.0.0/16");
        assert_eq!(
            operations("wg7", Some(&before), &after).unwrap(),
            [
                Op::DeleteRoute { table: 9, dst: net("10.1.0.0/16") },
                Op::DeleteAddress(Address::new("wg7", net("10.9.0.1/32"))),
            ]
        );
    }

    #[test]
    fn a_default_route_needs_a_table() {
        assert!(operations("wg7", None, &file("", "0.0.0.0/0")).is_err());
        assert_eq!(operations("wg7", None, &file("Table=off", "0.0.0.0/0")).unwrap(), []);
        assert_eq!(operations("wg7", None, &file("Table=5", "::/0")).unwrap().len(), 1);
    }
}
