//! What tests, fuzz targets and benches share: slow, obviously right packets, and fuzz bodies.
//!
//! Nothing of the engine uses this. It may panic: that is how a test fails.

pub mod fuzz;
pub mod fuzz_capsules;
pub mod fuzz_cloudstack;
mod fuzz_ipv6;
pub mod fuzz_pipeline;
pub mod fuzz_region;
pub mod fuzz_rules;
pub mod fuzz_zstack;
pub mod lab;
pub mod packets;
pub mod packets_ipv6;
pub mod sessions;
pub mod shortcuts;
