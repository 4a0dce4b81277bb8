//! Frames that wait, in chains, all memory allocated at the start.

use super::age_list::NONE;

/// Frames in the order they came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    first: u32,
    last: u32,
    /// How many.
    pub(super) count: u32,
}

impl Chain {
    /// No frame.
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE, count: 0 };
}

struct Cell<F> {
    frame: Option<F>,
    next: u32,
}

/// Room for frames, in as many chains as one likes.
pub(super) struct Waiting<F> {
    cells: Box<[Cell<F>]>,
    free: u32,
}

impl<F> Waiting<F> {
    /// Room for `count` frames.
    pub(super) fn new(count: u32) -> Self {
        let next = |at| if at + 1 < count { at + 1 } else { NONE };
        let cells = (0..count).map(|at| Cell { frame: None, next: next(at) }).collect();
        Self { cells, free: if count > 0 { 0 } else { NONE } }
    }

    /// Appends `frame` to a chain, or gives it back.
    pub(super) fn push(&mut self, chain: &mut Chain, frame: F) -> Result<(), F> {
        let at = self.free;
        let Some(cell) = self.cells.get_mut(at as usize) else { return Err(frame) };
        self.free = cell.next;
        *cell = Cell { frame: Some(frame), next: NONE };
        self.concatenate(chain, Chain { first: at, last: at, count: 1 });
        Ok(())
    }

    /// Appends all of `tail` to `chain`.
    pub(super) fn concatenate(&mut self, chain: &mut Chain, tail: Chain) {
        if tail.count == 0 {
            return;
        }
        match self.cells.get_mut(chain.last as usize) {
            Some(last) => last.next = tail.first,
            None => chain.first = tail.first,
        }
        chain.last = tail.last;
        chain.count += tail.count;
    }

    /// Hands all frames of a chain over.
    pub(super) fn release(&mut self, chain: Chain, mut release: impl FnMut(F)) {
        let mut at = chain.first;
        for _ in 0..chain.count {
            let Some(cell) = self.cells.get_mut(at as usize) else { return };
            let next = std::mem::replace(&mut cell.next, self.free);
            if let Some(frame) = cell.frame.take() {
                release(frame);
            }
            self.free = at;
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_the_order_they_came_and_their_room_is_used_again() {
        let mut waiting = Waiting::new(4);
        for round in 0..3 {
            let (mut chain, mut other) = (Chain::EMPTY, Chain::EMPTY);
            assert_eq!(waiting.push(&mut chain, round), Ok(()));
            assert_eq!(waiting.push(&mut other, 10), Ok(()));
            assert_eq!(waiting.push(&mut chain, round + 1), Ok(()));
            assert_eq!(waiting.push(&mut other, 11), Ok(()));
            assert_eq!(waiting.push(&mut other, 12), Err(12));
            waiting.concatenate(&mut chain, other);
            let mut released = Vec::new();
            waiting.release(chain, |frame| released.push(frame));
            assert_eq!(released, [round, round + 1, 10, 11]);
        }
    }
}
