//! Interfaces by MAC: control planes name NICs by MAC, the kernel and natwerk by name.

use std::collections::BTreeMap;

use crate::flow::Mac;

/// The router's NICs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nics {
    by_mac: BTreeMap<Mac, String>,
}

impl Nics {
    /// The NICs that `nics.txt` lists: a name and a MAC a line. What is neither is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let nic = |line: &str| {
            let mut words = line.split_whitespace();
            let (name, mac) = (words.next()?, words.next()?);
            Some((parse_mac(mac)?, name.to_owned()))
        };
        text.lines().filter(|line| !line.starts_with('#')).filter_map(nic).collect()
    }

    /// The interface with this MAC.
    #[must_use]
    pub fn name(&self, mac: Mac) -> Option<&str> {
        self.by_mac.get(&mac).map(String::as_str)
    }

    /// Whether there is an interface of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_mac.values().any(|known| known == name)
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_mac.is_empty()
    }
}

impl FromIterator<(Mac, String)> for Nics {
    fn from_iter<I: IntoIterator<Item = (Mac, String)>>(nics: I) -> Self {
        // VLANs and bonds share their parent's MAC: whoever is named first has it.
        let mut by_mac = BTreeMap::new();
        for (mac, name) in nics {
            by_mac.entry(mac).or_insert(name);
        }
        Self { by_mac }
    }
}

/// The MAC that `text` writes as six pairs of hexadecimal digits.
#[must_use]
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut pairs = text.split([':', '-']);
    for byte in &mut mac {
        let pair = pairs.next().filter(|pair| matches!(pair.len(), 1 | 2))?;
        let pair = Some(pair).filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(Mac(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_nics_finds_names_by_mac() {
        let nics = Nics::parse("eth0 02:00:4c:5f:00:01\n# none\n\neth1 0E:00:A9:FE:37:01\nlo\n");
        assert_eq!(nics.name(Mac([2, 0, 0x4c, 0x5f, 0, 1])), Some("eth0"));
        assert_eq!(nics.name(parse_mac("0e:00:a9:fe:37:01").unwrap()), Some("eth1"));
        assert_eq!(nics.name(Mac([0; 6])), None);
        assert!(nics.has("eth1") && !nics.has("lo"));
    }

    #[test]
    fn what_is_no_mac_is_none() {
        for text in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:zz",
            "+2:0:0:0:0:0",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
