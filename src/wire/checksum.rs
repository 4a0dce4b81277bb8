//! Internet checksums: computed whole, updated incrementally (RFC 1071, RFC 1624).

use std::net::Ipv4Addr;

use zerocopy::transmute_ref;

use crate::flow::Protocol;
use crate::wire::header::{Ipv4Header, TcpHeader, UdpHeader, view, view_mut};
use crate::wire::parse::{Fragment, Parsed};

/// What a rewrite adds to a checksum.
///
/// It depends on the old and new words alone, not on the packet, so a session computes it once
/// and every packet pays one addition and one fold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ChecksumDelta(u16);

impl ChecksumDelta {
    /// The delta of replacing each word of `old` with the one at its place in `new`.
    #[must_use]
    pub fn between<const N: usize>(old: [u16; N], new: [u16; N]) -> Self {
        const { assert!(N <= 1024, "the sum must fit in 32 bits") };
        // RFC 1624, eqn. 3: HC' = ~(~HC + ~m + m').
        let mut sum = 0_u32;
        for (old, new) in old.into_iter().zip(new) {
            sum = sum.wrapping_add(u32::from(!old)).wrapping_add(u32::from(new));
        }
        Self(fold(sum))
    }

    /// The delta of replacing the addresses `old` with `new`.
    #[must_use]
    pub fn between_addresses(old: [Ipv4Addr; 2], new: [Ipv4Addr; 2]) -> Self {
        let words = |[source, destination]: [Ipv4Addr; 2]| {
            let [a, b] = words_of(source);
            let [c, d] = words_of(destination);
            [a, b, c, d]
        };
        Self::between(words(old), words(new))
    }

    /// The delta that [`Self::as_raw`] was called on.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The delta as sixteen bits, for those who store it.
    #[must_use]
    pub const fn as_raw(self) -> u16 {
        self.0
    }

    /// Both changes at once.
    #[inline]
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(fold(u32::from(self.0).wrapping_add(u32::from(other.0))))
    }

    /// The same change of bytes that stand one byte further: high and low byte trade places
    /// (RFC 1071, section 2 (B)).
    #[must_use]
    pub const fn at_odd_offset(self) -> Self {
        Self(self.0.swap_bytes())
    }

    /// `checksum` after the change.
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u32::from(!checksum).wrapping_add(u32::from(self.0)))
    }

    /// A UDP `checksum` after the change: zero, for none, stays zero, and a computed zero is sent
    /// as all ones (RFC 768).
    #[inline]
    #[must_use]
    pub fn apply_to_udp(self, checksum: u16) -> u16 {
        match checksum {
            0 => 0,
            checksum => never_zero(self.apply(checksum)),
        }
    }
}

/// The one's complement sum of `bytes`, in host order; a last odd byte counts as a high one.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    // The sum does not depend on the byte order in which it is made (RFC 1071, section 2 (B)), and
    // 2^32 words fit, so nothing is lost by wrapping.
    let mut sum = 0_u64;
    for word in words {
        sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(last)));
    u16::from_be(fold_wide(sum))
}

/// The checksum of `bytes`, in which the checksum's own place must hold zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Whether the checksum within `bytes` is right.
#[must_use]
pub fn is_right(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// Whether the checksum of an IPv4 header without options is right.
#[must_use]
pub(crate) fn header_is_right(header: &Ipv4Header) -> bool {
    let words: &[[u8; 4]; 5] = transmute_ref!(header);
    let mut sum = 0_u64;
    for word in words {
        sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    fold_wide(sum) == 0xffff
}

/// Whether the TCP or UDP checksum field of a packet is only the pseudo-header's folded sum: the
/// sending kernel left the rest to its device (`CHECKSUM_PARTIAL`).
///
/// A finished checksum looks the same once in 65,536 packets; [`complete`] then computes what was
/// there already. The pseudo-header's sum is never zero, so a UDP checksum of zero never matches.
#[must_use]
pub fn is_partial(frame: &[u8], parsed: &Parsed) -> bool {
    parsed.fragment == Fragment::Whole
        && transport_checksum(frame, parsed) == Some(pseudo_header_sum(parsed))
}

/// Computes the TCP or UDP checksum of a whole packet anew and writes it.
pub fn complete(frame: &mut [u8], parsed: &Parsed) {
    if parsed.fragment != Fragment::Whole {
        return;
    }
    set_transport_checksum(frame, parsed, 0);
    let Some(segment) = frame.get(usize::from(parsed.transport)..usize::from(parsed.end)) else {
        return;
    };
    let checksum = !fold(u32::from(sum(segment)) + u32::from(pseudo_header_sum(parsed)));
    let checksum = match parsed.protocol {
        Protocol::UDP => never_zero(checksum),
        _ => checksum,
    };
    set_transport_checksum(frame, parsed, checksum);
}

/// The checksum field of a TCP or UDP packet.
fn transport_checksum(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    match parsed.protocol {
        Protocol::TCP => Some(view::<TcpHeader>(frame, parsed.transport)?.checksum.get()),
        Protocol::UDP => Some(view::<UdpHeader>(frame, parsed.transport)?.checksum.get()),
        _ => None,
    }
}

fn set_transport_checksum(frame: &mut [u8], parsed: &Parsed, checksum: u16) {
    match parsed.protocol {
        Protocol::TCP => {
            if let Some(header) = view_mut::<TcpHeader>(frame, parsed.transport) {
                header.checksum.set(checksum);
            }
        }
        Protocol::UDP => {
            if let Some(header) = view_mut::<UdpHeader>(frame, parsed.transport) {
                header.checksum.set(checksum);
            }
        }
        _ => {}
    }
}

/// The folded sum of addresses, protocol and length (RFC 9293, section 3.1).
fn pseudo_header_sum(parsed: &Parsed) -> u16 {
    let mut sum = u32::from(parsed.protocol.0) + u32::from(parsed.end - parsed.transport);
    for word in
        words_of(parsed.source.address).into_iter().chain(words_of(parsed.destination.address))
    {
        sum = sum.wrapping_add(u32::from(word));
    }
    fold(sum)
}

/// An address as the two words that a checksum adds.
fn words_of(address: Ipv4Addr) -> [u16; 2] {
    let [a, b, c, d] = address.octets();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// A computed zero as the other zero of one's complement, which UDP can tell from "none".
const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Adds the carries back in until sixteen bits are left.
#[inline]
pub(super) const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    (sum & 0xffff).wrapping_add(sum >> 16) as u16
}

/// The same for a wide sum.
const fn fold_wide(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(sum as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Endpoint;
    use crate::testing::packets::{self, Packet, wrong_checksums};
    use crate::wire::parse::parse;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), port)
    }

    fn datagram(protocol: Protocol, data: &[u8]) -> Packet {
        match protocol {
            Protocol::TCP => Packet::tcp(endpoint(1), endpoint(2), 0x10, &[], data),
            _ => Packet::udp(endpoint(1), endpoint(2), data),
        }
    }

    /// The frame as a kernel leaves it that counts on its device: only the pseudo-header is summed.
    fn unfinished(packet: &Packet) -> Vec<u8> {
        let mut pseudo = [packet.source.octets(), packet.destination.octets()].concat();
        pseudo.extend_from_slice(&[0, packet.protocol.0]);
        pseudo.extend_from_slice(&u16::try_from(packet.transport.len()).unwrap().to_be_bytes());
        let place = if packet.protocol == Protocol::TCP { 16 } else { 6 };
        let mut packet = packet.clone();
        let sum = !packets::checksum(&pseudo);
        packet.transport[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        packet.frame()
    }

    #[test]
    fn a_udp_packet_without_checksum_is_not_partial() {
        let mut packet = datagram(Protocol::UDP, b"x");
        packet.transport[6..8].fill(0);
        let frame = packet.frame();
        assert!(!is_partial(&frame, &parse(&frame).unwrap()));
    }

    #[test]
    fn a_fragment_is_not_partial() {
        let whole = datagram(Protocol::UDP, &[1; 100]);
        let cut = Packet {
            transport: whole.transport[..64].to_vec(),
            flags_offset: 0x2000,
            ..whole.clone()
        };
        let mut bytes = unfinished(&cut);
        let mut parsed = parse(&bytes).unwrap();
        assert!(!is_partial(&bytes, &parsed));
        let before = bytes.clone();
        complete(&mut bytes, &parsed);
        assert_eq!(bytes, before);
        parsed.fragment = Fragment::Whole;
        assert!(is_partial(&bytes, &parsed), "but for the fragment it would be");
    }

    #[test]
    fn other_protocols_are_neither_partial_nor_completed() {
        let echo = Packet::echo(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, 8, 1, b"x");
        let mut frame = echo.frame();
        let parsed = parse(&frame).unwrap();
        assert!(!is_partial(&frame, &parsed));
        complete(&mut frame, &parsed);
        assert_eq!(frame, echo.frame());
    }

    #[test]
    fn a_completed_zero_is_sent_as_ones() {
        let steered = (0..=u16::MAX)
            .map(|word| datagram(Protocol::UDP, &word.to_be_bytes()))
            .find(|packet| packet.transport[6..8] == [0xff; 2])
            .expect("one of all words does it");
        let mut frame = unfinished(&steered);
        let parsed = parse(&frame).unwrap();
        complete(&mut frame, &parsed);
        assert_eq!(frame, steered.frame());
        assert!(wrong_checksums(&frame[14..]).is_empty());
    }

    proptest! {
        #[test]
        fn a_partial_checksum_is_seen_and_completed(
            tcp in any::<bool>(),
            data in proptest::collection::vec(any::<u8>(), 0..200),
            padding in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
            let packet = Packet { padding, ..datagram(protocol, &data) };
            let mut frame = unfinished(&packet);
            let parsed = parse(&frame).unwrap();
            prop_assert!(is_partial(&frame, &parsed));
            complete(&mut frame, &parsed);
            prop_assert_eq!(&frame, &packet.frame());
            // By chance a finished one may look partial; completing it changes nothing.
            complete(&mut frame, &parsed);
            prop_assert_eq!(&frame, &packet.frame());
        }

        #[test]
        fn the_sum_is_the_slow_sum(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(checksum(&bytes), packets::checksum(&bytes));
        }

        #[test]
        fn a_delta_does_what_summing_anew_does(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..60),
            place in any::<prop::sample::Index>(),
            new: u16,
        ) {
            let before = packets::checksum(&bytes);
            let place = place.index(bytes.len() - 1);
            let old = u16::from_be_bytes([bytes[place], bytes[place + 1]]);
            bytes[place..place + 2].copy_from_slice(&new.to_be_bytes());
            let delta = ChecksumDelta::between([old], [new]);
            let delta = if place % 2 == 0 { delta } else { delta.at_odd_offset() };
            let after = packets::checksum(&bytes);
            // All zero bytes have a sum that an update cannot reach; no packet is all zero.
            prop_assume!(before != 0xffff && after != 0xffff);
            prop_assert_eq!(delta.apply(before), after);
            prop_assert_eq!(ChecksumDelta::from_raw(delta.as_raw()), delta);
        }
    }
}
