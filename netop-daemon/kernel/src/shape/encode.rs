//! Devices, queues, classes → messages.

use std::net::IpAddr;

use slicewire_core::qos::Rate;
use slicewire_core::qos::shape::Class;

use super::abi::{self, action, link, message, tc, u32_filter};
use super::writer::{Message, Target};

/// Makes a device for queues, up.
pub(super) fn add_ifb(name: &str) -> Message {
    let flags = message::CREATE | message::EXCLUSIVE;
    Message::link(message::NEW_LINK, flags, 0, true)
        .text(link::NAME, name)
        .nested(link::INFO, |m| m.text(link::KIND, "ifb"))
}

/// Asks for a device by its name.
pub(super) fn get_link(name: &str) -> Message {
    Message::link(message::GET_LINK, 0, 0, false).text(link::NAME, name)
}

/// Asks for a device by its number.
pub(super) fn get_link_by_index(index: u32) -> Message {
    Message::link(message::GET_LINK, 0, index, false)
}

/// Brings a device up.
pub(super) fn up(index: u32) -> Message {
    Message::link(message::NEW_LINK, 0, index, true)
}

/// Removes a device.
pub(super) fn delete_link(index: u32) -> Message {
    Message::link(message::DEL_LINK, 0, index, false)
}

/// Sets the traffic class of a VXLAN's outer packets.
pub(super) fn vxlan_tos(index: u32, tos: u8) -> Message {
    Message::link(message::NEW_LINK, 0, index, false).nested(link::INFO, |m| {
        m.text(link::KIND, "vxlan").nested(link::DATA, |m| m.bytes(link::VXLAN_TOS, &[tos]))
    })
}

/// The queueing of a device, packets of no class of their own in `others`.
pub(super) fn htb(device: u32, others: u16) -> Message {
    let flags = message::CREATE | message::EXCLUSIVE;
    let target = Target { device, handle: abi::ROOT, parent: abi::AT_ROOT, info: 0 };
    // Version, rate to quantum, default class, debug, direct packets.
    let numbers = [tc::HTB_VERSION, 10, u32::from(others), 0, 0];
    let init: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
    Message::traffic(message::NEW_QDISC, flags, target)
        .text(tc::KIND, "htb")
        .nested(tc::OPTIONS, |m| m.bytes(tc::HTB_INIT, &init))
}

/// Makes a class, or changes it where it is there.
pub(super) fn class(device: u32, handle: u32, parent: u32, class: &Class) -> Message {
    let target = Target { device, handle, parent, info: 0 };
    let mut options = Vec::new();
    for rate in [class.rate, class.ceiling] {
        // Cell, link layer, overhead, alignment, least size, rate.
        options.extend_from_slice(&[0, tc::BY_NUMBER, 0, 0, 0, 0, 0, 0]);
        let low = u32::try_from(rate.bytes()).unwrap_or(u32::MAX);
        options.extend_from_slice(&low.to_ne_bytes());
    }
    let ticks = [
        ticks(class.burst, class.rate),
        ticks(class.ceiling_burst, class.ceiling),
        class.quantum,
        0,
        0,
    ];
    options.extend(ticks.iter().flat_map(|n| n.to_ne_bytes()));
    Message::traffic(message::NEW_CLASS, message::CREATE, target).text(tc::KIND, "htb").nested(
        tc::OPTIONS,
        |m| {
            m.bytes(tc::HTB_CLASS, &options)
                .bytes(tc::HTB_RATE64, &class.rate.bytes().to_ne_bytes())
                .bytes(tc::HTB_CEIL64, &class.ceiling.bytes().to_ne_bytes())
        },
    )
}

/// The time so many bytes take, in the kernel's ticks.
fn ticks(bytes: u64, rate: Rate) -> u32 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.bytes().max(1));
    u32::try_from(nanoseconds / u128::from(tc::TICK)).unwrap_or(u32::MAX)
}

/// Removes a class.
pub(super) fn delete_class(device: u32, handle: u32) -> Message {
    let target = Target { device, handle, ..Target::default() };
    Message::traffic(message::DEL_CLASS, 0, target)
}

/// The queue of a class of so many bytes, or its new length.
pub(super) fn queue(device: u32, class: u16, bytes: u32) -> Message {
    let parent = abi::ROOT | u32::from(class);
    let target = Target { device, handle: u32::from(class) << 16, parent, info: 0 };
    Message::traffic(message::NEW_QDISC, message::CREATE | message::REPLACE, target)
        .text(tc::KIND, "bfifo")
        .bytes(tc::OPTIONS, &bytes.to_ne_bytes())
}

/// The queue of a class that keeps delay short by itself. Kernels may lack it.
pub(super) fn fair_queue(device: u32, class: u16) -> Message {
    let parent = abi::ROOT | u32::from(class);
    let target = Target { device, handle: u32::from(class) << 16, parent, info: 0 };
    Message::traffic(message::NEW_QDISC, message::CREATE | message::REPLACE, target)
        .text(tc::KIND, "fq_codel")
}

/// Where filters hang that look at every packet of a device.
pub(super) fn clsact(device: u32) -> Message {
    let flags = message::CREATE | message::EXCLUSIVE;
    let target = Target { device, handle: abi::CLSACT, parent: abi::AT_CLSACT, info: 0 };
    Message::traffic(message::NEW_QDISC, flags, target).text(tc::KIND, "clsact")
}

/// Leads every packet of a protocol to another device's queues.
pub(super) fn redirect(
    device: u32,
    parent: u32,
    (protocol, order): (u16, u32),
    to: u32,
) -> Message {
    let mut parameters = Vec::new();
    // Index, capabilities, what becomes of the packet, two counts, what is done with it.
    for number in [0, 0, action::STOLEN, 0, 0, action::REDIRECT] {
        parameters.extend_from_slice(&number.to_ne_bytes());
    }
    parameters.extend_from_slice(&to.to_ne_bytes());
    filter(device, parent, 0, (protocol, order)).nested(tc::OPTIONS, |m| {
        m.bytes(u32_filter::SELECTOR, &selector(u32_filter::TERMINAL, 0, 0, &[(0, 0, 0)])).nested(
            u32_filter::ACTION,
            |m| {
                m.nested(1, |m| {
                    m.text(action::KIND, "mirred")
                        .nested(action::OPTIONS, |m| m.bytes(action::MIRRED, &parameters))
                })
            },
        )
    })
}

/// A table of filters.
pub(super) fn table(device: u32, (protocol, order): (u16, u32)) -> Message {
    filter(device, abi::ROOT, order << 20, (protocol, order))
        .nested(tc::OPTIONS, |m| m.number(u32_filter::DIVISOR, u32_filter::BUCKETS))
}

/// Sends packets of a protocol to the table, by the last byte of the word at `offset`.
pub(super) fn into_table(device: u32, (protocol, order): (u16, u32), offset: u16) -> Message {
    filter(device, abi::ROOT, 0, (protocol, order)).nested(tc::OPTIONS, |m| {
        m.number(u32_filter::LINK, order << 20)
            .bytes(u32_filter::SELECTOR, &selector(0, offset, 0xff, &[(0, 0, 0)]))
    })
}

/// Puts packets with an address at `offset` into a class.
pub(super) fn by_address(
    device: u32,
    (protocol, order): (u16, u32),
    node: u32,
    address: IpAddr,
    offset: u16,
    class: u16,
) -> Message {
    let bucket = bucket(address);
    let keys: Vec<(u32, u32, u16)> = words(address)
        .into_iter()
        .zip((offset..).step_by(4))
        .map(|(word, at)| (u32::MAX, word, at))
        .collect();
    filter(device, abi::ROOT, bucket << 12 | node, (protocol, order)).nested(tc::OPTIONS, |m| {
        m.number(u32_filter::CLASS, abi::ROOT | u32::from(class))
            .number(u32_filter::HASH, order << 20 | bucket << 12)
            .bytes(u32_filter::SELECTOR, &selector(u32_filter::TERMINAL, 0, 0, &keys))
    })
}

/// Removes one filter.
pub(super) fn delete_filter(device: u32, handle: u32, (protocol, order): (u16, u32)) -> Message {
    let info = order << 16 | u32::from(protocol.to_be());
    let target = Target { device, handle, parent: abi::ROOT, info };
    Message::traffic(message::DEL_FILTER, 0, target).text(tc::KIND, "u32")
}

/// Removes all filters of a sort that hang at a place.
pub(super) fn delete_filters(device: u32, parent: u32, (protocol, order): (u16, u32)) -> Message {
    let info = order << 16 | u32::from(protocol.to_be());
    let target = Target { device, handle: 0, parent, info };
    Message::traffic(message::DEL_FILTER, 0, target).text(tc::KIND, "u32")
}

fn filter(device: u32, parent: u32, handle: u32, (protocol, order): (u16, u32)) -> Message {
    let flags = message::CREATE | message::EXCLUSIVE;
    let info = order << 16 | u32::from(protocol.to_be());
    Message::traffic(message::NEW_FILTER, flags, Target { device, handle, parent, info })
        .text(tc::KIND, "u32")
}

/// Asks for the list of filters that hang at a place.
pub(super) fn list_filters(device: u32, parent: u32) -> Message {
    Message::traffic(message::GET_FILTER, 0, Target { device, parent, ..Target::default() })
}

/// Asks for the list of classes.
pub(super) fn list_classes(device: u32) -> Message {
    Message::traffic(message::GET_CLASS, 0, Target { device, ..Target::default() })
}

/// Asks for the list of all queueing of the namespace.
pub(super) fn list_queueing() -> Message {
    Message::traffic(message::GET_QDISC, 0, Target::default())
}

/// Asks for the list of devices.
pub(super) fn list_links() -> Message {
    Message::link(message::GET_LINK, 0, 0, false)
}

/// Words to look at: mask, value, offset from the IP header. `hash` picks a table's bucket by the
/// word at `at`.
fn selector(flags: u8, at: u16, hash: u32, keys: &[(u32, u32, u16)]) -> Vec<u8> {
    let count = u8::try_from(keys.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![flags, 0, count, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&at.to_ne_bytes());
    bytes.extend_from_slice(&hash.to_be_bytes());
    for (mask, value, offset) in keys {
        bytes.extend_from_slice(&mask.to_be_bytes());
        bytes.extend_from_slice(&value.to_be_bytes());
        bytes.extend_from_slice(&u32::from(*offset).to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes
}

/// An address as words.
pub(super) fn words(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(a) => vec![a.to_bits()],
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            [96, 64, 32, 0].iter().map(|shift| (bits >> shift & 0xffff_ffff) as u32).collect()
        }
    }
}

/// The bucket of an address: its last byte.
pub(super) fn bucket(address: IpAddr) -> u32 {
    words(address).last().map_or(0, |word| word & 0xff)
}
