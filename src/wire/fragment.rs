//! IPv4 fragments: read, told apart, made (RFC 791, section 3.2; RFC 6864).

use zerocopy::FromBytes;

use crate::wire::checksum::{self, ChecksumDelta};
use crate::wire::header::{Ipv4Header, view, view_mut};
use crate::wire::parse::Parsed;

/// The part of its datagram that a packet carries: its first byte, one past its last, and whether
/// more follow. A whole datagram is `(0, length, false)`.
#[must_use]
pub fn span(frame: &[u8], parsed: &Parsed) -> (u16, u32, bool) {
    let Some(header) = view::<Ipv4Header>(frame, parsed.network) else { return (0, 0, false) };
    let start = header.fragment_offset();
    let length = parsed.end.saturating_sub(parsed.transport);
    (start, u32::from(start) + u32::from(length), header.more_fragments())
}

/// The identification of a packet.
#[must_use]
pub fn identification(frame: &[u8], parsed: &Parsed) -> u32 {
    view::<Ipv4Header>(frame, parsed.network).map_or(0, |header| header.identification.get().into())
}

/// Gives a packet another identification, so that fragments of two guests behind one address stay
/// apart (RFC 6864, section 5.3.1), and mends the header checksum.
pub fn set_identification(frame: &mut [u8], parsed: &Parsed, identification: u16) {
    let Some(header) = view_mut::<Ipv4Header>(frame, parsed.network) else { return };
    let delta = ChecksumDelta::between([header.identification.get()], [identification]);
    header.identification.set(identification);
    header.checksum.set(delta.apply(header.checksum.get()));
}

/// Lets a packet be cut, whatever its sender thought of that.
pub fn clear_dont_fragment(frame: &mut [u8], parsed: &Parsed) {
    let Some(header) = view_mut::<Ipv4Header>(frame, parsed.network) else { return };
    let old = header.flags_offset.get();
    let new = old & !Ipv4Header::DONT_FRAGMENT;
    header.flags_offset.set(new);
    header.checksum.set(ChecksumDelta::between([old], [new]).apply(header.checksum.get()));
}

/// Cuts an IPv4 packet (from its header on, as `parse` judged it; may be a fragment itself) into
/// pieces of at most `mtu` bytes, in order. `emit` gets header and payload of each, which together
/// are the piece, and says whether to go on. The first piece keeps all options, the others those to
/// be copied. Does not look at DF.
///
/// Returns whether all was emitted; false without any call when `mtu` leaves no room for payload.
pub fn split(packet: &[u8], mtu: u16, mut emit: impl FnMut(&[u8], &[u8]) -> bool) -> bool {
    let Some(whole) = view::<Ipv4Header>(packet, 0) else { return false };
    let header_length = usize::from(whole.header_length());
    let Some((header, payload)) = packet
        .get(..usize::from(whole.total_length.get()))
        .and_then(|packet| packet.split_at_checked(header_length))
    else {
        return false;
    };
    let Some(first) = Head::first(header) else { return false };
    let later = first.later();
    let offset = whole.fragment_offset();

    if packet.len().min(usize::from(whole.total_length.get())) <= usize::from(mtu) {
        return emit(header, payload);
    }
    let (mut head, mut rest, mut done) = (first, payload, 0_u16);
    loop {
        let room = usize::from(mtu).saturating_sub(head.length);
        let last = rest.len() <= room;
        // All but the last are multiples of eight octets.
        let take = if last { rest.len() } else { room & !7 };
        let (Some((piece, behind)), false) = (rest.split_at_checked(take), take == 0) else {
            return false;
        };
        let more = !last || whole.more_fragments();
        let Some(head_bytes) = head.finish(piece.len(), offset.saturating_add(done), more) else {
            return false;
        };
        if !emit(head_bytes, piece) {
            return false;
        }
        if last {
            return true;
        }
        // Below 65,536: all pieces lie within one packet.
        done = done.saturating_add(u16::try_from(take).unwrap_or(u16::MAX));
        (head, rest) = (later, behind);
    }
}

/// A header in the making.
#[derive(Clone, Copy)]
struct Head {
    bytes: [u8; 60],
    length: usize,
}

impl Head {
    /// The header with all its options.
    fn first(header: &[u8]) -> Option<Self> {
        let mut bytes = [0; 60];
        bytes.get_mut(..header.len())?.copy_from_slice(header);
        (header.len() >= size_of::<Ipv4Header>()).then_some(Self { bytes, length: header.len() })
    }

    /// The header with only those options that belong into every fragment (RFC 791, section 3.1).
    fn later(&self) -> Self {
        let mut later = Self { bytes: [0; 60], length: size_of::<Ipv4Header>() };
        let (fixed, mut options) = self.bytes.split_at(size_of::<Ipv4Header>());
        later.append(fixed, 0);
        options = options.get(..self.length - size_of::<Ipv4Header>()).unwrap_or_default();
        let mut length = size_of::<Ipv4Header>();
        while let [kind, rest @ ..] = options {
            let size = match (kind, rest) {
                (0, _) => break,
                (1, _) => 1,
                (_, [size, ..]) if *size >= 2 => usize::from(*size),
                _ => break,
            };
            let Some((option, behind)) = options.split_at_checked(size) else { break };
            if kind & COPIED != 0 {
                later.append(option, length);
                length += size;
            }
            options = behind;
        }
        // What is left of the last word stays zero: end of options.
        later.length = length.next_multiple_of(4);
        later
    }

    /// Writes `bytes` at `offset`; more than a header holds is never asked for.
    fn append(&mut self, bytes: &[u8], offset: usize) {
        if let Some(place) = self.bytes.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// The header of a piece of `payload` bytes that belongs at `offset` of the datagram.
    fn finish(&mut self, payload: usize, offset: u16, more: bool) -> Option<&[u8]> {
        let (header, _) = Ipv4Header::mut_from_prefix(&mut self.bytes).ok()?;
        let words = u8::try_from(self.length / 4).ok()?;
        let kept =
            header.flags_offset.get() & !(Ipv4Header::MORE_FRAGMENTS | Ipv4Header::OFFSET_MASK);
        let more = if more { Ipv4Header::MORE_FRAGMENTS } else { 0 };
        header.version_ihl = 4 << 4 | words;
        header.total_length.set(u16::try_from(self.length + payload).ok()?);
        header.flags_offset.set(kept | more | offset >> 3);
        header.checksum.set(0);
        let checksum = checksum::checksum(self.bytes.get(..self.length)?);
        let (header, _) = Ipv4Header::mut_from_prefix(&mut self.bytes).ok()?;
        header.checksum.set(checksum);
        self.bytes.get(..self.length)
    }
}

/// The bit of an option's type that puts it into every fragment.
const COPIED: u8 = 0x80;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Endpoint, Protocol};
    use crate::testing::packets::{Packet, wrong_checksums};
    use crate::wire::parse::parse;

    fn datagram(data: &[u8]) -> Packet {
        let endpoint = |port| Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), port);
        Packet {
            identification: 640,
            flags_offset: 0,
            ..Packet::udp(endpoint(1), endpoint(2), data)
        }
    }

    fn pieces(packet: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
        let mut pieces = Vec::new();
        let all = split(packet, mtu, |header, payload| {
            pieces.push([header, payload].concat());
            true
        });
        assert!(all || pieces.is_empty());
        all.then_some(pieces)
    }

    /// The payload and whether more follows, put together as RFC 791 says.
    fn reassembled(pieces: &[Vec<u8>]) -> (u16, Vec<u8>, bool) {
        let (mut start, mut whole, mut more) = (None, Vec::new(), true);
        for piece in pieces {
            assert!(more, "nothing follows the last fragment");
            assert_eq!(wrong_checksums(piece), Vec::<&str>::new());
            let word = u16::from_be_bytes([piece[6], piece[7]]);
            let offset = (word & 0x1fff) * 8;
            let first = *start.get_or_insert(offset);
            assert_eq!(usize::from(offset - first), whole.len(), "in order, without gaps");
            assert_eq!(usize::from(u16::from_be_bytes([piece[2], piece[3]])), piece.len());
            whole.extend_from_slice(&piece[usize::from(piece[0] & 15) * 4..]);
            more = word & 0x2000 != 0;
        }
        (start.expect("at least one piece"), whole, more)
    }

    #[test]
    fn only_copied_options_go_on() {
        let options = vec![7, 3, 4, 0x94, 4, 0, 0, 0x82, 3, 9, 1, 0];
        let packet = Packet { options: options.clone(), ..datagram(&[3; 100]) }.bytes();
        let pieces = pieces(&packet, 68).unwrap();
        assert_eq!(pieces[0][20..32], options);
        for later in &pieces[1..] {
            assert_eq!(later[0], 0x47);
            assert_eq!(later[20..28], [0x94, 4, 0, 0, 0x82, 3, 9, 0]);
        }
        assert_eq!(reassembled(&pieces).1, packet[32..]);
    }

    #[test]
    fn what_fits_stays_whole() {
        let packet = datagram(&[3; 100]).bytes();
        assert_eq!(pieces(&packet, 128), Some(vec![packet.clone()]));
        assert_eq!(pieces(&packet, 127).unwrap().len(), 2);
    }

    #[test]
    fn an_mtu_without_room_emits_nothing() {
        let packet = datagram(&[3; 100]).bytes();
        for mtu in 0..28 {
            assert_eq!(pieces(&packet, mtu), None, "mtu {mtu}");
        }
        assert_eq!(pieces(&packet, 28).unwrap().len(), 14);
    }

    #[test]
    fn a_caller_out_of_frames_stops_it() {
        let mut count = 0;
        let all = split(&datagram(&[3; 100]).bytes(), 60, |_, _| {
            count += 1;
            count < 2
        });
        assert_eq!((all, count), (false, 2));
    }

    #[test]
    fn a_new_identification_keeps_the_header_sound() {
        for identification_new in [0, 1, 0x7fff, 0xffff] {
            let mut frame = datagram(b"x").frame();
            let parsed = parse(&frame).unwrap();
            assert_eq!(identification(&frame, &parsed), 640);
            set_identification(&mut frame, &parsed, identification_new);
            let expected = Packet { identification: identification_new, ..datagram(b"x") };
            assert_eq!(frame, expected.frame());
        }
    }

    #[test]
    fn a_span_is_where_the_bytes_belong() {
        let part = |flags_offset, length| Packet {
            flags_offset,
            ..Packet::new(Protocol::GRE, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, vec![0; length])
        };
        for (packet, expected) in [
            (part(0, 9), (0, 9, false)),
            (part(0x2000, 16), (0, 16, true)),
            (part(0x2001, 16), (8, 24, true)),
            (part(8189, 3), (65_512, 65_515, false)),
        ] {
            let frame = packet.frame();
            assert_eq!(span(&frame, &parse(&frame).unwrap()), expected);
        }
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_packet(
            data in proptest::collection::vec(any::<u8>(), 0..3000),
            options in proptest::sample::select(vec![vec![], vec![0x94, 4, 0, 0], vec![1, 1, 1, 0]]),
            mtu in 68_u16..1600,
            (offset, more) in prop_oneof![Just((0, false)), (0_u16..4000, any::<bool>())],
        ) {
            let flags_offset = offset | if more { 0x2000 } else { 0 };
            let mut packet = Packet { options, flags_offset, ..datagram(&data) };
            if more {
                packet.transport.resize(packet.transport.len().next_multiple_of(8), 0);
            }
            let mut bytes = packet.bytes();
            bytes.extend_from_slice(b"link padding");
            let pieces = pieces(&bytes, mtu).unwrap();
            for piece in &pieces {
                prop_assert!(piece.len() <= usize::from(mtu));
                prop_assert_eq!(&piece[4..6], &640_u16.to_be_bytes());
            }
            let (start, whole, more_follow) = reassembled(&pieces);
            prop_assert_eq!((start, more_follow), (offset * 8, more));
            prop_assert_eq!(whole, packet.transport);
        }

        #[test]
        fn any_bytes_get_an_answer(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), mtu: u16, ihl in 0_u8..16,
        ) {
            let mut bytes = bytes;
            if let [first, _, high, low, ..] = &mut bytes[..] {
                (*first, *high, *low) = (0x40 | ihl, 0, *low & 0x7f);
            }
            let _ = split(&bytes, mtu % 100, |_, _| true);
        }
    }
}
