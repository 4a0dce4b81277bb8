//! How the members of a load balancer are looked after: the router connects to each over TCP, now and then.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// How members are checked. A member is taken out after so many failures on end, and back in after so many successes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Seconds between two checks of a member.
    pub interval_seconds: NonZeroU16,
    /// Seconds that a member has for its answer.
    pub timeout_seconds: NonZeroU16,
    /// Successes on end that bring a member back.
    pub healthy_after: NonZeroU16,
    /// Failures on end that take it out.
    pub unhealthy_after: NonZeroU16,
    /// The port that is connected to; none means the member's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
}

impl HealthCheck {
    /// The default of each number, in the order of the fields.
    pub const DEFAULTS: [u16; 4] = [5, 2, 2, 3];
}
