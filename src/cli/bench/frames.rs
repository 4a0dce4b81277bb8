//! How a frame of the bench looks on the wire: headers with both checksums, zeros behind them.

use crate::flow::{Endpoint, Mac, Protocol};

/// Bytes of the headers in front of a UDP datagram's data: Ethernet, IPv4, UDP.
pub const HEADERS: usize = 42;
/// The same in front of a TCP segment's data.
pub const TCP_HEADERS: usize = 54;

/// Source and destination.
pub type Ends = (Endpoint, Endpoint);

/// What a frame says.
pub struct Frame {
    /// The station that sends it.
    pub from: Mac,
    /// The station that shall receive it.
    pub to: Mac,
    /// Its tag; zero for none.
    pub vlan: u16,
    /// Where the packet comes from.
    pub source: Endpoint,
    /// Where it goes.
    pub destination: Endpoint,
    /// Its time to live.
    pub ttl: u8,
    /// The TCP segment; none in UDP.
    pub segment: Option<Segment>,
}

/// A TCP segment.
pub struct Segment {
    /// Its flags.
    pub flags: u8,
    /// Its sequence number.
    pub sequence: u32,
    /// The sequence number it expects.
    pub acknowledgement: u32,
}

/// Bytes of a tag.
pub const TAG: usize = 4;

impl Frame {
    /// Writes the frame over the whole of `frame`.
    pub fn write(&self, frame: &mut [u8]) {
        if self.vlan == 0 {
            return self.write_untagged(frame);
        }
        self.write_untagged(&mut frame[TAG..]);
        frame.copy_within(TAG..TAG + 12, 0);
        let [high, low] = self.vlan.to_be_bytes();
        frame[12..12 + TAG].copy_from_slice(&[0x81, 0, high, low]);
    }

    fn write_untagged(&self, frame: &mut [u8]) {
        let packet_length = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
        let Some((headers, payload)) = frame.split_first_chunk_mut::<HEADERS>() else { return };
        payload.fill(0);
        let protocol = if self.segment.is_some() { Protocol::TCP } else { Protocol::UDP };
        headers[0..6].copy_from_slice(&self.to.0);
        headers[6..12].copy_from_slice(&self.from.0);
        headers[12..14].copy_from_slice(&[8, 0]);
        headers[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, self.ttl, protocol.0]);
        headers[16..18].copy_from_slice(&packet_length.to_be_bytes());
        headers[24..26].fill(0);
        headers[26..30].copy_from_slice(&self.source.address.octets());
        headers[30..34].copy_from_slice(&self.destination.address.octets());
        headers[34..36].copy_from_slice(&self.source.port.to_be_bytes());
        headers[36..38].copy_from_slice(&self.destination.port.to_be_bytes());
        let sum = !fold(words_sum(&headers[14..34]));
        headers[24..26].copy_from_slice(&sum.to_be_bytes());

        let length = packet_length - 20;
        let addresses = words_sum(&headers[26..34]);
        let pseudo_header = addresses + u32::from(protocol.0) + u32::from(length);
        match &self.segment {
            None => {
                headers[38..40].copy_from_slice(&length.to_be_bytes());
                headers[40..42].fill(0);
                // The payload is zeros and adds nothing.
                let sum = !fold(words_sum(&headers[34..42]) + pseudo_header);
                let sum = if sum == 0 { u16::MAX } else { sum };
                headers[40..42].copy_from_slice(&sum.to_be_bytes());
            }
            Some(segment) => segment.write(&mut frame[34..], pseudo_header),
        }
    }
}

impl Segment {
    /// Writes the header behind its ports, which are there already.
    fn write(&self, bytes: &mut [u8], pseudo_header: u32) {
        const LENGTH: usize = TCP_HEADERS - 34;
        let Some(header) = bytes.first_chunk_mut::<LENGTH>() else { return };
        header[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        header[12..16].copy_from_slice(&[0x50, self.flags, 0xff, 0xff]);
        header[16..20].fill(0);
        let sum = !fold(words_sum(header) + pseudo_header);
        header[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

fn words_sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// A sum of words as one, carries added again.
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX)
}
