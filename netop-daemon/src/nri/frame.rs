//! Framing: ttrpc messages inside multiplexer frames.
//!
//! Multiplexer frame: connection number and payload length, four bytes each, big endian. ttrpc
//! message: data length and stream number, four bytes each, big endian, then one byte of type and
//! one of flags. A ttrpc message may be spread over several multiplexer frames; ours never are.

use std::collections::BTreeMap;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The connection on which the runtime calls the plugin.
pub(super) const PLUGIN: u32 = 1;
/// The connection on which the plugin calls the runtime.
pub(super) const RUNTIME: u32 = 2;

const TTRPC_HEADER: usize = 10;
/// Largest data of a ttrpc message, by its specification.
const TTRPC_MAX: usize = 4 << 20;

/// Why the connection cannot go on.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    /// The connection broke.
    #[error("the connection to the runtime broke: {0}")]
    Io(#[from] std::io::Error),
    /// The other side speaks something else.
    #[error("the runtime sent a frame of {0} bytes, more than its protocol allows")]
    TooLong(usize),
}

/// Kind of a ttrpc message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    Other,
}

/// A ttrpc message on one of the two connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) connection: u32,
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

/// Puts ttrpc messages together from what arrives.
#[derive(Default)]
pub(super) struct Reader {
    partial: BTreeMap<u32, Vec<u8>>,
}

impl Reader {
    /// The next message; `None` when the other side has closed. Not safe to cancel.
    pub(super) async fn next(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Result<Option<Message>, FrameError> {
        loop {
            for (connection, bytes) in &mut self.partial {
                if let Some(message) = take(*connection, bytes)? {
                    return Ok(Some(message));
                }
            }
            let Some((connection, payload)) = read_frame(from).await? else { return Ok(None) };
            self.partial.entry(connection).or_default().extend(payload);
        }
    }
}

async fn read_frame(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(u32, Vec<u8>)>, FrameError> {
    let connection = match from.read_u32().await {
        Ok(connection) => connection,
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let length = from.read_u32().await? as usize;
    if length > TTRPC_HEADER + TTRPC_MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Some((connection, payload)))
}

/// Takes a whole message from the front of the bytes.
fn take(connection: u32, bytes: &mut Vec<u8>) -> Result<Option<Message>, FrameError> {
    let Some(&[a, b, c, d, e, f, g, h, kind, _flags]) = bytes.first_chunk::<TTRPC_HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > TTRPC_MAX {
        return Err(FrameError::TooLong(length));
    }
    if bytes.len() < TTRPC_HEADER + length {
        return Ok(None);
    }
    let rest = bytes.split_off(TTRPC_HEADER + length);
    let data = std::mem::replace(bytes, rest).split_off(TTRPC_HEADER);
    let kind = match kind {
        1 => Kind::Request,
        2 => Kind::Response,
        _ => Kind::Other,
    };
    Ok(Some(Message { connection, stream: u32::from_be_bytes([e, f, g, h]), kind, data }))
}

/// Writes a message, in one frame.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    message: &Message,
) -> Result<(), FrameError> {
    let length = message.data.len();
    let total = u32::try_from(length + TTRPC_HEADER).ok();
    let (Some(total), true) = (total, length <= TTRPC_MAX) else {
        return Err(FrameError::TooLong(length));
    };
    let kind = match message.kind {
        Kind::Request => 1,
        Kind::Response => 2,
        Kind::Other => 3,
    };
    let mut bytes = Vec::with_capacity(8 + TTRPC_HEADER + length);
    bytes.extend(message.connection.to_be_bytes());
    bytes.extend(total.to_be_bytes());
    bytes.extend((total - TTRPC_HEADER as u32).to_be_bytes());
    bytes.extend(message.stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(&message.data);
    to.write_all(&bytes).await?;
    Ok(to.flush().await?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(connection: u32, stream: u32, data: &[u8]) -> Message {
        Message { connection, stream, kind: Kind::Request, data: data.to_vec() }
    }

    async fn bytes_of(messages: &[Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for m in messages {
            write(&mut bytes, m).await.unwrap();
        }
        bytes
    }

    #[tokio::test]
    async fn the_bytes_are_those_of_the_protocols() {
        let bytes = bytes_of(&[message(RUNTIME, 1, b"abc")]).await;
        assert_eq!(
            bytes,
            [
                &[0, 0, 0, 2, 0, 0, 0, 13][..],  // multiplexer: connection 2, 13 bytes
                &[0, 0, 0, 3, 0, 0, 0, 1, 1, 0], // ttrpc: 3 bytes, stream 1, request, no flags
                b"abc",
            ]
            .concat()
        );
    }

    #[tokio::test]
    async fn a_frame_too_long_ends_the_connection() {
        let mut reader = Reader::default();
        let mut bytes = &[0, 0, 0, 1, 0xff, 0, 0, 0][..];
        assert!(matches!(reader.next(&mut bytes).await, Err(FrameError::TooLong(_))));
    }

    proptest! {
        /// The runtime may cut its messages into frames as it likes, and mix the connections.
        #[test]
        fn messages_come_back_however_they_are_cut(
            sizes in prop::collection::vec(0..300usize, 1..6),
            cut in 1..40usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let sent: Vec<Message> = sizes
                .iter()
                .enumerate()
                .map(|(i, n)| message(PLUGIN, i as u32 * 2 + 1, &vec![i as u8; *n]))
                .collect();
            let whole = runtime.block_on(bytes_of(&sent));
            let mut ttrpc = Vec::new();
            let mut at = 0;
            while at < whole.len() {
                let n = u32::from_be_bytes(whole[at + 4..at + 8].try_into().unwrap()) as usize;
                ttrpc.extend(&whole[at + 8..at + 8 + n]);
                at += 8 + n;
            }
            let mut recut = Vec::new();
            for piece in ttrpc.chunks(cut) {
                recut.extend(PLUGIN.to_be_bytes());
                recut.extend((piece.len() as u32).to_be_bytes());
                recut.extend(piece);
            }
            let got = runtime.block_on(async {
                let mut reader = Reader::default();
                let mut bytes = &recut[..];
                let mut got = Vec::new();
                while let Some(m) = reader.next(&mut bytes).await.unwrap() {
                    got.push(m);
                }
                got
            });
            prop_assert_eq!(got, sent);
        }
    }
}
