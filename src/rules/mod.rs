//! What people write: rule files, parsed and checked into a [`set::RuleSet`] that cannot be wrong.
//!
//! ```text
//! text ──from_json, from_toml──▶ tree ──native (reader, fields)──▶ rules ──check──▶ RuleSet
//! control planes' files ──sources──────────────────────────────▶ rules ──┘
//! ```
//!
//! Every step notes all the faults it sees and goes on, so that one run finds them all.

mod address_limits;
mod as_text;
mod check;
pub mod diagnostic;
mod diff;
mod encapsulation;
pub(crate) mod fields;
mod from_json;
pub(crate) mod from_toml;
mod health_check;
mod interface_filters;
pub(crate) mod ipv6;
pub(crate) mod load;
mod names;
mod nat;
pub(crate) mod native;
mod plain_json;
mod policy_routes;
pub(crate) mod reader;
pub(crate) mod scalars;
pub mod schema;
pub mod set;
pub(crate) mod source;
pub mod sources;
mod spots;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tree;
mod values;
mod write;

pub use diff::{Diff, diff};
pub use load::{Loaded, load, load_text, load_translation, load_with_nics};
pub use names::{RuleKind, RuleName};
pub use write::{WriteError, to_json, to_toml, to_value};
