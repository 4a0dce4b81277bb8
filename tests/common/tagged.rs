//! Guests under a tag, made by hand, because not every kernel has VLAN interfaces.

use std::net::Ipv4Addr;
use std::time::Duration;

use natwerk::flow::Mac;
use natwerk::io::packet::PacketSocket;
use natwerk::io::xdp::device::Device;
use natwerk::testing::packets::Packet;
use natwerk::wire::arp::{Arp, ArpOperation};
use natwerk::wire::parse::{Kind, parse};

use super::{Namespace, eventually};

/// A guest behind the device `g0`.
pub struct TaggedGuest {
    socket: PacketSocket,
    vlan: u16,
    mac: Mac,
    address: Ipv4Addr,
}

impl TaggedGuest {
    /// The guest of 10.1.1.0/24 whose address ends in `last`, under `vlan`.
    pub fn new(namespace: &Namespace, vlan: u16, last: u8) -> Self {
        let every_protocol = 3;
        let socket = namespace.enter(|| {
            let device = Device::find("g0").expect("the device");
            PacketSocket::open(device.index, every_protocol).expect("a socket")
        });
        let address = Ipv4Addr::new(10, 1, 1, last);
        Self {
            socket,
            vlan,
            mac: Mac([2, 0, 0, vlan.to_be_bytes()[0], vlan.to_be_bytes()[1], last]),
            address,
        }
    }

    /// Its address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Sends an ARP message.
    pub fn say(&self, operation: ArpOperation, target: Ipv4Addr, to: Mac) {
        let message = Arp {
            vlan: self.vlan,
            operation,
            sender_mac: self.mac,
            sender: self.address,
            target_mac: to,
            target,
        };
        let mut frame = [0; 60];
        natwerk::wire::arp::write(&mut frame, self.mac, to, &message).expect("it fits");
        self.socket.send(&frame).expect("sent");
    }

    /// What the next frame for this guest is that `wanted` knows. Others' are not seen, because
    /// guests have link addresses of their own.
    pub fn hears<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let mut buffer = [0; 2048];
        let mut found = None;
        eventually(Duration::from_secs(3), || {
            while let Ok(Some(received)) = self.socket.receive(&mut buffer) {
                let frame = &buffer[..received.length];
                let for_us = frame[..6] == self.mac.0 || frame[..6] == Mac::BROADCAST.0;
                found = found.take().or_else(|| for_us.then(|| wanted(frame)).flatten());
            }
            found.is_some()
        });
        found
    }

    /// The link address of the gateway, which natwerk itself has to tell.
    pub fn gateway(&self) -> Option<Mac> {
        self.say(ArpOperation::Request, GATEWAY, Mac::BROADCAST);
        self.hears(|frame| {
            let arp = natwerk::wire::arp::parse(frame)?;
            let told = arp.operation == ArpOperation::Reply && arp.sender == GATEWAY;
            told.then_some(arp.sender_mac)
        })
    }

    /// Whether an echo request to `address` is answered.
    pub fn pings(&self, gateway: Mac, address: Ipv4Addr) -> bool {
        let tag = Some(self.vlan);
        let packet = Packet::echo(self.address, address, 8, 77, b"tagged");
        let mut request = Packet { tag, ..packet }.frame();
        request[..6].copy_from_slice(&gateway.0);
        request[6..12].copy_from_slice(&self.mac.0);
        self.socket.send(&request).expect("sent");
        let answered = self.hears(|frame| {
            let packet = parse(frame).ok()?;
            let is_reply = packet.kind == Kind::IcmpQuery { icmp_type: 0 };
            (is_reply && packet.source.address == address).then_some(())
        });
        answered.is_some()
    }
}

/// The gateway of every network that has such guests.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
