//! Datagrams from the kernel and to it, many by one call: under load the calls cost more than the
//! answers.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::null_mut;

/// Most datagrams of one call.
const BATCH: usize = 32;
/// Most bytes of a question: one name, and EDNS with its options.
pub(crate) const MAX_QUESTION: usize = 4096;

/// Questions that came together, and their answers.
pub(crate) struct Batch {
    slots: Vec<Slot>,
    arrived: usize,
}

struct Slot {
    question: Box<[u8; MAX_QUESTION]>,
    len: usize,
    client: Address,
    /// Empty where nothing is to be sent.
    answer: Vec<u8>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let slot = || Slot {
            question: Box::new([0; MAX_QUESTION]),
            len: 0,
            client: Address::empty(),
            answer: Vec::new(),
        };
        Self { slots: (0..BATCH).map(|_| slot()).collect(), arrived: 0 }
    }

    /// Takes the questions that have arrived, without waiting; what the batch had is forgotten.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when there are none.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.arrived = 0;
        // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is a valid value.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((slot, part), header) in self.slots.iter_mut().zip(&mut parts).zip(&mut headers) {
            *part =
                libc::iovec { iov_base: slot.question.as_mut_ptr().cast(), iov_len: MAX_QUESTION };
            fill(&mut header.msg_hdr, &mut slot.client, part);
        }
        // SAFETY: the pointer and count are those of `headers`, whose own pointers lead to `parts` and
        // to the slots, with the lengths of what is there; nothing else uses them during the call.
        let count = unsafe {
            let (at, len) = (headers.as_mut_ptr(), BATCH as libc::c_uint);
            libc::recvmmsg(socket.as_raw_fd(), at, len, libc::MSG_DONTWAIT, null_mut())
        };
        self.arrived = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (slot, header) in self.slots.iter_mut().zip(&headers).take(self.arrived) {
            slot.len = usize::try_from(header.msg_len).unwrap_or_default();
        }
        Ok(())
    }

    /// The questions, who asked them, and where their answers go.
    pub(crate) fn questions(&mut self) -> impl Iterator<Item = (IpAddr, &[u8], &mut Vec<u8>)> {
        self.slots.iter_mut().take(self.arrived).map(|slot| {
            let question = slot.question.get(..slot.len).unwrap_or_default();
            (slot.client.ip(), question, &mut slot.answer)
        })
    }

    /// Sends the answers; how many the kernel did not take.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> u64 {
        // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is a valid value.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let answered = self.slots.iter_mut().take(self.arrived).filter(|s| !s.answer.is_empty());
        let mut count = 0;
        for ((slot, part), header) in answered.zip(&mut parts).zip(&mut headers) {
            let (iov_base, iov_len) = (slot.answer.as_mut_ptr().cast(), slot.answer.len());
            *part = libc::iovec { iov_base, iov_len };
            fill(&mut header.msg_hdr, &mut slot.client, part);
            count += 1;
        }
        let (mut rest, mut unsent) = (headers.get_mut(..count).unwrap_or_default(), 0);
        while !rest.is_empty() {
            // SAFETY: the pointer and count are those of `rest`, a part of `headers`, whose own pointers
            // lead to `parts` and to the slots, which the kernel reads during the call only.
            let sent = unsafe {
                let (at, len) = (rest.as_mut_ptr(), rest.len() as libc::c_uint);
                libc::sendmmsg(socket.as_raw_fd(), at, len, libc::MSG_DONTWAIT)
            };
            // A failure is the first one's: the others get their try.
            let done = usize::try_from(sent).ok().filter(|sent| *sent > 0);
            unsent += u64::from(done.is_none());
            rest = rest.get_mut(done.unwrap_or(1)..).unwrap_or_default();
        }
        unsent
    }
}

fn fill(header: &mut libc::msghdr, address: &mut Address, part: &mut libc::iovec) {
    header.msg_name = (&raw mut *address).cast();
    header.msg_namelen = size_of::<Address>() as libc::socklen_t;
    header.msg_iov = part;
    header.msg_iovlen = 1;
}

/// An address of either family, as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C)]
union Address {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    fn empty() -> Self {
        // SAFETY: plain data for which all zeroes is a valid value: an address of no family.
        unsafe { zeroed() }
    }

    fn ip(&self) -> IpAddr {
        // SAFETY: every address begins with its family, and all bytes of the union are initialised.
        match i32::from(unsafe { self.family }) {
            // SAFETY: as above; any bits are an address.
            libc::AF_INET6 => Ipv6Addr::from(unsafe { self.v6.sin6_addr.s6_addr }).into(),
            // SAFETY: as above.
            _ => Ipv4Addr::from(u32::from_be(unsafe { self.v4.sin_addr.s_addr })).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::*;

    fn bound(ip: IpAddr) -> UdpSocket {
        UdpSocket::bind((ip, 0)).unwrap()
    }

    #[test]
    fn questions_come_together_and_answers_go_to_who_asked() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let server = bound(ip);
            let clients: Vec<UdpSocket> = (0..BATCH + 3).map(|_| bound(ip)).collect();
            for (number, client) in (0u8..).zip(&clients) {
                client.send_to(&[number; 3], server.local_addr().unwrap()).unwrap();
            }
            let mut batch = Batch::new();
            for wanted in [BATCH, 3] {
                batch.receive(server.as_fd()).unwrap();
                let mut count = 0;
                for (client, question, answer) in batch.questions() {
                    assert_eq!((client, question.len()), (ip, 3));
                    answer.clear();
                    // One is not answered.
                    if question != [1; 3] {
                        answer.extend([question, b"!"].concat());
                    }
                    count += 1;
                }
                assert_eq!((count, batch.send(server.as_fd())), (wanted, 0));
            }
            let none = batch.receive(server.as_fd()).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(batch.questions().count(), 0);
            for (number, client) in (0u8..).zip(&clients) {
                client.set_nonblocking(true).unwrap();
                let mut answer = [0; 8];
                match client.recv(&mut answer) {
                    Ok(len) => assert_eq!(answer[..len], [number, number, number, b'!']),
                    Err(_) => assert_eq!(number, 1),
                }
            }
        }
    }

    #[test]
    fn an_answer_that_cannot_be_sent_holds_up_no_other() {
        let server = bound(Ipv4Addr::LOCALHOST.into());
        let clients: Vec<UdpSocket> = (0..3).map(|_| bound(Ipv4Addr::LOCALHOST.into())).collect();
        for client in &clients {
            client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        batch.receive(server.as_fd()).unwrap();
        let too_long = [vec![0; 70_000], b"short".to_vec(), b"short".to_vec()];
        for ((_, _, answer), text) in batch.questions().zip(too_long) {
            *answer = text;
        }
        assert_eq!(batch.send(server.as_fd()), 1);
        for client in &clients[1..] {
            assert_eq!(client.recv(&mut [0; 8]).unwrap(), 5);
        }
    }
}
