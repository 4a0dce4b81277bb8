//! Rule changes: one thing is different afterwards, or several.

use natwerk::flow::Protocol;

use crate::random::Random;
use crate::world::{Filtering, Forward, Line, Public, Static, World, ip, public};

/// `world` after a few changes.
pub fn changed(world: &World, random: &mut Random) -> World {
    let mut world = world.clone();
    for _ in 0..=random.below(3) {
        change(&mut world, random);
    }
    world
}

fn change(world: &mut World, random: &mut Random) {
    match random.below(16) {
        0 => {
            let network = random.below(world.networks.len());
            let network = &mut world.networks[network];
            network.egress_open = !network.egress_open;
        }
        1 => {
            let network = random.below(world.networks.len());
            let line = filter_line(random);
            toggle(&mut world.networks[network].egress, line, random);
        }
        2 | 3 => {
            let number = random.below(world.publics.len());
            let line = filter_line(random);
            toggle(&mut world.publics[number].firewall, line, random);
        }
        4 => {
            let number = random.below(world.publics.len());
            let address: &mut Public = &mut world.publics[number];
            address.open = !address.open;
            address.echo = random.pick(&[None, Some(true), Some(false)]);
        }
        5 => {
            let number = random.below(world.forwards.len());
            let Forward { network, guest, .. } = &mut world.forwards[number];
            let [a, b, c, _] = world.networks[*network].gateway.octets();
            let other = random.pick(&[Some(ip(a, b, c, 5)), Some(ip(a, b, c, 7)), None]);
            *guest = other;
        }
        6 => {
            let number = random.below(world.forwards.len());
            let sources = &mut world.forwards[number].sources;
            *sources =
                if sources.is_empty() { vec![(ip(198, 51, 100, 0), 30)] } else { Vec::new() };
        }
        7 => move_static(world, random),
        8 => {
            let number = random.below(world.balancers.len());
            let rule = &mut world.balancers[number];
            rule.algorithm = random.pick(&["round-robin", "least-connections", "source"]);
            let member = random.below(rule.members.len());
            rule.members[member].1 = random.pick(&[0, 1, 3]);
        }
        9 => {
            let pools = [
                vec![],
                vec![public(10)],
                vec![public(14), public(15)],
                vec![public(15)],
                vec![public(14), public(10)],
            ];
            let network = random.below(world.networks.len());
            world.networks[network].pool = pools[random.below(pools.len())].clone();
        }
        10 => {
            let network = random.below(world.networks.len());
            let network = &mut world.networks[network];
            network.ports =
                random.pick(&[(1, 65535), (2042, 2053), (2046, 2049), (30_000, 30_999)]);
            network.overload = random.chance(60);
        }
        11 => {
            let network = random.below(world.networks.len());
            let network = &mut world.networks[network];
            network.hairpinning = !network.hairpinning;
        }
        12 => {
            let network = random.below(world.networks.len());
            let network = &mut world.networks[network];
            network.endpoint_independent = !network.endpoint_independent;
        }
        13 => {
            let network = random.below(world.networks.len());
            world.networks[network].filtering =
                random.pick(&[Filtering::Address, Filtering::AddressAndPort, Filtering::Nobody]);
        }
        14 => toggle_forward(world, random),
        _ => {
            let network = random.below(world.networks.len());
            world.networks[network].sessions_max = random.pick(&[3, 20, 40]);
        }
    }
}

/// Takes a forward away, or puts one where dynamic mappings are wont to be.
fn toggle_forward(world: &mut World, random: &mut Random) {
    let port = 4000 + u16::try_from(random.below(4)).expect("small");
    let last = world.forwards.len() - 1;
    let overlaps = |rule: &Forward| rule.ports == (port, port);
    if world.forwards.iter().any(overlaps) {
        world.forwards.retain(|rule| !overlaps(rule));
    } else {
        world.forwards.push(Forward {
            public: public(10),
            protocol: random.pick(&[Protocol::TCP, Protocol::UDP]),
            ports: (port, port),
            guest_port: random.pick(&[port, 7000]),
            network: 0,
            guest: Some(ip(10, 1, 1, 5)),
            ..world.forwards[last].clone()
        });
    }
}

fn move_static(world: &mut World, random: &mut Random) {
    let number = random.below(world.statics.len());
    let rule: &mut Static = &mut world.statics[number];
    rule.guest = random.pick(&[Some(ip(10, 1, 1, 6)), Some(ip(10, 1, 1, 7)), None]);
}

fn toggle(lines: &mut Vec<Line>, line: Line, random: &mut Random) {
    if lines.len() > 5 || !lines.is_empty() && random.chance(50) {
        lines.remove(random.below(lines.len()));
    } else {
        lines.insert(random.below(lines.len() + 1), line);
    }
}

fn filter_line(random: &mut Random) -> Line {
    let protocol = random.pick(&[
        None,
        Some(Protocol::TCP),
        Some(Protocol::UDP),
        Some(Protocol::UDP),
        Some(Protocol::ICMP),
        Some(Protocol::GRE),
    ]);
    let ported = matches!(protocol, Some(Protocol::TCP | Protocol::UDP));
    let ports = [None, Some((80, 443)), Some((53, 53)), Some((4000, 7001)), Some((22, 5003))];
    let types = [None, Some(8), Some(13)];
    let ends = [
        vec![],
        vec![(ip(198, 51, 100, 0), 30)],
        vec![(ip(10, 1, 0, 0), 16)],
        vec![(ip(198, 51, 100, 3), 32), (ip(10, 1, 1, 5), 32)],
    ];
    Line {
        allow: random.chance(60),
        protocol,
        ports: random.pick(&ports).filter(|_| ported),
        icmp_type: random.pick(&types).filter(|_| protocol == Some(Protocol::ICMP)),
        ends: ends[random.below(ends.len())].clone(),
    }
}
