//! The two devices that hold the queues.

use std::io;

use nix::errno::Errno;

use super::abi::link;
use super::socket::{Socket, is};
use super::writer::u64_at;
use super::{ARRIVING, LEAVING, encode};

/// Length of a device's fixed part.
pub(super) const FIXED: usize = 16;

/// One of the two devices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direction {
    pub(super) index: u32,
    pub(super) leaving: bool,
}

/// Both devices.
#[derive(Debug)]
pub(super) struct Devices {
    /// Leaving, arriving.
    pub(super) both: [Direction; 2],
    /// One of them was made just now: what led packets to one of that name leads nowhere.
    pub(super) made: bool,
}

/// The number of a device; `None` where there is none of that name.
pub(super) fn index(socket: &mut Socket, name: &str) -> io::Result<Option<u32>> {
    match socket.get(encode::get_link(name), FIXED) {
        Ok(found) => Ok(Some(found.fixed(4))),
        Err(error) if is(&error, &[Errno::ENODEV]) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes both devices where they are not there, and brings them up.
pub(super) fn ensure(socket: &mut Socket) -> io::Result<Devices> {
    let mut made = false;
    let mut one = |name: &str, leaving| -> io::Result<Direction> {
        if index(socket, name)?.is_none() {
            made |= socket.change_unless(encode::add_ifb(name), &[Errno::EEXIST])?;
        }
        let index = index(socket, name)?.ok_or(Errno::ENODEV)?;
        socket.change(encode::up(index))?;
        Ok(Direction { index, leaving })
    };
    let both = [one(LEAVING, true)?, one(ARRIVING, false)?];
    Ok(Devices { both, made })
}

/// Numbers and names of all devices.
pub(super) fn all(socket: &mut Socket) -> io::Result<Vec<(u32, String)>> {
    let found = socket.list(&encode::list_links(), FIXED)?;
    Ok(found.iter().map(|f| (f.fixed(4), f.text(&[link::NAME]))).collect())
}

/// Whether all packets that left a device's queues have been given to where they were going.
pub(super) fn all_passed_on(socket: &mut Socket, index: u32) -> io::Result<bool> {
    let found = socket.get(encode::get_link_by_index(index), FIXED)?;
    let stats = found.find(&[link::STATS]).unwrap_or_default();
    // Packets taken in, packets given out.
    Ok(u64_at(&stats, 0) == u64_at(&stats, 8))
}
