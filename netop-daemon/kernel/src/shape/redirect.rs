//! What leads packets to the queues: filters on the slice's ways into and out of the namespace.

use std::collections::BTreeSet;
use std::io;

use nix::errno::Errno;

use super::abi::{EGRESS, INGRESS, INGRESS_ORDER, PROTOCOLS, tc, u32_filter};
use super::links::{self, Devices};
use super::socket::Socket;
use super::{encode, tree};

/// Leads packets of `wanted` devices, as far as they are there, to the queues, and no others'.
pub(super) fn ensure(
    socket: &mut Socket,
    devices: &Devices,
    wanted: &BTreeSet<String>,
) -> io::Result<()> {
    let led = led(socket)?;
    for (index, name) in links::all(socket)? {
        let there = led.contains(&index);
        if !wanted.contains(&name) {
            if there {
                forget(socket, index)?;
            }
        } else if devices.made || !there || !complete(socket, index)? {
            if there {
                forget(socket, index)?;
            }
            lead(socket, index, devices)?;
        }
    }
    Ok(())
}

/// Leads nobody's packets anywhere any more.
pub(super) fn remove(socket: &mut Socket) -> io::Result<()> {
    for index in led(socket)? {
        forget(socket, index)?;
    }
    Ok(())
}

/// Makes the place where a device's filters hang.
pub(super) fn place(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.change_unless(encode::clsact(index), &[Errno::EEXIST]).map(|_| ())
}

/// Devices that may have filters. In our namespaces they are ours.
fn led(socket: &mut Socket) -> io::Result<BTreeSet<u32>> {
    let found = socket.list(&encode::list_queueing(), tree::FIXED)?;
    let ours = found.iter().filter(|f| f.text(&[tc::KIND]) == "clsact");
    Ok(ours.map(|f| f.fixed(4)).collect())
}

fn complete(socket: &mut Socket, index: u32) -> io::Result<bool> {
    for parent in [INGRESS, EGRESS] {
        let found = socket.list(&encode::list_filters(index, parent), tree::FIXED)?;
        let with_action =
            found.iter().filter(|f| f.find(&[tc::OPTIONS, u32_filter::ACTION]).is_some()).count();
        if with_action != PROTOCOLS.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lead(socket: &mut Socket, index: u32, devices: &Devices) -> io::Result<()> {
    place(socket, index)?;
    for direction in &devices.both {
        let (parent, more) = if direction.leaving { (EGRESS, 0) } else { (INGRESS, INGRESS_ORDER) };
        for (protocol, order) in PROTOCOLS {
            let sort = (protocol, order + more);
            socket.change(encode::redirect(index, parent, sort, direction.index))?;
        }
    }
    Ok(())
}

/// Removes a device's filters; the place where they hung stays.
fn forget(socket: &mut Socket, index: u32) -> io::Result<()> {
    let gone = [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL];
    for (parent, more) in [(EGRESS, 0), (INGRESS, INGRESS_ORDER)] {
        for (protocol, order) in PROTOCOLS {
            let all = encode::delete_filters(index, parent, (protocol, order + more));
            socket.change_unless(all, &gone)?;
        }
    }
    Ok(())
}
