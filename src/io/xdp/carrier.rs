//! The program at the kernel's traffic control, which does shortcuts to packets of the kernel's own and takes them where
//! there is no XDP program: see `carry.bpf.h`.

use aya::Ebpf;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle,
};
use aya::programs::{ProgramError, SchedClassifier};

use crate::io::load::loaded;
use crate::io::xdp::device::Device;
use crate::io::xdp::program::chain;
use crate::io::xdp::program_fault::ProgramFault;

/// The program on a device. Dropping it takes it off, unless it was told to stay. It is attached by netlink, so
/// that it outlives a process that is killed, as the XDP program does that marks packets for it.
pub(super) struct Carrier {
    link: Option<SchedClassifierLink>,
}

impl Carrier {
    /// Loads it, before the maps of `object` are taken.
    pub(super) fn load(object: &mut Ebpf) -> Result<(), ProgramFault> {
        let program = program(object)?;
        loaded(|| program.load()).map_err(|error| refused(&error))
    }

    /// Puts it before whatever else is at the ingress of `device`.
    pub(super) fn attach(object: &mut Ebpf, device: &Device) -> Result<Self, ProgramFault> {
        // It may be there already; if it is not and cannot be had, attaching fails.
        let _ = tc::qdisc_add_clsact(&device.name);
        let first = NlOptions { priority: 1, handle: TcHandle::AUTO_ASSIGN, classid: None };
        let options = TcAttachOptions::Netlink(first);
        let program = program(object)?;
        let attached = program.attach_with_options(&device.name, TcAttachType::Ingress, options);
        let link =
            attached.and_then(|id| program.take_link(id)).map_err(|error| refused(&error))?;
        Ok(Self { link: Some(link) })
    }

    /// Takes a former process's off `device`. Most often there is none, and nothing to do it to.
    pub(super) fn evict_former(device: &Device) {
        let _ = tc::qdisc_detach_program(&device.name, TcAttachType::Ingress, PROGRAM);
    }

    /// Leaves it where it is when this is dropped.
    pub(super) fn stay(&mut self) {
        std::mem::forget(self.link.take());
    }
}

fn program(object: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramFault> {
    let found = object.program_mut(PROGRAM);
    let found = found.ok_or_else(|| ProgramFault::Carry(format!("no program {PROGRAM}")))?;
    found.try_into().map_err(|error: ProgramError| refused(&error))
}

fn refused(error: &dyn std::error::Error) -> ProgramFault {
    ProgramFault::Carry(chain(error))
}

/// Its name in the object, which the kernel shows too.
pub(super) const PROGRAM: &str = "natwerk_carry";
