//! Which worker's sockets are bound to which queues.

use crate::flow::PortId;
use crate::io::xdp::device::Device;
use crate::io::xdp::feeder::Feeder;
use crate::io::xdp::open::Request;

/// A queue that a socket is to be bound to.
pub(super) struct Queue<'r> {
    pub port: PortId,
    pub device: &'r Device,
    pub number: u32,
    /// Whether it is a feeder's.
    pub is_fed: bool,
}

/// The queues of one worker, by interface, its own first; those of its feeder come after the interface's.
pub(super) fn queues_of<'r>(
    request: &Request<'r>,
    worker: usize,
    feeders: &'r [Option<Feeder>],
) -> Vec<Queue<'r>> {
    let mut queues = Vec::new();
    for ((port, device, _), feeder) in request.interfaces.iter().zip(feeders) {
        // A queue for each worker to transmit on, even if nothing arrives there.
        let count = device.queues.receive.max(u32::try_from(request.workers).unwrap_or(u32::MAX));
        let fed = feeder.as_ref().map(|feeder| (feeder.far(), feeder.far().queues.receive, true));
        for (device, count, is_fed) in std::iter::once((device, count, false)).chain(fed) {
            let own = (0..count).skip(worker).step_by(request.workers.max(1));
            queues.extend(own.map(|number| Queue { port: *port, device, number, is_fed }));
        }
    }
    queues
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::XdpMode;
    use crate::io::xdp::device::Queues;
    use crate::io::xdp::steering::Steering;

    #[test]
    fn every_receive_queue_has_one_worker_and_every_worker_a_queue_of_each_interface() {
        let interfaces = [("a", 5), ("b", 2)].map(|(name, receive)| {
            let queues = Queues { receive, transmit: receive };
            let (name, strips_tags, is_veth) = (name.to_owned(), false, false);
            Device { name, index: 2, mtu: 1500, is_up: true, queues, strips_tags, is_veth }
        });
        let interfaces =
            [0, 1].map(|n| (PortId(n), interfaces[usize::from(n)].clone(), Steering::default()));
        let request = Request {
            interfaces: &interfaces,
            workers: 2,
            frames: 4096,
            mode: XdpMode::Auto,
            shortcuts: None,
            feeders: false,
        };
        let numbers = |worker| {
            let queues = queues_of(&request, worker, &[None, None]);
            queues.into_iter().map(|queue| (queue.port.0, queue.number)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(0), [(0, 0), (0, 2), (0, 4), (1, 0)]);
        assert_eq!(numbers(1), [(0, 1), (0, 3), (1, 1)]);
    }
}
