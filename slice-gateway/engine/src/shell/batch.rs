//! Messages on their way out, joined into trains for the kernel to cut.

use std::net::SocketAddr;

use crate::io::udp::Train;

/// Datagrams in one train; the limit of all kernels that have segmentation offload.
const MAX_COUNT: usize = 64;
/// Bytes in one train: what fits a datagram of either family.
const MAX_TRAIN: usize = 65_000;
/// Bytes that are worth sending: those of as many super-packets as are sealed in a row.
const ENOUGH: usize = 3 * MAX_TRAIN;
/// Bytes kept before sending.
const CAPACITY: usize = ENOUGH + MAX_TRAIN;
/// One more message of any size.
const BUFFER: usize = CAPACITY + 65_536 + 64;

/// Messages in one buffer.
pub(super) struct Batch {
    pub(super) buf: Box<[u8]>,
    pub(super) trains: Vec<Train>,
    len: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { buf: vec![0; BUFFER].into_boxed_slice(), trains: Vec::with_capacity(64), len: 0 }
    }

    /// The place for the next message.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buf[self.len..]
    }

    /// The message in [`Self::room`] is this long and goes there.
    pub(super) fn push(&mut self, to: SocketAddr, len: usize) {
        let (start, end) = (self.len, self.len + len);
        self.len = end;
        if let Some(train) = self.trains.last_mut() {
            let whole = (train.end - train.start).is_multiple_of(train.size);
            let fits =
                end - train.start <= MAX_TRAIN && train.end - train.start < MAX_COUNT * train.size;
            if train.to == to && whole && len <= train.size && fits {
                train.end = end;
                return;
            }
        }
        self.trains.push(Train { to, start, end, size: len });
    }

    /// True if it is time to send.
    pub(super) fn is_full(&self) -> bool {
        self.len >= ENOUGH || self.trains.len() >= 32
    }

    pub(super) fn is_over_capacity(&self) -> bool {
        self.len > CAPACITY
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.trains.clear();
    }
}
