//! `RuleSet` to `Policy`.
