//! ARP requests of our own on their way, whatever is around them on the wire: nothing, a tag, two
//! tags, or VXLAN to every VTEP of the network.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use super::arp::{ArpSocket, request};
use crate::flow::{Mac, PortId};
use crate::next_hop::stations::Stations;
use crate::policy::encapsulation::Encapsulations;
use crate::rules::set::Vxlan;
use crate::wire::vxlan;

/// A request to be sent: who asks for whom on which side and tag, and which station is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The interface, or a side of it.
    pub port: PortId,
    /// The tag, or what stands in for it.
    pub vlan: u16,
    /// Who asks; unspecified for a probe.
    pub sender: Ipv4Addr,
    /// Who is asked for.
    pub target: Ipv4Addr,
    /// The station that is asked; none for all.
    pub destination: Option<Mac>,
}

impl Request {
    /// Sends the request over the socket of its interface.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn send(
        &self,
        socket: &ArpSocket,
        encapsulations: &Encapsulations,
        stations: &Stations,
    ) -> io::Result<()> {
        if !self.port.is_encapsulated() {
            return socket.send(&self.frame(socket.mac(), self.vlan));
        }
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        if self.port.is_vxlan() {
            let network = encapsulations.vxlan(self.vlan).ok_or_else(gone)?;
            return self.send_to_vteps(&self.frame(socket.mac(), 0), network, stations);
        }
        let tags = encapsulations.tags(self.vlan).ok_or_else(gone)?;
        let mut frame = self.frame(socket.mac(), tags.inner).to_vec();
        let [a, b] = tags.outer_type.to_be_bytes();
        let [c, d] = tags.outer.to_be_bytes();
        frame.splice(12..12, [a, b, c, d]);
        socket.send(&frame)
    }

    fn frame(&self, mac: Mac, vlan: u16) -> [u8; 60] {
        let destination = self.destination.unwrap_or(Mac::BROADCAST);
        request(mac, vlan, self.sender, self.target, destination)
    }

    /// The kernel finds the way to each VTEP; natwerk's address there is its own.
    fn send_to_vteps(&self, frame: &[u8], network: &Vxlan, stations: &Stations) -> io::Result<()> {
        let now = stations.latest();
        let known = self.destination.and_then(|mac| stations.find(self.vlan, mac, now));
        let mut remotes: Vec<Ipv4Addr> = known.into_iter().collect();
        if remotes.is_empty() {
            remotes.clone_from(&network.remotes);
            if network.learning {
                stations.for_each_remote(self.vlan, now, |remote| remotes.push(remote));
            }
            remotes.sort_unstable();
            remotes.dedup();
        }
        let socket = UdpSocket::bind((network.local, 0))?;
        socket.set_nonblocking(true)?;
        let payload = vxlan::payload(network.vni, frame);
        let mut result = Ok(());
        for remote in remotes {
            // One VTEP that cannot be reached must not keep the request from the others.
            if let Err(error) = socket.send_to(&payload, (remote, vxlan::PORT)) {
                result = Err(error);
            }
        }
        result
    }
}
