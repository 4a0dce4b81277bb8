//! The policy in force: workers load it once a batch, the control thread swaps it whole.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::flow::Generation;
use crate::policy::Policy;

/// The policy in force.
pub struct Published {
    policy: Arc<ArcSwap<Policy>>,
}

impl Published {
    /// Puts a first policy in force.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy: Arc::new(ArcSwap::from_pointee(policy)) }
    }

    /// The policy in force now.
    #[must_use]
    pub fn load(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// The number for the next policy.
    #[must_use]
    pub fn next_generation(&self) -> Generation {
        next_generation(self.policy.load().generation())
    }

    /// Puts `policy` in force and returns the one before. Workers see it at their next batch.
    pub fn swap(&self, policy: Policy) -> Arc<Policy> {
        self.policy.swap(Arc::new(policy))
    }

    /// A handle for one worker.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let mut cache = Cache::new(Arc::clone(&self.policy));
        let own = Rc::new(Arc::clone(cache.load()));
        Reader { cache, own }
    }
}

/// One worker's view of the policy in force. It keeps the policy that it last saw alive.
pub struct Reader {
    cache: Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>,
    /// The same policy in a count of this worker's own.
    #[expect(clippy::redundant_allocation, reason = "all workers would write to the other count")]
    own: Rc<Arc<Policy>>,
}

impl Reader {
    /// The policy in force: one load when it is the one seen last.
    pub fn current(&mut self) -> Rc<Arc<Policy>> {
        let current = self.cache.load();
        if !Arc::ptr_eq(current, &self.own) {
            match Rc::get_mut(&mut self.own) {
                Some(own) => *own = Arc::clone(current),
                // Whoever got it last time still holds it.
                None => self.own = Rc::new(Arc::clone(current)),
            }
        }
        Rc::clone(&self.own)
    }
}

/// The number after `generation`. Numbers wrap, and zero is none: the empty policy has it.
#[must_use]
pub fn next_generation(generation: Generation) -> Generation {
    Generation(generation.0.checked_add(1).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::compile::compile;
    use crate::policy::registry::Registry;
    use crate::policy::samples;
    use crate::rules::set::RuleSet;

    fn policy(config: &Config, generation: Generation) -> Policy {
        compile(&RuleSet::default(), config, &mut Registry::new(), generation)
    }

    #[test]
    fn a_reader_sees_a_swap_at_its_next_look() {
        let published = Published::new(Policy::empty());
        let mut reader = published.reader();
        assert_eq!(reader.current().generation(), Generation(0));
        let next = published.next_generation();
        assert_eq!(next, Generation(1));
        let before = published.swap(policy(&samples::config(), next));
        assert_eq!(before.generation(), Generation(0));
        assert_eq!(reader.current().generation(), Generation(1));
        assert_eq!(published.load().generation(), Generation(1));
    }

    #[test]
    fn generations_wrap_and_are_never_zero() {
        assert_eq!(next_generation(Generation(u16::MAX)), Generation(1));
    }
}
