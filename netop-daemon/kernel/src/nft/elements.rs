//! Elements of sets and maps → messages.

use std::net::IpAddr;

use slicewire_core::policy::ruleset::{Elements, Field, Key, Set};
use slicewire_core::prefix::Family;

use super::abi::{self, TABLE, attr, set};
use super::rule;
use super::writer::Writer;

/// Attributes are at most 64 KiB long, and elements are one attribute: more go into more
/// messages. No element comes near the rest.
const ROOM: usize = 60_000;

/// What an element leads to.
enum Data<'a> {
    None,
    Mark(u32),
    Verdict(&'a slicewire_core::policy::ruleset::Verdict),
}

/// Writes messages that put all elements of `part` into a set, or take them out.
pub(super) fn write(w: &mut Writer, kind: u16, flags: u16, family: u8, name: &str, part: &Set) {
    let open = Open { kind, flags, family, name };
    match &part.elements {
        Elements::Plain(all) => open.all(w, all.iter(), |w, key| one(w, part, key, &Data::None)),
        Elements::Marks(all) => open.all(w, all.iter(), |w, (key, mark)| {
            one(w, part, key, &Data::Mark(*mark));
        }),
        Elements::Verdicts(all) => open.all(w, all.iter(), |w, (key, verdict)| {
            one(w, part, key, &Data::Verdict(verdict));
        }),
        Elements::Marks4(all) => open.all(w, all.iter(), |w, (address, mark)| {
            element(w, &address.octets(), None, 0, &Data::Mark(*mark));
        }),
        Elements::Marks6(all) => open.all(w, all.iter(), |w, (address, mark)| {
            element(w, &address.octets(), None, 0, &Data::Mark(*mark));
        }),
    }
}

struct Open<'a> {
    kind: u16,
    flags: u16,
    family: u8,
    name: &'a str,
}

impl Open<'_> {
    fn all<T>(
        &self,
        writer: &mut Writer,
        elements: impl Iterator<Item = T>,
        one: impl Fn(&mut Writer, T),
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let subject = format!("elements of {}", self.name);
            writer.message(self.kind, self.flags, self.family, subject, |w| {
                w.text(attr::LIST_TABLE, TABLE);
                w.text(attr::LIST_SET, self.name);
                w.nested(attr::LIST_ELEMENTS, |w| {
                    while w.length() < ROOM
                        && let Some(element) = elements.next()
                    {
                        one(w, element);
                    }
                });
            });
        }
    }
}

/// One element of our own; ranges of a single part are two to the kernel, where they begin and
/// where they have ended.
fn one(w: &mut Writer, set: &Set, key: &Key, data: &Data<'_>) {
    if let ([Field::Addresses(first, last)], true) = (key.as_slice(), set.has_intervals()) {
        element(w, &octets(*first), None, 0, data);
        if let Some(behind) = next(*last) {
            element(w, &octets(behind), None, set::INTERVAL_END, &Data::None);
        }
        return;
    }
    let single = key.len() == 1;
    let mut start = Vec::new();
    let mut end = Vec::new();
    for field in key {
        let (first, last) = bytes(field);
        start.extend(first);
        end.extend(last);
        if !single {
            start.resize(start.len().next_multiple_of(4), 0);
            end.resize(end.len().next_multiple_of(4), 0);
        }
    }
    let end = set.has_intervals().then_some(end.as_slice());
    element(w, &start, end, 0, data);
}

fn element(w: &mut Writer, key: &[u8], end: Option<&[u8]>, flags: u32, data: &Data<'_>) {
    w.nested(abi::LIST_ELEM, |w| {
        if flags != 0 {
            w.number(attr::ELEM_FLAGS, flags);
        }
        w.nested(attr::ELEM_KEY, |w| w.bytes(attr::DATA_VALUE, key));
        if let Some(end) = end {
            w.nested(attr::ELEM_KEY_END, |w| w.bytes(attr::DATA_VALUE, end));
        }
        match data {
            Data::None => {}
            Data::Mark(mark) => {
                w.nested(attr::ELEM_DATA, |w| w.bytes(attr::DATA_VALUE, &mark.to_ne_bytes()));
            }
            Data::Verdict(verdict) => {
                w.nested(attr::ELEM_DATA, |w| rule::verdict(w, verdict));
            }
        }
    });
}

/// The first and the last value of a part of a key.
fn bytes(field: &Field) -> (Vec<u8>, Vec<u8>) {
    let same = |bytes: Vec<u8>| (bytes.clone(), bytes);
    match field {
        Field::Address(address) => same(octets(*address)),
        Field::Addresses(first, last) => (octets(*first), octets(*last)),
        Field::Mac(mac) => same(mac.to_vec()),
        Field::Device(name) => same(device(name)),
        Field::Mark(mark) => same(mark.to_ne_bytes().to_vec()),
        Field::Family(family) => same(vec![self::family(*family)]),
        Field::Protocol(number) => same(vec![*number]),
        Field::Ports(first, last) => (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec()),
    }
}

/// The number of a family in packets' metadata.
pub(super) fn family(family: Family) -> u8 {
    match family {
        Family::V4 => abi::IPV4,
        Family::V6 => abi::IPV6,
    }
}

/// A device's name, filled up with zeros.
fn device(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(abi::DEVICE_LEN, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address behind this one, unless it is the very last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}
