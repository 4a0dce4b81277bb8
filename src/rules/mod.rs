//! What people write: rule files, parsed and checked into a [`set::RuleSet`] that cannot be wrong.

pub mod diagnostic;
pub mod set;
