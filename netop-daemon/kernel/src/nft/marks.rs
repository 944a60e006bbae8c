//! Code points of packets: one table of its own, `inet slicewire-qos`, apart from the policies'.

use slicewire_core::qos::Dscp;

use super::abi::{self, FIRST_REGISTER, attr, cmp, hook, meta, payload};
use super::rule::{compare, expression, load_meta, load_payload};
use super::writer::{Batch, Writer};

/// What the table is called.
const TABLE: &str = "slicewire-qos";
/// Its only chain.
const CHAIN: &str = "mark";
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// Number of the place where packets are that start in the namespace.
const OUTPUT: u32 = 3;
/// Before packets are filtered, where addresses are still as they came.
const MANGLE: i32 = -150;
/// UDP.
const UDP: u8 = 17;

/// Attributes of `bitwise`, and of `payload` when it writes.
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const PAYLOAD_SREG: u16 = 5;
const PAYLOAD_CSUM_TYPE: u16 = 6;
const PAYLOAD_CSUM_OFFSET: u16 = 7;
/// The sum of 16-bit words of the Internet protocols, and where IPv4 has it.
const CSUM_INET: u32 = 1;
const CSUM_IPV4: u32 = 10;

/// Whose packets are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// Packets that pass through the namespace.
    Forwarded,
    /// UDP packets that are sent in the namespace from one of two ports.
    SentFrom([u16; 2]),
}

/// The table as it should be, in place of what it was.
pub(super) fn batch(dscp: Option<Dscp>, marked: Marked) -> Batch {
    let mut writer = Writer::batch();
    // Made first, so that there is something to delete.
    table(&mut writer, abi::message::NEW_TABLE, CREATE);
    table(&mut writer, abi::message::DEL_TABLE, 0);
    if let Some(dscp) = dscp {
        table(&mut writer, abi::message::NEW_TABLE, CREATE);
        chain(&mut writer, marked);
        let ports: Vec<Option<u16>> = match marked {
            Marked::Forwarded => vec![None],
            Marked::SentFrom(ports) => ports.map(Some).to_vec(),
        };
        for (family, port) in
            [abi::IPV4, abi::IPV6].iter().flat_map(|f| ports.iter().map(move |p| (*f, *p)))
        {
            rule(&mut writer, family, dscp, port);
        }
    }
    writer.finish()
}

fn table(writer: &mut Writer, kind: u16, flags: u16) {
    writer.message(kind, flags, abi::INET, format!("table {TABLE}"), |w| {
        w.text(attr::TABLE_NAME, TABLE);
    });
}

fn chain(writer: &mut Writer, marked: Marked) {
    let place = if marked == Marked::Forwarded { hook::FORWARD } else { OUTPUT };
    let subject = format!("chain {CHAIN}");
    writer.message(abi::message::NEW_CHAIN, CREATE, abi::INET, subject, |w| {
        w.text(attr::CHAIN_TABLE, TABLE);
        w.text(attr::CHAIN_NAME, CHAIN);
        w.nested(attr::CHAIN_HOOK, |w| {
            w.number(attr::HOOK_NUMBER, place);
            w.bytes(attr::HOOK_PRIORITY, &MANGLE.to_be_bytes());
        });
        w.text(attr::CHAIN_TYPE, "filter");
    });
}

fn rule(writer: &mut Writer, family: u8, dscp: Dscp, port: Option<u16>) {
    // The six bits in the header's first two bytes, and what to keep of these.
    let code = u16::from(dscp.0);
    let (keep, set) =
        if family == abi::IPV4 { (0xff03_u16, code << 2) } else { (0xf03f_u16, code << 6) };
    let subject = format!("rule of chain {CHAIN}");
    writer.message(abi::message::NEW_RULE, CREATE | APPEND, abi::INET, subject, |w| {
        w.text(attr::RULE_TABLE, TABLE);
        w.text(attr::RULE_CHAIN, CHAIN);
        w.nested(attr::RULE_EXPRESSIONS, |w| {
            load_meta(w, meta::FAMILY, FIRST_REGISTER);
            compare(w, cmp::EQUAL, &[family]);
            if let Some(port) = port {
                load_meta(w, meta::PROTOCOL, FIRST_REGISTER);
                compare(w, cmp::EQUAL, &[UDP]);
                load_payload(w, payload::TRANSPORT, 0, 2, FIRST_REGISTER);
                compare(w, cmp::EQUAL, &port.to_be_bytes());
            }
            load_payload(w, payload::NETWORK, 0, 2, FIRST_REGISTER);
            expression(w, "bitwise", |w| {
                w.number(BITWISE_SREG, FIRST_REGISTER);
                w.number(BITWISE_DREG, FIRST_REGISTER);
                w.number(BITWISE_LEN, 2);
                w.nested(BITWISE_MASK, |w| w.bytes(attr::DATA_VALUE, &keep.to_be_bytes()));
                w.nested(BITWISE_XOR, |w| w.bytes(attr::DATA_VALUE, &set.to_be_bytes()));
            });
            expression(w, "payload", |w| {
                w.number(PAYLOAD_SREG, FIRST_REGISTER);
                w.number(attr::PAYLOAD_BASE, payload::NETWORK);
                w.number(attr::PAYLOAD_OFFSET, 0);
                w.number(attr::PAYLOAD_LEN, 2);
                if family == abi::IPV4 {
                    w.number(PAYLOAD_CSUM_TYPE, CSUM_INET);
                    w.number(PAYLOAD_CSUM_OFFSET, CSUM_IPV4);
                }
            });
        });
    });
}
