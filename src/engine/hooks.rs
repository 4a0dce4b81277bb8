//! Where the packets of a veth are taken: at the kernel's traffic control, or by XDP.
//!
//! For an XDP program a veth copies what a kernel has sent, and has that kernel cut TCP streams in pieces. What comes as
//! an XDP frame already it need not copy, and there XDP costs half of what a packet does. So which is better is seen in what
//! comes.

use crate::config::Hook;
use crate::io::xdp::device::Device;
use crate::io::xdp::feeder::Feeder;
use crate::io::xdp::program::Program;

/// How the packets of one interface that has a feeder are taken.
pub(super) struct Intake {
    feeder: Feeder,
    hook: Hook,
    /// What had been counted a second ago.
    seen: Seen,
    /// Seconds for which XDP is not tried again.
    rest: u32,
}

/// What an interface has counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Seen {
    /// Packets at the traffic control that would not have been copied.
    as_frames: u64,
    /// Those that took shortcuts as packets, and as frames.
    carried: u64,
    shortcut: u64,
    /// Those that went to sockets.
    redirected: u64,
}

impl Intake {
    /// That of an interface with this feeder, without packets so far.
    pub(super) fn new(feeder: Feeder, hook: Hook) -> Self {
        Self { feeder, hook, seen: Seen::default(), rest: 0 }
    }

    /// Has `program` and its device's feeder take the packets that XDP takes now.
    pub(super) fn begin(&self, program: &mut Program, device: &Device) {
        match program.feed(&self.feeder) {
            Ok(()) => leave(program, device),
            Err(fault) => tracing::warn!("{} stays with XDP: {fault}", device.name),
        }
    }

    pub(super) const fn feeder(&self) -> &Feeder {
        &self.feeder
    }

    /// Sees, once a second, to where packets are taken. `leave_as_frames` says whether any interface takes the
    /// frames of shortcuts: where none does, all have to be carried, and XDP spares nothing.
    pub(super) fn look_at(
        &mut self,
        program: &mut Program,
        device: &Device,
        leave_as_frames: bool,
    ) {
        let now = Seen::of(&program.counters());
        let passed = now.since(self.seen);
        self.seen = now;
        self.rest = self.rest.saturating_sub(1);
        if self.hook != Hook::Auto {
            return;
        }
        if program.is_attached() {
            if passed.are_better_off_as_packets() {
                leave(program, device);
                self.rest = REST;
            }
        } else if leave_as_frames && self.rest == 0 && passed.are_better_off_as_frames() {
            match program.attach(device, true) {
                Ok(()) => tracing::info!(interface = device.name, "packets come as frames: XDP"),
                Err(fault) => {
                    tracing::warn!("{fault}");
                    self.rest = u32::MAX;
                }
            }
        }
    }
}

fn leave(program: &mut Program, device: &Device) {
    match program.detach() {
        Ok(()) => tracing::info!(interface = device.name, "packets are taken by traffic control"),
        Err(error) => {
            tracing::warn!("the XDP program of {} cannot be taken off: {error}", device.name);
        }
    }
}

impl Seen {
    fn of(counters: &[(&'static str, u64)]) -> Self {
        let of =
            |name| counters.iter().find(|(its, _)| *its == name).map_or(0, |(_, count)| *count);
        Self {
            as_frames: of("as_frames"),
            carried: of("carried"),
            shortcut: of("shortcut"),
            redirected: of("redirected"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            as_frames: self.as_frames.wrapping_sub(before.as_frames),
            carried: self.carried.wrapping_sub(before.carried),
            shortcut: self.shortcut.wrapping_sub(before.shortcut),
            redirected: self.redirected.wrapping_sub(before.redirected),
        }
    }

    /// At the traffic control.
    const fn are_better_off_as_frames(self) -> bool {
        self.as_frames >= MANY && self.as_frames * 2 > self.carried + self.redirected
    }

    /// With XDP.
    const fn are_better_off_as_packets(self) -> bool {
        self.carried >= MANY && self.carried > self.shortcut + self.redirected
    }
}

/// Packets a second that are worth a change.
const MANY: u64 = 1000;
/// How long it is not reconsidered that packets come as something else than frames: they may do so in turn.
const REST: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_decides_if_it_is_many() {
        let frames = |as_frames, carried, redirected| {
            Seen { as_frames, carried, redirected, shortcut: 0 }.are_better_off_as_frames()
        };
        assert!(frames(1000, 0, 1000) && frames(1000, 1999, 0));
        assert!(!frames(999, 0, 999) && !frames(1000, 2000, 0) && !frames(1000, 0, 2000));
        let packets = |carried, shortcut, redirected| {
            Seen { as_frames: 0, carried, shortcut, redirected }.are_better_off_as_packets()
        };
        assert!(packets(1000, 0, 0) && packets(1000, 400, 599));
        assert!(!packets(999, 0, 0) && !packets(1000, 400, 600));
    }
}
