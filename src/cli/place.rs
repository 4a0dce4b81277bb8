//! Where frames come in and leave, as people write it: `eth0`, `eth0.100`, `eth0.200.100` under two tags, `eth0/5001`
//! inside VXLAN.

use std::net::Ipv4Addr;

use crate::cli::offline;
use crate::cli::output::Failure;
use crate::config::Config;
use crate::flow::{Mac, PortId};
use crate::frame::FrameBuffer;
use crate::policy::Policy;
use crate::policy::encapsulation::Encapsulations;
use crate::wire::vxlan::Envelope;
use crate::wire::{parse, tags, vxlan};

/// The interface and the tag that `text` names: under two tags and inside VXLAN, the side of the interface and
/// the stand-in.
///
/// # Errors
/// When the configuration has no such interface, the VLAN is none, or no network is under these tags or has this VNI.
pub fn attachment(
    text: &str,
    config: &Config,
    encapsulations: &Encapsulations,
) -> Result<(PortId, u16), Failure> {
    if offline::port(text, config).is_none()
        && let Some((port, name)) = encapsulated(text, config)
    {
        return encapsulations.named(port, &name).ok_or_else(|| {
            Failure::refused(format!("no network is at `{text}`"))
                .hint("`natwerk show networks` has the tags and VNIs of networks")
        });
    }
    tagged(text, config)
}

/// The interface and the VLAN that `IFACE[.VLAN]` names.
///
/// # Errors
/// When the configuration has no such interface, or the VLAN is none.
pub fn tagged(text: &str, config: &Config) -> Result<(PortId, u16), Failure> {
    if let Some(port) = offline::port(text, config) {
        return Ok((port, 0));
    }
    let (name, vlan) = text.rsplit_once('.').unwrap_or((text, "0"));
    match (offline::port(name, config), vlan.parse()) {
        (Some(port), Ok(vlan)) if vlan < 4095 => Ok((port, vlan)),
        (Some(_), _) => Err(Failure::refused(format!("`{vlan}` is not a VLAN from 1 to 4094"))),
        (None, _) => {
            let names = config.interfaces.iter().map(|interface| interface.name.as_str());
            let names: Vec<_> = names.collect();
            Err(Failure::refused(format!("there is no interface `{name}`"))
                .hint(format!("there is {}", names.join(", "))))
        }
    }
}

/// The interface of a place under two tags or inside VXLAN, and what [`Encapsulations::describe`] calls the rest.
fn encapsulated(text: &str, config: &Config) -> Option<(PortId, String)> {
    if let Some((name, vni)) = text.split_once('/') {
        return Some((offline::port(name, config)?, format!("VNI {vni}")));
    }
    let (rest, inner) = text.rsplit_once('.')?;
    // A VLAN of an interface that has a point in its name is one.
    if offline::port(rest, config).is_some() {
        return None;
    }
    let (name, outer) = rest.rsplit_once('.')?;
    Some((offline::port(name, config)?, format!("{outer}.{inner}")))
}

/// How a place is written.
#[must_use]
pub fn written(interface: &str, vlan: u16, encapsulation: Option<&str>) -> String {
    match (encapsulation.map(|name| (name, name.strip_prefix("VNI "))), vlan) {
        (Some((_, Some(vni))), _) => format!("{interface}/{vni}"),
        (Some((tags, None)), _) => format!("{interface}.{tags}"),
        (None, 0) => interface.to_owned(),
        (None, vlan) => format!("{interface}.{vlan}"),
    }
}

/// Puts on a frame what it has on the wire where it comes in; `router` is who it is for. None if there is no room for that.
pub fn enclose<B: FrameBuffer>(
    frame: &mut B,
    side: PortId,
    router: Mac,
    policy: &Policy,
) -> Option<()> {
    if !side.is_encapsulated() {
        return Some(());
    }
    let encapsulations = policy.encapsulations();
    let stand_in = tags::tag(frame.bytes())?;
    let Some(network) = encapsulations.vxlan(stand_in).filter(|_| side.is_vxlan()) else {
        return tags::push_outer(frame, &encapsulations.tags(stand_in)?);
    };
    tags::pop(frame)?;
    // Any other VTEP that takes part.
    let remote = network.remotes.first().copied();
    let neighbor = Ipv4Addr::from_bits(network.local.to_bits() ^ 1);
    let envelope = Envelope {
        destination: router,
        source: Mac([2, 9, 0, 0, 0, 2]),
        local: remote.unwrap_or(neighbor),
        remote: network.local,
        vni: network.vni,
    };
    vxlan::close(frame, &envelope)
}

/// The side and the tag, or stand-in, of a frame that leaves, and the frame with one tag at most.
#[must_use]
pub fn opened(port: PortId, frame: &[u8], policy: &Policy) -> (PortId, u16, Vec<u8>) {
    let encapsulations = policy.encapsulations();
    if let Some(double) = tags::double_tag(frame)
        && let Some(stand_in) = encapsulations.of_tags(port, double)
    {
        let inner = [frame.get(..12), frame.get(20..)].map(Option::unwrap_or_default).concat();
        return (port.double_tagged(), stand_in, inner);
    }
    let outer = parse::parse(frame);
    if let Ok(outer) = outer
        && encapsulations.is_vtep(port, outer.source.address)
        && let Ok(found) = vxlan::open(frame)
        && let Some(stand_in) = encapsulations.of_vni(port, found.vni)
    {
        let inner = frame.get(usize::from(found.inner)..usize::from(found.end));
        return (port.vxlan(), stand_in, inner.unwrap_or_default().to_vec());
    }
    (port, outer.map_or(0, |outer| outer.vlan), frame.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChecksumMode, Interface, Role};

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            role: Role::Guest,
            checksum: ChecksumMode::default(),
            kernel_vlans: Vec::new(),
        };
        let config =
            Config { interfaces: ["eth0", "bond0.5"].map(interface).into(), ..Config::default() };
        for (text, encapsulation) in [
            ("eth0.200.100", "200.100"),
            ("bond0.5.200.100", "200.100"),
            ("eth0/5001", "VNI 5001"),
            ("bond0.5/5001", "VNI 5001"),
        ] {
            let (port, name) = encapsulated(text, &config).unwrap();
            let interface = &config.interfaces[port.index()].name;
            assert_eq!((&*name, &*written(interface, 0, Some(&name))), (encapsulation, text));
        }
        for (text, port, vlan) in
            [("eth0", 0, 0), ("eth0.7", 0, 7), ("bond0.5", 1, 0), ("bond0.5.7", 1, 7)]
        {
            let place = attachment(text, &config, &Encapsulations::default()).unwrap();
            assert_eq!(place, (PortId(port), vlan));
            assert_eq!(written(&config.interfaces[usize::from(port)].name, vlan, None), text);
        }
        for unknown in
            ["eth9", "eth9/1", "eth9.1.2", "eth0.4095", "eth0.x", "eth0.1.2", "eth0/7", "eth0/"]
        {
            assert!(attachment(unknown, &config, &Encapsulations::default()).is_err(), "{unknown}");
        }
    }
}
