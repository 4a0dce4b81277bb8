//! The TCP header beyond its ports: flags, sequence numbers, windows, the MSS option.

/// TCP flag bits (RFC 9293, section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

/// What connection tracking needs of a TCP segment, in host order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Segment {
    /// The flags octet.
    pub flags: u8,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// The window as sent, unscaled.
    pub window: u16,
    /// The sequence space it takes: payload bytes, plus one each for SYN and FIN.
    pub length: u32,
    /// The window-scale option (RFC 7323), seen on SYN only.
    pub window_scale: Option<u8>,
}

/// Reads the segment at `transport..end` of a frame, which `parse` has judged.
#[must_use]
pub fn segment(frame: &[u8], transport: u16, end: u16) -> Segment {
    todo!()
}

/// Lowers the MSS option of a SYN to `mss` where it is larger, at any alignment, and mends the
/// checksum; never raises or adds one. Returns whether it changed anything.
pub fn clamp_mss(frame: &mut [u8], transport: u16, end: u16, mss: u16) -> bool {
    todo!()
}
