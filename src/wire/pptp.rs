//! What PPTP shows of its calls (RFC 2637): the reply that connects one, and the call that a packet of
//! enhanced GRE belongs to. Read only: nothing of it is ever changed.

use crate::wire::parse::Parsed;

/// The port of control connections.
pub const CONTROL_PORT: u16 = 1723;

/// The numbers that both ends gave a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    /// What the server is sent GRE with.
    pub server: u16,
    /// What the client is sent GRE with.
    pub client: u16,
}

/// The call that a TCP segment from a server connects: an Outgoing-Call-Reply (section 2.8) at its start.
#[must_use]
pub fn connected_call(frame: &[u8], parsed: &Parsed) -> Option<Call> {
    let segment = frame.get(usize::from(parsed.transport)..usize::from(parsed.end))?;
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let message = segment.get(header..)?;
    let is_reply = word(message, 2)? == CONTROL_MESSAGE
        && (word(message, 4)?, word(message, 6)?) == MAGIC_COOKIE
        && word(message, 8)? == OUTGOING_CALL_REPLY
        && *message.get(16)? == CONNECTED;
    is_reply.then_some(Call { server: word(message, 12)?, client: word(message, 14)? })
}

/// The receiver's number of the call that a packet of enhanced GRE belongs to (section 4.1).
#[must_use]
pub fn call_id(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    let header = frame.get(usize::from(parsed.transport)..usize::from(parsed.end))?;
    let is_enhanced =
        word(header, 0)? & (KEY_PRESENT | VERSION) == KEY_PRESENT | 1 && word(header, 2)? == PPP;
    is_enhanced.then_some(word(header, 6)?)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

const CONTROL_MESSAGE: u16 = 1;
const MAGIC_COOKIE: (u16, u16) = (0x1a2b, 0x3c4d);
const OUTGOING_CALL_REPLY: u16 = 8;
const CONNECTED: u8 = 1;
const KEY_PRESENT: u16 = 0x2000;
const VERSION: u16 = 7;
const PPP: u16 = 0x880b;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Endpoint, Protocol};
    use crate::testing::packets::Packet;
    use crate::wire::parse::parse;

    fn reply(change: impl FnOnce(&mut Vec<u8>)) -> Option<Call> {
        let mut message = vec![0, 32, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 8, 0, 0, 1, 2, 3, 4, 1];
        message.resize(32, 0);
        change(&mut message);
        let (server, client) = ([198, 51, 100, 9], [203, 0, 113, 10]);
        let source = Endpoint::new(server.into(), CONTROL_PORT);
        let destination = Endpoint::new(client.into(), 4000);
        let frame = Packet::tcp(source, destination, 0x18, &[2, 4, 5, 180], &message).frame();
        connected_call(&frame, &parse(&frame).unwrap())
    }

    #[test]
    fn only_a_reply_that_connects_names_a_call() {
        assert_eq!(reply(|_| {}), Some(Call { server: 0x0102, client: 0x0304 }));
        assert_eq!(reply(|message| message[16] = 2), None, "refused");
        assert_eq!(reply(|message| message[9] = 7), None, "a request");
        assert_eq!(reply(|message| message[4] = 0), None, "no cookie");
        assert_eq!(reply(|message| message.truncate(16)), None, "cut off");
        assert_eq!(reply(Vec::clear), None, "no data");
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_too_short(data in prop::collection::vec(any::<u8>(), 0..40)) {
            let (server, client) = ([198, 51, 100, 9].into(), [203, 0, 113, 10].into());
            let frame = Packet::new(Protocol::GRE, server, client, data.clone()).frame();
            if let Ok(parsed) = parse(&frame) {
                let id = call_id(&frame, &parsed);
                prop_assert!(id.is_none() || data[2..4] == [0x88, 0x0b] && data[1] & 7 == 1);
            }
            reply(|message| *message = data);
        }
    }
}
