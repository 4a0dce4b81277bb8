//! The control socket: JSON lines, one request a line, and one reply a line or several.
//!
//! ```text
//! > {"command":"show_drops"}
//! < {"ok":true,"data":[{"reason":"no_port","frames":7,"meaning":"No external port is free ..."}]}
//! > {"command":"show_sessions","guest":"10.1.1.5"}
//! < {"ok":true,"more":true,"data":[...]}
//! < {"ok":true,"data":[...]}
//! > {"command":"sing"}
//! < {"ok":false,"error":"unknown variant `sing`, expected ...","hint":"..."}
//! ```
//!
//! A reply with `"more":true` is followed by another one for the same request.

mod addresses;
pub mod answers;
pub mod balancers;
pub mod census;
pub mod client;
pub mod config;
#[cfg(test)]
mod fixture;
pub mod listing;
pub mod live;
pub mod metrics;
pub mod pools;
pub mod requests;
pub mod rows;
pub mod server;
pub mod sessions;
pub mod sides;
#[cfg(test)]
mod tests;
mod watch;
pub mod workers;
