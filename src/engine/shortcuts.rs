//! Shortcuts of the running engine: whether there are any, and by which interfaces they may lead.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Config, XdpMode};
use crate::engine::hooks::Intake;
use crate::flow::PortId;
use crate::io::xdp::device::Device;
use crate::io::xdp::features::{Features, Ways};
use crate::io::xdp::program::{Program, ShortcutMemory, ShortcutRoom};
use crate::io::xdp::program_fault::ProgramFault;
use crate::pipeline::shared::Settings;
use crate::pipeline::shortcuts::suit;
use crate::shortcut::{Memory, Shortcuts, Table};

/// The room that programs are to have, if there are to be shortcuts at all.
pub(super) fn room(config: &Config, settings: &Settings) -> Option<ShortcutRoom> {
    let interfaces = u32::try_from(config.interfaces.len()).unwrap_or(u32::MAX);
    let share = config.sessions.max / SESSIONS_PER_SHORTCUT / interfaces.max(1);
    let places = config.workers.shortcuts.unwrap_or(1 << share.max(1).ilog2());
    if places == 0 {
        return None;
    }
    if !cfg!(target_arch = "x86_64") {
        tracing::warn!("no shortcuts: the program's reads are ordered on x86-64 only");
        return None;
    }
    if let Err(why) = suit(&settings.timeouts) {
        tracing::warn!("no shortcuts: {why}");
        return None;
    }
    let [.., one, two] = settings.seed;
    let bits = (places.max(PLACES_MIN) / PLACES_PER_WORD).ilog2();
    Some(ShortcutRoom { bits, seeds: [one, two] })
}

/// The shortcuts that loaded programs read. Frames of zero-copy sockets take none: they would have to be
/// copied.
pub(super) fn of_programs<'d>(
    programs: &mut [Program],
    devices: impl Iterator<Item = (&'d Device, Option<&'d Intake>)> + Clone,
    modes: &[XdpMode],
    room: Option<ShortcutRoom>,
) -> Option<Arc<Shortcuts>> {
    let ShortcutRoom { bits, seeds } = room?;
    if modes.iter().any(|mode| *mode != XdpMode::Copy) {
        tracing::info!("no shortcuts: they are for drivers' XDP with copied frames");
        return None;
    }
    for (program, (device, _)) in programs.iter_mut().zip(devices.clone()) {
        if let Err(fault) = program.carry(device) {
            tracing::warn!("no shortcuts: {}: {fault}", device.name);
            return None;
        }
        if let Err(error) = device.join_segments() {
            tracing::warn!(
                "{}: TCP segments are not joined, so streams are slower ({error}): ethtool -K {} gro on",
                device.name,
                device.name
            );
        }
    }
    for (program, (device, intake)) in programs.iter_mut().zip(devices) {
        intake.iter().for_each(|intake| intake.begin(program, device));
    }
    let table = |program: &mut Program| {
        let ShortcutMemory { slots, tags, gate } = program.take_shortcuts()?;
        let (slots, tags, gate) = (Box::new(slots), Box::new(tags), Box::new(gate));
        Some(Table::new(Memory { slots, tags, gate }, seeds, bits))
    };
    let tables: Vec<_> = programs.iter_mut().map(table).collect();
    // Those that have no memory for them could not get any; the log says why.
    tables.iter().all(Option::is_some).then(|| Arc::new(Shortcuts::new(tables)))
}

/// Most sessions are idle, or over after a packet or two.
const SESSIONS_PER_SHORTCUT: u32 = 4;
/// As many as a worker looks at together.
const PLACES_MIN: u32 = 64;
/// A hash names a word of tags, one for each place.
const PLACES_PER_WORD: u32 = 8;

/// How shortcuts may leave by the interfaces, looked at again and again: the other end of a veth may change.
pub(super) struct Exits {
    /// None if the kernel does not say.
    features: Option<Features>,
    /// What was found last.
    known: HashMap<PortId, Ways>,
}

impl Exits {
    /// Nobody is asked yet.
    pub(super) fn new() -> Self {
        let features = Features::new().inspect_err(|error| {
            tracing::info!(
                "shortcuts are carried by the kernel, which does not say what takes frames ({error}; Linux 6.3 does)"
            );
        });
        Self { features: features.ok(), known: HashMap::new() }
    }

    /// Whether any interface took frames when it was looked at last.
    pub(super) fn take_frames(&self) -> bool {
        self.known.values().any(|ways| ways.takes_frames)
    }

    /// Looks at an interface, and tells all programs how to leave by it.
    pub(super) fn look_at<'p>(
        &mut self,
        port: PortId,
        device: &Device,
        programs: impl Iterator<Item = &'p mut Program>,
    ) -> Result<(), ProgramFault> {
        let ways = Ways::of(device, self.features.as_ref());
        if self.known.insert(port, ways) == Some(ways) {
            return Ok(());
        }
        for program in programs {
            program.set_exit(port.0, device.index, ways)?;
        }
        let Ways { takes_frames, is_passage } = ways;
        let interface = &device.name;
        tracing::info!(interface, takes_frames, is_passage, "how shortcuts leave");
        Ok(())
    }
}
