//! The XDP program of one interface: loaded, told what to go by, attached, counted.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};

use crate::io::load::loaded;
use crate::io::xdp::attach::{self, Occupant};
use crate::io::xdp::carrier::{self, Carrier};
use crate::io::xdp::device::Device;
use crate::io::xdp::features::Ways;
use crate::io::xdp::feeder::Feeder;
use crate::io::xdp::kernel_ports::KernelPorts;
use crate::io::xdp::keys::{double_tag_key, local_key, local_key_ipv6, owner, page_key};
use crate::io::xdp::program_fault::ProgramFault;
use crate::io::xdp::steering::Steering;
use crate::io::xdp::words::MapWords;

/// The program of one interface. Dropping it takes it off, unless it was told to stay.
pub struct Program {
    program: Ebpf,
    /// The device it is on.
    on: Option<u32>,
    sockets: XskMap<MapData>,
    /// Those of the interface's feeder.
    fed: XskMap<MapData>,
    /// The end of it where packets go in.
    feeder: Array<MapData, u32>,
    tags: Array<MapData, u32>,
    double_tags: HashMap<MapData, u32, u8>,
    vteps: HashMap<MapData, [u8; 4], u8>,
    local_addresses: HashMap<MapData, [u8; 8], u8>,
    local_addresses_ipv6: HashMap<MapData, [u8; 20], u8>,
    /// First and last port of the kernel's own connections.
    kernel_range: Array<MapData, [u16; 2]>,
    kernel_addresses: HashMap<MapData, [u8; 4], u32>,
    kernel_ports: HashMap<MapData, [u8; 8], [u64; 4]>,
    counters: PerCpuArray<MapData, u64>,
    /// By exit, the device and its ways (`struct exit`).
    exits: Array<MapData, [u32; 3]>,
    shortcuts: Option<ShortcutMemory>,
    carrier: Option<Carrier>,
    applied: Steering,
}

/// How much room a program has for shortcuts, and where it looks for one.
#[derive(Clone, Copy, Debug)]
pub struct ShortcutRoom {
    /// The room is for eight times `1 << bits`.
    pub bits: u32,
    /// What hashes of keys depend on.
    pub seeds: [u64; 2],
}

/// Where a program reads shortcuts.
pub struct ShortcutMemory {
    /// Their words.
    pub slots: MapWords,
    /// A byte of each.
    pub tags: MapWords,
    /// Those of the gate in front of them.
    pub gate: MapWords,
}

/// What the program counts, by name, in the order of `enum reason` in steer.bpf.c.
pub const COUNTERS: [&str; 15] = [
    "as_frames",
    "carried",
    "dropped_no_socket",
    "dropped_short",
    "dropped_shortcut_over",
    "dropped_unknown_tag",
    "passed_group",
    "passed_link_local",
    "passed_local_address",
    "passed_neighbor_discovery",
    "passed_not_ip",
    "passed_service",
    "passed_tag",
    "redirected",
    "shortcut",
];

impl Program {
    /// Loads `count` programs. They see no frame before they are attached.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn load(count: usize, room: Option<ShortcutRoom>) -> Result<Vec<Self>, ProgramFault> {
        // One loader for all: making one reads the kernel's types, which takes its time.
        let mut loader = EbpfLoader::new();
        if let Some(ShortcutRoom { bits, seeds }) = &room {
            loader.override_global("shortcut_bits", bits, true);
            loader.override_global("shortcut_seeds", &seeds[..], true);
            loader.map_max_entries("shortcuts", TAGS_PER_WORD << bits);
            loader.map_max_entries("shortcut_tags", 1 << bits);
        }
        (0..count).map(|_| Self::load_with(&mut loader, room)).collect()
    }

    fn load_with(
        loader: &mut EbpfLoader<'_>,
        room: Option<ShortcutRoom>,
    ) -> Result<Self, ProgramFault> {
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
        let refused = |error: EbpfError| ProgramFault::Refused(chain(&error));
        let mut program = loader.load(object).map_err(refused)?;
        for name in [PROGRAM, FEED] {
            let part = xdp(&mut program, name)?;
            loaded(|| part.load()).map_err(refused_program)?;
        }
        if room.is_some() {
            Carrier::load(&mut program)?;
        }
        let mut take = |name: &str| {
            program.take_map(name).ok_or_else(|| ProgramFault::Refused(format!("no map {name}")))
        };
        let [slots, tags, gate] =
            [take("shortcuts")?, take("shortcut_tags")?, take("shortcut_gate")?];
        let shortcuts = room.map(|ShortcutRoom { bits, .. }| {
            Ok(ShortcutMemory {
                slots: words(&slots, (SLOT_WORDS * TAGS_PER_WORD as usize) << bits)?,
                tags: words(&tags, 1 << bits)?,
                gate: words(&gate, GATE_WORDS)?,
            })
        });
        Ok(Self {
            shortcuts: shortcuts.transpose().map_err(ProgramFault::Shortcuts)?,
            exits: take("exits")?.try_into()?,
            sockets: take("xsks")?.try_into()?,
            fed: take("fed")?.try_into()?,
            feeder: take("feeder")?.try_into()?,
            tags: take("tags")?.try_into()?,
            double_tags: take("double_tags")?.try_into()?,
            vteps: take("vteps")?.try_into()?,
            local_addresses: take("local_addresses")?.try_into()?,
            local_addresses_ipv6: take("local_addresses_ipv6")?.try_into()?,
            kernel_range: take("kernel_range")?.try_into()?,
            kernel_addresses: take("kernel_addresses")?.try_into()?,
            kernel_ports: take("kernel_ports")?.try_into()?,
            counters: take("counters")?.try_into()?,
            applied: Steering::default(),
            on: None,
            carrier: None,
            program,
        })
    }

    /// Makes the program go by `steering`, live: what stays the same is not touched.
    ///
    /// # Errors
    /// When a map is full. What was changed until then stays changed; the next call goes on.
    pub fn apply(&mut self, steering: &Steering) -> Result<(), ProgramFault> {
        // What is the kernel's grows before the dataplane's tags do, and shrinks after them: in
        // between, a frame may be counted as somebody's that it no longer is, but none that is the
        // dataplane's own gets to the kernel without having been the kernel's before or after.
        for local in &steering.local_addresses {
            self.local_addresses.insert(local_key(*local), 1, 0)?;
        }
        for local in &steering.local_addresses_ipv6 {
            self.local_addresses_ipv6.insert(local_key_ipv6(*local), 1, 0)?;
        }
        self.add_kernel_ports(&steering.kernel_ports)?;
        let tags =
            |steering: &Steering| steering.tags.union(&steering.kernel_tags).copied().collect();
        let (new, old): (BTreeSet<u16>, BTreeSet<u16>) = (tags(steering), tags(&self.applied));
        for tag in BTreeSet::from([0]).union(&new).chain(old.difference(&new)) {
            if owner(steering, *tag) != owner(&self.applied, *tag) {
                self.tags.set(u32::from(*tag), owner(steering, *tag), 0)?;
            }
        }
        self.apply_encapsulations(steering)?;
        for local in self.applied.local_addresses.difference(&steering.local_addresses) {
            absent_is_fine(self.local_addresses.remove(&local_key(*local)))?;
        }
        let former = &self.applied.local_addresses_ipv6;
        for local in former.difference(&steering.local_addresses_ipv6) {
            absent_is_fine(self.local_addresses_ipv6.remove(&local_key_ipv6(*local)))?;
        }
        self.drop_kernel_ports(&steering.kernel_ports)?;
        self.applied = steering.clone();
        Ok(())
    }

    /// Pages first: the program looks for them where an address says that it has some.
    fn add_kernel_ports(&mut self, new: &KernelPorts) -> Result<(), ProgramFault> {
        let old = &self.applied.kernel_ports;
        for (key, bits) in
            new.pages().iter().filter(|(key, bits)| old.pages().get(key) != Some(bits))
        {
            self.kernel_ports.insert(page_key(*key), *bits, 0)?;
        }
        if new.own() != old.own() {
            // A range that ends before it begins has no port.
            let (first, last) = new.own().unwrap_or((1, 0));
            self.kernel_range.set(0, [first, last], 0)?;
        }
        let former = old.addresses();
        for (address, holdings) in new.addresses() {
            if former.get(&address) != Some(&holdings) {
                self.kernel_addresses.insert(address.octets(), holdings, 0)?;
            }
        }
        Ok(())
    }

    fn drop_kernel_ports(&mut self, new: &KernelPorts) -> Result<(), ProgramFault> {
        let old = &self.applied.kernel_ports;
        let kept = new.addresses();
        for address in old.addresses().keys().filter(|address| !kept.contains_key(address)) {
            absent_is_fine(self.kernel_addresses.remove(&address.octets()))?;
        }
        for key in old.pages().keys().filter(|key| !new.pages().contains_key(key)) {
            absent_is_fine(self.kernel_ports.remove(&page_key(*key)))?;
        }
        Ok(())
    }

    /// What networks under two tags and inside VXLAN need.
    fn apply_encapsulations(&mut self, steering: &Steering) -> Result<(), ProgramFault> {
        for tags in steering.double_tags.difference(&self.applied.double_tags) {
            self.double_tags.insert(double_tag_key(*tags), 1, 0)?;
        }
        for tags in self.applied.double_tags.difference(&steering.double_tags) {
            absent_is_fine(self.double_tags.remove(&double_tag_key(*tags)))?;
        }
        for vtep in steering.vteps.difference(&self.applied.vteps) {
            self.vteps.insert(vtep.octets(), 1, 0)?;
        }
        for vtep in self.applied.vteps.difference(&steering.vteps) {
            absent_is_fine(self.vteps.remove(&vtep.octets()))?;
        }
        Ok(())
    }

    /// Makes frames of `queue` go to `socket`.
    ///
    /// # Errors
    /// When there are more queues than the map has room for.
    pub fn set_socket(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<(), ProgramFault> {
        Ok(self.sockets.set(queue, socket.as_raw_fd(), 0)?)
    }

    /// Makes what comes out of the feeder's `queue` go to `socket`.
    ///
    /// # Errors
    /// When there are more queues than the map has room for.
    pub fn set_fed_socket(
        &mut self,
        queue: u32,
        socket: &impl AsRawFd,
    ) -> Result<(), ProgramFault> {
        Ok(self.fed.set(queue, socket.as_raw_fd(), 0)?)
    }

    /// Has packets taken at the interface's traffic control, and what is the dataplane's go by its feeder. Where its
    /// program stays, it comes first.
    ///
    /// # Errors
    /// When the feeder's end cannot run a program in its driver.
    pub fn feed(&mut self, feeder: &Feeder) -> Result<(), ProgramFault> {
        let program = xdp(&mut self.program, FEED)?.fd().map_err(refused_program)?;
        let (far, mode) = (feeder.far(), attach::XDP_FLAGS_DRV_MODE);
        attach::put(far.index, program.as_fd(), mode, None).map_err(|error| {
            ProgramFault::Mode { interface: far.name.clone(), mode: "driver", error }
        })?;
        Ok(self.feeder.set(0, feeder.near(), 0)?)
    }

    /// Where it reads shortcuts, for whoever makes them; once.
    pub fn take_shortcuts(&mut self) -> Option<ShortcutMemory> {
        self.shortcuts.take()
    }

    /// Has shortcuts with this exit lead to the device with this number.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn set_exit(&mut self, exit: u8, device: u32, ways: Ways) -> Result<(), ProgramFault> {
        let words = [device, ways.takes_frames.into(), ways.is_passage.into()];
        Ok(self.exits.set(exit.into(), words, 0)?)
    }

    /// Has packets that take shortcuts but cannot leave as frames carried on from where the kernel has made
    /// them. Until then no shortcut may be made.
    ///
    /// # Errors
    /// When the kernel has no place for it.
    pub fn carry(&mut self, device: &Device) -> Result<(), ProgramFault> {
        self.carrier = Some(Carrier::attach(&mut self.program, device)?);
        Ok(())
    }

    /// Puts the program on `device`, in place of what a former natwerk left there.
    ///
    /// # Errors
    /// When the device cannot run it in this mode, or runs another one.
    pub fn attach(&mut self, device: &Device, in_driver: bool) -> Result<(), ProgramFault> {
        let (mode, name) = match in_driver {
            true => (attach::XDP_FLAGS_DRV_MODE, "driver"),
            false => (attach::XDP_FLAGS_SKB_MODE, "skb"),
        };
        let fault =
            |error| ProgramFault::Mode { interface: device.name.clone(), mode: name, error };
        let former = match attach::occupant(device.index).map_err(fault)? {
            None => None,
            Some(Occupant { id, name }) if name == PROGRAM => Some(id),
            Some(Occupant { id, name }) => {
                return Err(ProgramFault::Occupied { interface: device.name.clone(), id, name });
            }
        };
        let program = xdp(&mut self.program, PROGRAM)?.fd().map_err(refused_program)?;
        attach::put(device.index, program.as_fd(), mode, former).map_err(fault)?;
        if let Some(id) = former.filter(|former| Some(*former) != self.id()) {
            tracing::info!(interface = device.name, id, "replaced a former natwerk's program");
        }
        if self.carrier.is_none() {
            Carrier::evict_former(device);
        }
        self.on = Some(device.index);
        Ok(())
    }

    /// Takes the program off its device.
    ///
    /// # Errors
    /// What the kernel says; a device that is gone has taken the program with it.
    pub fn detach(&mut self) -> io::Result<()> {
        match (self.on.take(), self.id()) {
            (Some(index), Some(id)) => attach::evict(index, id),
            _ => Ok(()),
        }
    }

    /// Whether the program is on a device.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.on.is_some()
    }

    /// Leaves the program where it is when this is dropped: it drops what the dataplane should
    /// have, until another one replaces it.
    pub fn stay(&mut self) {
        self.on = None;
        if let Some(carrier) = &mut self.carrier {
            carrier.stay();
        }
    }

    /// Runs the program on a copy of `frame`, which no device sees. Returns what it says should become of
    /// it (`enum xdp_action` of linux/bpf.h) and the frame as it left it, behind what it says of it.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn try_on(&self, frame: &[u8]) -> Result<(u32, Vec<u8>), ProgramFault> {
        let program: &Xdp = self.part(PROGRAM)?.try_into().map_err(refused_program)?;
        tried(frame, |options| program.test_run(options))
    }

    /// The same of the program at the traffic control and a packet (`TC_ACT_` of linux/pkt_cls.h).
    ///
    /// # Errors
    /// When the kernel does not run it, or there is to be no such program.
    pub fn try_on_packet(&self, packet: &[u8]) -> Result<(u32, Vec<u8>), ProgramFault> {
        let program = self.part(carrier::PROGRAM)?.try_into().map_err(refused_program);
        let program: &SchedClassifier = program?;
        tried(packet, |options| program.test_run(options))
    }

    fn part(&self, name: &str) -> Result<&aya::programs::Program, ProgramFault> {
        let found = self.program.program(name);
        found.ok_or_else(|| ProgramFault::Refused(format!("no program {name}")))
    }

    /// The kernel's number of the program, if it is on a device.
    #[must_use]
    pub fn attached_id(&self) -> Option<u32> {
        self.on.and_then(|_| self.id())
    }

    /// The kernel's number of the program.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        let program = self.part(PROGRAM).ok()?;
        program.info().ok().map(|info| info.id())
    }

    /// What the program counted since it was loaded, in the order of [`COUNTERS`].
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let count = |index| {
            let by_processor = self.counters.get(&index, 0);
            by_processor.map_or(0, |values| {
                values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value))
            })
        };
        (0u32..).zip(COUNTERS).map(|(index, name)| (name, count(index))).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.detach();
    }
}

fn tried(
    frame: &[u8],
    run: impl FnOnce(TestRunOptions<'_>) -> Result<TestRunResult, ProgramError>,
) -> Result<(u32, Vec<u8>), ProgramFault> {
    let mut after = vec![0; METADATA_MAX + frame.len()];
    let (data_in, data_out) = (Some(frame), Some(&mut after[..]));
    let options = TestRunOptions { data_in, data_out, ..TestRunOptions::new() };
    let run = run(options).map_err(refused_program)?;
    after.truncate(run.data_size_out as usize);
    Ok((run.return_value, after))
}

fn xdp<'p>(object: &'p mut Ebpf, name: &str) -> Result<&'p mut Xdp, ProgramFault> {
    let found = object.program_mut(name);
    let found = found.ok_or_else(|| ProgramFault::Refused(format!("no program {name}")))?;
    found.try_into().map_err(refused_program)
}

fn refused_program(error: ProgramError) -> ProgramFault {
    ProgramFault::Refused(chain(&error))
}

fn words(map: &Map, count: usize) -> io::Result<MapWords> {
    let Map::Array(data) = map else { return Err(io::Error::from(io::ErrorKind::Unsupported)) };
    MapWords::of(data.fd().as_fd(), count)
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), ProgramFault> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// An error with everything it was caused by, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_said = cause.to_string();
        if !said.contains(&cause_said) {
            said.push_str(": ");
            said.push_str(&cause_said);
        }
        source = cause.source();
    }
    said.replace('\n', " ")
}

/// Bytes that a program may put in front of a frame for others to read.
const METADATA_MAX: usize = 32;
/// Words of `struct shortcut`.
const SLOT_WORDS: usize = 8;
/// Of `struct gate`.
const GATE_WORDS: usize = 3;
const TAGS_PER_WORD: u32 = 8;

/// The program's name in the object, which the kernel shows too.
const PROGRAM: &str = "natwerk_steer";
/// That of the one on a feeder.
const FEED: &str = "natwerk_feed";
