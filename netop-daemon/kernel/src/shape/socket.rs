//! The connection to the kernel's queueing. The kernel carries a request out while it is sent.

use std::io;

use nix::errno::Errno;
use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket as Netlink, SocketAddr};

use super::abi::message;
use super::writer::{HEADER, Message, u32_at};
use crate::netlink::{DUMP_TRIES, no_answer, refusal};

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The list changed while it was read.
const INTERRUPTED: u16 = 0x10;

/// A connection to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    netlink: Netlink,
    number: u32,
}

/// One object of a list: its fixed part and its attributes.
#[derive(Debug, Clone)]
pub(super) struct Found {
    body: Vec<u8>,
    fixed: usize,
}

impl Found {
    /// A number of the fixed part.
    pub(super) fn fixed(&self, offset: usize) -> u32 {
        u32_at(&self.body, offset).unwrap_or_default()
    }

    /// An attribute, found by going down the given kinds.
    pub(super) fn find(&self, path: &[u16]) -> Option<Vec<u8>> {
        let mut bytes = self.body.get(self.fixed..)?.to_vec();
        for kind in path {
            bytes = attribute(&bytes, *kind)?;
        }
        Some(bytes)
    }

    /// The number of an attribute.
    pub(super) fn number(&self, path: &[u16]) -> Option<u32> {
        u32_at(&self.find(path)?, 0)
    }

    /// The text of an attribute.
    pub(super) fn text(&self, path: &[u16]) -> String {
        let bytes = self.find(path).unwrap_or_default();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let found = NlasIterator::new(bytes).flatten().find(|a| a.kind() == kind);
    found.map(|a| a.value().to_vec())
}

impl Socket {
    /// Connects to the kernel in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::new(NETLINK_ROUTE)?;
        netlink.bind_auto()?;
        netlink.connect(&SocketAddr::new(0, 0))?;
        netlink.set_cap_ack(true)?;
        netlink.set_ext_ack(true)?;
        // Everything is answered while it is sent; what is not there then never comes.
        netlink.set_non_blocking(true)?;
        Ok(Self { netlink, number: 0 })
    }

    /// Carries out a change.
    pub(super) fn change(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message, message::ACK).map(|_| ())
    }

    /// Carries out a change; `Ok(false)` where the kernel says one of `accepted`.
    pub(super) fn change_unless(
        &mut self,
        message: Message,
        accepted: &[Errno],
    ) -> io::Result<bool> {
        match self.change(message) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, accepted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for one object, whose fixed part has so many bytes.
    pub(super) fn get(&mut self, message: Message, fixed: usize) -> io::Result<Found> {
        let body = self.exchange(message, message::ACK)?.pop().ok_or_else(no_answer)?;
        Ok(Found { body, fixed })
    }

    /// Asks for all objects of a kind.
    pub(super) fn list(&mut self, message: &Message, fixed: usize) -> io::Result<Vec<Found>> {
        for _ in 0..DUMP_TRIES {
            match self.exchange(message.clone(), message::DUMP) {
                Ok(bodies) => {
                    return Ok(bodies.into_iter().map(|body| Found { body, fixed }).collect());
                }
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EBUSY.into())
    }

    fn exchange(&mut self, message: Message, flags: u16) -> io::Result<Vec<Vec<u8>>> {
        while self.receive()?.is_some() {}
        self.number = self.number.wrapping_add(1);
        let mut bytes = message.bytes;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]) | message::REQUEST | flags;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_ne_bytes());
        self.netlink.send(&bytes, 0)?;
        let (mut bodies, mut interrupted) = (Vec::new(), false);
        while let Some(received) = self.receive()? {
            let mut rest = received.as_slice();
            while let Some((kind, flags, body, next)) = split(rest) {
                interrupted |= flags & INTERRUPTED != 0;
                match kind {
                    ERROR => return result_of(body).map(|()| bodies),
                    DONE if interrupted => return Err(Errno::EINTR.into()),
                    DONE => return Ok(bodies),
                    _ => bodies.push(body.to_vec()),
                }
                rest = next;
            }
        }
        Err(no_answer())
    }

    /// What the kernel has ready; `None` if there is no more.
    fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.netlink.recv_from_full() {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The first message's kind, flags and body, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
    let flags = u16::from_ne_bytes([bytes[6], bytes[7]]);
    Some((kind, flags, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn result_of(body: &[u8]) -> io::Result<()> {
    let code = u32_at(body, 0).ok_or_else(no_answer)?.cast_signed();
    let words = body.get(4 + HEADER..).unwrap_or_default();
    if code == 0 { Ok(()) } else { Err(refusal(code, words)) }
}

/// Whether the kernel said one of these.
pub(super) fn is(error: &io::Error, any: &[Errno]) -> bool {
    crate::error::os_error(error).is_some_and(|errno| any.contains(&errno))
}
