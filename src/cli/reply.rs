//! The reply to a packet, both in the packet language.

/// What whoever got `packet` answers, if a packet of this kind has an answer.
#[must_use]
pub fn to(packet: &str) -> Option<String> {
    let mut words = packet.split_whitespace();
    let protocol = words.next()?;
    let source = words.next()?;
    let destination = words.nth(1)?;
    let rest: Vec<&str> = words.collect();
    let says = match (protocol, rest.as_slice()) {
        // Other parts of a datagram are no question.
        (
            _,
            [.., "fragment", "ttl", _, "length", _] | [.., "fragment", "ttl", _, "length", _, "df"],
        ) => return None,
        ("tcp", [flags, ..]) => {
            let has = |flag| flags.trim_matches(['[', ']']).split(',').any(|it| it == flag);
            match (has("rst"), has("syn") && !has("ack")) {
                (true, _) => return None,
                (false, true) => " [syn,ack]".to_owned(),
                (false, false) => " [ack]".to_owned(),
            }
        }
        ("icmp" | "icmpv6", ["echo-request", "id", id, ..]) => format!(" echo-reply id {id}"),
        ("icmp", ["timestamp-request", "id", id, ..]) => format!(" timestamp-reply id {id}"),
        ("icmp" | "icmpv6", _) => return None,
        _ => String::new(),
    };
    Some(format!("{protocol} {destination} > {source}{says}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_an_answer_and_an_answer_to_a_query_has_none() {
        for (packet, reply) in [
            (
                "tcp 198.51.100.9:5000 > 10.1.1.5:22 [syn] ttl 63 length 40",
                Some("tcp 10.1.1.5:22 > 198.51.100.9:5000 [syn,ack]"),
            ),
            (
                "tcp 1.1.1.1:1 > 2.2.2.2:2 [syn,ack] ttl 1 length 40",
                Some("tcp 2.2.2.2:2 > 1.1.1.1:1 [ack]"),
            ),
            ("tcp 1.1.1.1:1 > 2.2.2.2:2 [rst,ack] ttl 1 length 40", None),
            (
                "udp [2001:db8::1]:1 > [2001:db8::2]:2 ttl 1 length 48",
                Some("udp [2001:db8::2]:2 > [2001:db8::1]:1"),
            ),
            (
                "icmp 1.1.1.1 > 2.2.2.2 echo-request id 7 ttl 1 length 28",
                Some("icmp 2.2.2.2 > 1.1.1.1 echo-reply id 7"),
            ),
            ("icmp 1.1.1.1 > 2.2.2.2 echo-reply id 7 ttl 1 length 28", None),
            (
                "icmp 1.1.1.1 > 2.2.2.2 port-unreachable (udp 2.2.2.2:1 > 3.3.3.3:2) ttl 1 length 56",
                None,
            ),
            ("gre 1.1.1.1 > 2.2.2.2 ttl 1 length 28", Some("gre 2.2.2.2 > 1.1.1.1")),
            ("udp 1.1.1.1:1 > 2.2.2.2:2 first fragment ttl 1 length 28", None),
        ] {
            assert_eq!(to(packet).as_deref(), reply, "{packet}");
        }
    }
}
