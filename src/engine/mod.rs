//! Start, supervision, reload and shutdown of a running router.
//!
//! [`handle::EngineHandle`] is what the control socket, metrics and signals hold of it.

pub mod handle;
