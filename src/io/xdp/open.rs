//! Opens everything that AF_XDP takes, in the order that works, or nothing.
//!
//! The programs are loaded and told what to go by. Then, for each mode that may be used, the best
//! first: bind the sockets of every worker, attach the programs, and ask each socket to send nothing. Some drivers
//! bind happily and fail only then, so a mode counts as got when that has worked.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{Socket, Umem};

use crate::config::XdpMode;
use crate::flow::PortId;
use crate::io::frame::{FramePool, HEADROOM, KERNEL_HEADROOM, Memory};
use crate::io::xdp::descriptor::Layout;
use crate::io::xdp::device::{Device, Queues};
use crate::io::xdp::feeder::Feeder;
use crate::io::xdp::open_error::OpenError;
use crate::io::xdp::options::{
    XDP_MAX_TX_SKB_BUDGET, XDP_OPTIONS, XDP_OPTIONS_ZEROCOPY, option, set_option,
};
use crate::io::xdp::program::{Program, ShortcutRoom};
use crate::io::xdp::program_fault::ProgramFault;
use crate::io::xdp::queues::{Queue, queues_of};
use crate::io::xdp::socket::{Rings, XdpPort};
use crate::io::xdp::steering::Steering;
use crate::io::{Lane, LanePort};

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The interfaces, with what their programs go by.
    pub interfaces: &'r [(PortId, Device, Steering)],
    /// How many workers share the queues: worker `w` of `n` gets queues `w`, `w + n`, `w + 2n` ...
    pub workers: usize,
    /// Chunks of frame memory per worker.
    pub frames: u32,
    /// The mode wanted.
    pub mode: XdpMode,
    /// The room for shortcuts on each interface, if there is to be any.
    pub shortcuts: Option<ShortcutRoom>,
    /// Whether veths get feeders, so that they need no XDP program.
    pub feeders: bool,
}

/// What was opened.
pub struct Opened {
    /// What each worker gets.
    pub lanes: Vec<LaneParts>,
    /// The program of each interface, in the order asked for.
    pub programs: Vec<Program>,
    /// What each interface got: never [`XdpMode::Auto`].
    pub modes: Vec<XdpMode>,
    /// The queues that each interface has now, with its program on it.
    pub queues: Vec<Queues>,
    /// The feeder of each interface, if it has one; sockets are bound to it.
    pub feeders: Vec<Option<Feeder>>,
}

/// The frame memory and bound sockets of one worker, on their way to its thread.
pub struct LaneParts {
    umem: Umem,
    base: usize,
    chunk_size: u32,
    frames: u32,
    fill_max: u32,
    sockets: Vec<BoundSocket>,
    layout: Layout,
}

struct BoundSocket {
    port: PortId,
    queue: u32,
    /// Whether the queue is the feeder's.
    is_fed: bool,
    rings: Rings,
}

/// How one attempt goes about it.
#[derive(Clone, Copy)]
struct Attempt<'f> {
    /// The feeder of each interface.
    feeders: &'f [Option<Feeder>],
    zero_copy: bool,
    in_driver: bool,
    /// Whether an interface whose driver has no XDP gets the generic one.
    or_skb: bool,
}

/// Opens everything, or nothing.
///
/// # Errors
/// With one sentence that says what stands in the way and what to do about it.
pub fn open(request: &Request<'_>) -> Result<Opened, OpenError> {
    let load = |shortcuts| Program::load(request.interfaces.len(), shortcuts);
    let mut programs = match load(request.shortcuts) {
        Err(fault) if request.shortcuts.is_some() => {
            tracing::warn!("no shortcuts: {fault}");
            load(None)?
        }
        decided => decided?,
    };
    for (program, (_, _, steering)) in programs.iter_mut().zip(request.interfaces) {
        program.apply(steering)?;
    }
    let none: Vec<_> = request.interfaces.iter().map(|_| None).collect();
    let zero_copy = Attempt { feeders: &none, zero_copy: true, in_driver: true, or_skb: false };
    let tries_zero_copy = matches!(request.mode, XdpMode::Auto | XdpMode::ZeroCopy);
    let zero_copied = match tries_zero_copy.then(|| attempt(request, &mut programs, zero_copy)) {
        Some(Err(error)) if request.mode == XdpMode::Auto && error.depends_on_mode() => {
            tracing::info!("no zero-copy: {error}");
            None
        }
        decided => decided.transpose()?,
    };
    let ((lanes, modes, queues), feeders) = match zero_copied {
        Some(got) => (got, none),
        None => {
            let feeders = feeders(request);
            let copy = Attempt {
                feeders: &feeders,
                zero_copy: false,
                in_driver: request.mode != XdpMode::Skb,
                or_skb: request.mode == XdpMode::Auto,
            };
            (attempt(request, &mut programs, copy)?, feeders)
        }
    };
    Ok(Opened { lanes, programs, modes, queues, feeders })
}

/// A feeder for each veth, if they are to have any. One that cannot be made leaves its interface to XDP.
fn feeders(request: &Request<'_>) -> Vec<Option<Feeder>> {
    let is_wanted = request.feeders && request.shortcuts.is_some() && request.mode != XdpMode::Skb;
    let feeder = |(_, device, _): &(PortId, Device, Steering)| {
        Feeder::remove_former(device);
        let made = (is_wanted && device.is_veth).then(|| Feeder::make(device))?;
        let say = |error: &io::Error| {
            tracing::warn!("{} needs its XDP program all the time: {error}", device.name);
        };
        made.inspect_err(say).ok()
    };
    request.interfaces.iter().map(feeder).collect()
}

type Attempted = (Vec<LaneParts>, Vec<XdpMode>, Vec<Queues>);

/// One attempt, on all queues that there are in the end: for an XDP program virtio-net adds some to transmit by,
/// on which frames then arrive, too.
fn attempt(
    request: &Request<'_>,
    programs: &mut [Program],
    attempt: Attempt<'_>,
) -> Result<Attempted, OpenError> {
    let (lanes, modes) = attempt_on(request, programs, attempt)?;
    let mut interfaces = request.interfaces.to_vec();
    for (_, device, _) in &mut interfaces {
        if let Ok(now) = Device::find(&device.name) {
            device.queues = now.queues;
        }
    }
    let queues = interfaces.iter().map(|(_, device, _)| device.queues).collect();
    if interfaces == request.interfaces {
        return Ok((lanes, modes, queues));
    }
    drop(lanes);
    let request = Request { interfaces: &interfaces, ..*request };
    let (lanes, modes) = attempt_on(&request, programs, attempt)?;
    Ok((lanes, modes, queues))
}

/// One attempt, on the queues that the interfaces are said to have.
fn attempt_on(
    request: &Request<'_>,
    programs: &mut [Program],
    attempt: Attempt<'_>,
) -> Result<(Vec<LaneParts>, Vec<XdpMode>), OpenError> {
    let layout = Layout::find().ok_or(OpenError::UnknownDescriptors)?;
    let chunk_size = chunk_size(request)?;
    let mut lanes = Vec::new();
    for worker in 0..request.workers {
        lanes.push(bind_patiently(request, worker, chunk_size, layout, attempt)?);
    }
    let mut modes = Vec::new();
    for (program, (port, device, _)) in programs.iter_mut().zip(request.interfaces) {
        for socket in lanes.iter().flat_map(|lane| &lane.sockets).filter(|it| it.port == *port) {
            match socket.is_fed {
                true => program.set_fed_socket(socket.queue, socket.rings.receive.fd())?,
                false => program.set_socket(socket.queue, socket.rings.receive.fd())?,
            }
        }
        modes.push(attach(program, device, attempt)?);
    }
    for socket in lanes.iter().flat_map(|lane| &lane.sockets) {
        probe(socket, request, attempt)?;
    }
    Ok((lanes, modes))
}

fn attach(
    program: &mut Program,
    device: &Device,
    attempt: Attempt<'_>,
) -> Result<XdpMode, ProgramFault> {
    match program.attach(device, attempt.in_driver) {
        Ok(()) if attempt.zero_copy => Ok(XdpMode::ZeroCopy),
        Ok(()) if attempt.in_driver => Ok(XdpMode::Copy),
        Ok(()) => Ok(XdpMode::Skb),
        Err(fault @ ProgramFault::Mode { .. }) if attempt.or_skb => {
            tracing::info!("generic XDP instead: {fault}");
            program.attach(device, false).map(|()| XdpMode::Skb)
        }
        Err(fault) => Err(fault),
    }
}

/// The chunk that holds a frame of every interface: 2,048 bytes or 4,096.
fn chunk_size(request: &Request<'_>) -> Result<u32, OpenError> {
    let overhead = HEADROOM as u32 + ETHERNET_OVERHEAD;
    let mut size = CHUNK_SMALL;
    for (_, device, _) in request.interfaces {
        if device.mtu > CHUNK_LARGE - overhead {
            return Err(OpenError::MtuTooLarge {
                interface: device.name.clone(),
                mtu: device.mtu,
                most: CHUNK_LARGE - overhead,
            });
        }
        if device.mtu > CHUNK_SMALL - overhead {
            size = CHUNK_LARGE;
        }
    }
    Ok(size)
}

/// Binds the sockets of a worker. The kernel takes its time to let go of closed ones, so queues
/// that are in use get a little patience.
fn bind_patiently(
    request: &Request<'_>,
    worker: usize,
    chunk_size: u32,
    layout: Layout,
    attempt: Attempt<'_>,
) -> Result<LaneParts, OpenError> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match bind(request, worker, chunk_size, layout, attempt) {
            Err(OpenError::Socket { error, .. })
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            decided => return decided,
        }
    }
}

fn bind(
    request: &Request<'_>,
    worker: usize,
    chunk_size: u32,
    layout: Layout,
    attempt: Attempt<'_>,
) -> Result<LaneParts, OpenError> {
    let queues = queues_of(request, worker, attempt.feeders);
    let share = request.frames / 4 * 3 / u32::try_from(queues.len().max(1)).unwrap_or(u32::MAX);
    let fill_max = share.clamp(RING_MIN, RECEIVE_RING_MAX);
    let ring_size = fill_max.next_power_of_two();
    let memory_fault = |error| OpenError::Memory { frames: request.frames, error };
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(chunk_size).map_err(io::Error::other).map_err(memory_fault)?)
        .frame_headroom((HEADROOM - KERNEL_HEADROOM) as u32)
        .fill_queue_size(ring(ring_size).map_err(memory_fault)?)
        .comp_queue_size(ring(TRANSMIT_RING).map_err(memory_fault)?)
        .build()
        .map_err(io::Error::other)
        .map_err(memory_fault)?;
    let count = request.frames.try_into().map_err(io::Error::other).map_err(memory_fault)?;
    // Reserved huge pages if there are any: fewer misses of the address cache.
    let (umem, descriptors) = Umem::new(umem_config, count, true)
        .or_else(|_| Umem::new(umem_config, count, false))
        .map_err(|error| memory_fault(told(&error)))?;
    let base = base(&umem, &descriptors);
    let mut sockets = Vec::new();
    for Queue { port, device, number: queue, is_fed } in queues {
        let fault = |error| OpenError::Socket {
            interface: device.name.clone(),
            queue,
            zero_copy: attempt.zero_copy,
            error,
        };
        let rings = bind_socket(&umem, device, queue, ring_size, attempt).map_err(fault)?;
        sockets.push(BoundSocket { port, queue, is_fed, rings });
    }
    Ok(LaneParts { umem, base, chunk_size, frames: request.frames, fill_max, sockets, layout })
}

fn bind_socket(
    umem: &Umem,
    device: &Device,
    queue: u32,
    receive_size: u32,
    attempt: Attempt<'_>,
) -> io::Result<Rings> {
    let name: Interface = device.name.parse().map_err(io::Error::other)?;
    let mode = if attempt.zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
    let config = SocketConfig::builder()
        .rx_queue_size(ring(receive_size)?)
        .tx_queue_size(ring(TRANSMIT_RING)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    // SAFETY: no program is loaded by libxdp (the flag above), and each queue of a device is bound
    // once.
    let made = unsafe { Socket::new(config, umem, &name, queue) };
    let (transmit, receive, rings) = made.map_err(|error| told(&error))?;
    let (fill, completion) = rings.ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
    let frames_per_kick = raise_transmit_budget(receive.fd().as_raw_fd());
    Ok(Rings { receive, transmit, fill, completion, transmit_size: TRANSMIT_RING, frames_per_kick })
}

/// Asks for more frames per wakeup in copy mode (Linux 6.17 and later). Returns what was got.
fn raise_transmit_budget(socket: RawFd) -> u32 {
    match set_option(socket, XDP_MAX_TX_SKB_BUDGET, TRANSMIT_BUDGET) {
        Ok(()) => TRANSMIT_BUDGET,
        Err(_) => TRANSMIT_BUDGET_DEFAULT,
    }
}

/// Asks the socket to send the nothing it has, and whether the mode is what was asked for.
fn probe(
    socket: &BoundSocket,
    request: &Request<'_>,
    attempt: Attempt<'_>,
) -> Result<(), OpenError> {
    let fault = |error| OpenError::Socket {
        interface: request
            .interfaces
            .iter()
            .find(|(port, _, _)| *port == socket.port)
            .map_or_else(String::new, |(_, device, _)| device.name.clone()),
        queue: socket.queue,
        zero_copy: attempt.zero_copy,
        error,
    };
    // "Later" and "the link is down" count as working.
    socket.rings.transmit.wakeup().map_err(fault)?;
    let options = option(socket.rings.receive.fd().as_raw_fd(), XDP_OPTIONS).map_err(fault)?;
    if (options & XDP_OPTIONS_ZEROCOPY != 0) != attempt.zero_copy {
        return Err(fault(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
    }
    Ok(())
}

impl LaneParts {
    /// The queues it serves.
    pub fn queues(&self) -> impl Iterator<Item = (PortId, u32)> {
        self.sockets.iter().map(|socket| (socket.port, socket.queue))
    }

    /// The lane, on the thread that will use it.
    #[must_use]
    pub fn into_lane(self) -> Lane<XdpPort> {
        let base = std::ptr::with_exposed_provenance_mut(self.base);
        let base = NonNull::new(base).expect("mapped memory does not start at zero");
        let memory = Memory::Umem(self.umem);
        // SAFETY: xsk-rs mapped `frames` chunks at `base`, zeroed, and keeps them as long as the
        // `Umem`; xsk-rs itself touches them only when asked to, and nobody asks.
        let pool = unsafe { FramePool::new(base, self.chunk_size as usize, self.frames, memory) };
        let (layout, fill_max) = (self.layout, self.fill_max);
        let ports = self.sockets.into_iter().map(|BoundSocket { port, queue, rings, .. }| {
            LanePort { port, queue, socket: XdpPort::new(pool.clone(), rings, layout, fill_max) }
        });
        Lane { ports: ports.collect(), pool }
    }
}

/// Where the frame memory starts.
fn base(umem: &Umem, descriptors: &[xsk_rs::FrameDesc]) -> usize {
    let first = descriptors.first().expect("there is at least one chunk");
    // SAFETY: the descriptor is this memory's own, and nobody writes there yet.
    let data = unsafe { umem.data(first) };
    data.contents().as_ptr().expose_provenance() - first.addr()
}

fn ring(size: u32) -> io::Result<QueueSize> {
    QueueSize::new(size).map_err(io::Error::other)
}

/// What the kernel said, out of what xsk-rs made of it.
fn told(error: &dyn std::error::Error) -> io::Error {
    let kernel = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match kernel.and_then(io::Error::raw_os_error) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(error.to_string()),
    }
}

const CHUNK_SMALL: u32 = 2048;
/// Chunks are at most a page.
const CHUNK_LARGE: u32 = 4096;
/// Ethernet header and two tags.
const ETHERNET_OVERHEAD: u32 = 14 + 8;
const RING_MIN: u32 = 64;
const TRANSMIT_RING: u32 = 2048;
/// What comes while a worker has lost its core: 40 ms at 100,000 packets a second.
const RECEIVE_RING_MAX: u32 = 4096;
/// How long to wait for queues that are in use, and between attempts.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// A worker transmits less than this in a batch, in all but the rarest cases.
const TRANSMIT_BUDGET: u32 = 256;
/// The kernel's TX_BATCH_SIZE.
const TRANSMIT_BUDGET_DEFAULT: u32 = 32;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::xdp::device::Queues;

    fn device(name: &str, mtu: u32, receive: u32) -> Device {
        let queues = Queues { receive, transmit: receive };
        Device {
            name: name.into(),
            index: 2,
            mtu,
            is_up: true,
            queues,
            strips_tags: false,
            is_veth: false,
        }
    }

    fn interfaces(devices: &[Device]) -> Vec<(PortId, Device, Steering)> {
        let numbered = (0u8..).zip(devices);
        numbered.map(|(n, device)| (PortId(n), device.clone(), Steering::default())).collect()
    }

    #[test]
    fn a_chunk_holds_the_largest_frame_of_all_interfaces() {
        let sizes = |devices: &[Device]| {
            let interfaces = interfaces(devices);
            let request = Request {
                interfaces: &interfaces,
                workers: 1,
                frames: 64,
                mode: XdpMode::Auto,
                shortcuts: None,
                feeders: false,
            };
            chunk_size(&request).map_err(|error| error.to_string())
        };
        assert_eq!(sizes(&[device("a", 1500, 1)]), Ok(2048));
        assert_eq!(sizes(&[device("a", 1500, 1), device("b", 1800, 1)]), Ok(4096));
        let said = sizes(&[device("a", 9000, 1)]).expect_err("too large");
        assert!(said.ends_with("ip link set dev a mtu 3810"), "{said}");
    }
}
