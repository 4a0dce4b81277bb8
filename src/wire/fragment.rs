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
pub fn identification(frame: &[u8], parsed: &Parsed) -> u16 {
    view::<Ipv4Header>(frame, parsed.network).map_or(0, |header| header.identification.get())
}

/// Gives a packet another identification, so that fragments of two guests behind one address stay
/// apart (RFC 6864, section 5.3.1), and mends the header checksum.
pub fn set_identification(frame: &mut [u8], parsed: &Parsed, identification: u16) {
    let Some(header) = view_mut::<Ipv4Header>(frame, parsed.network) else { return };
    let delta = ChecksumDelta::between([header.identification.get()], [identification]);
    header.identification.set(identification);
    header.checksum.set(delta.apply(header.checksum.get()));
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
