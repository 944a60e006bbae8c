//! What a probe looks like: 32 bytes in network byte order, and padding.
//!
//! | bytes | |
//! |---|---|
//! | 0–3 | `SWP1` |
//! | 4 | kind: 1 echo, 2 its answer, 3 size probe, 4 its answer |
//! | 5–7 | zero |
//! | 8–15 | session: chosen at random by the prober, repeated in the answer |
//! | 16–23 | number within the session and kind |
//! | 24–31 | the prober's clock when it sent, in microseconds, repeated in the answer |

/// Bytes of a message without padding.
pub const LENGTH: usize = 32;
const MAGIC: [u8; 4] = *b"SWP1";

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Is anybody there?
    Echo,
    /// Yes.
    EchoReply,
    /// Does a packet of this size pass?
    Size,
    /// It did.
    SizeReply,
}

/// A probe or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The prober's random number.
    pub session: u64,
    /// The probe's number.
    pub number: u64,
    /// The prober's clock, microseconds.
    pub sent_micros: u64,
}

impl Message {
    /// The message, padded with zeroes to `length` bytes; never shorter than [`LENGTH`].
    pub fn encode(&self, length: usize) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Echo => 1,
            Kind::EchoReply => 2,
            Kind::Size => 3,
            Kind::SizeReply => 4,
        };
        let mut bytes = Vec::with_capacity(length.max(LENGTH));
        bytes.extend(MAGIC);
        bytes.extend([kind, 0, 0, 0]);
        bytes.extend(self.session.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.sent_micros.to_be_bytes());
        bytes.resize(length.max(LENGTH), 0);
        bytes
    }

    /// Reads a message; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (session, rest) = rest.split_first_chunk::<8>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (sent, _padding) = rest.split_first_chunk::<8>()?;
        let kind = match (magic, kind) {
            (&MAGIC, [1, 0, 0, 0]) => Kind::Echo,
            (&MAGIC, [2, 0, 0, 0]) => Kind::EchoReply,
            (&MAGIC, [3, 0, 0, 0]) => Kind::Size,
            (&MAGIC, [4, 0, 0, 0]) => Kind::SizeReply,
            _ => return None,
        };
        Some(Self {
            kind,
            session: u64::from_be_bytes(*session),
            number: u64::from_be_bytes(*number),
            sent_micros: u64::from_be_bytes(*sent),
        })
    }
}
