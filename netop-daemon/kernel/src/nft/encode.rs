//! Changes → messages.

use slicewire_core::policy::Delta;
use slicewire_core::policy::ruleset::{Change, Elements, Hook, Kind, Set};
use slicewire_core::prefix::Family;

use super::abi::{self, TABLE, attr, hook, message, set, show};
use super::elements;
use super::rule;
use super::services;
use super::writer::{Batch, Writer};

/// Makes what is not there.
const CREATE: u16 = 0x400;
/// Refuses if it is there already.
const EXCLUSIVE: u16 = 0x200;
/// Puts it behind those that are there.
const APPEND: u16 = 0x800;

/// All changes of a delta.
pub(super) fn batch(delta: &Delta) -> Batch {
    let mut writer = Writer::batch();
    if delta.anew {
        for family in [abi::INET, abi::ARP] {
            // Made first, so that there is something to delete.
            table(&mut writer, message::NEW_TABLE, CREATE, family);
            table(&mut writer, message::DEL_TABLE, 0, family);
            table(&mut writer, message::NEW_TABLE, CREATE, family);
        }
    }
    for (family, changes) in [(abi::INET, &delta.inet), (abi::ARP, &delta.arp)] {
        for (number, one) in changes.iter().enumerate() {
            change(&mut writer, family, number, one);
        }
    }
    writer.finish()
}

/// The removal of all that is ours.
pub(super) fn removal() -> Batch {
    let mut writer = Writer::batch();
    for family in [abi::INET, abi::ARP] {
        table(&mut writer, message::NEW_TABLE, CREATE, family);
        table(&mut writer, message::DEL_TABLE, 0, family);
    }
    services::removal(&mut writer);
    writer.finish()
}

fn table(writer: &mut Writer, kind: u16, flags: u16, family: u8) {
    writer.message(kind, flags, family, format!("table {TABLE}"), |w| {
        w.text(attr::TABLE_NAME, TABLE);
    });
}

fn change(writer: &mut Writer, family: u8, number: usize, change: &Change) {
    match change {
        Change::AddCounter(name) => {
            counter(writer, message::NEW_OBJECT, CREATE | EXCLUSIVE, family, name);
        }
        Change::DeleteCounter(name) => counter(writer, message::DEL_OBJECT, 0, family, name),
        Change::AddSet(name, set) => {
            let id = u32::try_from(number).unwrap_or(u32::MAX);
            add_set(writer, family, id, name, set);
        }
        Change::DeleteSet(name) => {
            writer.message(message::DEL_SET, 0, family, format!("set {name}"), |w| {
                w.text(attr::SET_TABLE, TABLE);
                w.text(attr::SET_NAME, name);
            });
        }
        Change::AddChain(name, hook) => add_chain(writer, family, name, *hook),
        Change::DeleteChain(name) => {
            writer.message(message::DEL_CHAIN, 0, family, format!("chain {name}"), |w| {
                w.text(attr::CHAIN_TABLE, TABLE);
                w.text(attr::CHAIN_NAME, name);
            });
        }
        Change::Clear(name) => {
            let subject = format!("elements of {name}");
            writer.message(message::DEL_ELEMENT, 0, family, subject, |w| {
                w.text(attr::LIST_TABLE, TABLE);
                w.text(attr::LIST_SET, name);
            });
        }
        Change::Remove(name, set) => {
            elements::write(writer, message::DEL_ELEMENT, 0, family, name, set);
        }
        Change::Insert(name, set) => {
            elements::write(writer, message::NEW_ELEMENT, CREATE | EXCLUSIVE, family, name, set);
        }
        Change::SetRules(name, rules) => {
            let subject = || format!("rules of chain {name}");
            writer.message(message::DEL_RULE, 0, family, subject(), |w| {
                w.text(attr::RULE_TABLE, TABLE);
                w.text(attr::RULE_CHAIN, name);
            });
            for rule in rules {
                writer.message(message::NEW_RULE, CREATE | APPEND, family, subject(), |w| {
                    w.text(attr::RULE_TABLE, TABLE);
                    w.text(attr::RULE_CHAIN, name);
                    w.nested(attr::RULE_EXPRESSIONS, |w| rule::write(w, rule));
                });
            }
        }
    }
}

fn counter(writer: &mut Writer, kind: u16, flags: u16, family: u8, name: &str) {
    writer.message(kind, flags, family, format!("counter {name}"), |w| {
        w.text(attr::OBJ_TABLE, TABLE);
        w.text(attr::OBJ_NAME, name);
        w.number(attr::OBJ_TYPE, abi::COUNTER);
        if kind == message::NEW_OBJECT {
            w.nested(attr::OBJ_DATA, |_| {});
        }
    });
}

fn add_chain(writer: &mut Writer, family: u8, name: &str, hook: Option<Hook>) {
    let flags = CREATE | EXCLUSIVE;
    writer.message(message::NEW_CHAIN, flags, family, format!("chain {name}"), |w| {
        w.text(attr::CHAIN_TABLE, TABLE);
        w.text(attr::CHAIN_NAME, name);
        let Some(hook) = hook else { return };
        let (number, priority, policy) = match hook {
            Hook::Arrived => (hook::PREROUTING, hook::RAW, abi::verdict::ACCEPT),
            Hook::Forwarded => (hook::FORWARD, hook::FILTER, abi::verdict::DROP),
            Hook::ArpArrived => (hook::ARP_IN, hook::FILTER, abi::verdict::ACCEPT),
        };
        w.nested(attr::CHAIN_HOOK, |w| {
            w.number(attr::HOOK_NUMBER, number);
            w.bytes(attr::HOOK_PRIORITY, &priority.to_be_bytes());
        });
        w.bytes(attr::CHAIN_POLICY, &policy.to_be_bytes());
        w.text(attr::CHAIN_TYPE, "filter");
    });
}

/// Length of a part of a key, and how the `nft` program shows it.
pub(super) fn kind(kind: Kind) -> (usize, u32) {
    match kind {
        Kind::Address(Family::V4) | Kind::Addresses(Family::V4) => (4, show::IPV4),
        Kind::Address(Family::V6) | Kind::Addresses(Family::V6) => (16, show::IPV6),
        Kind::Mac => (6, show::MAC),
        Kind::Device => (abi::DEVICE_LEN, show::DEVICE),
        Kind::Mark => (4, show::MARK),
        Kind::Family => (1, show::FAMILY),
        Kind::Protocol => (1, show::PROTOCOL),
        Kind::Ports => (2, show::PORT),
    }
}

fn add_set(writer: &mut Writer, family: u8, id: u32, name: &str, new: &Set) {
    let parts: Vec<(usize, u32)> = new.key.iter().map(|k| kind(*k)).collect();
    let single = parts.len() == 1;
    // Parts of a key lie in registers of 4 bytes.
    let place = |length: usize| if single { length } else { length.next_multiple_of(4) };
    let length: usize = parts.iter().map(|(length, _)| place(*length)).sum();
    let shown = parts.iter().fold(0, |all, (_, one)| all << show::BITS | one);
    let mut flags = if single { 0 } else { set::CONCAT };
    if new.has_intervals() {
        flags |= set::INTERVAL;
    }
    let data = match new.elements {
        Elements::Plain(_) => None,
        Elements::Verdicts(_) => Some((set::DATA_VERDICT, 0)),
        _ => Some((show::MARK, 4)),
    };
    if data.is_some() {
        flags |= set::MAP;
    }
    let create = CREATE | EXCLUSIVE;
    writer.message(message::NEW_SET, create, family, format!("set {name}"), |w| {
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
        if !single {
            w.nested(attr::SET_DESC, |w| {
                w.nested(attr::DESC_CONCAT, |w| {
                    for (length, _) in &parts {
                        w.nested(abi::LIST_ELEM, |w| {
                            let length = u32::try_from(*length).unwrap_or(u32::MAX);
                            w.number(attr::FIELD_LEN, length);
                        });
                    }
                });
            });
        }
        w.number(attr::SET_ID, id);
    });
}
