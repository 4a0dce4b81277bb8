//! Lists in order of age through the places of a slab, without memory of their own.

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The place that was appended first.
    pub(super) oldest: u32,
    /// The place that was appended last.
    pub(super) newest: u32,
}

impl Ends {
    /// The ends of an empty list.
    pub(super) const EMPTY: Self = Self { oldest: NONE, newest: NONE };
}

#[derive(Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

/// The neighbours of every place. A place stands in one list at most.
pub(super) struct Links(Box<[Link]>);

impl Links {
    /// For a slab of `count` places.
    pub(super) fn new(count: usize) -> Self {
        Self(vec![Link { older: NONE, newer: NONE }; count].into())
    }

    /// Puts `place` at the newest end.
    pub(super) fn append(&mut self, ends: &mut Ends, place: u32) {
        self.0[place as usize] = Link { older: ends.newest, newer: NONE };
        match self.0.get_mut(ends.newest as usize) {
            Some(newest) => newest.newer = place,
            None => ends.oldest = place,
        }
        ends.newest = place;
    }

    /// Takes `place` out.
    pub(super) fn remove(&mut self, ends: &mut Ends, place: u32) {
        let Link { older, newer } = self.0[place as usize];
        match self.0.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => ends.oldest = newer,
        }
        match self.0.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => ends.newest = older,
        }
    }

    /// The places of a list, oldest first.
    pub(super) fn iter(&self, ends: Ends) -> impl Iterator<Item = u32> {
        let place = |place| Some(place).filter(|place| *place != NONE);
        std::iter::successors(place(ends.oldest), move |at| place(self.0[*at as usize].newer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_keeps_the_order_of_appending(places in proptest::collection::vec(0u32..20, 0..200)) {
            let mut links = Links::new(20);
            let mut ends = Ends::EMPTY;
            let mut model: Vec<u32> = Vec::new();
            for place in places {
                if model.contains(&place) {
                    links.remove(&mut ends, place);
                    model.retain(|other| *other != place);
                } else {
                    links.append(&mut ends, place);
                    model.push(place);
                }
                prop_assert_eq!(links.iter(ends).collect::<Vec<_>>(), model.clone());
                prop_assert_eq!(ends.newest, model.last().copied().unwrap_or(NONE));
            }
        }
    }
}
