//! The two ends of a traffic generator, both in the kernel (see `generate.bpf.c`): one makes packets
//! faster than any socket takes them, the other counts what arrives, looks whether it is right, and
//! drops it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use aya::maps::{Array, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};

use crate::flow::{Mac, Protocol};
use crate::io::load::loaded;
use crate::io::xdp::program::chain;

/// The packets to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// The kernel's index of the interface to send on.
    pub interface_index: u32,
    /// The router's link address.
    pub destination_mac: Mac,
    /// Our own.
    pub source_mac: Mac,
    /// The first of the sources.
    pub first_source: Ipv4Addr,
    /// How many sources there are, one after the other.
    pub hosts: u32,
    /// The first source port of each.
    pub first_port: u16,
    /// How many source ports each has.
    pub ports: u16,
    /// The destination.
    pub destination: Ipv4Addr,
    /// Its port.
    pub destination_port: u16,
    /// TCP (SYNs) or UDP.
    pub protocol: Protocol,
    /// The length of the IPv4 packet, in bytes.
    pub length: u16,
    /// Whether flows come in the order of their numbers; at random otherwise.
    pub in_order: bool,
}

/// How many packets to send, and how fast.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// Packets a second; as many as can be made if none.
    pub rate: Option<u32>,
    /// How long to send.
    pub time: Duration,
    /// How many packets at most.
    pub count: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Packets.
    pub packets: u64,
    /// From the first to the last of them.
    pub time: Duration,
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Received {
    /// Packets of ours.
    pub packets: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes: u64,
    /// Packets of others; they went on to the kernel.
    pub foreign: u64,
    /// Packets of ours with another source than expected.
    pub wrong_source: u64,
    /// Packets of ours whose IPv4 or transport checksum was wrong.
    pub wrong_checksum: u64,
}

/// Why a generator does not run.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// The kernel does not take the programs.
    #[error("the kernel refuses the generator's program: {0}; it takes root and Linux 5.18")]
    Refused(String),
    /// The interface's hook is not free.
    #[error("cannot receive on {interface}: {error}; is there another XDP program on it?")]
    Hook {
        /// The interface.
        interface: String,
        /// What the kernel said.
        error: String,
    },
    /// The counters cannot be read.
    #[error("cannot read the generator's counters: {0}")]
    Counters(String),
    /// The kernel does not make packets.
    #[error("cannot send: {0}")]
    Send(#[from] io::Error),
}

/// The sending end.
pub struct Sender {
    program: Ebpf,
    descriptor: RawFd,
    pace: Pace,
    /// A frame to begin with; the program writes its headers.
    template: Vec<u8>,
}

/// The receiving end. Dropping it takes it off its interface.
pub struct Receiver {
    program: Ebpf,
}

impl Sender {
    /// Prepares to send.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn new(shape: &Shape, pace: Pace) -> Result<Self, GeneratorError> {
        let first_source = shape.first_source.to_bits();
        let destination = shape.destination.to_bits();
        let numbers = [
            ("interface_index", shape.interface_index),
            ("first_source", first_source),
            ("hosts", shape.hosts.max(1)),
            ("first_port", u32::from(shape.first_port)),
            ("ports", u32::from(shape.ports.max(1))),
            ("destination", destination),
            ("destination_port", u32::from(shape.destination_port)),
            ("length", u32::from(shape.length)),
            ("protocol", u32::from(shape.protocol.0)),
            ("in_order", u32::from(shape.in_order)),
        ];
        let mut loader = EbpfLoader::new();
        for (name, value) in &numbers {
            loader.override_global(name, value, true);
        }
        let interval = pace.rate.map_or(0, |rate| PICOSECONDS / u64::from(rate.max(1)));
        let time = u64::try_from(pace.time.as_nanos()).unwrap_or(u64::MAX);
        let pace_numbers = [
            ("interval", interval),
            ("packets_max", pace.count.unwrap_or(u64::MAX)),
            ("time_max", time),
        ];
        for (name, value) in &pace_numbers {
            loader.override_global(name, value, true);
        }
        loader.override_global("destination_mac", &shape.destination_mac.0, true);
        loader.override_global("source_mac", &shape.source_mac.0, true);
        let mut program = load(&mut loader)?;
        let sender = xdp(&mut program, "send")?;
        loaded(|| sender.load()).map_err(refused)?;
        let descriptor = sender.fd().map_err(refused)?.as_fd().as_raw_fd();
        let template = vec![0; ETHERNET_LENGTH + usize::from(shape.length)];
        Ok(Self { program, descriptor, pace, template })
    }

    /// Sends all packets. The program keeps the rate and the end; here it is only run often
    /// enough. A call waits some tens of milliseconds for the other processors when it ends, so the
    /// first finds out how long a run takes, and the second does all the rest.
    ///
    /// # Errors
    /// What the kernel says; some packets were sent then.
    pub fn send(&self) -> Result<Progress, GeneratorError> {
        let start = Instant::now();
        let mut runs = RUNS_FIRST;
        loop {
            let time = self.run(runs)?;
            let progress = self.progress()?;
            let left = self.pace.time.saturating_sub(start.elapsed());
            let wanted =
                self.pace.count.map_or(u64::MAX, |count| count.saturating_sub(progress.packets));
            if left.is_zero() || wanted == 0 {
                return Ok(progress);
            }
            let most = match self.pace.rate {
                // What lies between two packets is made and dropped, so time counts, not packets.
                Some(rate) => {
                    let due = u128::from(wanted) * NANOSECONDS / u128::from(rate.max(1));
                    let due = Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
                    runs_in(left.min(due), time)
                }
                None => runs_in(left, time).min(wanted),
            };
            runs = u32::try_from(most).unwrap_or(u32::MAX).max(RUNS_FIRST);
        }
    }

    /// What was sent so far.
    fn progress(&self) -> Result<Progress, GeneratorError> {
        let failed = |error: &dyn std::error::Error| GeneratorError::Counters(chain(error));
        let none = || GeneratorError::Counters("no map .bss".to_owned());
        let map = self.program.map(".bss").ok_or_else(none)?;
        let array = Array::<_, [u64; 4]>::try_from(map).map_err(|error| failed(&error))?;
        let [packets, first, last, _] = array.get(&0, 0).map_err(|error| failed(&error))?;
        Ok(Progress { packets, time: Duration::from_nanos(last.saturating_sub(first)) })
    }

    /// Has the kernel run the program on `count` frames. Returns the nanoseconds that each took.
    fn run(&self, count: u32) -> io::Result<u32> {
        let mut attributes = TestRun {
            program: self.descriptor.cast_unsigned(),
            // A template is no longer than a frame.
            data_size_in: self.template.len() as u32,
            data_in: self.template.as_ptr() as u64,
            repeat: count,
            flags: LIVE_FRAMES,
            // A frame leaves when its batch is full.
            batch_size: if self.pace.rate.is_some() { BATCH_SIZE_PACED } else { BATCH_SIZE },
            ..TestRun::default()
        };
        // SAFETY: the command reads `attributes`, of the size told, and `data_in`, of the length in
        // it; both outlive the call. It writes no memory of ours but `attributes`, which is ours
        // alone meanwhile.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                PROG_TEST_RUN,
                &raw mut attributes,
                size_of_val(&attributes),
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes.duration) }
    }
}

impl Receiver {
    /// Receives on `interface`. With an `expected` source, packets from others count as wrong.
    ///
    /// # Errors
    /// When the kernel refuses the program, or there is another one already.
    pub fn new(interface: &str, expected: Option<Ipv4Addr>) -> Result<Self, GeneratorError> {
        let expected = expected.map_or(0, Ipv4Addr::to_bits);
        let mut loader = EbpfLoader::new();
        loader.override_global("expected_source", &expected, true);
        let mut program = load(&mut loader)?;
        let receiver = xdp(&mut program, "receive")?;
        loaded(|| receiver.load()).map_err(refused)?;
        let hook = |error: ProgramError| GeneratorError::Hook {
            interface: interface.to_owned(),
            error: chain(&error),
        };
        receiver.attach(interface, XdpMode::default()).map_err(hook)?;
        Ok(Self { program })
    }

    /// What arrived so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn received(&self) -> Result<Received, GeneratorError> {
        let sums = self.sums("counters", 5)?;
        let [packets, bytes, foreign, wrong_source, wrong_checksum] = sums[..] else {
            return Err(GeneratorError::Counters("too few counters".to_owned()));
        };
        Ok(Received { packets, bytes, foreign, wrong_source, wrong_checksum })
    }

    /// How many packets took how long: pairs of a latency in nanoseconds, right to one part in 64,
    /// and a count; shortest first, without empty ones.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn latencies(&self) -> Result<Vec<(u64, u64)>, GeneratorError> {
        let counts = self.sums("latencies", BUCKETS)?;
        let filled = (0..BUCKETS).zip(counts).filter(|&(_, count)| count > 0);
        Ok(filled.map(|(bucket, count)| (bucket_start(bucket), count)).collect())
    }

    /// The counters of a map, summed over processors.
    fn sums(&self, map: &str, count: u32) -> Result<Vec<u64>, GeneratorError> {
        let failed = |error: &dyn std::error::Error| GeneratorError::Counters(chain(error));
        let found = self
            .program
            .map(map)
            .ok_or_else(|| GeneratorError::Counters(format!("no map {map}")))?;
        let array = PerCpuArray::<_, u64>::try_from(found).map_err(|error| failed(&error))?;
        (0..count)
            .map(|index| {
                let values = array.get(&index, 0).map_err(|error| failed(&error))?;
                Ok(values.iter().sum())
            })
            .collect()
    }
}

/// How many runs fit into a time, if each takes so many nanoseconds.
fn runs_in(time: Duration, each: u32) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / u64::from(each.max(1))
}

/// The lower end of a bucket of latencies, in nanoseconds (see `bucket` in generate.bpf.c).
fn bucket_start(bucket: u32) -> u64 {
    let (top, behind) = (bucket >> BUCKET_BITS, u64::from(bucket & BUCKET_MASK));
    let whole = 1_u64 << top;
    whole
        + if top >= BUCKET_BITS {
            behind << (top - BUCKET_BITS)
        } else {
            behind >> (BUCKET_BITS - top)
        }
}

fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, GeneratorError> {
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generate.bpf.o"));
    loader.load(object).map_err(|error: EbpfError| GeneratorError::Refused(chain(&error)))
}

fn xdp<'p>(program: &'p mut Ebpf, name: &str) -> Result<&'p mut Xdp, GeneratorError> {
    let found = program.program_mut(name);
    let found = found.ok_or_else(|| GeneratorError::Refused(format!("no program {name}")))?;
    found.try_into().map_err(refused)
}

fn refused(error: ProgramError) -> GeneratorError {
    GeneratorError::Refused(chain(&error))
}

/// The kernel's `union bpf_attr` for BPF_PROG_TEST_RUN (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    zero: u32,
}

const PROG_TEST_RUN: libc::c_int = 10;
/// BPF_F_TEST_XDP_LIVE_FRAMES.
const LIVE_FRAMES: u32 = 1 << 1;
const BATCH_SIZE: u32 = 64;
const BATCH_SIZE_PACED: u32 = 8;
const NANOSECONDS: u128 = 1_000_000_000;
const PICOSECONDS: u64 = 1_000_000_000_000;
/// Frames of the first call.
const RUNS_FIRST: u32 = 4096;
const ETHERNET_LENGTH: usize = 14;
/// As in generate.bpf.c.
const BUCKET_BITS: u32 = 6;
const BUCKET_MASK: u32 = (1 << BUCKET_BITS) - 1;
const BUCKETS: u32 = 64 << BUCKET_BITS;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program does.
    fn bucket(time: u64) -> u32 {
        let top = time.max(1).ilog2();
        let behind = if top >= BUCKET_BITS {
            time >> (top - BUCKET_BITS)
        } else {
            time << (BUCKET_BITS - top)
        };
        let behind = behind & u64::from(BUCKET_MASK);
        top << BUCKET_BITS | u32::try_from(behind).unwrap()
    }

    #[test]
    fn a_bucket_starts_at_most_a_64th_below_what_falls_into_it() {
        for time in (1..5000).chain([1 << 20, (1 << 40) + 12_345, u64::MAX / 3]) {
            let start = bucket_start(bucket(time));
            assert!(start <= time && time - start <= time / 64, "{time}: {start}");
        }
    }
}
