//! AF_XDP: sockets, the XDP program that feeds them, and the devices they are bound to.
//!
//! [`open::open`] does it all in the right order and gives back one [`open::LaneParts`] for each
//! worker and one [`program::Program`] for each interface.

mod attach;
mod carrier;
mod descriptor;
pub mod device;
pub mod features;
pub mod feeder;
pub mod kernel_ports;
mod keys;
mod offloads;
pub mod open;
pub mod open_error;
mod options;
pub mod program;
pub mod program_fault;
mod queues;
pub mod socket;
pub mod steering;
mod words;
