//! Load balancers: their members, how many sessions each has, and how it is.

use std::collections::HashMap;

use crate::control::rows::MemberRow;
use crate::flow::{Endpoint, RuleId};
use crate::pipeline::shared::Shared;
use crate::policy::registry::RuleKind;
use crate::rules::set::{Algorithm, RuleSet};

/// Every member of every balancer of `rules`, which are in force.
#[must_use]
pub fn rows(rules: &RuleSet, shared: &Shared) -> Vec<MemberRow> {
    let policy = shared.policy.load();
    let numbers: HashMap<&str, RuleId> = policy
        .rules()
        .iter()
        .filter(|info| info.kind == RuleKind::LoadBalancer)
        .map(|info| (&*info.id, info.rule))
        .collect();
    let mut rows = Vec::new();
    for balancer in &rules.load_balancers {
        let public = Endpoint::new(balancer.public_ip, balancer.public_port.get());
        for member in &balancer.members {
            let endpoint = Endpoint::new(member.guest_ip, member.guest_port.get());
            let known = numbers.get(&*balancer.id).and_then(|rule| {
                let health = shared.balance.health.of(*rule, endpoint)?;
                Some((health.state.as_str(), health.why))
            });
            let unknown = if balancer.health_check.is_some() { "unknown" } else { "not checked" };
            let (health, why) = known.unwrap_or((unknown, String::new()));
            rows.push(MemberRow {
                balancer: balancer.id.clone(),
                public: public.to_string(),
                protocol: balancer.protocol.to_string(),
                algorithm: match balancer.algorithm {
                    Algorithm::LeastConnections => "least-connections",
                    Algorithm::RoundRobin => "round-robin",
                    Algorithm::Source => "source",
                }
                .to_owned(),
                member: endpoint.to_string(),
                weight: member.weight,
                sessions: shared.balance.sessions(balancer.protocol, public, endpoint),
                health: health.to_owned(),
                why,
            });
        }
    }
    rows
}
