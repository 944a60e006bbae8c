//! The connection to the kernel's packet rules. The kernel carries a batch out while it is sent,
//! and has all answers ready when the sending is over.

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket as Netlink, SocketAddr};

use super::Count;
use super::abi::{self, SUBSYSTEM, TABLE, attr, message};
use super::writer::{Batch, Writer};
use crate::netlink::{DUMP_TRIES, no_answer, refusal};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x300;
/// The list changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// Length of a message's header, and of what follows it in all nftables messages.
const HEADER: usize = 16;
const SECOND_HEADER: usize = 4;
/// Room for batches, at least.
const ROOM: usize = 1 << 20;

/// A connection to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    netlink: Netlink,
    room: usize,
}

/// One message of an answer.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    number: u32,
    body: &'a [u8],
}

impl Socket {
    /// Connects to the kernel in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::new(NETLINK_NETFILTER)?;
        netlink.bind_auto()?;
        netlink.connect(&SocketAddr::new(0, 0))?;
        netlink.set_cap_ack(true)?;
        netlink.set_ext_ack(true)?;
        netlink.set_non_blocking(true)?;
        let mut socket = Self { netlink, room: 0 };
        socket.make_room(ROOM)?;
        Ok(socket)
    }

    fn make_room(&mut self, length: usize) -> io::Result<()> {
        if length > self.room {
            setsockopt(&self.netlink, sockopt::SndBufForce, &length)?;
            self.room = length;
        }
        Ok(())
    }

    /// Carries out a batch: all of it, or nothing and what was refused first.
    pub(super) fn change(&mut self, batch: &Batch) -> Result<(), (String, io::Error)> {
        let all = |error| ("packet rules".to_owned(), error);
        self.make_room(batch.bytes.len().saturating_mul(2)).map_err(all)?;
        self.forget().map_err(all)?;
        let sent = self.netlink.send(&batch.bytes, 0).map_err(all)?;
        if sent != batch.bytes.len() {
            return Err(all(Errno::EMSGSIZE.into()));
        }
        let mut refused: Option<(u32, io::Error)> = None;
        let mut acknowledged = false;
        while let Some(bytes) = self.receive().map_err(all)? {
            for answer in answers(&bytes).filter(|answer| answer.kind == ERROR) {
                match error_of(&answer) {
                    None => acknowledged |= answer.number == batch.last,
                    Some(error) if refused.as_ref().is_none_or(|(n, _)| answer.number < *n) => {
                        refused = Some((answer.number, error));
                    }
                    Some(_) => {}
                }
            }
        }
        match refused {
            Some((number, error)) => {
                let subject = usize::try_from(number).ok().and_then(|n| batch.subjects.get(n));
                Err((subject.cloned().unwrap_or_default(), error))
            }
            None if acknowledged => Ok(()),
            None => Err(all(no_answer())),
        }
    }

    /// The counters of our table of a family.
    pub(super) fn counters(&mut self, family: u8) -> io::Result<BTreeMap<String, Count>> {
        let request = Writer::request(message::GET_OBJECT, DUMP, family, |w| {
            w.text(attr::OBJ_TABLE, TABLE);
            w.number(attr::OBJ_TYPE, abi::COUNTER);
        });
        for _ in 0..DUMP_TRIES {
            self.forget()?;
            self.netlink.send(&request, 0)?;
            match self.dump()? {
                Some(counters) => return Ok(counters),
                None => continue,
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Reads a list; `None` if it changed meanwhile.
    fn dump(&mut self) -> io::Result<Option<BTreeMap<String, Count>>> {
        let mut counters = BTreeMap::new();
        let mut interrupted = false;
        while let Some(bytes) = self.receive()? {
            for answer in answers(&bytes) {
                interrupted |= answer.flags & INTERRUPTED != 0;
                match answer.kind {
                    DONE => return Ok((!interrupted).then_some(counters)),
                    ERROR => match error_of(&answer) {
                        Some(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                            return Ok(Some(BTreeMap::new()));
                        }
                        Some(error) => return Err(error),
                        None => {}
                    },
                    kind if kind == SUBSYSTEM << 8 | message::NEW_OBJECT => {
                        counters.extend(counter(answer.body.get(SECOND_HEADER..)));
                    }
                    _ => {}
                }
            }
        }
        Err(no_answer())
    }

    /// Drops what may be left of an exchange that went wrong.
    fn forget(&mut self) -> io::Result<()> {
        while self.receive()?.is_some() {}
        Ok(())
    }

    /// What the kernel has ready; `None` if there is no more.
    fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.netlink.recv_from_full() {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // More answers than there was room for: those that are missing are errors, too.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                Ok(Some(Vec::new()))
            }
            Err(error) => Err(error),
        }
    }
}

fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let head = bytes.get(..HEADER)?;
        let length = usize::try_from(u32_at(head, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let answer = Answer {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            number: u32_at(head, 8)?,
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// The error in an answer; none in an acknowledgement.
fn error_of(answer: &Answer<'_>) -> Option<io::Error> {
    let code = u32_at(answer.body, 0)?.cast_signed();
    let words = answer.body.get(4 + HEADER..).unwrap_or_default();
    (code != 0).then(|| refusal(code, words))
}

fn counter(attributes: Option<&[u8]>) -> Option<(String, Count)> {
    let mut name = None;
    let mut count = Count::default();
    for attribute in NlasIterator::new(attributes?).flatten() {
        match attribute.kind() {
            attr::OBJ_NAME => {
                let text = attribute.value().split(|byte| *byte == 0).next()?;
                name = Some(String::from_utf8_lossy(text).into_owned());
            }
            attr::OBJ_DATA => {
                for value in NlasIterator::new(attribute.value()).flatten() {
                    let number = value.value().try_into().map(u64::from_be_bytes);
                    match (value.kind(), number) {
                        (attr::COUNTER_BYTES, Ok(bytes)) => count.bytes = bytes,
                        (attr::COUNTER_PACKETS, Ok(packets)) => count.packets = packets,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((name?, count))
}
