//! What we remember of sessions: bounded, mapped, adopted by the next process.

pub mod entry;
pub mod region;
pub mod table;
pub mod tcp;
pub mod timeout;
