//! Which parts of a datagram were seen.

use super::Span;
use crate::flow::Protocol;

/// The payload of the longest datagram with the shortest header.
const PAYLOAD_MAX: u32 = 65_535 - 20;
/// Fragments of one datagram: the longest one over links of 576 octets has 119.
pub(super) const SPANS_MAX: usize = 128;

/// The spans seen of each datagram of a slab.
pub(super) struct Spans {
    /// Start and end of each, [`SPANS_MAX`] for each datagram.
    seen: Box<[[u16; 2]]>,
}

/// What is known of one datagram's spans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Coverage {
    count: u16,
    /// The furthest end of a span.
    reach: u16,
    /// The datagram's length, once its last fragment came.
    total: Option<u16>,
    /// Bytes seen.
    covered: u16,
}

/// Why a span does not fit to those seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Misfit {
    /// It was seen before.
    Duplicate,
    /// It overlaps one seen before, or contradicts it about where the datagram ends.
    Overlap,
    /// There are too many.
    TooMany,
}

impl Coverage {
    /// Whether all of the datagram was seen.
    pub(super) fn is_complete(&self) -> bool {
        self.total == Some(self.covered)
    }

    /// Whether a span ends where no datagram with these spans can end.
    fn is_contradicted_by(&self, end: u16, more: bool) -> bool {
        match self.total {
            Some(total) if more => end >= total,
            Some(total) => end != total,
            None => !more && end <= self.reach,
        }
    }
}

impl Spans {
    /// For a slab of `datagrams` places.
    pub(super) fn new(datagrams: usize) -> Self {
        Self { seen: vec![[0; 2]; datagrams * SPANS_MAX].into() }
    }

    /// Notes that `span` of the datagram at `place` was seen.
    pub(super) fn add(
        &mut self,
        place: u32,
        coverage: &mut Coverage,
        span: Span,
    ) -> Result<(), Misfit> {
        let (start, end) = (span.start, u16::try_from(span.end).map_err(|_| Misfit::Overlap)?);
        if coverage.is_contradicted_by(end, span.more) {
            return Err(Misfit::Overlap);
        }
        let first = place as usize * SPANS_MAX;
        let seen = &mut self.seen[first..first + SPANS_MAX];
        let count = usize::from(coverage.count);
        // Newest first: fragments come in order or in reverse, mostly.
        for &[other_start, other_end] in seen.iter().take(count).rev() {
            if (start, end) == (other_start, other_end) {
                return Err(Misfit::Duplicate);
            }
            if start < other_end && other_start < end {
                return Err(Misfit::Overlap);
            }
        }
        *seen.get_mut(count).ok_or(Misfit::TooMany)? = [start, end];
        coverage.count += 1;
        coverage.reach = coverage.reach.max(end);
        // Spans do not overlap and end within 65,515 bytes, so their sum does too.
        coverage.covered += end - start;
        if !span.more {
            coverage.total = Some(end);
        }
        Ok(())
    }
}

/// Whether no honest sender cuts a datagram of `protocol` like that.
pub(super) fn is_bad(protocol: Protocol, span: Span) -> bool {
    let Some(length) = span.end.checked_sub(u32::from(span.start)) else { return true };
    // Ports and flags must stand in the first fragment, or the filter sees half of them (RFC 1858,
    // section 3), and nothing may come between to replace them (RFC 1858, section 4; RFC 3128).
    let header = match protocol {
        Protocol::TCP => 20,
        Protocol::SCTP | Protocol::DCCP => 12,
        Protocol::ICMP | Protocol::UDP | Protocol::UDP_LITE => 8,
        _ => 0,
    };
    let is_tiny = if span.start == 0 { length < header } else { u32::from(span.start) < header };
    length == 0 || is_tiny || span.end > PAYLOAD_MAX || (span.more && length % 8 != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start: u16, end: u32, more: bool) -> Span {
        Span { start, end, more }
    }

    #[test]
    fn impossible_fragments_are_known_by_themselves() {
        assert!(is_bad(Protocol::UDP, span(0, 13, true)), "odd in length with more to come");
        assert!(is_bad(Protocol::UDP, span(80, 80, false)), "empty");
        assert!(is_bad(Protocol::UDP, span(65528, 65928, false)), "past the longest datagram");
        assert!(is_bad(Protocol::TCP, span(0, 16, true)), "half a header");
        assert!(is_bad(Protocol::TCP, span(8, 40, false)), "flags at offset 8");
        assert!(!is_bad(Protocol::TCP, span(0, 24, true)));
        assert!(!is_bad(Protocol::UDP, span(0, 8, true)));
        assert!(!is_bad(Protocol::UDP, span(8, 21, false)));
        assert!(!is_bad(Protocol::GRE, span(65512, 65515, false)));
    }

    #[test]
    fn a_datagram_has_one_end() {
        let mut spans = Spans::new(1);
        let mut coverage = Coverage::default();
        assert_eq!(spans.add(0, &mut coverage, span(16, 24, false)), Ok(()));
        assert_eq!(spans.add(0, &mut coverage, span(24, 32, true)), Err(Misfit::Overlap));
        assert_eq!(spans.add(0, &mut coverage, span(24, 32, false)), Err(Misfit::Overlap));
        assert_eq!(spans.add(0, &mut coverage, span(16, 24, true)), Err(Misfit::Overlap));
        assert_eq!(spans.add(0, &mut coverage, span(8, 16, false)), Err(Misfit::Overlap));
        assert_eq!(spans.add(0, &mut coverage, span(16, 24, false)), Err(Misfit::Duplicate));
    }

    proptest! {
        #[test]
        fn a_byte_is_never_seen_twice_and_the_whole_is_known(
            cuts in proptest::collection::vec((0u16..40, 1u16..6, any::<bool>()), 1..60),
        ) {
            let mut spans = Spans::new(3);
            let mut coverage = Coverage::default();
            let mut bytes = vec![0; 400];
            let mut ends = Vec::new();
            for (start, length, more) in cuts {
                let cut = span(start * 8, u32::from(start + length) * 8, more);
                let covered = &mut bytes[usize::from(cut.start)..cut.end as usize];
                match spans.add(1, &mut coverage, cut) {
                    Ok(()) => {
                        prop_assert!(covered.iter().all(|count| *count == 0));
                        covered.iter_mut().for_each(|count| *count += 1);
                        if !more {
                            ends.push(cut.end as usize);
                        }
                    }
                    Err(Misfit::Duplicate) => prop_assert!(covered.iter().all(|count| *count == 1)),
                    Err(Misfit::Overlap) => {}
                    Err(Misfit::TooMany) => prop_assert!(false, "60 are not too many"),
                }
                prop_assert!(ends.len() <= 1);
                let is_complete = ends.first().is_some_and(|end| {
                    bytes[..*end].iter().all(|count| *count == 1)
                        && bytes[*end..].iter().all(|count| *count == 0)
                });
                prop_assert_eq!(coverage.is_complete(), is_complete);
            }
        }
    }
}
