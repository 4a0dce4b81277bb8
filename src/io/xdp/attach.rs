//! A device's XDP hook: who holds it, taking it, and letting go of it.
//!
//! natwerk attaches over netlink and not by a BPF link, so that its program outlives it when it is
//! killed: without sockets it drops what the dataplane should have had. A kernel that got it instead
//! would forward it untranslated, or answer a guest's connection with a reset before the next
//! natwerk can go on with it. The next one replaces the program in one step.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya::programs::{loaded_links, loaded_programs};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A program on a device's XDP hook.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Occupant {
    /// The kernel's number of the program.
    pub id: u32,
    /// Its name, if the kernel tells.
    pub name: String,
}

/// The program on the hook of the device `index`.
pub(super) fn occupant(index: u32) -> io::Result<Option<Occupant>> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    let reply = exchange(RouteNetlinkMessage::GetLink(question), NLM_F_REQUEST)?;
    let Some(RouteNetlinkMessage::NewLink(link)) = reply else { return Ok(None) };
    let xdp = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(attributes) => Some(attributes),
        _ => None,
    });
    let id = xdp.flatten().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    Ok(id.map(|id| Occupant { id, name: program_name(id) }))
}

/// Puts `program` on the hook of the device `index`. In place of `former`, in one step, if the
/// kernel can; if nobody should be there, nobody is replaced.
pub(super) fn put(
    index: u32,
    program: BorrowedFd<'_>,
    mode: u32,
    former: Option<u32>,
) -> io::Result<()> {
    let program = program.as_raw_fd();
    let Some(former) = former else {
        return set(index, program, mode | XDP_FLAGS_UPDATE_IF_NOEXIST);
    };
    set(index, program, mode).or_else(|_| {
        // In another mode, or by a link.
        evict(index, former)?;
        set(index, program, mode | XDP_FLAGS_UPDATE_IF_NOEXIST)
    })
}

/// Takes the program `id` off the hook of the device `index`, however it was attached. Nothing
/// happens if it is not there.
pub(super) fn evict(index: u32, id: u32) -> io::Result<()> {
    if occupant(index)?.is_none_or(|occupant| occupant.id != id) {
        return Ok(());
    }
    if set(index, NO_PROGRAM, 0).is_ok() {
        return Ok(());
    }
    for link in loaded_links().filter_map(Result::ok) {
        if link.program_id() == id {
            detach_link(link.id())?;
        }
    }
    Ok(())
}

fn set(index: u32, program: i32, flags: u32) -> io::Result<()> {
    let mut order = LinkMessage::default();
    order.header.index = index;
    let xdp = vec![LinkXdp::Fd(program), LinkXdp::Flags(flags)];
    order.attributes.push(LinkAttribute::Xdp(xdp));
    exchange(RouteNetlinkMessage::SetLink(order), NLM_F_REQUEST | NLM_F_ACK).map(|_| ())
}

fn program_name(id: u32) -> String {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id);
    program.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_default()
}

/// Sends one request and reads its one reply; none for a mere acknowledgement.
pub(super) fn exchange(
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Option<RouteNetlinkMessage>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match reply.payload {
        NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(None),
    }
}

fn detach_link(id: u32) -> io::Result<()> {
    let descriptor = bpf(BPF_LINK_GET_FD_BY_ID, id)?;
    // SAFETY: the kernel just opened this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    bpf(BPF_LINK_DETACH, link.as_raw_fd().cast_unsigned()).map(|_| ())
}

/// A `bpf` command whose attributes are one number.
fn bpf(command: libc::c_int, number: u32) -> io::Result<i32> {
    let attributes = [number, 0, 0, 0];
    // SAFETY: both commands read at most the sixteen bytes given, and write nothing.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes))
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// In place of a program's descriptor: none.
const NO_PROGRAM: i32 = -1;
// linux/if_link.h.
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 2;
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 4;
// linux/bpf.h.
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_DETACH: libc::c_int = 34;
