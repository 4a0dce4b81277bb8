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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::Endpoint;
    use crate::testing::packets::{Packet, wrong_checksums};
    use crate::wire::parse::{Parsed, parse};

    const MSS_1460: [u8; 4] = [2, 4, 0x05, 0xb4];
    const MSS_1360: [u8; 4] = [2, 4, 0x05, 0x50];
    const TIMESTAMP: [u8; 10] = [8, 10, 0, 0, 0, 1, 0, 0, 0, 0];

    fn frame(flags: u8, options: &[u8], data: &[u8]) -> (Vec<u8>, Parsed) {
        let endpoint = |port| Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), port);
        let frame = Packet::tcp(endpoint(1), endpoint(2), flags, options, data).frame();
        let parsed = parse(&frame).expect("a sound segment");
        (frame, parsed)
    }

    /// The options after clamping to 1360, and whether anything changed.
    fn clamped(flags: u8, options: &[u8]) -> (Vec<u8>, bool) {
        let (mut frame, parsed) = frame(flags, options, b"odd");
        let before = frame.clone();
        let changed = clamp_mss(&mut frame, parsed.transport, parsed.end, 1360);
        assert_eq!(wrong_checksums(&frame[14..]), Vec::<&str>::new());
        assert_eq!(changed, frame != before);
        (frame[54..54 + options.len()].to_vec(), changed)
    }

    #[test]
    fn mss_is_lowered_at_any_place_in_syn_and_syn_ack() {
        // MTU-06.
        for flags in [flags::SYN, flags::SYN | flags::ACK] {
            assert_eq!(clamped(flags, &MSS_1460), (MSS_1360.to_vec(), true));
            for before in
                [&[1][..], &[1, 1], &[1, 1, 1], &TIMESTAMP, &[&TIMESTAMP[..], &[1]].concat()]
            {
                let options = |mss: [u8; 4]| {
                    let mut options = [before, &mss].concat();
                    options.resize(options.len().next_multiple_of(4), 1);
                    options
                };
                assert_eq!(clamped(flags, &options(MSS_1460)), (options(MSS_1360), true));
            }
        }
    }

    #[test]
    fn mss_is_never_raised_added_or_touched_outside_a_syn() {
        for options in [&[2, 4, 0x02, 0x18][..], &MSS_1360, &[], &[1, 1, 1, 0]] {
            assert_eq!(clamped(flags::SYN, options), (options.to_vec(), false));
        }
        assert!(!clamped(flags::ACK | flags::PSH, &MSS_1460).1);
        let behind_the_end = [0, 1, 1, 1, 2, 4, 0xff, 0xff];
        assert!(!clamped(flags::SYN, &behind_the_end).1);
    }

    #[test]
    fn malformed_options_are_left_alone() {
        for options in [
            &[2, 0, 5, 0xb4][..],
            &[2, 3, 5, 0xb4],
            &[2, 0x28, 5, 0xb4],
            &[5, 0, 1, 1, 2, 4, 0xff, 0xff],
            &[5, 1, 1, 1, 2, 4, 0xff, 0xff],
            &[1, 1, 1, 2],
            &[1, 1, 2, 4],
        ] {
            assert_eq!(clamped(flags::SYN, options), (options.to_vec(), false), "{options:x?}");
        }
    }

    #[test]
    fn a_segment_takes_its_payload_and_its_flags_in_sequence_space() {
        let (syn, parsed) = frame(flags::SYN, &[1, 3, 3, 7], b"early");
        let read = segment(&syn, parsed.transport, parsed.end);
        assert_eq!((read.sequence, read.acknowledgement, read.window), (1000, 2000, 1024));
        assert_eq!((read.length, read.window_scale), (6, Some(7)));
        let (fin, parsed) = frame(flags::FIN | flags::ACK, &[1, 3, 3, 7], b"last");
        let read = segment(&fin, parsed.transport, parsed.end);
        assert_eq!((read.length, read.window_scale), (5, None), "scale counts on SYN only");
        let (too_wide, parsed) = frame(flags::SYN, &[3, 3, 200, 0], b"");
        assert_eq!(segment(&too_wide, parsed.transport, parsed.end).window_scale, Some(14));
    }

    #[test]
    fn link_padding_is_no_payload() {
        let (mut ack, parsed) = frame(flags::ACK, &[], b"");
        ack.extend_from_slice(&[0; 6]);
        assert_eq!(segment(&ack, parsed.transport, parsed.end).length, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..90),
            transport: u16, end: u16, mss: u16,
        ) {
            for transport in [transport, transport % 64] {
                let _ = segment(&bytes, transport, end);
                let _ = clamp_mss(&mut bytes, transport, end, mss);
            }
        }

        #[test]
        fn a_clamped_segment_still_passes_its_checksum(
            words in proptest::collection::vec(any::<u8>(), 0..=40), mss: u16, mss_at in 0_usize..36,
        ) {
            let mut options = words;
            options.truncate(options.len() / 4 * 4);
            // No-operations up to an MSS option somewhere.
            if let Some(place) = options.get_mut(..mss_at + 4) {
                place.fill(1);
                place[mss_at] = 2;
                place[mss_at + 1] = 4;
                place[mss_at + 2] = 0xff;
            }
            let (mut frame, parsed) = frame(flags::SYN, &options, b"payload");
            clamp_mss(&mut frame, parsed.transport, parsed.end, mss);
            prop_assert!(wrong_checksums(&frame[14..]).is_empty());
        }
    }
}
