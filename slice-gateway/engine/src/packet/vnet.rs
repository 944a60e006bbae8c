//! `struct virtio_net_hdr`, which goes before each packet on a TUN device with `IFF_VNET_HDR`.
//! Source: virtio 1.2, section 5.1.6, in the machine's byte order as Linux has it.

/// Bytes of the header.
pub const LEN: usize = 10;

/// The checksum is not filled in yet: sum from `csum_start` on, store at `+ csum_offset`.
pub const NEEDS_CSUM: u8 = 1;
/// One packet as it is.
pub const GSO_NONE: u8 = 0;
/// IPv4 TCP to be cut into segments.
pub const GSO_TCPV4: u8 = 1;
/// IPv6 TCP to be cut into segments.
pub const GSO_TCPV6: u8 = 4;
/// UDP of either family to be cut into datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Added to the type of TCP with ECN.
pub const GSO_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// `NEEDS_CSUM` or 0.
    pub flags: u8,
    /// One of `GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers; a hint only.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksum's sum begins: the transport header.
    pub csum_start: u16,
    /// Where the checksum is, counted from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Reads the header.
    pub fn decode(bytes: &[u8; LEN]) -> Self {
        let at = |i: usize| u16::from_ne_bytes([bytes[i], bytes[i + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: at(2),
            gso_size: at(4),
            csum_start: at(6),
            csum_offset: at(8),
        }
    }

    /// Writes the header.
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        out[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        out[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        out[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        out[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        out
    }
}
