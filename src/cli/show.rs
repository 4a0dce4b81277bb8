//! `natwerk show`: asks the running engine, prints tables or JSON.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::output::{self, Failure, Outcome};
use crate::cli::{Common, address_table, ask, listing, packet_text, stats_table, tables};
use crate::config::Config;
use crate::control;
use crate::control::requests::{AddressMatch, MappingFilter, Request, SessionFilter};
use crate::control::rows::{
    AddressRow, CountRow, DropRow, MemberRow, NeighborRow, NetworkRow, PolicyRow, PoolRow, RuleRow,
    Stats, Workers,
};

/// What to show.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Public addresses: what passed by each, and what its limits refused.
    Addresses,
    /// Load balancers' members: how many sessions each has, and whether it answers.
    Balancers,
    /// The configuration in force, with every default written out.
    Config {
        /// Reads the configuration file instead of asking the engine.
        #[arg(long)]
        offline: bool,
    },
    /// Frames that were not forwarded, by reason.
    Drops {
        /// Also the reasons that never came up.
        #[arg(long)]
        all: bool,
    },
    /// Guests' endpoints and the public endpoints that stand for them.
    Mappings(MappingArguments),
    /// Next hops and their link addresses.
    Neighbors,
    /// The rules in force as a native rule file.
    Native,
    /// Guest networks.
    Networks,
    /// The compiled rules in short.
    Policy,
    /// Public addresses and how full they are.
    Pools {
        /// Also the protocols of an address that use no port.
        #[arg(long)]
        all: bool,
    },
    /// Rules with the packets and bytes of the sessions they allowed, or of what they refused.
    Rules {
        /// Only rules of this kind.
        #[arg(long)]
        kind: Option<String>,
        /// Only the rule with this id.
        #[arg(long)]
        id: Option<String>,
    },
    /// Sessions, both directions.
    Sessions(SessionArguments),
    /// The engine in numbers.
    Stats,
    /// Workers and interfaces.
    Workers,
}

/// Which sessions to show.
#[derive(Clone, Debug, Default, Args)]
pub struct SessionArguments {
    #[command(flatten)]
    conditions: SessionConditions,
    /// Print no more than this many.
    #[arg(long)]
    limit: Option<u64>,
    /// Print only how many there are.
    #[arg(long)]
    count: bool,
}

/// The conditions on sessions; all that are given must hold.
#[derive(Clone, Debug, Default, Args)]
pub struct SessionConditions {
    /// The guest: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    guest: Option<AddressMatch>,
    /// The public endpoint: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    public: Option<AddressMatch>,
    /// The remote: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<AddressMatch>,
    /// The protocol: tcp, udp, icmp, or a number.
    #[arg(long, value_parser = protocol_number)]
    protocol: Option<u8>,
    /// The rule that allowed it: its id, or `kind:id`.
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// The guest's network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

/// Which mappings to show.
#[derive(Clone, Debug, Default, Args)]
pub struct MappingArguments {
    /// The guest: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    guest: Option<AddressMatch>,
    /// The public endpoint: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    public: Option<AddressMatch>,
    /// The protocol: tcp, udp, icmp, or a number.
    #[arg(long, value_parser = protocol_number)]
    protocol: Option<u8>,
    /// Print no more than this many.
    #[arg(long)]
    limit: Option<u64>,
    /// Print only how many there are.
    #[arg(long)]
    count: bool,
}

impl SessionConditions {
    /// The filter that the control socket understands.
    #[must_use]
    pub fn filter(&self) -> SessionFilter {
        SessionFilter {
            guest: self.guest,
            public: self.public,
            remote: self.remote,
            protocol: self.protocol,
            rule: self.rule.clone(),
            network: self.network.clone(),
            ..SessionFilter::default()
        }
    }
}

impl SessionArguments {
    fn filter(&self) -> SessionFilter {
        let (limit, count) = (self.limit, self.count);
        SessionFilter { limit, count, ..self.conditions.filter() }
    }
}

impl MappingArguments {
    fn filter(&self) -> MappingFilter {
        MappingFilter {
            guest: self.guest,
            public: self.public,
            protocol: self.protocol,
            limit: self.limit,
            count: self.count,
        }
    }
}

/// Shows it.
///
/// # Errors
/// When the engine does not run or does not answer.
pub fn run(what: &What, common: &Common) -> Outcome {
    match what {
        What::Addresses => whole(common, &Request::ShowAddresses, |rows: &Vec<AddressRow>| {
            address_table::addresses(rows)
        }),
        What::Balancers => {
            whole(common, &Request::ShowBalancers, |rows: &Vec<MemberRow>| tables::members(rows))
        }
        What::Config { offline: false } => whole(common, &Request::ShowConfig, tables::config),
        What::Config { offline: true } => config_file(common),
        What::Drops { all } => {
            let wanted = |row: &DropRow| *all || row.frames > 0;
            some(common, &Request::ShowDrops, wanted, |rows: &Vec<DropRow>| tables::drops(rows))
        }
        What::Mappings(arguments) => {
            let request = Request::ShowMappings(arguments.filter());
            match arguments.count {
                true => count(common, &request),
                false => listing::print(common, &request, &tables::MAPPINGS, tables::mapping),
            }
        }
        What::Neighbors => whole(common, &Request::ShowNeighbors, |rows: &Vec<NeighborRow>| {
            tables::neighbors(rows)
        }),
        What::Native => {
            let rules = ask::connect(common)?.ask::<Value>(&Request::ShowNative)?;
            output::print_json(&rules)
        }
        What::Networks => {
            whole(common, &Request::ShowNetworks, |rows: &Vec<NetworkRow>| tables::networks(rows))
        }
        What::Policy => whole(common, &Request::ShowPolicy, |row: &PolicyRow| tables::policy(row)),
        What::Pools { all } => {
            let wanted =
                |row: &PoolRow| *all || row.live > 0 || row.resting > 0 || row.overloaded > 0;
            some(common, &Request::ShowPools, wanted, |rows: &Vec<PoolRow>| tables::pools(rows))
        }
        What::Rules { kind, id } => {
            let wanted = |row: &RuleRow| {
                kind.as_ref()
                    .is_none_or(|kind| row.kind.replace('-', "_") == kind.replace('-', "_"))
                    && id.as_ref().is_none_or(|id| *id == row.id)
            };
            some(common, &Request::ShowRules, wanted, |rows: &Vec<RuleRow>| tables::rules(rows))
        }
        What::Sessions(arguments) => {
            let request = Request::ShowSessions(arguments.filter());
            match arguments.count {
                true => count(common, &request),
                false => listing::print(common, &request, &tables::SESSIONS, tables::session),
            }
        }
        What::Stats => whole(common, &Request::ShowStats, |row: &Stats| stats_table::stats(row)),
        What::Workers => whole(common, &Request::ShowWorkers, |row: &Workers| tables::workers(row)),
    }
}

/// Prints what a configuration file comes to.
fn config_file(common: &Common) -> Outcome {
    let config = Config::load(&common.config).map_err(|faults| {
        let faults: String = faults.iter().map(|fault| format!("\n{fault}")).collect();
        Failure::refused(format!("the configuration is faulty:{faults}"))
    })?;
    let value = control::config::json(&config);
    match common.json {
        true => output::print_json(&value),
        false => output::print_bytes(tables::config(&value).as_bytes()),
    }
}

/// Asks for one answer and prints it.
fn whole<T: DeserializeOwned + Serialize>(
    common: &Common,
    request: &Request,
    text: impl Fn(&T) -> String,
) -> Outcome {
    let answer = ask::connect(common)?.ask::<T>(request)?;
    match common.json {
        true => output::print_json(&answer),
        false => output::print_bytes(text(&answer).as_bytes()),
    }
}

/// Asks for a list and prints the rows that are wanted.
fn some<T: DeserializeOwned + Serialize>(
    common: &Common,
    request: &Request,
    wanted: impl Fn(&T) -> bool,
    text: impl Fn(&Vec<T>) -> String,
) -> Outcome {
    let mut rows = ask::connect(common)?.ask::<Vec<T>>(request)?;
    rows.retain(wanted);
    match common.json {
        true => output::print_json(&rows),
        false => output::print_bytes(text(&rows).as_bytes()),
    }
}

/// Asks how many there are.
fn count(common: &Common, request: &Request) -> Outcome {
    let answer = ask::connect(common)?.ask::<CountRow>(request)?;
    match common.json {
        true => output::print_json(&answer),
        false => output::print_line(&answer.count.to_string()),
    }
}

/// Kept apart from the typed answers because a configuration is printed as it is.
pub(super) type ConfigAnswer = Value;

fn protocol_number(word: &str) -> Result<u8, packet_text::PacketTextError> {
    packet_text::protocol(word).map(|protocol| protocol.0)
}
