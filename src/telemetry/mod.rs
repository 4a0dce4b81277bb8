//! What people look at: counters, metrics, events. Workers write, everybody else only reads.

pub mod address_counters;
pub mod address_match;
pub mod counters;
pub mod events;
pub mod ipfix;
pub mod prometheus;
pub mod rule_counters;
pub mod tally;
pub mod tap;
