//! What translation needs beyond sessions: external ports, mappings, guests' limits, fragments,
//! the choice among a balancer's members.

pub mod balance;
pub mod fragments;
pub mod guests;
pub mod health;
pub mod identifications;
pub mod limits;
pub mod mappings;
pub mod path_mtus;
