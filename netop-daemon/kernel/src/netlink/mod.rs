//! Route netlink through rtnetlink: a connection to one namespace, and the translation of our types
//! from and to its messages.
//!
//! Callers block, on threads that may. The kernel carries a request out inside the call that sends
//! it and waits there for its network lock, at times for a tenth of a second, because somebody else
//! takes a namespace apart; an async thread would stand still with it. So a connection brings a
//! single-threaded runtime of its own, which runs only while somebody blocks on it: no other thread
//! takes part in an exchange, nobody else's slow one holds it up, and dropping the connection closes
//! the socket there and then, so that a pod's namespace can go.
//!
//! Changes are rtnetlink's own requests. Lists and the question for one device are only messages
//! sent by its handle, because its requests for them hide what has to be seen: the flag that a list
//! changed while it was read, the error at a list's end, and that there was no answer at all.

mod connection;
mod decode;
mod encode;

pub(crate) use connection::{Connection, DUMP_TRIES, no_answer, refusal};
pub(crate) use decode::{Names, address, fdb, link, neighbour, route, rule};
pub(crate) use encode::{
    Dump, add_address, add_rule, change_link, delete_address, dump, fdb_entry, get_link, new_route,
    old_route, veth, vxlan, wireguard,
};
