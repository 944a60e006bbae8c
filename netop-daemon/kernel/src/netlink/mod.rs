//! Route netlink: a socket, and the translation of our types from and to its messages.

mod decode;
mod encode;
mod socket;

pub(crate) use decode::{Names, address, fdb, link, neighbour, route, rule};
pub(crate) use encode::{
    Dump, Request, add_veth, add_vxlan, add_wireguard, address_message, delete_link, delete_route,
    dump, fdb_message, get_link, neighbour_message, replace_route, rule_message, set_link,
};
pub(crate) use socket::Socket;
