//! CloudStack: the data bags of its virtual router and the command files that are merged into them.

use std::path::{Path, PathBuf};

use super::{Nics, Translation, fault_of_file};
use crate::rules::diagnostic::Diagnostic;
use crate::rules::set::Action;

/// Where the versions of CloudStack's router differ, and what was chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// What happens to a VPC tier's outbound packet that no entry of its egress list matches: 4.22 lets
    /// it pass, 4.23 and every other list do not.
    pub unmatched_vpc_egress: Action,
    /// Where the management server's command files land, if not beside the data bags.
    pub command_files: Option<PathBuf>,
}

/// What the files in `root` come to.
///
/// # Errors
/// With every reason when nothing usable can be read.
pub fn translate(
    root: &Path,
    _nics: &Nics,
    _options: &super::Options,
) -> Result<Translation, Vec<Diagnostic>> {
    Err(vec![fault_of_file(
        root,
        "cloudstack rules are not in this version yet",
        "convert the rules to a native file (see `natwerk schema`)",
    )])
}

/// The files and folders that [`translate`] would look at.
#[must_use]
pub fn looks_at(root: &Path, options: &super::Options) -> Vec<PathBuf> {
    let mut paths = vec![root.to_owned(), root.join("cache")];
    paths.extend(options.cloudstack.command_files.clone());
    paths
}
