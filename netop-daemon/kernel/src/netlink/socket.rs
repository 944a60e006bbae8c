//! One blocking route netlink socket. The kernel carries a request out while it is being sent,
//! so there is nothing to wait for: the answer is there when sending returns.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::error::Refusal;

/// Room for one datagram of a dump; the kernel fills at most 32 KiB.
const DUMP_ROOM: usize = 32 * 1024;
/// Room for an acknowledgement or one device.
const ANSWER_ROOM: usize = 8 * 1024;
/// A dump that changes while it is read is read again, at most this often.
const DUMP_TRIES: u32 = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Flags and attribute of extended acknowledgements (`linux/netlink.h`).
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A socket bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        inner.set_cap_ack(true)?;
        inner.set_ext_ack(true)?;
        inner.set_netlink_get_strict_chk(true)?;
        Ok(Self { inner, sequence: 0 })
    }

    /// Sends a change and returns what the kernel made of it.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(ANSWER_ROOM).map(|_| ())
    }

    /// Asks for one object.
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let (mut answers, _) = self.receive(ANSWER_ROOM)?;
        answers.pop().ok_or_else(|| Errno::EPROTO.into())
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (answers, interrupted) = self.receive(DUMP_ROOM)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(Errno::EBUSY.into())
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        retry(|| self.inner.send(&buffer, 0)).map(|_| ())
    }

    /// Reads until the answer to the last request is complete. Answers to earlier requests that
    /// were given up are skipped.
    fn receive(&mut self, room: usize) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut buffer: Vec<u8> = Vec::with_capacity(room);
        let (mut answers, mut interrupted) = (Vec::new(), false);
        loop {
            buffer.clear();
            let length = retry(|| self.inner.recv(&mut buffer, nix::libc::MSG_TRUNC))?;
            if length > buffer.len() {
                return Err(Errno::EMSGSIZE.into());
            }
            let mut rest = buffer.as_slice();
            while let Some((header, payload, next)) = split(rest)? {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return outcome(&header, payload).map(|()| (answers, interrupted));
                    }
                    kind => answers.push(parse(payload, kind)?),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// A message's header and payload, and what follows it.
type Split<'a> = (Header, &'a [u8], &'a [u8]);

/// The first message of a buffer, if there is one.
fn split(buffer: &[u8]) -> io::Result<Option<Split<'_>>> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let broken = || io::Error::from(Errno::EPROTO);
    let length = u32_at(buffer, 0).ok_or_else(broken)? as usize;
    let payload = buffer.get(HEADER..length).ok_or_else(broken)?;
    let header = Header {
        kind: u16_at(buffer, 4).ok_or_else(broken)?,
        flags: u16_at(buffer, 6).ok_or_else(broken)?,
        sequence: u32_at(buffer, 8).ok_or_else(broken)?,
    };
    let next = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some((header, payload, next)))
}

fn parse(payload: &[u8], kind: u16) -> io::Result<RouteNetlinkMessage> {
    RouteNetlinkMessage::parse_with_param(payload, kind)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Success, or the error number with the kernel's words.
fn outcome(header: &Header, payload: &[u8]) -> io::Result<()> {
    let code = u32_at(payload, 0).map_or(0, u32::cast_signed);
    if code == 0 {
        return Ok(());
    }
    let errno = Errno::from_raw(code.wrapping_neg());
    match words(header, payload) {
        Some(words) => Err(Refusal { errno, words }.into_io()),
        None => Err(errno.into()),
    }
}

fn words(header: &Header, payload: &[u8]) -> Option<String> {
    if header.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let start = match header.kind {
        NLMSG_DONE => 4,
        _ if header.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
        _ => 4 + (u32_at(payload, 4)? as usize).next_multiple_of(4),
    };
    let mut rest = payload.get(start..)?;
    loop {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        let value = rest.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(buffer: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(buffer.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(buffer: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(buffer.get(at..at + 4)?.try_into().ok()?))
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn the_kernels_words_come_with_the_number() {
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend(12u16.to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(b"No way\0\0");
        let bytes = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, 7, &payload);
        let (header, payload, rest) = split(&bytes).unwrap().unwrap();
        assert!(rest.is_empty());
        assert_eq!(header.sequence, 7);
        let error = outcome(&header, payload).unwrap_err();
        assert_eq!(crate::error::os_error(&error), Some(Errno::EINVAL));
        assert!(error.to_string().starts_with("No way (EINVAL"), "{error}");
    }

    #[test]
    fn cut_messages_are_errors_not_panics() {
        let bytes = message(NLMSG_ERROR, 0, 1, &0i32.to_ne_bytes());
        for cut in 1..bytes.len() {
            assert!(split(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(split(&[]).unwrap().is_none());
    }
}
