//! `show addresses` as text.

use crate::cli::output::Column::{Number, Word};
use crate::cli::output::table;
use crate::control::rows::AddressRow;

/// The table.
#[must_use]
pub fn addresses(rows: &[AddressRow]) -> String {
    let columns = [
        Word("ADDRESS"),
        Word("INTERFACE"),
        Number("VLAN"),
        Number("PACKETS IN"),
        Number("BYTES IN"),
        Number("PACKETS OUT"),
        Number("BYTES OUT"),
        Number("LIMITED IN"),
        Number("LIMITED OUT"),
    ];
    let or_dash = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let cells = |row: &AddressRow| {
        vec![
            row.public_ip.clone(),
            row.interface.clone(),
            if row.vlan == 0 { "-".to_owned() } else { row.vlan.to_string() },
            row.packets_in.to_string(),
            row.bytes_in.to_string(),
            row.packets_out.to_string(),
            row.bytes_out.to_string(),
            or_dash(row.rate_exceeded_in),
            or_dash(row.rate_exceeded_out),
        ]
    };
    table(&columns, rows.iter().map(cells))
}
