//! Virtual addresses of services: one table of its own, `inet slicewire-services`.
//!
//! Every front has *slots*, numbered from 0, as many for each endpoint as is its share. A map leads
//! from address, protocol and port to a chain that takes one number out of so many, by chance or by
//! the client's address, and another map from all four to the endpoint in that slot. So there are
//! only as many chains as numbers of slots, whatever number of services there is, and a change is
//! one of elements. All that happens for the first packet of a connection; the others follow it.
//! Policies judge what comes out of here, as they judge after translation.
//!
//! Connections that were led to an endpoint which serves no more are refused, before anybody asks for
//! a route: the pod's may be gone already. New ones are where there is no endpoint.

mod exprs;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use slicewire_core::policy::ruleset::Verdict;
use slicewire_core::prefix::Family;
use slicewire_core::service::Protocol;
use slicewire_core::service::balance::Balance;
use slicewire_core::service::translate::{Front, TranslationDelta};

use super::abi::{self, FIRST_REGISTER, attr, hook, message, set, show};
use super::writer::{Batch, Writer};
use exprs::{cut, hairpin, lead, turn_away};
pub(super) use ways::Ways;
use ways::{slots, way};

/// What the table is called.
pub(super) const TABLE: &str = "slicewire-services";
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
/// Where addresses of destinations are translated, and of sources.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
/// Behind the translation of destinations.
const AFTER_DSTNAT: i32 = -90;
/// Number of the place where packets leave.
const POSTROUTING: u32 = 4;
/// Clients of services with affinity that are remembered, in each family.
const MAX_KEPT: u32 = 1 << 16;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// All changes of a delta. `there` is which chains there are: afterwards, those there will be.
pub(super) fn batch(delta: &TranslationDelta, there: &mut Ways) -> Batch {
    let mut writer = Writer::batch();
    if delta.anew {
        *there = Ways::default();
    }
    if delta.anew {
        // Made first, so that there is something to delete.
        removal(&mut writer);
        if delta.set.is_empty() && delta.born.is_empty() {
            return writer.finish();
        }
        table(&mut writer, message::NEW_TABLE, CREATE);
        frame(&mut writer);
    }
    there.complete(&mut writer, delta);
    fronts(&mut writer, delta);
    sets(&mut writer, delta);
    writer.finish()
}

/// The removal of all that is here.
pub(super) fn removal(writer: &mut Writer) {
    table(writer, message::NEW_TABLE, CREATE);
    table(writer, message::DEL_TABLE, 0);
}

fn table(writer: &mut Writer, kind: u16, flags: u16) {
    writer.message(kind, flags, abi::INET, format!("table {TABLE}"), |w| {
        w.text(attr::TABLE_NAME, TABLE);
    });
}

fn chain(writer: &mut Writer, kind: u16, flags: u16, name: &str, hook: Option<(&str, u32, i32)>) {
    writer.message(kind, flags, abi::INET, format!("chain {name}"), |w| {
        w.text(attr::CHAIN_TABLE, TABLE);
        w.text(attr::CHAIN_NAME, name);
        let Some((sort, place, priority)) = hook else { return };
        w.nested(attr::CHAIN_HOOK, |w| {
            w.number(attr::HOOK_NUMBER, place);
            w.bytes(attr::HOOK_PRIORITY, &priority.to_be_bytes());
        });
        w.text(attr::CHAIN_TYPE, sort);
    });
}

fn rule(writer: &mut Writer, chain: &str, body: impl FnOnce(&mut Writer)) {
    writer.message(
        message::NEW_RULE,
        CREATE | APPEND,
        abi::INET,
        format!("rule of chain {chain}"),
        |w| {
            w.text(attr::RULE_TABLE, TABLE);
            w.text(attr::RULE_CHAIN, chain);
            w.nested(attr::RULE_EXPRESSIONS, body);
        },
    );
}

fn by<T>(family: Family, v4: T, v6: T) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn map_of(family: Family) -> &'static str {
    by(family, "fronts4", "fronts6")
}

fn live_of(family: Family) -> &'static str {
    by(family, "live4", "live6")
}

fn idle_of(family: Family) -> &'static str {
    by(family, "idle4", "idle6")
}

fn slots_of(family: Family) -> &'static str {
    by(family, "slots4", "slots6")
}

fn kept_of(family: Family) -> &'static str {
    by(family, "kept4", "kept6")
}

fn places_of(family: Family) -> &'static str {
    by(family, "places4", "places6")
}

fn own_of(family: Family) -> &'static str {
    by(family, "own4", "own6")
}

/// What is the same whatever services there are.
fn frame(writer: &mut Writer) {
    for (number, family) in (0..).step_by(10).zip(FAMILIES) {
        let address = by(family, (4, show::IPV4), (16, show::IPV6));
        let front = [address, (1, show::PROTOCOL), (2, show::PORT)];
        // The nft program shows no number in a key but a mark.
        let slot = [front[0], front[1], front[2], (4, show::MARK)];
        let place = (address.1 << show::BITS | show::PORT, by(family, 8, 20));
        let end = [front[0], front[1], front[2], address, (2, show::PORT)];
        let client = [address, front[0], front[1], front[2]];
        let plain =
            |w: &mut Writer, n, name, parts: &[_]| add_set(w, number + n, name, parts, None, 0);
        let verdict = Some((set::DATA_VERDICT, 0));
        add_set(writer, number, map_of(family), &front, verdict, 0);
        add_set(writer, number + 1, slots_of(family), &slot, Some(place), 0);
        plain(writer, 2, live_of(family), &front);
        plain(writer, 3, idle_of(family), &front);
        plain(writer, 4, own_of(family), &[address, address]);
        plain(writer, 5, places_of(family), &end);
        add_set(writer, number + 6, kept_of(family), &client, Some(place), MAX_KEPT);
    }
    chain(writer, message::NEW_CHAIN, CREATE, "arrived", Some(("nat", hook::PREROUTING, DSTNAT)));
    let cutting = Some(("filter", hook::PREROUTING, AFTER_DSTNAT));
    chain(writer, message::NEW_CHAIN, CREATE, "cut", cutting);
    chain(writer, message::NEW_CHAIN, CREATE, "leaving", Some(("nat", POSTROUTING, SRCNAT)));
    for family in FAMILIES {
        rule(writer, "arrived", |w| lead(w, family, map_of(family)));
        for tcp in [true, false] {
            rule(writer, "cut", |w| cut(w, family, live_of(family), tcp));
            rule(writer, "cut", |w| turn_away(w, family, idle_of(family), tcp));
        }
        rule(writer, "leaving", |w| hairpin(w, family, own_of(family)));
    }
}

/// A set or map; the type and the length of what a map leads to. One of a limited size is packets' to
/// write, and its elements end by themselves.
fn add_set(
    writer: &mut Writer,
    id: u32,
    name: &str,
    parts: &[(usize, u32)],
    data: Option<(u32, u32)>,
    size: u32,
) {
    let length: usize = parts.iter().map(|(length, _)| length.next_multiple_of(4)).sum();
    let shown = parts.iter().fold(0, |all, (_, one)| all << show::BITS | one);
    let dynamic = if size > 0 { set::TIMEOUT | set::DYNAMIC } else { 0 };
    let flags = set::CONCAT | dynamic | if data.is_some() { set::MAP } else { 0 };
    writer.message(message::NEW_SET, CREATE | EXCLUSIVE, abi::INET, format!("set {name}"), |w| {
        w.text(attr::SET_TABLE, TABLE);
        w.text(attr::SET_NAME, name);
        w.number(attr::SET_FLAGS, flags);
        w.number(attr::SET_KEY_TYPE, shown);
        w.number(attr::SET_KEY_LEN, u32::try_from(length).unwrap_or(u32::MAX));
        if let Some((sort, length)) = data {
            w.number(attr::SET_DATA_TYPE, sort);
            if length > 0 {
                w.number(attr::SET_DATA_LEN, length);
            }
        }
        w.nested(attr::SET_DESC, |w| {
            if size > 0 {
                w.number(attr::DESC_SIZE, size);
            }
            w.nested(attr::DESC_CONCAT, |w| {
                for (length, _) in parts {
                    w.nested(abi::LIST_ELEM, |w| {
                        let length = u32::try_from(*length).unwrap_or(u32::MAX);
                        w.number(attr::FIELD_LEN, length);
                    });
                }
            });
        });
        w.number(attr::SET_ID, id);
    });
}

/// Attributes are at most 64 KiB long; no element comes near the rest.
const ROOM: usize = 60_000;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A front as a key: every part in registers of its own.
fn key(front: &Front) -> Vec<u8> {
    let mut key = octets(front.address);
    key.extend([number(front.protocol), 0, 0, 0]);
    key.extend(front.port.to_be_bytes());
    key.extend([0, 0]);
    key
}

/// A protocol's number.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// An element of a set or map: its key, and where a map leads.
type Element = (Vec<u8>, Lead);

/// Where an element of a map leads.
enum Lead {
    Nowhere,
    Chain(String),
    Place(Vec<u8>),
}

/// Elements of maps that are different now: first those that go.
fn fronts(writer: &mut Writer, delta: &TranslationDelta) {
    let (mut gone, mut new) = (Changed::default(), Changed::default());
    for (front, old) in &delta.were {
        gone.compare(front, old, delta.set.get(front));
    }
    for (front, balance) in &delta.set {
        new.compare(front, balance, delta.were.get(front));
    }
    gone.write(writer, message::DEL_ELEMENT, 0);
    new.write(writer, message::NEW_ELEMENT, CREATE | EXCLUSIVE);
}

/// An endpoint's address and port as a map leads to them.
fn place((address, port): (IpAddr, u16)) -> Vec<u8> {
    let mut place = octets(address);
    place.extend(port.to_be_bytes());
    place.extend([0, 0]);
    place
}

/// The endpoints that clients stay with.
fn ends(balance: Option<&Balance>) -> BTreeSet<(IpAddr, u16)> {
    let sticky = balance.filter(|b| b.sticky.is_some()).into_iter();
    sticky.flat_map(|b| &b.targets).map(|t| (t.address, t.port)).collect()
}

/// Elements by the name of their set.
#[derive(Default)]
struct Changed(BTreeMap<&'static str, Vec<Element>>);

impl Changed {
    /// Takes up what a front has and the other state of it has not.
    fn compare(&mut self, front: &Front, one: &Balance, other: Option<&Balance>) {
        let family = Family::of_addr(&front.address);
        let (way, other_way) = (way(front, one), other.and_then(|o| ways::way(front, o)));
        if other.is_none() || way != other_way {
            let (set, lead) = match way {
                Some(way) => (map_of(family), Lead::Chain(way.chain())),
                None => (idle_of(family), Lead::Nowhere),
            };
            self.0.entry(set).or_default().push((key(front), lead));
        }
        let others = other.map(slots).unwrap_or_default();
        for (number, slot) in (0u32..).zip(slots(one)) {
            let same = others.get(usize::try_from(number).unwrap_or(usize::MAX)) == Some(&slot);
            if !same {
                let mut key = key(front);
                key.extend(number.to_ne_bytes());
                let lead = Lead::Place(place(slot));
                self.0.entry(slots_of(family)).or_default().push((key, lead));
            }
        }
        for end in ends(Some(one)).difference(&ends(other)) {
            let key = [key(front), place(*end)].concat();
            self.0.entry(places_of(family)).or_default().push((key, Lead::Nowhere));
        }
    }

    fn write(self, writer: &mut Writer, kind: u16, flags: u16) {
        for (set, all) in self.0 {
            elements(writer, kind, flags, set, all.into_iter());
        }
    }
}

/// Endpoints that serve, and own pods.
fn sets(writer: &mut Writer, delta: &TranslationDelta) {
    let of = |family: Family| move |front: &&Front| Family::of_addr(&front.address) == family;
    for family in FAMILIES {
        let mine = |address: &&IpAddr| Family::of_addr(address) == family;
        let keys = |fronts: &BTreeSet<Front>| -> Vec<Element> {
            fronts.iter().filter(of(family)).map(|front| (key(front), Lead::Nowhere)).collect()
        };
        let pairs = |addresses: &BTreeSet<IpAddr>| -> Vec<Element> {
            let own = addresses.iter().filter(mine);
            own.map(|a| ([octets(*a), octets(*a)].concat(), Lead::Nowhere)).collect()
        };
        let (live, own) = (live_of(family), own_of(family));
        elements(writer, message::DEL_ELEMENT, 0, live, keys(&delta.died).into_iter());
        elements(writer, message::DEL_ELEMENT, 0, own, pairs(&delta.left).into_iter());
        let new = CREATE | EXCLUSIVE;
        elements(writer, message::NEW_ELEMENT, new, live, keys(&delta.born).into_iter());
        elements(writer, message::NEW_ELEMENT, new, own, pairs(&delta.came).into_iter());
    }
}

fn elements(
    writer: &mut Writer,
    kind: u16,
    flags: u16,
    set: &str,
    all: impl Iterator<Item = Element>,
) {
    let mut all = all.peekable();
    while all.peek().is_some() {
        writer.message(kind, flags, abi::INET, format!("elements of {set}"), |w| {
            w.text(attr::LIST_TABLE, TABLE);
            w.text(attr::LIST_SET, set);
            w.nested(attr::LIST_ELEMENTS, |w| {
                while w.length() < ROOM
                    && let Some((key, lead)) = all.next()
                {
                    w.nested(abi::LIST_ELEM, |w| {
                        w.nested(attr::ELEM_KEY, |w| w.bytes(attr::DATA_VALUE, &key));
                        match lead {
                            // The kernel knows by the key which one goes.
                            _ if kind == message::DEL_ELEMENT => {}
                            Lead::Nowhere => {}
                            Lead::Chain(chain) => w.nested(attr::ELEM_DATA, |w| {
                                super::rule::verdict(w, &Verdict::Goto(chain));
                            }),
                            Lead::Place(place) => w.nested(attr::ELEM_DATA, |w| {
                                w.bytes(attr::DATA_VALUE, &place);
                            }),
                        }
                    });
                }
            });
        });
    }
}

/// Registers behind an address.
fn behind(family: Family) -> u32 {
    FIRST_REGISTER + by(family, 1, 4)
}
