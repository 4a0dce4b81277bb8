//! What people write: rule files, parsed and checked into a [`set::RuleSet`] that cannot be wrong.
//!
//! ```text
//! text ──from_json, from_toml──▶ tree ──native (reader, fields)──▶ rules ──check──▶ RuleSet
//! ```
//!
//! Every step notes all the faults it sees and goes on, so that one run finds them all.

mod check;
pub mod diagnostic;
pub(crate) mod fields;
mod from_json;
pub(crate) mod from_toml;
pub(crate) mod load;
mod names;
pub(crate) mod native;
pub(crate) mod reader;
pub mod set;
pub(crate) mod source;
mod spots;
pub(crate) mod tree;

pub use load::{Loaded, load};
pub use names::{RuleKind, RuleName};
