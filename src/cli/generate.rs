//! `natwerk generate`: traffic to measure a router with, from end to end.
//!
//! The sender has the kernel make the packets (some millions a second on one core); the receiver
//! counts and checks them in an XDP program and drops them. Both work in the network namespace that
//! they are run in, so a lab runs one of each.

mod forward;

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::cli::Common;
use crate::cli::output::{self, Failure, Outcome};
use crate::flow::{Mac, Protocol};
use crate::io::generator::{GeneratorError, Pace, Progress, Received, Receiver, Sender, Shape};
use crate::io::xdp::device::Device;

/// Which end to be.
#[derive(Clone, Debug, Subcommand)]
pub enum End {
    /// Send packets of many flows.
    Send(SendArguments),
    /// Count, check and drop what arrives.
    Receive(ReceiveArguments),
    /// Forward between two interfaces without translating, to measure a router against.
    Forward(forward::ForwardArguments),
}

/// What to send.
#[derive(Clone, Debug, Args)]
pub struct SendArguments {
    /// The interface to send on.
    #[arg(long, value_name = "IFACE")]
    interface: String,
    /// The router's link address.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    router_mac: Mac,
    /// Where the packets go.
    #[arg(long, value_name = "ADDRESS")]
    destination: Ipv4Addr,
    /// The port they go to.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    destination_port: u16,
    /// The first source; the others follow.
    #[arg(long, value_name = "ADDRESS")]
    first_source: Ipv4Addr,
    /// How many sources.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    hosts: u32,
    /// How many source ports each source has (CSIT's profiles have 63).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    ports: u16,
    /// The first source port.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    first_port: u16,
    /// UDP datagrams or TCP SYNs.
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    protocol: Transport,
    /// Bytes of a frame, its checksum sequence of four bytes counted (RFC 2544).
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    size: u16,
    /// Packets a second; as many as can be made if left out.
    #[arg(long, value_name = "PACKETS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long to send.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Send this many packets and stop, if there is time.
    #[arg(long, value_name = "PACKETS")]
    count: Option<u64>,
    /// Flows in the order of their numbers; at random if left out.
    #[arg(long)]
    in_order: bool,
}

/// What to receive.
#[derive(Clone, Debug, Args)]
pub struct ReceiveArguments {
    /// The interface to receive on.
    #[arg(long, value_name = "IFACE")]
    interface: String,
    /// The source that translated packets have; others are counted as wrong.
    #[arg(long, value_name = "ADDRESS")]
    expect_source: Option<Ipv4Addr>,
    /// How long to receive.
    #[arg(long, default_value_t = 6.0, value_parser = seconds)]
    seconds: f64,
}

/// A transport protocol that can be generated.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Transport {
    /// SYNs.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What was sent.
#[derive(Debug, Serialize)]
struct Sent {
    packets: u64,
    seconds: f64,
    packets_per_second: f64,
}

/// What arrived.
#[derive(Debug, Serialize)]
struct Arrived {
    packets: u64,
    bytes: u64,
    foreign: u64,
    wrong_source: u64,
    wrong_checksum: u64,
    /// In each whole second.
    by_second: Vec<u64>,
    /// The median second of those in which anything arrived.
    packets_per_second: u64,
    /// Microseconds at the 50th, 99th and 99.9th percentile, right to one part in 64.
    latency_us: Option<[f64; 3]>,
    /// All latencies: the lower end of a range in nanoseconds, and how many packets are in it.
    latencies_ns: Vec<(u64, u64)>,
}

/// Runs one end.
///
/// # Errors
/// When arguments make no sense, or the kernel refuses.
pub fn run(end: &End, common: &Common) -> Outcome {
    match end {
        End::Send(arguments) => send(arguments, common),
        End::Receive(arguments) => receive(arguments, common),
        End::Forward(arguments) => forward::forward(arguments, common),
    }
}

fn send(arguments: &SendArguments, common: &Common) -> Outcome {
    let pace = Pace {
        rate: arguments.rate,
        time: Duration::from_secs_f64(arguments.seconds),
        count: arguments.count,
    };
    let Progress { packets, time } = Sender::new(&shape(arguments)?, pace)?.send()?;
    let seconds = time.max(TIME_MIN).as_secs_f64();
    let sent = Sent { packets, seconds, packets_per_second: packets as f64 / seconds };
    if common.json {
        return output::print_json(&sent);
    }
    let Sent { packets_per_second, .. } = sent;
    output::print_line(&format!(
        "sent {packets} packets in {seconds:.2} s: {packets_per_second:.0} a second"
    ))
}

fn receive(arguments: &ReceiveArguments, common: &Common) -> Outcome {
    let receiver = Receiver::new(&arguments.interface, arguments.expect_source)?;
    let start = Instant::now();
    let limit = Duration::from_secs_f64(arguments.seconds);
    let mut by_second = Vec::new();
    let mut before = 0;
    while let Some(left) = limit.checked_sub(start.elapsed()) {
        thread::sleep(left.min(Duration::from_secs(1)));
        let now = receiver.received()?.packets;
        by_second.push(now - before);
        before = now;
    }
    let received = receiver.received()?;
    let arrived = arrived(received, by_second, &receiver.latencies()?);
    if common.json { output::print_json(&arrived) } else { output::print_line(&words(&arrived)) }
}

fn shape(arguments: &SendArguments) -> Result<Shape, Failure> {
    let refused = |what: &str| Err(Failure::refused(what.to_owned()));
    let protocol = match arguments.protocol {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
    };
    if protocol == Protocol::TCP && arguments.size < TCP_SIZE_MIN {
        return refused("a SYN with a timestamp needs --size 74 or more");
    }
    if u32::from(arguments.first_port) + u32::from(arguments.ports) > 65_536 {
        return refused("--first-port and --ports lead past port 65535");
    }
    if arguments.first_source.to_bits().checked_add(arguments.hosts).is_none() {
        return refused("--first-source and --hosts lead past 255.255.255.255");
    }
    let interface = &arguments.interface;
    let Some(interface_index) = Device::index_of(interface) else {
        return Err(Failure::refused(format!("there is no interface {interface}"))
            .hint("`ip link` lists those of this network namespace"));
    };
    let own = fs::read_to_string(format!("/sys/class/net/{interface}/address"))
        .map_err(|error| Failure::failed(format!("cannot read {interface}'s address: {error}")))?;
    Ok(Shape {
        interface_index,
        destination_mac: arguments.router_mac,
        source_mac: mac(own.trim()).map_err(Failure::failed)?,
        first_source: arguments.first_source,
        hosts: arguments.hosts,
        first_port: arguments.first_port,
        ports: arguments.ports,
        destination: arguments.destination,
        destination_port: arguments.destination_port,
        protocol,
        length: arguments.size - FRAME_OVERHEAD,
        in_order: arguments.in_order,
    })
}

fn arrived(received: Received, by_second: Vec<u64>, latencies: &[(u64, u64)]) -> Arrived {
    let mut busy: Vec<u64> = by_second.iter().copied().filter(|&count| count > 0).collect();
    busy.sort_unstable();
    let total: u64 = latencies.iter().map(|&(_, count)| count).sum();
    let percentile = |per_mille: u64| {
        let rank = (total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = latencies.iter().find(|&&(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(0.0, |&(nanoseconds, _)| nanoseconds as f64 / 1000.0)
    };
    Arrived {
        packets: received.packets,
        bytes: received.bytes,
        foreign: received.foreign,
        wrong_source: received.wrong_source,
        wrong_checksum: received.wrong_checksum,
        packets_per_second: busy.get(busy.len() / 2).copied().unwrap_or(0),
        by_second,
        latency_us: (total > 0).then(|| [500, 990, 999].map(percentile)),
        latencies_ns: latencies.to_vec(),
    }
}

fn words(arrived: &Arrived) -> String {
    let Arrived { packets, packets_per_second, wrong_source, wrong_checksum, .. } = arrived;
    let mut words = format!(
        "received {packets} packets, {packets_per_second} in the median second; \
         {wrong_source} with a wrong source, {wrong_checksum} with a wrong checksum"
    );
    if let Some([p50, p99, p999]) = arrived.latency_us {
        words += &format!("; latency {p50:.1} us median, {p99:.1} us p99, {p999:.1} us p99.9");
    }
    words
}

fn mac(text: &str) -> Result<Mac, String> {
    let octets: Result<Vec<u8>, _> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    let octets: Option<[u8; 6]> = octets.ok().and_then(|octets| octets.try_into().ok());
    octets.map(Mac).ok_or_else(|| format!("{text} is no link address like 02:00:00:00:00:01"))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 86400".to_owned()),
    }
}

impl From<GeneratorError> for Failure {
    fn from(error: GeneratorError) -> Self {
        Self::failed(error.to_string())
    }
}

/// One packet takes no time.
const TIME_MIN: Duration = Duration::from_micros(1);
/// Ethernet header and checksum sequence.
const FRAME_OVERHEAD: u16 = 14 + 4;
/// Headers, the generator's stamp and the checksum sequence.
const TCP_SIZE_MIN: u16 = 14 + 20 + 20 + 16 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_packets() {
        let latencies = [(1000, 900), (8000, 90), (64_000, 9), (512_000, 1)];
        let arrived = arrived(Received::default(), vec![0, 40, 60, 50, 0], &latencies);
        assert_eq!(arrived.latency_us, Some([1.0, 8.0, 64.0]));
        assert_eq!(arrived.packets_per_second, 50);
    }

    #[test]
    fn nothing_received_is_no_latency() {
        assert_eq!(arrived(Received::default(), vec![0], &[]).latency_us, None);
    }

    #[test]
    fn link_addresses_are_read() {
        assert_eq!(mac("02:00:00:00:01:fe"), Ok(Mac([2, 0, 0, 0, 1, 0xfe])));
        for wrong in ["", "02:00:00:00:01", "02:00:00:00:01:fe:00", "0g:00:00:00:00:01"] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }
}
