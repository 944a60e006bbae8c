//! Sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::StreamExt as _;
use slicewire_core::dns::{Asker, View};
use slicewire_core::name::SliceName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, MAX_QUESTION};
use crate::counters::Counters;
use crate::limits::{Clients, Limits};
use crate::wire::{Transport, respond};

/// Batches of questions answered in a row before others on this thread get their turn.
const BURST: usize = 2;
/// A connection that brings no whole question for so long is closed, and one that takes no answer.
const IDLE: Duration = Duration::from_secs(10);
/// Most batches of questions that are answered at the end.
const MAX_WAITING: usize = 1 << 11;
/// A datagram that the kernel is just putting into a queue is in it after so long.
const IN_FLIGHT: Duration = Duration::from_millis(20);
/// Bytes the kernel keeps of questions that wait: bursts of some thousands.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What the node knows.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Services.
    pub view: View,
    /// Slices of those who ask for themselves, by their address. Who is not listed asks for others,
    /// as the cluster's own DNS does, and is answered from all slices.
    pub askers: BTreeMap<IpAddr, BTreeSet<SliceName>>,
}

/// The server's knowledge, counters and limits; shared.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    known: RwLock<Option<Known>>,
    counters: Counters,
    clients: Clients,
    connections: Semaphore,
    turn: AtomicU64,
}

impl Names {
    /// Nothing is known yet: questions are answered with SERVFAIL, so that they are asked elsewhere.
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            known: RwLock::new(None),
            counters: Counters::default(),
            clients: Clients::new(limits),
            connections: Semaphore::new(limits.connections),
            turn: AtomicU64::new(0),
        }))
    }

    /// Everything has been looked at once, and this is what there is.
    pub fn publish(&self, known: Known) {
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Changes what is known, from the next question on; nothing happens before
    /// [`publish`](Self::publish). Questions wait meanwhile: keep it short.
    pub fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_mut() {
            change(known);
        }
    }

    /// What became of messages.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// What is known, for as long as it takes to answer some questions: changes wait.
    fn look(&self) -> Look<'_> {
        Look { shared: &self.0, known: self.0.known.read().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// What is known at a moment.
struct Look<'a> {
    shared: &'a Shared,
    known: RwLockReadGuard<'a, Option<Known>>,
}

impl Look<'_> {
    fn respond(&self, client: IpAddr, transport: Transport, message: &[u8], out: &mut Vec<u8>) {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let slices = self.known.as_ref().and_then(|k| k.askers.get(&client.to_canonical()));
        let view = self.known.as_ref().map(|k| &k.view);
        let outcome = respond(view, Asker { slices, turn }, transport, message, out);
        self.shared.counters.outcome(transport, outcome);
    }
}

/// An address that cannot be served on.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve DNS over {transport} on {address}: {source}; is another server there?")]
pub struct BindError {
    /// `UDP` or `TCP`.
    pub transport: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// A UDP and a TCP socket on one address.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens both. Another process of this user may serve on the same address at the same time: the
    /// next version starts before this one ends. Port 0 is any that UDP has free.
    ///
    /// # Errors
    /// Which socket could not be had, and why. Needs a tokio runtime.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let fault = |transport, address| move |source| BindError { transport, address, source };
        let udp = datagram_socket(address).map_err(fault("UDP", address))?;
        let address = udp.local_addr().map_err(fault("UDP", address))?;
        let tcp = listening_socket(address).map_err(fault("TCP", address))?;
        Ok(Self { udp, tcp })
    }

    /// Where they are.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn datagram_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    // A larger queue is a favour the kernel may refuse.
    socket.set_recv_buffer_size(RECEIVE_BUFFER).ok();
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn listening_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Answers questions until `stop`; then those that have arrived, and ends.
pub async fn serve(sockets: Sockets, names: Names, stop: CancellationToken) {
    let Sockets { udp, tcp } = sockets;
    // Each closes its socket when it is done: what comes then is the next version's.
    tokio::join!(datagrams(udp, &names, &stop), connections(tcp, &names, &stop));
}

async fn datagrams(socket: UdpSocket, names: &Names, stop: &CancellationToken) {
    let mut batch = Batch::new();
    loop {
        let ready = tokio::select! {
            ready = socket.readable() => ready,
            () = stop.cancelled() => break,
        };
        if let Err(error) = ready {
            tracing::warn!(%error, "the DNS socket cannot be waited for");
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        for _ in 0..BURST {
            if !answer(&socket, names, &mut batch) {
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    // A socket with a peer gets nobody else's datagrams any more: from here on the kernel gives
    // questions to the next version's, and those that wait in this one's queue are the last.
    if let Ok(itself) = socket.local_addr() {
        socket.connect(itself).await.ok();
    }
    for _ in 0..2 {
        tokio::time::sleep(IN_FLIGHT).await;
        let mut waiting = 0..MAX_WAITING;
        while waiting.next().is_some() && answer(&socket, names, &mut batch) {}
    }
}

/// Answers the questions that wait, as many as a batch holds; false when none does.
fn answer(socket: &UdpSocket, names: &Names, batch: &mut Batch) -> bool {
    let received = socket.try_io(Interest::READABLE, || batch.receive(socket.as_fd()));
    if let Err(error) = received {
        // Anything but an empty queue is about one datagram: the next one may be fine.
        return error.kind() != io::ErrorKind::WouldBlock;
    }
    let look = names.look();
    for (client, question, answer) in batch.questions() {
        if names.0.clients.may_ask(client) {
            look.respond(client, Transport::Udp, question, answer);
        } else {
            names.0.counters.limited();
            answer.clear();
        }
    }
    drop(look);
    // Answers that find no room are lost as on any network; the asker asks again.
    names.0.counters.unsent(batch.send(socket.as_fd()));
    true
}

async fn connections(listener: TcpListener, names: &Names, stop: &CancellationToken) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, client)) => {
                let (names, stop) = (names.clone(), stop.clone());
                open.spawn(async move { connection(stream, client, &names, &stop).await });
            }
            // Out of descriptors, or a connection that is gone again.
            Err(error) => {
                tracing::debug!(%error, "a DNS connection could not be taken");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Answers the questions of a connection in their order (RFC 7766).
async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    names: &Names,
    stop: &CancellationToken,
) {
    let counters = &names.0.counters;
    let (Ok(_room), Some(_own)) =
        (names.0.connections.try_acquire(), names.0.clients.connect(client.ip()))
    else {
        counters.turned_away();
        return;
    };
    counters.connected();
    stream.set_nodelay(true).ok();
    let (read, mut write) = stream.split();
    let mut frames = LengthDelimitedCodec::builder();
    frames.length_field_length(2).max_frame_length(MAX_QUESTION);
    let mut questions = FramedRead::new(read, frames.new_codec());
    let (mut answer, mut framed) = (Vec::new(), Vec::new());
    loop {
        let next = tokio::select! {
            next = timeout(IDLE, questions.next()) => next,
            () = stop.cancelled() => return,
        };
        let Ok(Some(Ok(question))) = next else { return };
        if !names.0.clients.may_ask(client.ip()) {
            return counters.limited();
        }
        names.look().respond(client.ip(), Transport::Tcp, &question, &mut answer);
        let Ok(len) = u16::try_from(answer.len()) else { return counters.unsent(1) };
        if len == 0 {
            return;
        }
        framed.clear();
        framed.extend_from_slice(&len.to_be_bytes());
        framed.extend_from_slice(&answer);
        if !matches!(timeout(IDLE, write.write_all(&framed)).await, Ok(Ok(()))) {
            return counters.unsent(1);
        }
    }
}
