//! Numbers of the kernel's (`linux/netfilter.h`, `linux/netfilter/nfnetlink.h`,
//! `linux/netfilter/nf_tables.h`).

/// What our tables are called.
pub(super) const TABLE: &str = "slicewire";

/// Family of tables for IPv4 and IPv6.
pub(super) const INET: u8 = 1;
/// Family of tables for ARP.
pub(super) const ARP: u8 = 3;
/// IPv4, as a packet's family.
pub(super) const IPV4: u8 = 2;
/// IPv6, as a packet's family.
pub(super) const IPV6: u8 = 10;

/// Number of the nftables subsystem.
pub(super) const SUBSYSTEM: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 16;
pub(super) const BATCH_END: u16 = 17;

pub(super) mod message {
    //! Kinds of messages.
    pub(in crate::nft) const NEW_TABLE: u16 = 0;
    pub(in crate::nft) const DEL_TABLE: u16 = 2;
    pub(in crate::nft) const NEW_CHAIN: u16 = 3;
    pub(in crate::nft) const DEL_CHAIN: u16 = 5;
    pub(in crate::nft) const NEW_RULE: u16 = 6;
    pub(in crate::nft) const DEL_RULE: u16 = 8;
    pub(in crate::nft) const NEW_SET: u16 = 9;
    pub(in crate::nft) const DEL_SET: u16 = 11;
    pub(in crate::nft) const NEW_ELEMENT: u16 = 12;
    pub(in crate::nft) const DEL_ELEMENT: u16 = 14;
    pub(in crate::nft) const NEW_OBJECT: u16 = 18;
    pub(in crate::nft) const GET_OBJECT: u16 = 19;
    pub(in crate::nft) const DEL_OBJECT: u16 = 20;
}

/// An element of a list of attributes.
pub(super) const LIST_ELEM: u16 = 1;

pub(super) mod attr {
    //! Kinds of attributes.
    macro_rules! numbers {
        ($($name:ident = $number:expr;)*) => {
            $(pub(in crate::nft) const $name: u16 = $number;)*
        };
    }
    numbers! {
        TABLE_NAME = 1;
        CHAIN_TABLE = 1; CHAIN_NAME = 3; CHAIN_HOOK = 4; CHAIN_POLICY = 5; CHAIN_TYPE = 7;
        HOOK_NUMBER = 1; HOOK_PRIORITY = 2;
        RULE_TABLE = 1; RULE_CHAIN = 2; RULE_EXPRESSIONS = 4;
        SET_TABLE = 1; SET_NAME = 2; SET_FLAGS = 3; SET_KEY_TYPE = 4; SET_KEY_LEN = 5;
        SET_DATA_TYPE = 6; SET_DATA_LEN = 7; SET_DESC = 9; SET_ID = 10;
        DESC_SIZE = 1; DESC_CONCAT = 2; FIELD_LEN = 1;
        LIST_TABLE = 1; LIST_SET = 2; LIST_ELEMENTS = 3;
        ELEM_KEY = 1; ELEM_DATA = 2; ELEM_FLAGS = 3; ELEM_KEY_END = 10;
        OBJ_TABLE = 1; OBJ_NAME = 2; OBJ_TYPE = 3; OBJ_DATA = 4;
        COUNTER_BYTES = 1; COUNTER_PACKETS = 2;
        DATA_VALUE = 1; DATA_VERDICT = 2; VERDICT_CODE = 1; VERDICT_CHAIN = 2;
        EXPR_NAME = 1; EXPR_DATA = 2;
        META_DREG = 1; META_KEY = 2; META_SREG = 3;
        CT_DREG = 1; CT_KEY = 2; CT_DIRECTION = 3; CT_SREG = 4;
        PAYLOAD_DREG = 1; PAYLOAD_BASE = 2; PAYLOAD_OFFSET = 3; PAYLOAD_LEN = 4;
        CMP_SREG = 1; CMP_OP = 2; CMP_DATA = 3;
        LOOKUP_SET = 1; LOOKUP_SREG = 2; LOOKUP_DREG = 3; LOOKUP_FLAGS = 5;
        IMMEDIATE_DREG = 1; IMMEDIATE_DATA = 2;
        OBJREF_TYPE = 1; OBJREF_NAME = 2;
        DYNAMIC_SET = 1; DYNAMIC_OP = 3; DYNAMIC_KEY = 4; DYNAMIC_DATA = 5; DYNAMIC_TIMEOUT = 6;
    }
}

/// Type of an object that counts.
pub(super) const COUNTER: u32 = 1;

pub(super) mod set {
    //! Flags of sets and of elements, and what data maps lead to.
    pub(in crate::nft) const INTERVAL: u32 = 0x4;
    pub(in crate::nft) const MAP: u32 = 0x8;
    /// Elements end by themselves, and packets make them.
    pub(in crate::nft) const TIMEOUT: u32 = 0x10;
    pub(in crate::nft) const DYNAMIC: u32 = 0x20;
    pub(in crate::nft) const CONCAT: u32 = 0x80;
    /// An element that only says where the interval before it ends.
    pub(in crate::nft) const INTERVAL_END: u32 = 0x1;
    pub(in crate::nft) const DATA_VERDICT: u32 = 0xffff_ff00;
    /// What packets do to elements.
    pub(in crate::nft) const UPDATE: u32 = 1;
    pub(in crate::nft) const DELETE: u32 = 2;
    /// Looks whether something is *not* in the set.
    pub(in crate::nft) const INVERTED: u32 = 1;
}

pub(super) mod show {
    //! The `nft` program's numbers for types, by which it shows elements (`datatype.h`).
    pub(in crate::nft) const FAMILY: u32 = 2;
    pub(in crate::nft) const IPV4: u32 = 7;
    pub(in crate::nft) const IPV6: u32 = 8;
    pub(in crate::nft) const MAC: u32 = 9;
    pub(in crate::nft) const PROTOCOL: u32 = 12;
    pub(in crate::nft) const PORT: u32 = 13;
    pub(in crate::nft) const MARK: u32 = 19;
    pub(in crate::nft) const DEVICE: u32 = 41;
    /// Bits of a type within the type of several together.
    pub(in crate::nft) const BITS: u32 = 6;
}

pub(super) mod verdict {
    //! What becomes of a packet.
    pub(in crate::nft) const DROP: i32 = 0;
    pub(in crate::nft) const ACCEPT: i32 = 1;
    pub(in crate::nft) const JUMP: i32 = -3;
    pub(in crate::nft) const GOTO: i32 = -4;
    pub(in crate::nft) const RETURN: i32 = -5;
}

pub(super) mod meta {
    //! What can be asked about a packet.
    pub(in crate::nft) const MARK: u32 = 3;
    pub(in crate::nft) const IN_NAME: u32 = 6;
    pub(in crate::nft) const OUT_NAME: u32 = 7;
    pub(in crate::nft) const FAMILY: u32 = 15;
    pub(in crate::nft) const PROTOCOL: u32 = 16;
}

pub(super) mod ct {
    //! What can be asked about a connection.
    pub(in crate::nft) const STATE: u32 = 0;
    pub(in crate::nft) const DIRECTION: u32 = 1;
    pub(in crate::nft) const STATUS: u32 = 2;
    pub(in crate::nft) const MARK: u32 = 3;
    pub(in crate::nft) const PROTOCOL: u32 = 10;
    pub(in crate::nft) const SOURCE_PORT: u32 = 11;
    pub(in crate::nft) const SOURCE4: u32 = 19;
    pub(in crate::nft) const DESTINATION4: u32 = 20;
    pub(in crate::nft) const SOURCE6: u32 = 21;
    pub(in crate::nft) const DESTINATION6: u32 = 22;
    /// In the status: its destination is translated.
    pub(in crate::nft) const DESTINATION_TRANSLATED: u32 = 0x20;
    pub(in crate::nft) const ORIGINAL: u8 = 0;
    pub(in crate::nft) const REPLY: u8 = 1;
    pub(in crate::nft) const STATE_INVALID: u32 = 1;
    pub(in crate::nft) const STATE_UNTRACKED: u32 = 64;
}

pub(super) mod payload {
    //! What offsets count from.
    pub(in crate::nft) const LINK: u32 = 0;
    pub(in crate::nft) const NETWORK: u32 = 1;
    pub(in crate::nft) const TRANSPORT: u32 = 2;
}

pub(super) mod cmp {
    //! Comparisons.
    pub(in crate::nft) const EQUAL: u32 = 0;
    pub(in crate::nft) const UNEQUAL: u32 = 1;
    pub(in crate::nft) const AT_MOST: u32 = 3;
    pub(in crate::nft) const AT_LEAST: u32 = 5;
}

/// The register that takes verdicts.
pub(super) const VERDICT_REGISTER: u32 = 0;
/// The first of the registers of 4 bytes; there are 16.
pub(super) const FIRST_REGISTER: u32 = 8;

/// Length of a device's name, with what fills it up.
pub(super) const DEVICE_LEN: usize = 16;

pub(super) mod hook {
    //! Places and priorities of chains.
    pub(in crate::nft) const PREROUTING: u32 = 0;
    pub(in crate::nft) const FORWARD: u32 = 2;
    pub(in crate::nft) const ARP_IN: u32 = 0;
    /// Before connections are tracked.
    pub(in crate::nft) const RAW: i32 = -300;
    pub(in crate::nft) const FILTER: i32 = 0;
}
