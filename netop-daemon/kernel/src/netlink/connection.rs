//! One connection, for callers that block.

use std::io;

use futures::StreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Error, Handle};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::Refusal;

/// A list that changes while it is read is read again, at most this often.
pub(crate) const DUMP_TRIES: u32 = 8;
/// The request's header, which comes back with an error: all of the request that does on a socket
/// with `NETLINK_CAP_ACK`. What follows are the attributes of the extended acknowledgement.
const REQUEST_HEADER: usize = 16;
/// The attribute with the kernel's words (`linux/netlink.h`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A connection to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// There until the connection is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    exchange: JoinHandle<()>,
}

impl Connection {
    /// Connects to the kernel in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_ref();
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        drop(entered);
        let exchange = runtime.spawn(connection);
        Ok(Self { runtime: Some(runtime), handle, exchange })
    }

    /// Whether the connection has ended, as it does after any error of its socket.
    pub(crate) fn lost(&self) -> bool {
        self.exchange.is_finished()
    }

    /// Makes a change and returns what the kernel made of it.
    pub(crate) fn change<F>(&self, request: impl FnOnce(&Handle) -> F) -> io::Result<()>
    where
        F: Future<Output = Result<(), Error>>,
    {
        self.run(request(&self.handle))?.map_err(io_error)?;
        // A request whose answer never came is a success to rtnetlink.
        if self.lost() { Err(no_answer()) } else { Ok(()) }
    }

    /// Asks for one object. The acknowledgement that is asked for too ends the exchange even if
    /// the answer before it cannot be read.
    pub(crate) fn get(&self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let mut answer = self.run(self.ask(message, NLM_F_ACK))??;
        answer.messages.pop().ok_or_else(no_answer)
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(
        &self,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            let answer = self.run(self.ask(message.clone(), NLM_F_DUMP))??;
            if !answer.complete {
                return Err(no_answer());
            }
            if !answer.interrupted {
                return Ok(answer.messages);
            }
        }
        Err(Errno::EBUSY.into())
    }

    async fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut replies = self.handle.clone().request(request).map_err(io_error)?;
        let mut answer = Answer::default();
        while let Some(reply) = replies.next().await {
            answer.interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => answer.messages.push(message),
                NetlinkPayload::Error(error) => return Err(io_error(Error::NetlinkError(error))),
                NetlinkPayload::Done(done) if done.code != 0 => {
                    return Err(refusal(done.code, &done.extended_ack));
                }
                NetlinkPayload::Done(_) => answer.complete = true,
                _ => return Err(Errno::EPROTO.into()),
            }
        }
        Ok(answer)
    }

    fn run<F: Future>(&self, work: F) -> io::Result<F::Output> {
        let runtime = self.runtime.as_ref().ok_or_else(no_answer)?;
        Ok(runtime.block_on(work))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Handles of namespaces are dropped on async threads, where a runtime may not be waited
        // for. There is nothing to wait for either: its only task, the owner of the socket, is
        // dropped by this call.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// The list changed while it was read.
    interrupted: bool,
    /// The list's end was seen.
    complete: bool,
}

pub(crate) fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the kernel gave no answer to the request")
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(ErrorMessage { code: Some(code), header, .. }) => {
            refusal(code.get(), header.get(REQUEST_HEADER..).unwrap_or_default())
        }
        Error::RequestFailed => no_answer(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// A negative error number, with the kernel's words where it found some.
pub(crate) fn refusal(code: i32, attributes: &[u8]) -> io::Error {
    let errno = Errno::from_raw(code.wrapping_neg());
    let words = NlasIterator::new(attributes).flatten().find_map(|attribute| {
        let text = attribute.value().split(|byte| *byte == 0).next()?;
        (attribute.kind() == NLMSGERR_ATTR_MSG).then(|| String::from_utf8_lossy(text).into_owned())
    });
    match words {
        Some(words) => Refusal { errno, words }.into_io(),
        None => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::LinkUnspec;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;
    use crate::error::os_error;

    fn loopback() -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("lo".to_owned()));
        RouteNetlinkMessage::GetLink(message)
    }

    #[test]
    fn the_kernels_words_come_with_the_number() {
        let mut header = vec![0; REQUEST_HEADER];
        header.extend([8, 0, 2, 0, 1, 2, 3, 4]);
        header.extend(12u16.to_ne_bytes());
        header.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        header.extend(b"No way\0\0");
        for cut in 0..=header.len() {
            let mut message = ErrorMessage::default();
            message.code = std::num::NonZeroI32::new(-22);
            message.header = header[..cut].to_vec();
            let error = io_error(Error::NetlinkError(message));
            assert_eq!(os_error(&error), Some(Errno::EINVAL));
            let whole = cut == header.len();
            assert_eq!(error.to_string().starts_with("No way (EINVAL"), whole, "{error}");
        }
    }

    #[test]
    fn a_lost_connection_is_an_error_and_is_noticed() {
        let connection = Connection::open().unwrap();
        assert!(matches!(connection.get(loopback()), Ok(RouteNetlinkMessage::NewLink(_))));
        assert!(!connection.lost());
        // Longer than the socket takes, so that sending it fails.
        let long = (0..5).fold(LinkUnspec::new_with_name("none"), |message, _| {
            message.append_extra_attribute(LinkAttribute::IfAlias("x".repeat(60_000)))
        });
        let error = connection.change(|h| h.link().change(long.build()).execute()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
        assert!(connection.lost());
        let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
        assert!(connection.get(loopback()).is_err() && connection.dump(&links).is_err());
    }

    #[tokio::test]
    async fn a_connection_may_be_dropped_on_an_async_thread() {
        let open = || Connection::open().unwrap();
        let connection = tokio::task::spawn_blocking(open).await.unwrap();
        drop(connection);
    }
}
