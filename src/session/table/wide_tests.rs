//! The table of IPv6 sessions against a plain map, and what the next process finds of it.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::flow::{Endpoint, Protocol, Realm};
use crate::session::adoption::Adoption;
use crate::session::entry::SessionKind;
use crate::testing::sessions::SEED;

fn session(number: u32) -> NewSession<Ipv6Addr> {
    // Addresses differ in one of their four halves each, so that every half counts.
    let base = [0x2001_0db8_0001_u128 << 80 | 1, 0x2001_0db8_0051_u128 << 80 | 2];
    let bit = |at: u32, shift: u32| u128::from(number >> at & 3) << shift;
    let source = base[0] ^ bit(0, 64) ^ bit(2, 5);
    let destination = base[1] ^ bit(4, 100) ^ bit(6, 20);
    let initiator = FlowKey {
        realm: Realm::from_raw((number >> 10 & 1) as u16 + 1),
        protocol: if number & 0x800 == 0 { Protocol::TCP } else { Protocol::ICMPV6 },
        source: Endpoint::new(Ipv6Addr::from_bits(source), 1000 + (number >> 8 & 3) as u16),
        destination: Endpoint::new(Ipv6Addr::from_bits(destination), 443),
    };
    NewSession {
        initiator,
        responder: FlowKey { realm: Realm::External, ..initiator.reversed() },
        initiator_next_hop: NextHopId(number),
        responder_next_hop: NextHopId(number + 1),
        rule: RuleId(number + 2),
        generation: Generation(number as u16),
        kind: SessionKind::Routed,
        source_mapped: false,
        target_mapped: false,
    }
}

fn assert_holds(table: &Table<Ipv6Addr>, session: &NewSession<Ipv6Addr>) {
    for (key, next_hop) in [
        (session.initiator, session.initiator_next_hop),
        (session.responder, session.responder_next_hop),
    ] {
        let found = table.find(&key, table.hash(&key)).expect("both directions are there");
        assert_eq!(found.next_hop, next_hop);
        assert_eq!(table.view(found.index).expect("has a view").session, *session);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_table_of_ipv6_is_a_map(
        operations in prop::collection::vec((0_u32..4096, any::<bool>()), 1..200),
    ) {
        let table = Table::in_memory(100, SEED);
        let mut model: HashMap<FlowKey<Ipv6Addr>, NewSession<Ipv6Addr>> = HashMap::new();
        for (number, insert) in operations {
            let session = session(number);
            // Two realms may have the same responder.
            let taken = model.values().any(|other| other.responder == session.responder);
            if insert {
                let expected = if model.len() == 100 {
                    Err(InsertError::Full)
                } else if taken {
                    Err(InsertError::Exists)
                } else {
                    Ok(())
                };
                let inserted = table.insert(&session, Tick::from_ms(1000)).map(|_| ());
                prop_assert_eq!(inserted, expected);
                if inserted.is_ok() {
                    model.insert(session.initiator, session);
                }
            } else {
                let found = table.find(&session.initiator, table.hash(&session.initiator));
                let removed = found.and_then(|it| table.remove(it.index, &session.initiator));
                prop_assert_eq!(removed.is_some(), model.remove(&session.initiator).is_some());
            }
            prop_assert_eq!(table.len() as usize, model.len());
        }
        model.values().for_each(|session| assert_holds(&table, session));
        let (mut cursor, mut seen) = (0, 0);
        table.walk(&mut cursor, table.slots(), |view| {
            assert_eq!(model.get(&view.session.initiator), Some(&view.session));
            seen += 1;
        });
        prop_assert_eq!(seen, model.len());
    }
}

#[test]
fn the_next_process_takes_ipv6_sessions_over() {
    let folder = tempfile::tempdir().expect("a place for files");
    let path = folder.path().join(crate::session::adoption::REGION_FILE_IPV6);
    let sessions: Vec<_> = (0..200).map(|number| session(number * 16 % 1024)).collect();
    let (table, adoption) = Table::open(&path, 1000, SEED).expect("a new one");
    assert_eq!(adoption, Adoption::Fresh);
    let mut kept = Vec::new();
    for session in sessions {
        if table.insert(&session, Tick::ZERO).is_ok() {
            kept.push(session);
        }
    }
    assert!(kept.len() > 32);
    drop(table);
    for sessions_max in [1000, 2000] {
        let (table, adoption) = Table::open(&path, sessions_max, [0; 4]).expect("the same");
        let count = u32::try_from(kept.len()).expect("few");
        assert_eq!(
            adoption,
            Adoption::Adopted { sessions: count, repaired: 0, dropped: 0, closed: true }
        );
        kept.iter().for_each(|session| assert_holds(&table, session));
    }
    let narrow = Table::<Ipv4Addr>::open(&path, 1000, SEED).err().expect("another format");
    assert!(narrow.to_string().contains("keeps sessions in another way"), "{narrow}");
}

#[test]
fn an_entry_of_ipv6_takes_two_lines_and_one_of_ipv4_one() {
    assert_eq!(size_of::<Entry>(), 64);
    assert_eq!(size_of::<Entry<Ipv6Addr>>(), 128);
}

#[test]
fn ipv6_keys_spread_whatever_half_they_differ_in() {
    let table: Table<Ipv6Addr> = Table::in_memory(100, SEED);
    let mut counts = [0_u32; 64];
    for number in 0..4096 {
        counts[table.hash(&session(number).initiator).below(64) as usize] += 1;
    }
    // 64 on average; nine standard deviations.
    assert!(counts.iter().all(|count| (1..136).contains(count)), "{counts:?}");
}
