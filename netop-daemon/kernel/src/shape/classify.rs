//! Which packet is of which pod: a table of filters a family, looked up by an address's last byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::abi::{PROTOCOLS, ROOT, tc, u32_filter};
use super::links::Direction;
use super::socket::{Found, Socket};
use super::writer::u32_at;
use super::{encode, tree};

/// Offset of the source and of the destination in the headers of each family.
const OFFSETS: [(u16, u16); 2] = [(12, 16), (8, 24)];
/// Offset of an address's last word.
const LAST_WORD: [u16; 2] = [0, 12];

/// A filter for an address that is there.
struct There {
    handle: u32,
    class: u16,
}

/// Makes packets of pods go to their classes and no others: by source where they leave, by
/// destination where they arrive.
pub(super) fn ensure(
    socket: &mut Socket,
    direction: &Direction,
    pods: &BTreeMap<u16, BTreeSet<IpAddr>>,
) -> io::Result<()> {
    let found = socket.list(&encode::list_filters(direction.index, ROOT), tree::FIXED)?;
    for (family, protocol) in PROTOCOLS.into_iter().enumerate() {
        let (source, destination) = OFFSETS[family];
        let offset = if direction.leaving { source } else { destination };
        tables(socket, direction.index, protocol, offset + LAST_WORD[family], &found)?;
        let mut there = present(&found, protocol.1);
        let wanted = pods.iter().flat_map(|(class, list)| list.iter().map(move |a| (*a, *class)));
        for (address, class) in wanted.filter(|(a, _)| a.is_ipv4() == (family == 0)) {
            let old = there.remove(&address);
            if old.as_ref().is_some_and(|old| old.class == class) {
                continue;
            }
            if let Some(old) = old {
                socket.change(encode::delete_filter(direction.index, old.handle, protocol))?;
            }
            // As many filters of one bucket as there are are told apart by their number.
            let node = 1 + u32::from(class) % 0xffe;
            let one = encode::by_address(direction.index, protocol, node, address, offset, class);
            add(socket, one, direction.index, protocol, (address, offset, class))?;
        }
        for old in there.values() {
            socket.change(encode::delete_filter(direction.index, old.handle, protocol))?;
        }
    }
    Ok(())
}

/// Adds a filter; where its number is taken, under the next one that is free.
fn add(
    socket: &mut Socket,
    first: super::writer::Message,
    device: u32,
    protocol: (u16, u32),
    (address, offset, class): (IpAddr, u16, u16),
) -> io::Result<()> {
    use nix::errno::Errno;
    if socket.change_unless(first, &[Errno::ENOSPC, Errno::EEXIST])? {
        return Ok(());
    }
    for node in 1..0xfff {
        let next = encode::by_address(device, protocol, node, address, offset, class);
        if socket.change_unless(next, &[Errno::ENOSPC, Errno::EEXIST])? {
            return Ok(());
        }
    }
    Err(Errno::ENOSPC.into())
}

/// Makes the table of a family and the way into it.
fn tables(
    socket: &mut Socket,
    device: u32,
    protocol: (u16, u32),
    word: u16,
    found: &[Found],
) -> io::Result<()> {
    let table = protocol.1 << 20;
    if !found.iter().any(|f| f.fixed(8) == table) {
        socket.change(encode::table(device, protocol))?;
    }
    let leads = |f: &Found| f.number(&[tc::OPTIONS, u32_filter::LINK]) == Some(table);
    if !found.iter().any(leads) {
        socket.change(encode::into_table(device, protocol, word))?;
    }
    Ok(())
}

/// Filters for addresses in a table.
fn present(found: &[Found], order: u32) -> BTreeMap<IpAddr, There> {
    let mut there = BTreeMap::new();
    for filter in found {
        let handle = filter.fixed(8);
        if handle >> 20 != order || handle & 0xfff == 0 {
            continue;
        }
        let selector = filter.find(&[tc::OPTIONS, u32_filter::SELECTOR]).unwrap_or_default();
        let class = filter.number(&[tc::OPTIONS, u32_filter::CLASS]).unwrap_or_default();
        let (Some(address), Ok(class)) = (address(&selector), u16::try_from(class & 0xffff)) else {
            continue;
        };
        there.insert(address, There { handle, class });
    }
    there
}

/// The address that a selector looks for.
fn address(selector: &[u8]) -> Option<IpAddr> {
    let count = usize::from(*selector.get(2)?);
    let word =
        |i: usize| u32_at(selector, u32_filter::HEAD + i * u32_filter::KEY + 4).map(u32::from_be);
    match count {
        1 => Some(Ipv4Addr::from_bits(word(0)?).into()),
        4 => {
            let words = (0..4).map(word).collect::<Option<Vec<u32>>>()?;
            let bits = words.iter().fold(0_u128, |all, w| all << 32 | u128::from(*w));
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}
