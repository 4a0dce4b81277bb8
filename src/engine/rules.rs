//! The rules in force, where they came from, and the numbers given to them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::flow::Generation;
use crate::host::{self, sysctl};
use crate::policy::Policy;
use crate::policy::compile::{CompileOptions, compile_with};
use crate::policy::registry::Registry;
use crate::rules::diagnostic::Diagnostic;
use crate::rules::set::RuleSet;
use crate::rules::sources::Pending;
use crate::rules::{self, Diff, Loaded};

/// The rules in force.
pub(super) struct Rules {
    current: Arc<RuleSet>,
    /// Rules of control planes that wait for something.
    pub pending: Arc<Vec<Pending>>,
    /// The files they came from.
    pub files: Vec<PathBuf>,
    /// Numbers of rules and realms, which outlive a process that leaves sessions.
    pub registry: Registry,
}

impl Rules {
    /// Reads the configured rules for the first time.
    ///
    /// # Errors
    /// With everything that is wrong with them.
    pub fn load(config: &Config) -> Result<Self, Vec<Diagnostic>> {
        let loaded = rules::load_with_nics(&config.rules, Some(config), &host::nics())?;
        log_warnings(&loaded.warnings);
        Ok(Self {
            current: Arc::new(loaded.rules),
            pending: Arc::new(loaded.pending),
            files: loaded.files,
            registry: Registry::new(),
        })
    }

    /// The rules in force.
    pub fn current(&self) -> Arc<RuleSet> {
        Arc::clone(&self.current)
    }

    /// Takes over what was read. Returns what is different from before.
    pub fn replace(&mut self, loaded: Loaded) -> Diff {
        let diff = rules::diff(&self.current, &loaded.rules);
        self.current = Arc::new(loaded.rules);
        self.pending = Arc::new(loaded.pending);
        self.files = loaded.files;
        diff
    }

    /// The policy that the rules in force say.
    pub fn compile(&mut self, config: &Config, generation: Generation) -> Policy {
        let kernel_ports = sysctl::local_ports().ok();
        let options = CompileOptions {
            kernel_ports: kernel_ports.map(|range| range.first()..=range.last()),
            // Any: the kernel's choice changes with its addresses and routes.
            kernel_addresses: None,
        };
        compile_with(&self.current, config, &options, &mut self.registry, generation)
    }
}

/// Writes down what rules are used in spite of.
pub(super) fn log_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
