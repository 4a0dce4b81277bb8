//! TCP as a router in the middle may believe it (RFC 5382, 5961, 7857), without window scaling.

/// What one direction has shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    pub syn: bool,
    /// It acknowledged the other's SYN.
    pub acknowledged: bool,
    pub fin: bool,
    pub rst: bool,
    /// One past the last sequence number it has sent.
    pub next: u32,
}

/// A segment: SYN and FIN take a sequence number each.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub length: u32,
}

/// What a segment does to a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It counts.
    Counts,
    /// It passes and changes nothing.
    Nothing,
    /// It opens a closed connection anew.
    Opens,
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// The largest window without scaling.
const WINDOW: u32 = 65_535;

pub fn is_established(both: &[Tcp; 2]) -> bool {
    both.iter().all(|one| one.syn && one.acknowledged) && !is_closed(both)
}

pub fn is_closed(both: &[Tcp; 2]) -> bool {
    both.iter().any(|one| one.rst) || both.iter().all(|one| one.fin)
}

/// Reads the TCP header at the start of `bytes`.
pub fn read(bytes: &[u8]) -> Segment {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let flags = bytes[13];
    let data = bytes.len() - usize::from(bytes[12] >> 4) * 4;
    let takes = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let length = u32::try_from(data).expect("short") + takes;
    Segment { flags, sequence: word(4), acknowledgement: word(8), length }
}

/// Takes a segment of `direction` in.
pub fn follow(both: &mut [Tcp; 2], direction: usize, segment: &Segment) -> Effect {
    let (own, peer) = (both[direction], both[1 - direction]);
    let (closed, established) = (is_closed(both), is_established(both));
    let end = segment.sequence.wrapping_add(segment.length);
    let has_ack = segment.flags & ACK != 0;
    let acknowledges_all = has_ack && peer.syn && segment.acknowledgement == peer.next;
    let close_to = |number: u32, limit: u32| limit.wrapping_sub(number) <= WINDOW;
    let mut new = own;
    let believed = match segment.flags & (SYN | FIN | RST) {
        SYN if closed && !has_ack => return Effect::Opens,
        SYN if closed => false,
        SYN if established || own.acknowledged && !has_ack => own.syn && end == own.next,
        SYN => {
            let again = own.syn && close_to(end, own.next);
            new = Tcp { syn: true, next: if again { own.next } else { end }, ..Tcp::default() };
            new.acknowledged = has_ack;
            !has_ack || peer.syn && close_to(segment.acknowledgement, peer.next)
        }
        RST => {
            new.rst = true;
            let exact = own.syn && segment.sequence == own.next;
            !own.rst && (exact || !own.acknowledged && acknowledges_all)
        }
        FIN => {
            new = Tcp { fin: true, next: end, ..own };
            new.acknowledged |= own.syn && acknowledges_all;
            own.syn
                && has_ack
                && close_to(own.next, end)
                && close_to(segment.acknowledgement, peer.next)
        }
        0 if !own.syn => false,
        0 => {
            let first = !own.acknowledged && acknowledges_all;
            if first || close_to(own.next, end) {
                new.next = end;
            }
            new.acknowledged |= first;
            true
        }
        _ => false,
    };
    if !believed {
        return Effect::Nothing;
    }
    both[direction] = new;
    Effect::Counts
}

/// Whether a quoted sequence number can be of something the direction sent of late.
pub fn is_plausible(one: &Tcp, sequence: u32) -> bool {
    one.syn && one.next.wrapping_sub(sequence) <= WINDOW
}
