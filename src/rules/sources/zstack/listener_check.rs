//! How a listener's members are checked: what its parameters say of it.

use std::num::NonZeroU16;

use super::balancers::{Parameters, parameter};
use super::reader::{Notes, quoted};
use crate::flow::Protocol;
use crate::rules::set::HealthCheck;

/// The health check that `parameters` ask for, if they do.
pub fn read(
    parameters: &Parameters<'_>,
    protocol: Protocol,
    notes: &mut Notes,
) -> Option<Option<HealthCheck>> {
    let Some((at, target)) = parameter(parameters, "healthCheckTarget") else { return Some(None) };
    let (how, port) = target.split_once(':').unwrap_or((target, "default"));
    let port = match port {
        "default" | "" => None,
        text => match text.parse::<NonZeroU16>() {
            Ok(port) => Some(port),
            Err(_) => {
                let what = format!("healthCheckTarget {} names no port", quoted(target));
                notes.error(at, what, "send tcp:default or tcp:PORT");
                return None;
            }
        },
    };
    let [interval, timeout, healthy, unhealthy] = HealthCheck::DEFAULTS;
    let mut number = |name, default, most| number(parameters, name, (default, most), notes);
    let interval = number("healthCheckInterval", interval, 3600);
    let timeout = number("healthCheckTimeout", timeout, 3600);
    let healthy = number("healthyThreshold", healthy, 100);
    let unhealthy = number("unhealthyThreshold", unhealthy, 100);
    if how != "tcp" || protocol != Protocol::TCP {
        let what = "members are taken to be well: natwerk checks them over TCP only";
        notes.warning(at, what, "check them with tcp, or take them out by hand");
        return Some(None);
    }
    Some(Some(HealthCheck {
        interval_seconds: interval?,
        timeout_seconds: timeout?,
        healthy_after: healthy?,
        unhealthy_after: unhealthy?,
        port,
    }))
}

fn number(
    parameters: &Parameters<'_>,
    name: &str,
    (default, most): (u16, u16),
    notes: &mut Notes,
) -> Option<NonZeroU16> {
    let Some((at, text)) = parameter(parameters, name) else { return NonZeroU16::new(default) };
    let number = text.parse::<NonZeroU16>().ok().filter(|number| number.get() <= most);
    if number.is_none() {
        let what = format!("{name} {} is not a number from 1 to {most}", quoted(text));
        notes.error(at, what, "send a whole number");
    }
    number
}
