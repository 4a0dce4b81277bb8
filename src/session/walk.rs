//! Walks over the table, a share of it at a time: for the sweep, for people, for who starts.

use crate::prefetch::prefetch;
use crate::session::entry::Entry;
use crate::session::index::{GROUP_SLOTS, Group, slot_of};
use crate::session::shape::Shape;
use crate::session::table::{SessionView, Table};

/// How many groups ahead of the one that is looked at its entries are asked for: those of the share that mostly comes
/// next, too.
const AHEAD: u32 = 2;

impl<A: Shape> Table<A> {
    /// Visits sessions from `cursor` on: looks at no more than `slots` slots, and moves the cursor;
    /// it wraps at the end of the table. Returns whether it wrapped. `visit` may remove what it sees.
    pub fn walk(&self, cursor: &mut u32, slots: u32, visit: impl FnMut(SessionView<A>)) -> bool {
        self.walk_unless(|_| false, cursor, slots, visit)
    }

    /// The same, without the sessions of whose initiator's entry `passes` says so: of them no more
    /// than that entry is read.
    pub fn walk_unless(
        &self,
        passes: impl Fn(&Entry<A>) -> bool,
        cursor: &mut u32,
        slots: u32,
        mut visit: impl FnMut(SessionView<A>),
    ) -> bool {
        let (groups, total) = (self.region().layout().groups(), self.slots());
        let slot = if *cursor < total { *cursor } else { 0 };
        let (mut group, mut first) = (slot / GROUP_SLOTS, slot % GROUP_SLOTS);
        let mut left = slots.min(total);
        let mut wrapped = false;
        while left > 0 {
            self.ask_for(group + AHEAD);
            let count = left.min(GROUP_SLOTS - first);
            let word = self.index().group(group);
            if !word.is_empty() {
                self.walk_group((group, word), first..first + count, &passes, &mut visit);
            }
            left -= count;
            first += count;
            if first == GROUP_SLOTS {
                (group, first) = (group + 1, 0);
            }
            if group == groups {
                (group, wrapped) = (0, true);
            }
        }
        *cursor = slot_of(group, first).0;
        wrapped
    }

    /// Asks for the entries of a group that somebody has; of none behind the last group.
    fn ask_for(&self, group: u32) {
        for slot in self.index().group(group).taken() {
            self.entry(slot_of(group, slot)).map(prefetch);
        }
    }

    fn walk_group(
        &self,
        (group, word): (u32, Group),
        slots: std::ops::Range<u32>,
        passes: &impl Fn(&Entry<A>) -> bool,
        visit: &mut impl FnMut(SessionView<A>),
    ) {
        // Each session is seen once, where its initiator's direction stands.
        let is_due = |slot: &u32| {
            let entry = self.entry(slot_of(group, *slot));
            entry.is_some_and(|entry| entry.is_initiator() && !passes(entry))
        };
        let taken = word.taken().filter(|slot| slots.contains(slot));
        let due = taken.filter(is_due).fold(0, |due, slot| due | 1 << slot);
        if due != 0 {
            self.visit_due(group, due, visit);
        }
    }

    /// Visits the sessions whose initiators' directions stand in the slots of a group that are set in `due`.
    #[inline(never)]
    fn visit_due(&self, group: u32, due: u32, visit: &mut impl FnMut(SessionView<A>)) {
        // All partners of a group are asked for before the first one is read.
        let mut found = [const { None }; GROUP_SLOTS as usize];
        let due = (0..GROUP_SLOTS).filter(|slot| due >> slot & 1 != 0);
        for (slot, place) in due.zip(&mut found) {
            let index = slot_of(group, slot);
            let identity = self.entry(index).and_then(Entry::identity);
            *place = identity.filter(|identity| identity.traits().is_initiator()).map(|identity| {
                self.entry(identity.traits().partner()).map(prefetch);
                (index, identity)
            });
        }
        for (index, identity) in found.into_iter().flatten() {
            if let Some(view) = self.view_as(index, &identity) {
                visit(view);
            }
        }
    }
}
