//! The TCP header beyond its ports: flags, sequence numbers, windows, the MSS option.

use crate::wire::checksum::ChecksumDelta;
use crate::wire::header::{TcpHeader, view, view_mut};

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
    let Some(tcp) = view::<TcpHeader>(frame, transport) else { return Segment::default() };
    let payload = end.saturating_sub(transport).saturating_sub(tcp.header_length());
    let syn = tcp.flags & flags::SYN != 0;
    let fin = tcp.flags & flags::FIN != 0;
    Segment {
        flags: tcp.flags,
        sequence: tcp.sequence.get(),
        acknowledgement: tcp.acknowledgement.get(),
        window: tcp.window.get(),
        length: u32::from(payload) + u32::from(syn) + u32::from(fin),
        window_scale: if syn { window_scale(options(frame, transport, tcp)) } else { None },
    }
}

/// The window-scale option: a shift of at most 14, greater ones count as 14 (RFC 7323, section 2.3).
fn window_scale(options: &[u8]) -> Option<u8> {
    match *find_option(options, option::WINDOW_SCALE, 3)?.1 {
        [_, _, shift] => Some(shift.min(14)),
        _ => None,
    }
}

/// Lowers the MSS option of a SYN to `mss` where it is larger, at any alignment, and mends the
/// checksum; never raises or adds one. Returns whether it changed anything.
pub fn clamp_mss(frame: &mut [u8], transport: u16, end: u16, mss: u16) -> bool {
    let Some(tcp) = view::<TcpHeader>(frame, transport) else { return false };
    if tcp.flags & flags::SYN == 0 || transport.saturating_add(tcp.header_length()) > end {
        return false;
    }
    let checksum = tcp.checksum.get();
    let options = options(frame, transport, tcp);
    let Some((offset, &[_, _, high, low])) = find_option(options, option::MAXIMUM_SEGMENT_SIZE, 4)
    else {
        return false;
    };
    let old = u16::from_be_bytes([high, low]);
    if old <= mss {
        return false;
    }
    let delta = ChecksumDelta::between([old], [mss]);
    // Options are not aligned: an option at an odd place puts its value across two words.
    let delta = if offset % 2 == 0 { delta } else { delta.at_odd_offset() };
    let value = usize::from(transport) + size_of::<TcpHeader>() + offset + 2;
    let Some(value) = frame.get_mut(value..value + 2) else { return false };
    value.copy_from_slice(&mss.to_be_bytes());
    if let Some(tcp) = view_mut::<TcpHeader>(frame, transport) {
        tcp.checksum.set(delta.apply(checksum));
    }
    true
}

/// The bytes of the options; empty if the frame ends before them.
fn options<'f>(frame: &'f [u8], transport: u16, tcp: &TcpHeader) -> &'f [u8] {
    let start = usize::from(transport);
    frame
        .get(start + size_of::<TcpHeader>()..start + usize::from(tcp.header_length()))
        .unwrap_or_default()
}

/// The first option of `kind` that is `length` bytes long, with its offset in the options. Gives up
/// at the first malformed one, as stacks do.
fn find_option(options: &[u8], kind: u8, length: u8) -> Option<(usize, &[u8])> {
    let mut offset = 0;
    loop {
        match options.get(offset..)? {
            [] | [option::END, ..] => return None,
            [option::NO_OPERATION, ..] => offset += 1,
            [_] | [_, 0 | 1, ..] => return None,
            [found, size, ..] => {
                let bytes = options.get(offset..offset + usize::from(*size))?;
                if *found == kind && *size == length {
                    return Some((offset, bytes));
                }
                offset += usize::from(*size);
            }
        }
    }
}

/// TCP option kinds (IANA "TCP Option Kind Numbers").
mod option {
    pub const END: u8 = 0;
    pub const NO_OPERATION: u8 = 1;
    pub const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    pub const WINDOW_SCALE: u8 = 3;
}
