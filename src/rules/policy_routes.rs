//! Policy routes: where what guests send goes by more than its destination.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::rules::diagnostic::Place;
use crate::rules::set::{Cidr, Match, PortRange};

/// A policy route: routes of its own for some of what the guests of a network send.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyRoute {
    /// Its id, unique among policy routes.
    pub id: String,
    /// The network whose guests it is about.
    pub network: String,
    /// The transport part.
    #[serde(flatten)]
    pub matches: Match,
    /// Source ports, for protocols with ports; none matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<PortRange>,
    /// Guests it is about; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Destinations it is about; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Cidr>,
    /// Its routes, of which the longest prefix counts.
    pub routes: Vec<PolicyHop>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A route of a policy route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyHop {
    /// What it leads to.
    pub destination: Cidr,
    /// The next hop, in a network of the guests' domain or on the segment of a public address; none drops.
    pub via: Option<Ipv4Addr>,
    /// The public addresses that guests leave with this way; empty: those of their network that are on the next
    /// hop's interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_nat: Vec<Ipv4Addr>,
}
