//! Start, supervision, reload and shutdown of a running router.
//!
//! [`handle::EngineHandle`] is what the control socket, metrics and signals hold of it.

#[cfg(feature = "af-xdp")]
mod checks;
mod files;
pub mod handle;
#[cfg(feature = "af-xdp")]
mod steering;
