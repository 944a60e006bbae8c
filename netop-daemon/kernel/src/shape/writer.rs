//! Writes and reads netlink messages: headers, attributes, alignment.

/// Nested attributes say that they are.
const NESTED: u16 = 0x8000;
/// Length of a message's header.
pub(super) const HEADER: usize = 16;

/// A message that is being written.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
}

/// What `tcmsg` holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Target {
    pub(super) device: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    pub(super) info: u32,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.resize(HEADER, 0);
        Self { bytes }
    }

    /// A message about queueing, classes or filters.
    pub(super) fn traffic(kind: u16, flags: u16, target: Target) -> Self {
        let mut message = Self::new(kind, flags);
        for number in [0, target.device, target.handle, target.parent, target.info] {
            message.bytes.extend_from_slice(&number.to_ne_bytes());
        }
        message
    }

    /// A message about a device; `up` brings it up.
    pub(super) fn link(kind: u16, flags: u16, device: u32, up: bool) -> Self {
        let mut message = Self::new(kind, flags);
        let bit = if up { super::abi::link::UP } else { 0 };
        for number in [0, device, bit, bit] {
            message.bytes.extend_from_slice(&number.to_ne_bytes());
        }
        message
    }

    /// An attribute of some bytes.
    #[must_use]
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.append(kind, value);
        self
    }

    /// An attribute of a number.
    #[must_use]
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// An attribute of text, with the zero behind it.
    #[must_use]
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute of attributes.
    #[must_use]
    pub(super) fn nested(mut self, kind: u16, body: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.append(kind | NESTED, &[]);
        let mut whole = body(self);
        let length = u16::try_from(whole.bytes.len() - start).unwrap_or(u16::MAX);
        whole.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    fn append(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The number at an offset.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// The long number at an offset.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}
