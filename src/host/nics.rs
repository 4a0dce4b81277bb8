//! The machine's NICs by MAC, for rules that name them so.

use std::fs;
use std::path::Path;

use crate::flow::Mac;
use crate::rules::sources::Nics;
use crate::rules::sources::nics::parse_mac;

/// The NICs that the kernel has now; none if it does not say.
#[must_use]
pub fn nics() -> Nics {
    nics_in(Path::new("/sys/class/net"))
}

fn nics_in(folder: &Path) -> Nics {
    let read = |path: &Path, name: &str| fs::read_to_string(path.join(name)).ok();
    let mut found: Vec<(u32, Mac, String)> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let mac = read(&path, "address").and_then(|text| parse_mac(text.trim()));
        let index = read(&path, "ifindex").and_then(|text| text.trim().parse().ok());
        if let (Some(mac), Some(index)) = (mac.filter(|mac| *mac != Mac::default()), index) {
            found.push((index, mac, name));
        }
    }
    // A NIC is older than the VLANs on it, which have its MAC.
    found.sort();
    found.into_iter().map(|(_, mac, name)| (mac, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_found_before_the_vlan_on_it_and_loopback_is_none() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mac, index) in [
            ("eth0.5", "02:00:00:00:00:01", "12"),
            ("eth0", "02:00:00:00:00:01", "3"),
            ("lo", "00:00:00:00:00:00", "1"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("address"), format!("{mac}\n")).unwrap();
            fs::write(path.join("ifindex"), format!("{index}\n")).unwrap();
        }
        let nics = nics_in(folder.path());
        assert_eq!(nics.name(Mac([2, 0, 0, 0, 0, 1])), Some("eth0"));
        assert!(!nics.has("lo"));
    }
}
