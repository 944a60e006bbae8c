//! Writes netlink messages: headers, attributes, alignment.

use super::abi::{ARP, BATCH_BEGIN, BATCH_END, INET, SUBSYSTEM};

/// Nested attributes say that they are.
const NESTED: u16 = 0x8000;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// Length of a message's header with what all nftables messages have after it.
const HEADER: usize = 20;

/// Writes messages one after the other, as one batch or as one request.
#[derive(Debug, Default)]
pub(super) struct Writer {
    buffer: Vec<u8>,
    /// What each message is about; a message's sequence number is its place.
    subjects: Vec<String>,
    last: usize,
}

/// Messages that the kernel carries out all or none of.
#[derive(Debug)]
pub(super) struct Batch {
    /// The bytes of all messages.
    pub(super) bytes: Vec<u8>,
    /// What each message is about; a message's sequence number is its place.
    pub(super) subjects: Vec<String>,
    /// Number of the message that is acknowledged, the last one.
    pub(super) last: u32,
}

impl Writer {
    /// Begins a batch.
    pub(super) fn batch() -> Self {
        let mut writer = Self::default();
        writer.begin(BATCH_BEGIN, 0, 0, SUBSYSTEM, "begin".to_owned());
        writer.end();
        writer
    }

    /// Ends a batch.
    pub(super) fn finish(mut self) -> Batch {
        let last = u32::try_from(self.subjects.len() - 1).unwrap_or(u32::MAX);
        let flags = u16::from_ne_bytes([self.buffer[self.last + 6], self.buffer[self.last + 7]]);
        self.buffer[self.last + 6..self.last + 8].copy_from_slice(&(flags | ACK).to_ne_bytes());
        self.begin(BATCH_END, 0, 0, SUBSYSTEM, "end".to_owned());
        self.end();
        Batch { bytes: self.buffer, subjects: self.subjects, last }
    }

    /// A request of its own.
    pub(super) fn request(
        kind: u16,
        flags: u16,
        family: u8,
        body: impl FnOnce(&mut Self),
    ) -> Vec<u8> {
        let mut writer = Self::default();
        writer.message(kind, flags, family, String::new(), body);
        writer.buffer
    }

    /// Writes one message about a subject.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        subject: String,
        body: impl FnOnce(&mut Self),
    ) {
        debug_assert!(family == INET || family == ARP);
        self.begin(SUBSYSTEM << 8 | kind, flags, family, 0, subject);
        body(self);
        self.end();
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16, subject: String) {
        self.last = self.buffer.len();
        let number = u32::try_from(self.subjects.len()).unwrap_or(u32::MAX);
        self.subjects.push(subject);
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.buffer.extend_from_slice(&number.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
    }

    fn end(&mut self) {
        let length = u32::try_from(self.buffer.len() - self.last).unwrap_or(u32::MAX);
        debug_assert!(length as usize >= HEADER);
        self.buffer[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Bytes in the present message so far.
    pub(super) fn length(&self) -> usize {
        self.buffer.len() - self.last
    }

    /// An attribute of some bytes.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    /// An attribute of text, with the zero behind it.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An attribute of a number, in network order as nftables has them.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute of attributes.
    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.bytes(kind | NESTED, &[]);
        body(self);
        let length = u16::try_from(self.buffer.len() - start).unwrap_or(u16::MAX);
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}
