//! Steps of rules → the kernel's expressions.

use slicewire_core::policy::ruleset::{Datum, PORT_PREFIX, Rule, State, Step, Verdict};
use slicewire_core::prefix::Family;

use super::abi::{
    self, FIRST_REGISTER, VERDICT_REGISTER, attr, cmp, ct, meta, payload, set, verdict,
};
use super::elements;
use super::writer::Writer;

/// `ICMPv6`'s protocol number.
const ICMPV6: u8 = 58;

/// Writes the expressions of a rule.
pub(super) fn write(w: &mut Writer, rule: &Rule) {
    for step in rule {
        self::step(w, step);
    }
}

fn step(w: &mut Writer, step: &Step) {
    match step {
        Step::Family(family) => {
            load_meta(w, meta::FAMILY, FIRST_REGISTER);
            compare(w, cmp::EQUAL, &[elements::family(*family)]);
        }
        Step::FromPort(from) => port(w, meta::IN_NAME, *from),
        Step::ToPort(to) => port(w, meta::OUT_NAME, *to),
        Step::State(state) => {
            let state = match state {
                State::Untracked => ct::STATE_UNTRACKED,
                State::Invalid => ct::STATE_INVALID,
            };
            load_ct(w, ct::STATE, None, FIRST_REGISTER);
            compare(w, cmp::EQUAL, &state.to_ne_bytes());
        }
        Step::NotIcmpv6 => {
            load_meta(w, meta::PROTOCOL, FIRST_REGISTER);
            compare(w, cmp::UNEQUAL, &[ICMPV6]);
        }
        Step::Icmpv6Type(first, last) => {
            load_meta(w, meta::PROTOCOL, FIRST_REGISTER);
            compare(w, cmp::EQUAL, &[ICMPV6]);
            load_payload(w, payload::TRANSPORT, 0, 1, FIRST_REGISTER);
            between(w, &[*first], &[*last]);
        }
        Step::FlowProtocol(number) => {
            load(w, &[Datum::FlowProtocol]);
            compare(w, cmp::EQUAL, &[*number]);
        }
        Step::FlowPort(first, last) => {
            load(w, &[Datum::FlowPort]);
            between(w, &first.to_be_bytes(), &last.to_be_bytes());
        }
        Step::In(data, set) => {
            load(w, data);
            lookup(w, set, FIRST_REGISTER, None, 0);
        }
        Step::NotIn(data, set) => {
            load(w, data);
            lookup(w, set, FIRST_REGISTER, None, set::INVERTED);
        }
        Step::Mark(data, map) => {
            load(w, data);
            lookup(w, map, FIRST_REGISTER, Some(FIRST_REGISTER), 0);
            set_mark(w);
        }
        Step::Decide(data, map) => {
            load(w, data);
            lookup(w, map, FIRST_REGISTER, Some(VERDICT_REGISTER), 0);
        }
        Step::DecideBy(datum, first, second) => {
            load(w, &[*datum]);
            lookup(w, first, FIRST_REGISTER, Some(FIRST_REGISTER), 0);
            lookup(w, second, FIRST_REGISTER, Some(VERDICT_REGISTER), 0);
        }
        Step::Unmark | Step::StampFlow | Step::Untrack | Step::Count(_) | Step::Do(_) => {
            action(w, step)
        }
    }
}

/// Steps that always hold, as they do something.
fn action(w: &mut Writer, step: &Step) {
    match step {
        Step::Unmark => {
            expression(w, "immediate", |w| {
                w.number(attr::IMMEDIATE_DREG, FIRST_REGISTER);
                w.nested(attr::IMMEDIATE_DATA, |w| w.bytes(attr::DATA_VALUE, &[0; 4]));
            });
            set_mark(w);
        }
        Step::StampFlow => {
            load_meta(w, meta::MARK, FIRST_REGISTER);
            expression(w, "ct", |w| {
                w.number(attr::CT_KEY, ct::MARK);
                w.number(attr::CT_SREG, FIRST_REGISTER);
            });
        }
        Step::Untrack => expression(w, "notrack", |_| {}),
        Step::Count(name) => expression(w, "objref", |w| {
            w.number(attr::OBJREF_TYPE, abi::COUNTER);
            w.text(attr::OBJREF_NAME, name);
        }),
        Step::Do(what) => expression(w, "immediate", |w| {
            w.number(attr::IMMEDIATE_DREG, VERDICT_REGISTER);
            w.nested(attr::IMMEDIATE_DATA, |w| self::verdict(w, what));
        }),
        _ => {}
    }
}

/// What becomes of a packet, as data.
pub(super) fn verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (verdict::ACCEPT, None),
        Verdict::Drop => (verdict::DROP, None),
        Verdict::Return => (verdict::RETURN, None),
        Verdict::Jump(chain) => (verdict::JUMP, Some(chain)),
        Verdict::Goto(chain) => (verdict::GOTO, Some(chain)),
    };
    w.nested(attr::DATA_VERDICT, |w| {
        w.bytes(attr::VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            w.text(attr::VERDICT_CHAIN, chain);
        }
    });
}

pub(super) fn expression(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.nested(abi::LIST_ELEM, |w| {
        w.text(attr::EXPR_NAME, name);
        w.nested(attr::EXPR_DATA, body);
    });
}

/// Loads data into registers, one behind the other.
fn load(w: &mut Writer, data: &[Datum]) {
    let mut register = FIRST_REGISTER;
    for datum in data {
        register += datum_into(w, *datum, register);
    }
}

/// Loads a datum; the number of registers that it takes.
fn datum_into(w: &mut Writer, datum: Datum, register: u32) -> u32 {
    match datum {
        Datum::InDevice | Datum::OutDevice => {
            let name = if datum == Datum::InDevice { meta::IN_NAME } else { meta::OUT_NAME };
            load_meta(w, name, register);
            4
        }
        Datum::Family => {
            load_meta(w, meta::FAMILY, register);
            1
        }
        Datum::SourceMac => {
            load_payload(w, payload::LINK, 6, 6, register);
            2
        }
        Datum::Source(family) => {
            let (offset, length) = by(family, (12, 4), (8, 16));
            load_payload(w, payload::NETWORK, offset, length, register);
            length / 4
        }
        Datum::Destination(family) => {
            let (offset, length) = by(family, (16, 4), (24, 16));
            load_payload(w, payload::NETWORK, offset, length, register);
            length / 4
        }
        Datum::FlowSource(family) => {
            let key = by(family, ct::SOURCE4, ct::SOURCE6);
            load_ct(w, key, Some(ct::ORIGINAL), register);
            by(family, 1, 4)
        }
        // Who answers is who was reached, whatever address was asked for.
        Datum::FlowDestination(family) => {
            let key = by(family, ct::SOURCE4, ct::SOURCE6);
            load_ct(w, key, Some(ct::REPLY), register);
            by(family, 1, 4)
        }
        Datum::FlowProtocol => {
            load_ct(w, ct::PROTOCOL, Some(ct::ORIGINAL), register);
            1
        }
        Datum::FlowPort => {
            load_ct(w, ct::SOURCE_PORT, Some(ct::REPLY), register);
            1
        }
        Datum::FlowMark => {
            load_ct(w, ct::MARK, None, register);
            1
        }
        Datum::ArpMac => {
            load_payload(w, payload::NETWORK, 8, 6, register);
            2
        }
        Datum::ArpAddress => {
            load_payload(w, payload::NETWORK, 14, 4, register);
            1
        }
    }
}

fn by<T>(family: Family, v4: T, v6: T) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

pub(super) fn load_meta(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.number(attr::META_KEY, key);
        w.number(attr::META_DREG, register);
    });
}

fn set_mark(w: &mut Writer) {
    expression(w, "meta", |w| {
        w.number(attr::META_KEY, meta::MARK);
        w.number(attr::META_SREG, FIRST_REGISTER);
    });
}

pub(super) fn load_ct(w: &mut Writer, key: u32, direction: Option<u8>, register: u32) {
    expression(w, "ct", |w| {
        w.number(attr::CT_KEY, key);
        w.number(attr::CT_DREG, register);
        if let Some(direction) = direction {
            w.bytes(attr::CT_DIRECTION, &[direction]);
        }
    });
}

pub(super) fn load_payload(w: &mut Writer, base: u32, offset: u32, length: u32, register: u32) {
    expression(w, "payload", |w| {
        w.number(attr::PAYLOAD_DREG, register);
        w.number(attr::PAYLOAD_BASE, base);
        w.number(attr::PAYLOAD_OFFSET, offset);
        w.number(attr::PAYLOAD_LEN, length);
    });
}

pub(super) fn compare(w: &mut Writer, comparison: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(attr::CMP_SREG, FIRST_REGISTER);
        w.number(attr::CMP_OP, comparison);
        w.nested(attr::CMP_DATA, |w| w.bytes(attr::DATA_VALUE, value));
    });
}

/// Whether what is loaded lies between two values, both included.
fn between(w: &mut Writer, first: &[u8], last: &[u8]) {
    if first == last {
        compare(w, cmp::EQUAL, first);
    } else {
        compare(w, cmp::AT_LEAST, first);
        compare(w, cmp::AT_MOST, last);
    }
}

/// Whether a device's name begins as those of pods' ports do.
fn port(w: &mut Writer, name: u32, is: bool) {
    load_meta(w, name, FIRST_REGISTER);
    let comparison = if is { cmp::EQUAL } else { cmp::UNEQUAL };
    compare(w, comparison, PORT_PREFIX.as_bytes());
}

pub(super) fn lookup(w: &mut Writer, set: &str, key: u32, into: Option<u32>, flags: u32) {
    expression(w, "lookup", |w| {
        w.text(attr::LOOKUP_SET, set);
        w.number(attr::LOOKUP_SREG, key);
        if let Some(register) = into {
            w.number(attr::LOOKUP_DREG, register);
        }
        if flags != 0 {
            w.number(attr::LOOKUP_FLAGS, flags);
        }
    });
}
