//! What we remember of sessions: bounded, mapped, adopted by the next process.
//!
//! A session has one [`entry`] per direction, found through an [`index`] of small tags; both lie in
//! one mapped [`region`], which starts with a [`header`]. The [`table`] ties them together,
//! [`adoption`] takes over what the process before left, [`tcp`] says which segments to believe,
//! [`timeout`] when a session ends.

pub mod adoption;
pub mod entry;
pub mod found;
mod fuse;
pub mod hash;
pub mod header;
pub mod index;
mod nearby;
pub mod region;
mod seen;
pub mod shape;
pub mod table;
pub mod tcp;
pub mod timeout;
mod walk;
