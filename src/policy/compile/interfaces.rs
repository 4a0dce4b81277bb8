//! Filters of interfaces.

use std::sync::Arc;

use ahash::{HashMap, HashSet};

use crate::flow::PortId;
use crate::policy::compile::{Compiler, text};
use crate::policy::filter::{Decided, Filter, FilterRule};
use crate::policy::registry::RuleKind;
use crate::policy::{InterfaceFilter, InterfacePass};
use crate::rules::set::{self, FilterAction, InterfaceDirection, RuleSet};

impl Compiler<'_> {
    pub(super) fn interface_filters(
        &mut self,
        rules: &RuleSet,
    ) -> HashMap<(PortId, u16, InterfacePass), InterfaceFilter> {
        let mut filters = HashMap::default();
        for rule in &rules.interface_filters {
            let port = (0..=u8::MAX)
                .zip(&self.config.interfaces)
                .find(|(_, interface)| interface.name == rule.interface)
                .map(|(place, _)| PortId(place));
            let Some(port) = port else { continue };
            let pass = match rule.direction {
                InterfaceDirection::In => InterfacePass::In,
                InterfaceDirection::Out => InterfacePass::Out,
            };
            let filter = self.interface_filter(rule);
            filters.insert((port, rule.vlan, pass), filter);
        }
        filters
    }

    fn interface_filter(&mut self, filter: &set::InterfaceFilter) -> InterfaceFilter {
        let owner: Arc<str> = filter.name().into();
        let mut tells = HashSet::default();
        let mut filter_rules = Vec::with_capacity(filter.entries.len());
        for entry in &filter.entries {
            let action = entry.action.action();
            let (sources, destinations) =
                (entry.sources.clone().into(), entry.destinations.clone().into());
            let text = text::filter_rule(action, &entry.matches, &sources, &destinations);
            let id = format!("{owner} {}", entry.id);
            let rule = self.number(RuleKind::InterfaceFilter, &id, &owner, text, &entry.place);
            if entry.action == FilterAction::Reject {
                tells.insert(rule);
            }
            filter_rules.push(FilterRule {
                decided: Decided { action, rule },
                matches: entry.matches,
                sources: &entry.sources,
                destinations: &entry.destinations,
            });
        }
        let action = filter.default.action();
        let text = text::default(action);
        let rule = self.number_default(RuleKind::InterfaceDefault, &owner, text, &filter.place);
        if filter.default == FilterAction::Reject {
            tells.insert(rule);
        }
        InterfaceFilter { filter: Filter::new(&filter_rules, Decided { action, rule }), tells }
    }
}
