//! natwerk: a NAT engine for cloud virtual routers.
#![warn(missing_docs)]

pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
pub mod flow;
pub mod frame;
pub mod host;
pub mod io;
pub mod nat;
pub mod next_hop;
pub mod pipeline;
pub mod policy;
pub mod prefetch;
pub mod rewrite;
pub mod rules;
pub mod session;
pub mod shortcut;
pub mod telemetry;
pub mod testing;
pub mod time;
pub mod verdict;
pub mod wire;
pub mod worker;
