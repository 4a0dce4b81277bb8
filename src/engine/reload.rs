//! New rules in place of the old ones: whole, at a batch boundary, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::files::fingerprint;
use crate::engine::handle::{ReloadError, ReloadReport};
use crate::engine::rules::log_warnings;
use crate::engine::run::Engine;
use crate::engine::state::save_registry;
use crate::flow::Generation;
use crate::host;
use crate::host::plan::Plan;
use crate::rules::diagnostic::Diagnostic;
use crate::rules::{self, Loaded};
use crate::session::shape::Shape;
use crate::session::table::Table;
use crate::telemetry::counters::Ended;

impl Engine {
    /// Reads the rules again for somebody who asked. If the file watch was quicker and put the same
    /// change in force moments before, that is what is told.
    ///
    /// # Errors
    /// When they are faulty; nothing changes then.
    pub(super) fn reload_asked(&mut self) -> Result<ReloadReport, ReloadError> {
        let outcome = self.reload();
        let quicker = self.untold.take().filter(|(when, _)| when.elapsed() < UNTOLD_FOR);
        match (outcome, quicker) {
            (Ok(report), Some((_, untold))) if report.generation == untold.generation => Ok(untold),
            (outcome, _) => outcome,
        }
    }

    /// Reads the rules again and puts them in force.
    ///
    /// # Errors
    /// When they are faulty; nothing changes then.
    fn reload(&mut self) -> Result<ReloadReport, ReloadError> {
        let started = Instant::now();
        let config = Arc::clone(self.handle.config());
        // Before they are read, so that a change while they are read is another change.
        self.fingerprint = fingerprint(&config);
        let outcome = match rules::load_with_nics(&config.rules, Some(&config), &host::nics()) {
            // A torn file is about to be whole again; until then what runs stays.
            Ok(loaded) if loaded.is_torn => Err(refused(loaded.warnings)),
            Ok(loaded) => Ok(self.put_in_force(loaded, started)),
            Err(diagnostics) => Err(refused(diagnostics)),
        };
        self.handle.set_reload(&outcome);
        self.watch_rule_files();
        outcome
    }

    /// The same after something happened where rule files are, if it happened to rule files.
    pub(super) fn reload_changed(&mut self) {
        let fingerprint = fingerprint(self.handle.config());
        if fingerprint != self.fingerprint {
            // What it did is in the log, too.
            self.untold = self.reload().ok().map(|report| (Instant::now(), report));
        }
    }

    /// Watches the files that the rules come from now.
    pub(super) fn watch_rule_files(&mut self) {
        let config = self.handle.config();
        if let Some(files) = &mut self.files {
            for folder in files.watch(config, &self.rules.files) {
                tracing::warn!(
                    "changes in {} go unnoticed: use `natwerk reload`",
                    folder.display()
                );
            }
        }
    }

    fn put_in_force(&mut self, loaded: Loaded, started: Instant) -> ReloadReport {
        let warnings = loaded.warnings.clone();
        log_warnings(&warnings);
        let diff = self.rules.replace(loaded);
        self.handle.set_rules(self.rules.current(), Arc::clone(&self.rules.pending));
        let mut report = ReloadReport {
            added: diff.added.len(),
            removed: diff.removed.len(),
            changed: diff.changed.len(),
            sessions_ended: 0,
            generation: self.shared.policy.load().generation(),
            duration: started.elapsed(),
            warnings,
        };
        if !diff.is_empty() {
            let removed_before = self.sessions_removed();
            report.generation = self.shared.policy.next_generation();
            self.swap_policy(report.generation);
            self.wait_for_review(report.generation);
            report.sessions_ended = self.sessions_removed().saturating_sub(removed_before);
        }
        report.duration = started.elapsed();
        tracing::info!(
            added = report.added,
            removed = report.removed,
            changed = report.changed,
            sessions_ended = report.sessions_ended,
            generation = report.generation.0,
            duration_ms = report.duration.as_millis(),
            "rules read again"
        );
        report
    }

    /// Compiles the rules and swaps them in; workers see them at their next batch.
    fn swap_policy(&mut self, generation: Generation) {
        let config = Arc::clone(self.handle.config());
        let policy = self.rules.compile(&config, generation);
        save_registry(&config, &self.rules.registry);
        self.host.apply(Plan::of(&policy));
        self.shared.policy.swap(policy);
        self.steer();
        if let Some(dataplane) = &self.dataplane {
            dataplane.wake();
        }
    }

    /// Waits until the workers' sweep has looked at every session under the rules in force.
    fn wait_for_review(&self, generation: Generation) {
        let deadline = Instant::now() + REVIEW_PATIENCE;
        wait_for_table(&self.shared.sessions, generation, deadline);
        wait_for_table(&self.shared.sessions_ipv6, generation, deadline);
    }

    fn sessions_removed(&self) -> u64 {
        let workers = self.handle.workers();
        workers.iter().map(|worker| worker.counters.totals().ended(Ended::Removed)).sum()
    }
}

fn wait_for_table<A: Shape>(sessions: &Table<A>, generation: Generation, deadline: Instant) {
    let mut cursor = 0;
    let mut looked_at = 0;
    while looked_at < sessions.slots() && Instant::now() < deadline {
        let mut next = cursor;
        let mut is_stale = false;
        sessions.walk(&mut next, REVIEW_SLOTS, |view| {
            is_stale |= view.session.generation != generation;
        });
        if is_stale {
            std::thread::sleep(REVIEW_PAUSE);
        } else {
            cursor = next;
            looked_at += REVIEW_SLOTS;
        }
    }
}

fn refused(diagnostics: Vec<Diagnostic>) -> ReloadError {
    tracing::error!("the new rules are refused; the old ones stay in force");
    for diagnostic in &diagnostics {
        tracing::error!("{diagnostic}");
    }
    ReloadError::Refused { diagnostics }
}

/// How long after the file watch's reload whoever asks for one is told of that.
const UNTOLD_FOR: Duration = Duration::from_secs(2);
/// The longest wait for the sweep, which takes half a second.
const REVIEW_PATIENCE: Duration = Duration::from_millis(1500);
const REVIEW_PAUSE: Duration = Duration::from_millis(5);
const REVIEW_SLOTS: u32 = 8192;
