//! The router's own kernel.

pub mod netlink;
pub mod plan;
pub mod resolve;
pub mod view;
