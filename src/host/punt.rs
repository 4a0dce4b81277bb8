//! The host path: frames that only userspace could tell are the router's own are handed to its
//! kernel, which receives them as if on the interface they came in by.
//!
//! One TAP interface for each NIC, named `nwk` and the NIC's index, and a small BPF program on it
//! that moves what is written to the TAP to the NIC's ingress.

use std::fs;
use std::io;

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::netlink::{Requests, list_requests};
use super::view::View;
use crate::flow::PortId;
use crate::io::load::loaded;
use crate::io::tap::Tap;
use crate::io::xdp::program::chain;

/// The way to the kernel, for every interface. Workers share it.
pub struct Punt {
    /// By port.
    exits: Vec<Option<Exit>>,
}

/// The way to the kernel for the frames of one interface.
struct Exit {
    tap: Tap,
    /// The program is on the TAP as long as this is held.
    _program: Ebpf,
}

/// Why there is no way to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum PuntError {
    /// The kernel does not talk to us.
    #[error("cannot list or change interfaces over netlink: {0}")]
    Netlink(io::Error),
    /// The NIC is not there.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// The program is not on the TAP.
    #[error("cannot put the program on {interface} that leads to the kernel: {error}")]
    Program {
        /// The TAP.
        interface: String,
        /// What went wrong, down to the kernel's words.
        error: String,
    },
    /// The TAP cannot be made.
    #[error(
        "cannot make the TAP interface {interface}: {error}; it takes CAP_NET_ADMIN and /dev/net/tun \
         (modprobe tun), and no second natwerk"
    )]
    Tap {
        /// The TAP.
        interface: String,
        /// What the kernel said.
        error: io::Error,
    },
}

impl Punt {
    /// Makes a way to the kernel for each interface; what a process before left behind is removed.
    ///
    /// # Errors
    ///
    /// When any of them cannot be made; then none is left behind.
    pub fn open(ports: &[(PortId, String)]) -> Result<Self, PuntError> {
        let mut requests = Requests::open().map_err(PuntError::Netlink)?;
        let [links, ..] = list_requests();
        let mut view = View::default();
        for message in requests.list(links).map_err(PuntError::Netlink)? {
            view.apply(&message);
        }
        let count = ports.iter().map(|(port, _)| port.index() + 1).max().unwrap_or(0);
        let mut exits: Vec<Option<Exit>> = (0..count).map(|_| None).collect();
        for (port, name) in ports {
            let index = view.index_of(name).ok_or_else(|| PuntError::NoInterface(name.clone()))?;
            let exit = Exit::open(&mut requests, &view, index)?;
            if let Some(place) = exits.get_mut(port.index()) {
                *place = Some(exit);
            }
        }
        Ok(Self { exits })
    }

    /// Hands a frame that came in by `port` to the kernel, untagged and with its checksums
    /// finished. Never waits; returns whether the kernel took it.
    #[must_use]
    pub fn send(&self, port: PortId, frame: &[u8]) -> bool {
        let exit = self.exits.get(port.index()).and_then(Option::as_ref);
        exit.is_some_and(|exit| exit.tap.write(frame).is_ok())
    }
}

impl Exit {
    fn open(requests: &mut Requests, view: &View, index: u32) -> Result<Self, PuntError> {
        let interface = format!("nwk{index}");
        if let Some(stale) = view.index_of(&interface) {
            let mut message = LinkMessage::default();
            message.header.index = stale;
            let message = RouteNetlinkMessage::DelLink(message);
            requests.carry_out(message, 0).map_err(PuntError::Netlink)?;
        }
        let tap = Tap::open(&interface)
            .map_err(|error| PuntError::Tap { interface: interface.clone(), error })?;
        let program = attach(&interface, index)
            .map_err(|error| PuntError::Program { interface: interface.clone(), error })?;
        // The kernel is to say nothing of its own on it. Without IPv6 there is no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1");
        requests.carry_out(switch_on(&interface), 0).map_err(PuntError::Netlink)?;
        Ok(Self { tap, _program: program })
    }
}

/// Loads the program for the NIC `index` and puts it on the ingress of `interface`.
fn attach(interface: &str, index: u32) -> Result<Ebpf, String> {
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/punt.bpf.o"));
    let mut loader = EbpfLoader::new();
    loader.override_global("interface_index", &index, true);
    let mut program = loader.load(object).map_err(|error: EbpfError| chain(&error))?;
    let found = program.program_mut("punt").ok_or("the object has no program")?;
    let classifier: &mut SchedClassifier =
        found.try_into().map_err(|error: ProgramError| chain(&error))?;
    loaded(|| classifier.load()).map_err(|error| chain(&error))?;
    // Kernels before 6.6 attach to a queueing discipline, which has to be there; a new interface has
    // none, and one that has it already is as good.
    let _ = aya::programs::tc::qdisc_add_clsact(interface);
    classifier.attach(interface, TcAttachType::Ingress).map_err(|error| chain(&error))?;
    Ok(program)
}

fn switch_on(interface: &str) -> RouteNetlinkMessage {
    let flags = LinkFlags::Up | LinkFlags::Noarp;
    let mut message = LinkMessage::default();
    message.header.flags = flags;
    message.header.change_mask = flags;
    message.attributes = vec![LinkAttribute::IfName(interface.to_owned())];
    RouteNetlinkMessage::SetLink(message)
}
