//! Fuzz bodies: each takes any bytes and panics if a promise is broken.
//!
//! `fuzz/` feeds them at random; the tests below feed them the kept corpora and a few random bytes.
//! The bodies of frames and ICMP errors are here; all others are found here too.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, Mac, Protocol, Realm};
use crate::rewrite::Rewrite;
use crate::testing::fuzz_ipv6::frame_ipv6;
use crate::testing::packets::{Packet, checksum, wrong_checksums};
use crate::wire::checksum::{ChecksumDelta, complete, is_partial};
use crate::wire::parse::{Fragment, Kind, Parsed, macs, parse};
use crate::wire::{arp, fragment, icmp, segment};

pub use super::fuzz_capsules::capsule;
pub use super::fuzz_cloudstack::cloudstack;
pub use super::fuzz_pipeline::pipeline;
pub use super::fuzz_region::session_region;
pub use super::fuzz_rules::rule_file;
pub use super::fuzz_zstack::zstack;

/// A frame is parsed, and whatever `wire` and `rewrite` may do to it leaves it as sound as it was.
pub fn frame(data: &[u8]) {
    if let Some(message) = arp::parse(data) {
        let mut buffer = [0; 46];
        let length = arp::write(&mut buffer, Mac::default(), Mac::BROADCAST, &message);
        assert_eq!(length.and_then(|length| arp::parse(&buffer[..length])), Some(message));
    }
    let Ok(parsed) = parse(data) else { return frame_ipv6(data) };
    assert!(parsed.network < parsed.transport && parsed.transport <= parsed.end);
    assert!(usize::from(parsed.end) <= data.len());
    assert!(macs(data).is_some());
    let (start, end, _) = fragment::span(data, &parsed);
    assert!(u32::from(start) <= end && end <= 65_535);

    rewritten(data, &parsed);
    answered(data, &parsed);
    split(data, &parsed);
    if parsed.protocol == Protocol::TCP && parsed.fragment == Fragment::Whole {
        clamped(data, &parsed);
    }
    if is_partial(data, &parsed) {
        let mut completed = data.to_vec();
        complete(&mut completed, &parsed);
        assert!(faults(&completed, &parsed).is_empty());
    }
}

/// An error with any quote is translated, or refused; what is translated is sound and quotes the
/// packet that its receiver sent. The first three bytes choose type and header, the rest is quoted.
pub fn icmp_error(data: &[u8]) {
    let &[icmp_type, words, mend, ref quoted @ ..] = data else { return };
    let mut quoted = quoted.to_vec();
    quoted.truncate(2000);
    let ihl = usize::from(quoted.first().map_or(0, |first| first & 15)) * 4;
    if mend & 1 != 0 && ihl >= 20 && quoted.len() >= ihl {
        quoted[10..12].fill(0);
        let right = checksum(&quoted[..ihl]);
        quoted[10..12].copy_from_slice(&right.to_be_bytes());
    }
    let icmp_type = [3, 4, 5, 11, 12][usize::from(icmp_type % 5)];
    let sent =
        Packet::icmp(OUTER.address, PUBLIC.address, (icmp_type, 0), [0, words, 5, 0], &quoted);
    let mut frame = sent.frame();
    let before = frame.clone();
    let parsed = parse(&frame).expect("the error itself is sound");
    let Ok(quote) = icmp::quote(&frame, &parsed) else { return };
    assert!(quote.network < quote.transport && quote.transport <= quote.end);
    assert!(quote.end <= parsed.end);

    let inbound = Rewrite {
        source: Endpoint::new(quote.destination.address, OUTER.port),
        destination: GUEST,
        address_delta: ChecksumDelta::default(),
    };
    inbound.apply_to_error(&mut frame, &parsed, &quote, Ipv4Addr::new(192, 0, 2, 50));
    assert_eq!(frame[usize::from(quote.end)..], before[usize::from(quote.end)..]);
    assert!(faults(&frame, &parsed).is_empty());
    let after = parse(&frame).expect("it still parses");
    assert_eq!(after.destination.address, GUEST.address);
    let seen = icmp::quote(&frame, &after).expect("it still quotes");
    assert_eq!(seen.source.address, GUEST.address);
    assert_eq!(seen.destination.address, quote.destination.address);
    if quote.protocol.has_ports() {
        assert_eq!(seen.source.port, GUEST.port);
    }
}

fn rewritten(data: &[u8], parsed: &Parsed) {
    let key = parsed.key(Realm::External);
    let mut frame = data.to_vec();
    Rewrite::new(&key, PUBLIC, OUTER).apply(&mut frame, parsed);
    let message = &data[usize::from(parsed.transport)..usize::from(parsed.end)];
    // Ones' complement has two zeros: a message of nothing but zeros, checksum too, is wrong before
    // and right after. No other sum can be zero, and nobody is deceived about this one.
    if message.iter().any(|byte| *byte != 0) {
        assert_eq!(faults(&frame, parsed), faults(data, parsed), "as sound as it came");
    }
    assert_eq!(frame[usize::from(parsed.end)..], data[usize::from(parsed.end)..]);
    let after = parse(&frame).expect("it still parses");
    assert_eq!(after.source.address, PUBLIC.address);
    assert_eq!(after.destination.address, OUTER.address);
    assert_eq!((after.kind, after.fragment, after.end), (parsed.kind, parsed.fragment, parsed.end));
    assert_eq!(after.ttl, parsed.ttl.saturating_sub(1));
    let mut renumbered = frame;
    fragment::set_identification(&mut renumbered, &after, 0xbeef);
    assert_eq!(fragment::identification(&renumbered, &after), 0xbeef);
    assert!(parse(&renumbered).is_ok());
}

fn answered(data: &[u8], parsed: &Parsed) {
    let packet = &data[usize::from(parsed.network)..usize::from(parsed.end)];
    if icmp::may_answer(data, parsed) {
        let mut error = [0; 600];
        let length =
            icmp::write_error(&mut error, icmp::IcmpError::TtlExceeded, OUTER.address, packet)
                .expect("it fits");
        assert!(wrong_checksums(&error[14..length]).is_empty());
        error[12] = 0x08;
        let read = parse(&error[..length]).expect("our own error parses");
        assert_eq!((read.kind, read.destination.address), (Kind::IcmpError, parsed.source.address));
    }
    let mut reply = data.to_vec();
    icmp::turn_into_echo_reply(&mut reply, parsed);
    assert_eq!(faults(&reply, parsed), faults(data, parsed));
    let read = parse(&reply).expect("a reply parses");
    if parsed.kind == (Kind::IcmpQuery { icmp_type: 8 }) {
        assert_eq!(read.kind, Kind::IcmpQuery { icmp_type: 0 });
        assert_eq!((read.source, read.destination), (parsed.destination, parsed.source));
    }
}

fn split(data: &[u8], parsed: &Parsed) {
    let packet = &data[usize::from(parsed.network)..usize::from(parsed.end)];
    let header_length = usize::from(parsed.transport - parsed.network);
    for mtu in [68, 576] {
        let mut payload = Vec::new();
        let all = fragment::split(packet, mtu, |head, piece| {
            assert!(head.len() + piece.len() <= usize::from(mtu));
            assert_eq!(checksum(head), 0);
            payload.extend_from_slice(piece);
            true
        });
        assert!(all && payload == packet[header_length..]);
    }
}

fn clamped(data: &[u8], parsed: &Parsed) {
    let read = segment::segment(data, parsed.transport, parsed.end);
    assert_eq!(read.flags, parsed.tcp_flags);
    assert!(read.length <= u32::from(parsed.packet_length()));
    let mut frame = data.to_vec();
    segment::clamp_mss(&mut frame, parsed.transport, parsed.end, 1360);
    assert_eq!(faults(&frame, parsed), faults(data, parsed));
    assert!(!segment::clamp_mss(&mut frame, parsed.transport, parsed.end, 1360), "once is enough");
}

/// The wrong checksums of the packet in a frame.
fn faults(frame: &[u8], parsed: &Parsed) -> Vec<&'static str> {
    wrong_checksums(&frame[usize::from(parsed.network)..usize::from(parsed.end)])
}

const GUEST: Endpoint = Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), 40_000);
const PUBLIC: Endpoint = Endpoint::new(Ipv4Addr::new(203, 0, 113, 10), 61_000);
const OUTER: Endpoint = Endpoint::new(Ipv4Addr::new(198, 51, 100, 9), 443);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Runs a body over every file of its corpus.
    fn over_corpus(target: &str, body: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut count = 0;
        for file in std::fs::read_dir(&corpus).expect("the corpus is kept in the tree") {
            body(&std::fs::read(file.expect("a file").path()).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "{} is empty", corpus.display());
    }

    #[test]
    fn frames_of_the_corpus_keep_every_promise() {
        over_corpus("frame", frame);
    }

    #[test]
    fn icmp_errors_of_the_corpus_keep_every_promise() {
        over_corpus("icmp_error", icmp_error);
    }

    #[test]
    fn capsules_of_the_corpus_keep_every_promise() {
        over_corpus("capsule", capsule);
    }

    #[test]
    fn cloudstack_files_of_the_corpus_keep_every_promise() {
        over_corpus("cloudstack", cloudstack);
    }

    #[test]
    fn rule_files_of_the_corpus_keep_every_promise() {
        over_corpus("rule_file", rule_file);
    }

    #[test]
    fn session_regions_of_the_corpus_keep_every_promise() {
        over_corpus("session_region", session_region);
    }

    #[test]
    fn steps_of_the_corpus_keep_every_promise() {
        over_corpus("pipeline", pipeline);
    }

    proptest! {
        #[test]
        fn any_bytes_keep_every_promise(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            frame(&data);
            icmp_error(&data);
        }
    }
}
