//! The fuzz body of IPv6 frames.

use std::net::Ipv6Addr;

use crate::wire::ipv6::errors::{ERROR_MAX, Icmpv6Error, may_answer, quote, write_error};
use crate::wire::ipv6::{Parsed, complete_partial, lower_hop_limit, parse};
use crate::wire::parse::{Fragment, Kind};
use crate::wire::segment;

const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// A frame is parsed, and whatever `wire` may do to it leaves it as sound as it was.
pub fn frame_ipv6(data: &[u8]) {
    let Some(Ok(parsed)) = parse(data) else { return };
    assert!(parsed.network + 40 <= parsed.transport && parsed.transport <= parsed.end);
    assert!(usize::from(parsed.end) <= data.len());
    let part = parsed.part;
    assert!(u32::from(part.start) <= part.end && part.end <= 65_535);
    assert!(parsed.fragment != Fragment::Whole || part.end == 0);
    let _ = segment::segment(data, parsed.transport, parsed.end);
    forwarded(data, &parsed);
    answered(data, &parsed);
    if parsed.kind == Kind::IcmpError {
        let _ = quote(data, &parsed);
    }
}

/// Forwarding takes one from the hop limit and changes nothing else; a checksum is finished once.
fn forwarded(data: &[u8], parsed: &Parsed) {
    let mut older = data.to_vec();
    lower_hop_limit(&mut older, parsed);
    let expected = Parsed { hop_limit: parsed.hop_limit.saturating_sub(1), ..*parsed };
    assert_eq!(parse(&older), Some(Ok(expected)));
    let mut finished = data.to_vec();
    complete_partial(&mut finished, parsed);
    assert_eq!(parse(&finished), Some(Ok(*parsed)));
    assert_eq!(finished[..usize::from(parsed.transport)], data[..usize::from(parsed.transport)]);
    assert_eq!(finished[usize::from(parsed.end)..], data[usize::from(parsed.end)..]);
}

/// An error about the packet is sound, no longer than it may be, and names its flow.
fn answered(data: &[u8], parsed: &Parsed) {
    if !may_answer(data, parsed) {
        return;
    }
    let packet = &data[usize::from(parsed.network)..usize::from(parsed.end)];
    let mut buffer = vec![0xee; 14 + ERROR_MAX];
    let error = Icmpv6Error::PacketTooBig { mtu: 1280 };
    let length = write_error(&mut buffer, error, ROUTER, packet).expect("there is room");
    assert!(length <= 14 + ERROR_MAX);
    buffer.truncate(length);
    let told = parse(&buffer).expect("is IPv6").expect("sound");
    assert_eq!((told.kind, told.source.address), (Kind::IcmpError, ROUTER));
    assert_eq!(told.destination.address, parsed.source.address);
    if let Ok(quote) = quote(&buffer, &told) {
        assert_eq!((quote.protocol, quote.source), (parsed.protocol, parsed.source));
        assert_eq!(quote.destination, parsed.destination);
    }
}
