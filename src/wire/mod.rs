//! Views of headers in place, parsing, checksums, and the few packets that natwerk builds itself.
//!
//! Never panics, whatever the bytes; never allocates. Network order (`U16`, `U32`) lives here and
//! nowhere else.

pub mod arp;
pub mod checksum;
pub mod fragment;
pub mod header;
pub mod icmp;
pub mod ipv6;
pub mod link;
pub mod parse;
pub mod plain;
pub mod pptp;
pub mod sctp;
pub mod segment;
pub mod tags;
mod transport;
pub mod vxlan;
