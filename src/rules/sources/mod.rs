//! What control planes write, translated into native rules.
//!
//! ```text
//! their files ──cloudstack, zstack──▶ Translation ──joint check with the native files──▶ RuleSet
//! ```
//!
//! A control plane cannot be asked to correct a file, so a fault costs the entry it is in and nothing else, and
//! a rule whose address or network has not come yet waits for it instead of failing.

pub mod cloudstack;
mod joint;
pub mod nics;
pub mod zstack;

use std::fmt;
use std::path::{Path, PathBuf};

pub(super) use joint::{append, settle};
pub use nics::Nics;

use super::diagnostic::{Diagnostic, Place, Severity};
use super::set::RuleSet;
use super::source::Source;

/// What a control plane's files came to.
#[derive(Debug, Default)]
pub struct Translation {
    /// The rules that stand; each entry's `place` points into the control plane's file.
    pub set: RuleSet,
    /// Faults: each costs its own entry alone. Unknown fields and messages are warnings.
    pub faults: Vec<Diagnostic>,
    /// Rules that wait for an address, NIC or network that has not come yet: what, where, for what.
    pub pending: Vec<Pending>,
    /// Every file read, to be watched.
    pub sources: Vec<Source>,
    /// Whether a file that holds state cannot be read, so that rules may be missing that were there.
    pub is_torn: bool,
}

/// A rule that waits for what it needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pending {
    /// The rule, as people call it: `port forward of 203.0.113.11 tcp 22`.
    pub what: String,
    /// Where it was written.
    pub place: Place,
    /// What has not come yet: `public address 203.0.113.11`.
    pub waits_for: String,
}

impl Pending {
    /// What people are told of it.
    #[must_use]
    pub fn warning(&self) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            place: self.place.clone(),
            what: format!("{} waits for {}", self.what, self.waits_for),
            hint: "nothing to do: it takes effect when that comes".to_owned(),
        }
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for {} ({})", self.what, self.waits_for, self.place)
    }
}

/// Where today's routers differ, and what was chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// CloudStack's.
    pub cloudstack: cloudstack::Options,
}

/// A control plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ControlPlane {
    /// Apache CloudStack.
    CloudStack,
    /// ZStack.
    ZStack,
}

impl ControlPlane {
    /// The control plane and the path that `path` names, as `cloudstack:/etc/cloudstack` does; none
    /// for the path of native rules.
    #[must_use]
    pub fn of_path(path: &str) -> Option<(Self, &Path)> {
        let (prefix, path) = path.split_once(':')?;
        let plane = match prefix {
            "cloudstack" => Self::CloudStack,
            "zstack" => Self::ZStack,
            _ => return None,
        };
        Some((plane, Path::new(path)))
    }

    /// What the files that `root` leads to come to.
    ///
    /// # Errors
    /// With every reason when nothing usable can be read.
    pub fn translate(
        self,
        root: &Path,
        nics: &Nics,
        options: &Options,
    ) -> Result<Translation, Vec<Diagnostic>> {
        match self {
            Self::CloudStack => cloudstack::translate(root, nics, options),
            Self::ZStack => zstack::translate(root, nics, options),
        }
    }

    /// The files and folders that [`Self::translate`] would look at, whether or not they are there: a
    /// change of any of them may change the rules.
    #[must_use]
    pub fn looks_at(self, root: &Path, options: &Options) -> Vec<PathBuf> {
        match self {
            Self::CloudStack => cloudstack::looks_at(root, options),
            Self::ZStack => zstack::looks_at(root),
        }
    }
}

impl fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CloudStack => "cloudstack",
            Self::ZStack => "zstack",
        })
    }
}

/// A fault of a whole file or folder.
pub(crate) fn fault_of_file(path: &Path, what: impl Into<String>, hint: &str) -> Diagnostic {
    let place = Place { file: path.display().to_string().into(), line: 1, column: 1 };
    Diagnostic { severity: Severity::Error, place, what: what.into(), hint: hint.to_owned() }
}
