//! Filters of interfaces: what may be forwarded that comes in by one, or leaves by one. They see packets as guests do,
//! behind the translation of destinations and before that of sources, and do not concern the router's own traffic.

use serde::{Deserialize, Serialize};

use crate::rules::diagnostic::Place;
use crate::rules::set::{Action, Cidr, Match, is_default};

/// A filter of an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterfaceFilter {
    /// The interface.
    pub interface: String,
    /// The VLAN; zero for untagged.
    #[serde(skip_serializing_if = "is_default")]
    pub vlan: u16,
    /// Which way.
    pub direction: InterfaceDirection,
    /// What happens to what no entry matches.
    pub default: FilterAction,
    /// Its entries, in order: the first match decides.
    pub entries: Vec<InterfaceFilterEntry>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// An entry of a filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterfaceFilterEntry {
    /// Its id, unique in its filter.
    pub id: String,
    /// What it does.
    pub action: FilterAction,
    /// The transport part.
    #[serde(flatten)]
    pub matches: Match,
    /// Sources; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Destinations; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Cidr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// Which way a filter of an interface looks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceDirection {
    /// What comes in by the interface.
    In,
    /// What leaves by it.
    Out,
}

/// What an entry does with what it matches.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterAction {
    /// Lets it pass.
    Allow,
    /// Stops it in silence.
    #[default]
    Deny,
    /// Stops it and tells the sender.
    Reject,
}

impl FilterAction {
    /// Whether what matches passes.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Allow => Action::Allow,
            Self::Deny | Self::Reject => Action::Deny,
        }
    }
}

impl InterfaceFilter {
    /// What tells it from others: `eth1.5 in`.
    #[must_use]
    pub fn name(&self) -> String {
        let direction = match self.direction {
            InterfaceDirection::In => "in",
            InterfaceDirection::Out => "out",
        };
        match self.vlan {
            0 => format!("{} {direction}", self.interface),
            vlan => format!("{}.{vlan} {direction}", self.interface),
        }
    }
}
