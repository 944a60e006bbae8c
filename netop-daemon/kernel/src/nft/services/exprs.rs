//! Expressions that only the translation of addresses needs.

use slicewire_core::prefix::Family;

use super::{behind, by};
use crate::nft::abi::{FIRST_REGISTER, VERDICT_REGISTER, attr, cmp, ct, meta, payload, set};
use crate::nft::elements;
use crate::nft::rule::{compare, expression, load_ct, load_meta, load_payload, lookup};
use crate::nft::writer::Writer;

const TCP: u8 = 6;
/// What is hashed starts with this, so that choices here do not follow choices elsewhere.
const SEED: u32 = 0x736c_6963;

/// A chain for packets to virtual addresses.
pub(super) fn lead(w: &mut Writer, family: Family, map: &str) {
    is(w, family);
    front(w, family, FIRST_REGISTER);
    lookup(w, map, FIRST_REGISTER, Some(VERDICT_REGISTER), 0);
}

/// Refuses packets of connections that were led to an endpoint which serves no more.
pub(super) fn cut(w: &mut Writer, family: Family, live: &str, tcp: bool) {
    is(w, family);
    load_ct(w, ct::STATUS, None, FIRST_REGISTER);
    expression(w, "bitwise", |w| {
        w.number(1, FIRST_REGISTER);
        w.number(2, FIRST_REGISTER);
        w.number(3, 4);
        w.nested(4, |w| w.bytes(attr::DATA_VALUE, &ct::DESTINATION_TRANSLATED.to_ne_bytes()));
        w.nested(5, |w| w.bytes(attr::DATA_VALUE, &[0; 4]));
    });
    compare(w, cmp::UNEQUAL, &[0; 4]);
    load_ct(w, ct::DIRECTION, None, FIRST_REGISTER);
    compare(w, cmp::EQUAL, &[ct::ORIGINAL]);
    if tcp {
        load_meta(w, meta::PROTOCOL, FIRST_REGISTER);
        compare(w, cmp::EQUAL, &[TCP]);
    }
    front(w, family, FIRST_REGISTER);
    lookup(w, live, FIRST_REGISTER, None, set::INVERTED);
    refuse(w, tcp);
}

/// Refuses packets to fronts that have no endpoint.
pub(super) fn turn_away(w: &mut Writer, family: Family, idle: &str, tcp: bool) {
    is(w, family);
    if tcp {
        load_meta(w, meta::PROTOCOL, FIRST_REGISTER);
        compare(w, cmp::EQUAL, &[TCP]);
    }
    front(w, family, FIRST_REGISTER);
    lookup(w, idle, FIRST_REGISTER, None, 0);
    refuse(w, tcp);
}

/// By a reset, or by word that there is no such port.
fn refuse(w: &mut Writer, tcp: bool) {
    let (sort, code) = if tcp { (1, 0) } else { (2, 1) };
    expression(w, "reject", |w| {
        w.number(1, sort);
        w.bytes(2, &[code]);
    });
}

/// Lets a pod that was led to itself see the virtual address for the client: it would drop what
/// comes from outside with its own.
pub(super) fn hairpin(w: &mut Writer, family: Family, own: &str) {
    is(w, family);
    let (source, destination, length) = by(family, (12, 16, 4), (8, 24, 16));
    load_payload(w, payload::NETWORK, source, length, FIRST_REGISTER);
    load_payload(w, payload::NETWORK, destination, length, behind(family));
    lookup(w, own, FIRST_REGISTER, None, 0);
    let asked = by(family, ct::DESTINATION4, ct::DESTINATION6);
    load_ct(w, asked, Some(ct::ORIGINAL), FIRST_REGISTER);
    expression(w, "nat", |w| {
        w.number(NAT_TYPE, 0);
        w.number(NAT_FAMILY, u32::from(elements::family(family)));
        w.number(NAT_ADDRESS, FIRST_REGISTER);
    });
}

const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const DESTINATION: u32 = 1;

/// Chooses a slot by chance, and leads to the endpoint in it.
pub(super) fn choose(w: &mut Writer, family: Family, slots: &str, total: u32) {
    let number = behind(family) + 2;
    by_chance(w, number, total);
    front(w, family, FIRST_REGISTER);
    lookup(w, slots, FIRST_REGISTER, Some(FIRST_REGISTER), 0);
    translate(w, family, FIRST_REGISTER);
}

/// The same by the client's address.
pub(super) fn choose_by_client(w: &mut Writer, family: Family, slots: &str, total: u32) {
    let number = behind(family) + 2;
    client(w, family);
    expression(w, "hash", |w| {
        w.number(1, FIRST_REGISTER);
        w.number(2, number);
        w.number(3, by(family, 4, 16));
        w.number(4, total);
        w.number(5, SEED);
    });
    front(w, family, FIRST_REGISTER);
    lookup(w, slots, FIRST_REGISTER, Some(FIRST_REGISTER), 0);
    translate(w, family, FIRST_REGISTER);
}

fn by_chance(w: &mut Writer, number: u32, total: u32) {
    expression(w, "numgen", |w| {
        w.number(1, number);
        w.number(2, total);
        w.number(3, 1);
    });
}

/// What is known about a client's endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) family: Family,
    /// Clients and fronts, and the endpoint of each.
    pub(super) kept: &'static str,
    /// Fronts, and the endpoints that they lead to.
    pub(super) places: &'static str,
    /// A client that makes no connection for so many seconds is forgotten.
    pub(super) seconds: u32,
}

impl Memory {
    /// Where the front is: behind the client.
    fn front(self) -> u32 {
        behind(self.family)
    }

    /// Where the endpoint is: behind the front.
    fn place(self) -> u32 {
        self.front() + by(self.family, 1, 4) + 2
    }

    /// Leads a client to the endpoint it had, as long as the front leads there.
    pub(super) fn again(self, w: &mut Writer) {
        client(w, self.family);
        front(w, self.family, self.front());
        lookup(w, self.kept, FIRST_REGISTER, Some(self.place()), 0);
        lookup(w, self.places, self.front(), None, 0);
        self.write(w, set::UPDATE);
        translate(w, self.family, self.place());
    }

    /// Chooses a slot by chance, and keeps the endpoint in it. Where there is no room for that, the
    /// rule ends before the packet is led anywhere.
    pub(super) fn choose(self, w: &mut Writer, slots: &str, total: u32) {
        client(w, self.family);
        front(w, self.family, self.front());
        by_chance(w, self.place(), total);
        lookup(w, slots, self.front(), Some(self.place()), 0);
        // What is there already would stay as it is.
        self.write(w, set::DELETE);
        self.write(w, set::UPDATE);
        translate(w, self.family, self.place());
    }

    fn write(self, w: &mut Writer, what: u32) {
        expression(w, "dynset", |w| {
            w.text(attr::DYNAMIC_SET, self.kept);
            w.number(attr::DYNAMIC_OP, what);
            w.number(attr::DYNAMIC_KEY, FIRST_REGISTER);
            w.number(attr::DYNAMIC_DATA, self.place());
            if what == set::UPDATE {
                let milliseconds = u64::from(self.seconds) * 1000;
                w.bytes(attr::DYNAMIC_TIMEOUT, &milliseconds.to_be_bytes());
            }
        });
    }
}

/// Loads the client's address.
fn client(w: &mut Writer, family: Family) {
    let (source, length) = by(family, (12, 4), (8, 16));
    load_payload(w, payload::NETWORK, source, length, FIRST_REGISTER);
}

/// To the address and port that are loaded.
fn translate(w: &mut Writer, family: Family, place: u32) {
    expression(w, "nat", |w| {
        w.number(NAT_TYPE, DESTINATION);
        w.number(NAT_FAMILY, u32::from(elements::family(family)));
        w.number(NAT_ADDRESS, place);
        w.number(NAT_PORT, place + by(family, 1, 4));
    });
}

fn is(w: &mut Writer, family: Family) {
    load_meta(w, meta::FAMILY, FIRST_REGISTER);
    compare(w, cmp::EQUAL, &[elements::family(family)]);
}

/// Loads destination, protocol and port, from a register on.
fn front(w: &mut Writer, family: Family, at: u32) {
    let (offset, length) = by(family, (16, 4), (24, 16));
    let protocol = at + by(family, 1, 4);
    load_payload(w, payload::NETWORK, offset, length, at);
    load_meta(w, meta::PROTOCOL, protocol);
    load_payload(w, payload::TRANSPORT, 2, 2, protocol + 1);
}
