//! The answers to DNS questions about services: a function from what a node knows, a question and
//! its asker to records. The protocol around them is a library's.
//!
//! | module | is |
//! |---|---|
//! | [`view`] | what a node knows: slices, their services, who has which address |
//! | [`place`] | which of our zones a name is in, and what it could mean there |
//! | [`reverse`] | names of addresses |
//! | [`corefile`] | how a cluster's CoreDNS is told to ask the nodes |
//! | [`answer`](mod@answer) | the records of a name, or why there are none |
//!
//! # Zones
//! | name | is |
//! |---|---|
//! | `<svc>.<ns>.svc.clusterset.local` | an exported service, as the Multi-Cluster Services API has it (schema 1.0.0) |
//! | `<svc>.<ns>.svc.slice.local` | the same, and Services that are only exposed, in all slices of the asker |
//! | `<svc>.<ns>.svc.<slice>.slice.local` | the same in one slice |
//! | `<host>.<cluster>.<name of a headless service>` | one pod |
//! | `<cluster>.<name of a headless service>` | a cluster's pods; not below `clusterset.local`, where the standard forbids it |
//! | `<host>.<name of a headless service>` | the pods of that name in all clusters; nor here |
//! | `_<port>._<protocol>.<any service>` | SRV |
//! | reverse names of the slices' prefixes | PTR |
//!
//! A slice that is called `svc` has no names of its own: `svc.slice.local` is all slices'.

pub mod answer;
pub mod corefile;
pub mod place;
pub mod reverse;
pub mod view;

pub use answer::{Answer, Asker, Code, Data, Kind, Question, Record, answer};
pub use view::{Host, Service, View};

/// Seconds an answer may be kept.
pub const TTL: u32 = 5;
/// Seconds an answer that there is nothing may be kept (RFC 2308).
pub const NEGATIVE_TTL: u32 = 5;
/// Most addresses in one answer; of more hosts, every answer has others.
pub const MAX_ADDRESSES: usize = 1000;
/// Most SRV records in one answer.
pub const MAX_SERVERS: usize = 250;
/// Most names of one address: it has one in each slice that uses it.
pub const MAX_POINTERS: usize = 16;
/// Most bytes of a name written with dots (RFC 1035, section 2.3.4).
pub const MAX_NAME: usize = 253;
/// The version of the schema of names below `clusterset.local`.
pub const SCHEMA_VERSION: &str = "1.0.0";
