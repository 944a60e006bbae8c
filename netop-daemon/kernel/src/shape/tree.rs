//! A device's classes.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use slicewire_core::qos::rate::MAX_RATE;
use slicewire_core::qos::shape::{Limit, OTHERS, Shape};

use super::abi::{ROOT, ROOT_CLASS, tc};
use super::socket::{Found, Socket, is};
use super::writer::{u32_at, u64_at};
use super::{Shaped, encode, links};

/// Length of the fixed part of messages about queueing.
pub(super) const FIXED: usize = 20;
/// How long what waits may take to leave when shaping ends.
const DRAIN: Duration = Duration::from_secs(1);
/// A packet that was led here before it no longer was is in a queue by then.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

/// Makes the classes, or changes them in place.
pub(super) fn ensure(
    socket: &mut Socket,
    device: u32,
    limit: Limit,
    shape: &Shape,
) -> io::Result<()> {
    socket.change_unless(encode::htb(device, OTHERS), &[Errno::EEXIST])?;
    socket.change(encode::class(device, ROOT_CLASS, ROOT, &limit.root()))?;
    let own = |class: u16| if class == OTHERS { None } else { shape.pod_ceiling };
    for class in std::iter::once(OTHERS).chain(shape.pods.keys().copied()) {
        let leaf = limit.leaf(own(class), shape.pods.len());
        let handle = ROOT | u32::from(class);
        socket.change(encode::class(device, handle, ROOT_CLASS, &leaf))?;
        // Invalid: it has a plain queue already, from when there was no other.
        let fair = encode::fair_queue(device, class);
        let lacking = [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EINVAL];
        if !socket.change_unless(fair, &lacking)? {
            socket.change(encode::queue(device, class, leaf.queue))?;
        }
    }
    Ok(())
}

/// Removes the classes of pods that are gone. To be called when no filter leads to them any more.
pub(super) fn prune(socket: &mut Socket, device: u32, shape: &Shape) -> io::Result<()> {
    let wanted: BTreeSet<u32> = shape.pods.keys().map(|n| ROOT | u32::from(*n)).collect();
    for handle in leaves(socket, device)? {
        if handle != (ROOT | u32::from(OTHERS)) && !wanted.contains(&handle) {
            // What waits there would be lost with it.
            wait_until_empty(socket, device, Some(handle))?;
            socket.change_unless(encode::delete_class(device, handle), &[Errno::ENOENT])?;
        }
    }
    Ok(())
}

/// Handles of the classes of pods and of everybody else.
fn leaves(socket: &mut Socket, device: u32) -> io::Result<Vec<u32>> {
    let found = list(socket, device)?;
    Ok(found.iter().map(|f| f.fixed(8)).filter(|h| *h != ROOT_CLASS).collect())
}

fn list(socket: &mut Socket, device: u32) -> io::Result<Vec<Found>> {
    match socket.list(&encode::list_classes(device), FIXED) {
        Err(error) if is(&error, &[Errno::ENODEV]) => Ok(Vec::new()),
        other => other,
    }
}

/// What the device has passed on; `of_pod` is told pods' classes' bytes.
pub(super) fn counters(
    socket: &mut Socket,
    device: u32,
    mut of_pod: impl FnMut(u16, u64),
) -> io::Result<Shaped> {
    let mut sum = Shaped::default();
    for class in list(socket, device)? {
        let basic = class.find(&[tc::STATS, tc::STATS_BASIC]).unwrap_or_default();
        let queue = class.find(&[tc::STATS, tc::STATS_QUEUE]).unwrap_or_default();
        let bytes = u64_at(&basic, 0).unwrap_or_default();
        let handle = class.fixed(8);
        if handle == ROOT_CLASS {
            sum.bytes = bytes;
            sum.packets = u64::from(u32_at(&basic, 8).unwrap_or_default());
            continue;
        }
        // Packets that wait and their bytes, packets dropped.
        sum.backlog += u64::from(u32_at(&queue, 4).unwrap_or_default());
        sum.dropped += u64::from(u32_at(&queue, 8).unwrap_or_default());
        let number = u16::try_from(handle & 0xffff).unwrap_or_default();
        if number != OTHERS {
            of_pod(number, bytes);
        }
    }
    Ok(sum)
}

/// Lets out what waits.
pub(super) fn drain(socket: &mut Socket, device: u32) -> io::Result<()> {
    let open = Limit { rate: MAX_RATE, burst: None };
    let there = socket.change_unless(
        encode::class(device, ROOT_CLASS, ROOT, &open.root()),
        &[Errno::ENOENT, Errno::EINVAL, Errno::EOPNOTSUPP],
    )?;
    if !there {
        return Ok(());
    }
    for handle in leaves(socket, device)? {
        socket.change(encode::class(device, handle, ROOT_CLASS, &open.leaf(None, 1)))?;
    }
    std::thread::sleep(ON_ITS_WAY);
    wait_until_empty(socket, device, None)
}

/// Waits until nothing waits in a class, or in all, nor is on its way out of the device.
fn wait_until_empty(socket: &mut Socket, device: u32, class: Option<u32>) -> io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < DRAIN {
        let mut waiting = 0;
        for found in list(socket, device)? {
            let queue = found.find(&[tc::STATS, tc::STATS_QUEUE]).unwrap_or_default();
            let handle = found.fixed(8);
            if handle != ROOT_CLASS && class.is_none_or(|c| c == handle) {
                waiting += u64::from(u32_at(&queue, 0).unwrap_or_default());
            }
        }
        if waiting == 0 && links::all_passed_on(socket, device)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
