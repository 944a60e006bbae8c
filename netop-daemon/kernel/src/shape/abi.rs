//! Numbers of the kernel's (`linux/rtnetlink.h`, `linux/if_link.h`, `linux/pkt_sched.h`,
//! `linux/pkt_cls.h`, `linux/gen_stats.h`, `linux/tc_act/tc_mirred.h`).

pub(super) mod message {
    //! Kinds of messages and their flags.
    pub(in super::super) const NEW_LINK: u16 = 16;
    pub(in super::super) const DEL_LINK: u16 = 17;
    pub(in super::super) const GET_LINK: u16 = 18;
    pub(in super::super) const NEW_QDISC: u16 = 36;
    pub(in super::super) const GET_QDISC: u16 = 38;
    pub(in super::super) const NEW_CLASS: u16 = 40;
    pub(in super::super) const DEL_CLASS: u16 = 41;
    pub(in super::super) const GET_CLASS: u16 = 42;
    pub(in super::super) const NEW_FILTER: u16 = 44;
    pub(in super::super) const DEL_FILTER: u16 = 45;
    pub(in super::super) const GET_FILTER: u16 = 46;
    pub(in super::super) const REQUEST: u16 = 0x1;
    pub(in super::super) const ACK: u16 = 0x4;
    pub(in super::super) const DUMP: u16 = 0x300;
    /// Replaces, or changes, what is there.
    pub(in super::super) const REPLACE: u16 = 0x100;
    /// Refuses if it is there already.
    pub(in super::super) const EXCLUSIVE: u16 = 0x200;
    /// Makes what is not there.
    pub(in super::super) const CREATE: u16 = 0x400;
}

pub(super) mod link {
    //! Attributes of devices.
    pub(in super::super) const NAME: u16 = 3;
    pub(in super::super) const INFO: u16 = 18;
    pub(in super::super) const KIND: u16 = 1;
    pub(in super::super) const DATA: u16 = 2;
    pub(in super::super) const VXLAN_TOS: u16 = 6;
    pub(in super::super) const STATS: u16 = 23;
    /// Administratively up.
    pub(in super::super) const UP: u32 = 1;
}

pub(super) mod tc {
    //! Attributes of queueing, classes and filters.
    pub(in super::super) const KIND: u16 = 1;
    pub(in super::super) const OPTIONS: u16 = 2;
    pub(in super::super) const STATS: u16 = 7;
    pub(in super::super) const STATS_BASIC: u16 = 1;
    pub(in super::super) const STATS_QUEUE: u16 = 3;
    pub(in super::super) const HTB_CLASS: u16 = 1;
    pub(in super::super) const HTB_INIT: u16 = 2;
    pub(in super::super) const HTB_RATE64: u16 = 6;
    pub(in super::super) const HTB_CEIL64: u16 = 7;
    pub(in super::super) const HTB_VERSION: u32 = 3;
    /// Rates by numbers, not by tables (`TC_LINKLAYER_ETHERNET`).
    pub(in super::super) const BY_NUMBER: u8 = 1;
    /// Nanoseconds of a tick.
    pub(in super::super) const TICK: u64 = 64;
}

pub(super) mod u32_filter {
    //! Attributes and flags of the classifier.
    pub(in super::super) const CLASS: u16 = 1;
    pub(in super::super) const HASH: u16 = 2;
    pub(in super::super) const LINK: u16 = 3;
    pub(in super::super) const DIVISOR: u16 = 4;
    pub(in super::super) const SELECTOR: u16 = 5;
    pub(in super::super) const ACTION: u16 = 7;
    pub(in super::super) const TERMINAL: u8 = 1;
    /// Length of a selector before its keys, and of a key.
    pub(in super::super) const HEAD: usize = 16;
    pub(in super::super) const KEY: usize = 16;
    pub(in super::super) const BUCKETS: u32 = 256;
}

pub(super) mod action {
    //! Attributes of actions, and of the one that leads packets elsewhere.
    pub(in super::super) const KIND: u16 = 1;
    pub(in super::super) const OPTIONS: u16 = 2;
    pub(in super::super) const MIRRED: u16 = 2;
    /// The packet is somebody else's now.
    pub(in super::super) const STOLEN: i32 = 4;
    /// To where another device sends.
    pub(in super::super) const REDIRECT: i32 = 1;
}

/// Handle of a device's own queueing: `1:`.
pub(super) const ROOT: u32 = 0x0001_0000;
/// The slice's class: `1:1`.
pub(super) const ROOT_CLASS: u32 = 0x0001_0001;
/// Where a device's own queueing hangs.
pub(super) const AT_ROOT: u32 = 0xffff_ffff;
/// Where `clsact` hangs.
pub(super) const AT_CLSACT: u32 = 0xffff_fff1;
/// Handle of `clsact`.
pub(super) const CLSACT: u32 = 0xffff_0000;
/// Filters for what comes in by a device.
pub(super) const INGRESS: u32 = 0xffff_fff2;
/// Filters for what goes out by a device.
pub(super) const EGRESS: u32 = 0xffff_fff3;

/// What is added to the priority of filters for what comes in: a list of filters of one priority
/// holds those of both directions.
pub(super) const INGRESS_ORDER: u32 = 2;

/// Sorts of packets that are shaped, each with the priority of its filters.
pub(super) const PROTOCOLS: [(u16, u32); 2] = [(0x0800, 1), (0x86dd, 2)];
