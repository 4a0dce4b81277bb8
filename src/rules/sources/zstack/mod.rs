//! ZStack: recorded requests, and what their agent would have made of them.

use std::path::{Path, PathBuf};

use super::{Nics, Options, Translation, fault_of_file};
use crate::rules::diagnostic::Diagnostic;

/// What the recorded requests in `root` come to.
///
/// # Errors
/// With every reason when nothing usable can be read.
pub fn translate(
    root: &Path,
    _nics: &Nics,
    _options: &Options,
) -> Result<Translation, Vec<Diagnostic>> {
    Err(vec![fault_of_file(
        root,
        "zstack rules are not in this version yet",
        "convert the rules to a native file (see `natwerk schema`)",
    )])
}

/// The files that [`translate`] would look at.
#[must_use]
pub fn looks_at(root: &Path) -> Vec<PathBuf> {
    vec![root.join("bootstrap-info.json"), root.join("nics.txt"), root.join("requests.jsonl")]
}
