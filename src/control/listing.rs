//! Sessions of either table, visited a share at a time and listed in parts.

use crate::control::census;
use crate::control::requests::SessionFilter;
use crate::control::rows::SessionRow;
use crate::control::server::{Refusal, Reply};
use crate::control::sessions::{self, Wanted};
use crate::control::sides::Located;
use crate::session::table::{SessionView, Table};

/// Visits the session whose key `filter` has, or all; a share at a time, outside the table.
///
/// # Errors
/// What `visit` says.
pub fn visit<A: Located>(
    table: &Table<A>,
    filter: &SessionFilter,
    mut visit: impl FnMut(SessionView<A>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if let Some(key) = &filter.key {
        let view = sessions::place::<A>(key).and_then(|place| table.view(place));
        return view.map_or(Ok(()), visit);
    }
    let share = std::cell::RefCell::new(Vec::new());
    census::walk(
        table,
        |view| share.borrow_mut().push(view),
        || share.borrow_mut().drain(..).try_for_each(&mut visit),
    )
}

/// A list of sessions on its way to a client.
pub struct Listing<'l, 'r> {
    /// What was asked for.
    pub filter: &'l SessionFilter,
    /// How many were found.
    pub count: u64,
    /// The rows of the next part.
    pub rows: Vec<SessionRow>,
    /// Where the parts go.
    pub reply: &'l mut Reply<'r>,
}

impl Listing<'_, '_> {
    /// Takes a session in, if it is wanted and there is room.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn take<A: Located>(
        &mut self,
        wanted: &Wanted<'_>,
        view: &SessionView<A>,
        row: impl FnOnce() -> SessionRow,
    ) -> Result<(), Refusal> {
        let limit = self.filter.limit.unwrap_or(u64::MAX);
        if !wanted.matches(view) || !self.filter.count && self.count >= limit {
            return Ok(());
        }
        self.count += 1;
        if self.filter.count {
            return Ok(());
        }
        self.rows.push(row());
        if self.rows.len() < ROWS_PER_PART {
            return Ok(());
        }
        self.reply.part(std::mem::take(&mut self.rows))
    }
}

/// Rows in one line of a long answer.
pub const ROWS_PER_PART: usize = 1024;
