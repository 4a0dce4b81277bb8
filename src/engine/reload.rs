//! New rules in place of the old ones: whole, at a batch boundary, or not at all.
//!
//! They are in force when [`Engine::reload`] returns. What became of the sessions is known half a second later
//! (see [`super::review`]), and told then; meanwhile the engine hears commands, so that the next
//! change does not wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::engine::files::fingerprint;
use crate::engine::handle::{ReloadError, ReloadReport};
use crate::engine::review::Review;
use crate::engine::rules::log_warnings;
use crate::engine::run::Engine;
use crate::engine::state::save_registry;
use crate::flow::Generation;
use crate::host;
use crate::host::plan::Plan;
use crate::rules::diagnostic::Diagnostic;
use crate::rules::{self, Loaded};

/// What is told of a reload.
pub(super) type Outcome = Result<ReloadReport, ReloadError>;

/// What reading the rules again came to.
enum Reloaded {
    /// Other rules are in force; their review is on.
    InForce,
    /// The rules are the same.
    Same(ReloadReport),
}

impl Engine {
    /// Reads the rules again for somebody who asked, who is answered when the sessions were looked at. If the file
    /// watch was quicker and put the same change in force moments before, that is what is told.
    pub(super) fn reload_asked(&mut self, reply: Sender<Outcome>) {
        let outcome = match self.reload(Duration::ZERO) {
            Err(error) => Err(error),
            Ok(Reloaded::InForce) => return self.answer_after_review(reply),
            Ok(Reloaded::Same(_)) if self.review.is_some() => {
                return self.answer_after_review(reply);
            }
            Ok(Reloaded::Same(report)) => {
                let quicker = self.untold.take();
                let quicker = quicker.filter(|(when, untold)| {
                    when.elapsed() < UNTOLD_FOR && untold.generation == report.generation
                });
                Ok(quicker.map_or(report, |(_, untold)| untold))
            }
        };
        // Whoever asked may have gone.
        let _ = reply.send(outcome);
    }

    /// The same after something happened where rule files are, if it happened to rule files; `since` when.
    pub(super) fn reload_changed(&mut self, since: Instant) {
        let fingerprint = fingerprint(self.handle.config());
        if fingerprint != self.fingerprint {
            // What it did is in the log, too.
            let _ = self.reload(since.elapsed());
        }
    }

    /// Reads the rules again and puts them in force. `waited` is how long the files were left alone before.
    ///
    /// # Errors
    /// When they are faulty; nothing changes then.
    fn reload(&mut self, waited: Duration) -> Result<Reloaded, ReloadError> {
        let started = Instant::now();
        let config = Arc::clone(self.handle.config());
        // Before they are read, so that a change while they are read is another change.
        self.fingerprint = fingerprint(&config);
        let outcome = match rules::load_with_nics(&config.rules, Some(&config), &host::nics()) {
            // A torn file is about to be whole again; until then what runs stays.
            Ok(loaded) if loaded.is_torn => Err(refused(loaded.warnings)),
            Ok(loaded) => Ok(self.put_in_force(loaded, (started, waited))),
            Err(diagnostics) => Err(refused(diagnostics)),
        };
        match &outcome {
            Ok(Reloaded::InForce) => {}
            Ok(Reloaded::Same(report)) => self.tell(report),
            Err(error) => self.handle.set_reload(&Err(error.clone())),
        }
        self.watch_rule_files();
        outcome
    }

    /// Writes down what a reload did.
    pub(super) fn tell(&self, report: &ReloadReport) {
        tracing::info!(
            added = report.added,
            removed = report.removed,
            changed = report.changed,
            sessions_ended = report.sessions_ended,
            generation = report.generation.0,
            waited_ms = report.waited.as_millis(),
            in_force_ms = report.in_force.as_millis(),
            duration_ms = report.duration.as_millis(),
            "rules read again"
        );
        self.handle.set_reload(&Ok(report.clone()));
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

    fn put_in_force(&mut self, loaded: Loaded, (started, waited): (Instant, Duration)) -> Reloaded {
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
            waited,
            in_force: started.elapsed(),
            duration: started.elapsed(),
            warnings,
        };
        if diff.is_empty() {
            return Reloaded::Same(report);
        }
        // Rules from before whose review is still on are told of as far as it came.
        self.conclude_review();
        let removed_before = self.sessions_removed();
        report.generation = self.shared.policy.next_generation();
        self.swap_policy(report.generation);
        report.in_force = started.elapsed();
        self.review = Some(Review::new(report, started, removed_before));
        Reloaded::InForce
    }

    /// Compiles the rules and swaps them in; workers see them at their next batch.
    fn swap_policy(&mut self, generation: Generation) {
        let config = Arc::clone(self.handle.config());
        let policy = self.rules.compile(&config, generation);
        save_registry(&config, &self.rules.registry);
        self.host.apply(Plan::of(&policy));
        self.shared.put_in_force(policy);
        if let Some(dataplane) = &self.dataplane {
            dataplane.wake();
        }
        self.steer();
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
