//! What may be written, as data: the tables of fields that the reader obeys and the schema prints.

/// A kind of object in a file.
#[derive(Debug)]
pub struct Section {
    /// What people call one: "port forward".
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// Its fields; at most [`FIELDS_MAX`].
    pub fields: &'static [Field],
}

/// More fields than this no section has.
pub const FIELDS_MAX: usize = 20;

/// A field of a section.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it may be left out.
    pub presence: Presence,
    /// What it says, in a sentence.
    pub about: &'static str,
}

/// Whether a field may be left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presence {
    /// It may; this is what holds then, in JSON. Empty: nothing particular.
    Optional(&'static str),
    /// It must be there.
    Required,
    /// It must be there, but TOML, which has no null, leaves it out to say null.
    RequiredOrNull,
}

/// What a field takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An IPv4 address.
    Address,
    /// An IPv6 address.
    AddressIpv6,
    /// An IPv4 address or null.
    AddressOrNull,
    /// A prefix of IPv4 or IPv6; an address alone is a prefix of all its bits.
    AnyCidr,
    /// True or false.
    Boolean,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// An IPv4 prefix; an address alone is a prefix of 32 bits.
    Cidr,
    /// An IPv6 prefix; an address alone is a prefix of 128 bits.
    CidrIpv6,
    /// A prefix of either family or a list of them.
    CidrOrCidrs,
    /// A whole number within bounds, both inclusive.
    Integer(i64, i64),
    /// A whole number within bounds, both inclusive, or one word.
    IntegerOr(i64, i64, &'static str),
    /// A list of things of one kind.
    List(&'static Kind),
    /// A port.
    Port,
    /// A port or a range of ports.
    Ports,
    /// An IP protocol by name or number, or `all`.
    ProtocolOrAll,
    /// An IP protocol by name or number.
    Protocol,
    /// A whole number within bounds for each of some ports, as a table.
    PortTable(i64, i64),
    /// Socket address: `address:port`.
    Socket,
    /// An object.
    Table(&'static Section),
    /// Text of at least one and at most so many bytes, without control characters.
    Text(usize),
    /// TCP or UDP.
    Transport,
}

/// A field that must be there.
#[must_use]
pub const fn required(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, presence: Presence::Required, about }
}

/// A field that may be left out; `default` is what holds then, in JSON.
#[must_use]
pub const fn optional(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Field {
    Field { name, kind, presence: Presence::Optional(default), about }
}

impl Section {
    /// The place of the field `name` among the fields.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

/// Among more names than this, looking for the nearest takes longer than it helps.
const CANDIDATES_MAX: usize = 256;

/// The one of `known` that `name` was probably meant to be.
#[must_use]
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let name = name.to_lowercase();
    if name.len() > 64 {
        return None;
    }
    known
        .take(CANDIDATES_MAX)
        .map(|candidate| {
            let begins = name.len() > 3 && candidate.starts_with(&name);
            (if begins { 1 } else { distance(&name, candidate) }, candidate)
        })
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// How many insertions, removals, replacements and swaps of neighbours turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for line in 0..=one.len() {
        for column in 0..=other.len() {
            rows[line][column] = match (line, column) {
                (0, edits) | (edits, 0) => edits,
                (line, column) => {
                    let same = one[line - 1] == other[column - 1];
                    let swapped = line > 1
                        && column > 1
                        && one[line - 1] == other[column - 2]
                        && one[line - 2] == other[column - 1];
                    let swap = if swapped { rows[line - 2][column - 2] + 1 } else { usize::MAX };
                    (rows[line - 1][column - 1] + usize::from(!same))
                        .min(rows[line - 1][column] + 1)
                        .min(rows[line][column - 1] + 1)
                        .min(swap)
                }
            };
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        let known = || ["guest_ip", "guest_ports", "public_ip", "network"].into_iter();
        assert_eq!(nearest("guest_port", known()), Some("guest_ports"));
        assert_eq!(nearest("Network", known()), Some("network"));
        assert_eq!(nearest("netwrok", known()), Some("network"));
        assert_eq!(nearest("guest", known()), Some("guest_ip"));
        assert_eq!(nearest("colour", known()), None);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("same", "same"), 0);
        assert_eq!(distance("icpm", "icmp"), 1);
    }
}
