//! `natwerk generate forward`: what AF_XDP itself costs. Frames go from one interface to the other
//! by the same sockets and the same worker as natwerk's, with new link addresses and nothing else, so
//! the difference to natwerk in the same lab is what translating costs.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::Common;
use crate::cli::generate::{mac, seconds};
use crate::cli::output::{self, Failure, Outcome};
use crate::config::XdpMode;
use crate::flow::{Mac, PortId};
use crate::frame::{FrameBuffer, FrameSource};
use crate::io::frame::Frame;
use crate::io::wait::Bell;
use crate::io::xdp::device::Device;
use crate::io::xdp::open::{LaneParts, Opened, Request, open};
use crate::io::xdp::steering::Steering;
use crate::pipeline::batch::Batch;
use crate::telemetry::counters::WorkerCounters;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::worker::{Pace, Processor, Worker};

/// What to forward.
#[derive(Clone, Debug, Args)]
pub struct ForwardArguments {
    /// The interface that frames come in by.
    #[arg(long, value_name = "IFACE")]
    from: String,
    /// The interface that they leave by.
    #[arg(long, value_name = "IFACE")]
    to: String,
    /// The link address that they go to.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    to_mac: Mac,
    /// The link address that they come from.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    own_mac: Mac,
    /// How long to forward.
    #[arg(long, default_value_t = 6.0, value_parser = seconds)]
    seconds: f64,
}

/// What was forwarded.
#[derive(Debug, Serialize)]
struct Forwarded {
    packets: u64,
}

/// Forwards, and says how much when the time is over.
///
/// # Errors
/// When the interfaces cannot be opened.
pub fn forward(arguments: &ForwardArguments, common: &Common) -> Outcome {
    let Opened { lanes, programs, .. } = opened(arguments)?;
    let counters = Arc::new(WorkerCounters::new(2));
    let bell = Bell::new().map_err(|error| Failure::failed(error.to_string()))?;
    thread::scope(|scope| {
        for lane in lanes {
            let (destination, source) = (arguments.to_mac, arguments.own_mac);
            let carrier = Carrier { destination, source, counters: Arc::clone(&counters) };
            let bell = bell.clone();
            let work = move || carry(lane, carrier, &bell);
            // The name of the engine's, by which a lab finds and pins it.
            if thread::Builder::new().name("worker-0".to_owned()).spawn_scoped(scope, work).is_err()
            {
                return Err(Failure::failed("there is no thread to forward on"));
            }
        }
        output::print_line("ready")?;
        thread::sleep(Duration::from_secs_f64(arguments.seconds));
        bell.stop();
        Ok(())
    })?;
    drop(programs);
    let totals = counters.totals();
    let packets = totals.ports.get(TO.index()).map_or(0, |port| port.forwarded_packets);
    match common.json {
        true => output::print_json(&Forwarded { packets }),
        false => output::print_line(&format!("forwarded {packets} packets")),
    }
}

fn opened(arguments: &ForwardArguments) -> Result<Opened, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let steering = Steering { tags: [0].into(), ..Steering::default() };
    let mut interfaces = Vec::new();
    for (port, name) in [(FROM, &arguments.from), (TO, &arguments.to)] {
        let device = Device::find(name).map_err(|error| failed(&format!("{name}: {error}")))?;
        interfaces.push((port, device, steering.clone()));
    }
    let request = Request {
        interfaces: &interfaces,
        workers: 1,
        frames: FRAMES,
        mode: XdpMode::Auto,
        shortcuts: None,
        feeders: false,
    };
    open(&request).map_err(|error| failed(&error))
}

fn carry(lane: LaneParts, carrier: Carrier, bell: &Bell) {
    let mut lane = lane.into_lane();
    let counters = Arc::clone(&carrier.counters);
    let mut worker = Worker::new(&mut lane, carrier, |_, _| false, counters);
    worker.run(bell, Pace { spin: false }, |_, _| {});
}

/// Gives frames new link addresses.
struct Carrier {
    destination: Mac,
    source: Mac,
    counters: Arc<WorkerCounters>,
}

impl Processor<Frame> for Carrier {
    fn process<S: FrameSource<Frame = Frame>>(
        &mut self,
        batch: &mut Batch<Frame>,
        _frames: &mut S,
        _now: Tick,
    ) {
        let (mut packets, mut bytes) = (0, 0);
        for slot in &mut batch.slots {
            let length = slot.frame.as_ref().map_or(0, |frame| frame.bytes().len());
            let addresses = slot.frame.as_mut().map(|frame| frame.bytes_mut().first_chunk_mut());
            slot.verdict = match addresses.flatten() {
                Some::<&mut [u8; 12]>(addresses) if slot.port == FROM => {
                    addresses[..6].copy_from_slice(&self.destination.0);
                    addresses[6..].copy_from_slice(&self.source.0);
                    packets += 1;
                    bytes += u64::try_from(length).unwrap_or(0);
                    Verdict::Forward(TO)
                }
                _ => Verdict::Drop(DropReason::NoRoute),
            };
        }
        self.counters.forwarded_many(TO, packets, bytes);
    }

    fn idle<S: FrameSource<Frame = Frame>>(
        &mut self,
        _batch: &mut Batch<Frame>,
        _frames: &mut S,
        _now: Tick,
    ) -> bool {
        false
    }
}

const FROM: PortId = PortId(0);
const TO: PortId = PortId(1);
/// As many as the engine has by default.
const FRAMES: u32 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::frame::FramePool;
    use crate::io::memory::copied;

    #[test]
    fn only_link_addresses_change_and_only_one_way() {
        let mut pool = FramePool::in_memory(4, 2048).expect("memory");
        let mut batch = Batch::new();
        for port in [FROM, TO] {
            batch.push(port, copied(&mut pool, &[7; 60]).expect("room"));
        }
        let counters = Arc::new(WorkerCounters::new(2));
        let (destination, source) = (Mac([1; 6]), Mac([2; 6]));
        let mut carrier = Carrier { destination, source, counters: Arc::clone(&counters) };
        carrier.process(&mut batch, &mut pool, Tick::ZERO);
        let frame = batch.slots[0].frame.as_ref().expect("a frame").bytes().to_vec();
        assert_eq!(frame, [&[1; 6][..], &[2; 6], &[7; 48]].concat());
        assert_eq!(batch.slots[0].verdict, Verdict::Forward(TO));
        assert_eq!(batch.slots[1].verdict, Verdict::Drop(DropReason::NoRoute));
        assert_eq!(counters.totals().ports[TO.index()].forwarded_packets, 1);
    }
}
