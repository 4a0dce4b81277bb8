//! CloudStack: the data bags of its virtual router and the command files that are merged into them.
//!
//! ```text
//! files ──files──▶ inputs ──merge (record, aggregate)──▶ Bags ──translate──▶ rules
//! ```
//!
//! `files` finds what is there and in which order it counts; `merge` reads every entry into a value that is
//! right or tells what is wrong with it; `translate` says what the whole comes to. Where today's scripts are
//! known to be wrong they are not followed; docs/cloudstack.md lists where.

mod acl;
mod addresses;
mod aggregate;
mod bags;
mod balancer;
mod command_line;
mod devices;
mod files;
mod filters;
mod firewall;
mod forwarding;
mod ipv6;
mod merge;
mod networks;
mod record;
mod routes;
mod services;
mod translate;
mod values;
mod vpn;

use std::path::{Path, PathBuf};

use self::devices::Devices;
use self::files::{Files, Input, Role};
use self::merge::Merger;
use super::{Nics, Translation, fault_of_file};
use crate::rules::diagnostic::{Diagnostic, Severity};
use crate::rules::set::Action;
use crate::rules::source::Source;

/// Where the versions of CloudStack's router differ, and what was chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// What happens to a VPC tier's outbound packet that no entry of its egress list matches: 4.22 lets
    /// it pass, 4.23 and every other list do not.
    pub unmatched_vpc_egress: Action,
    /// Who balances load.
    pub load_balancing: LoadBalancing,
    /// Where the management server's command files land, if not beside the data bags.
    pub command_files: Option<PathBuf>,
}

/// Who balances load.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LoadBalancing {
    /// natwerk what it can, haproxy on the router what takes more: HTTP, cookies, TLS.
    #[default]
    Auto,
    /// haproxy on the router.
    Haproxy,
}

/// What the files in `root` come to.
///
/// # Errors
/// With every reason when nothing usable can be read.
pub fn translate(
    root: &Path,
    nics: &Nics,
    options: &super::Options,
) -> Result<Translation, Vec<Diagnostic>> {
    let options = &options.cloudstack;
    let files = files::gather(root, options.command_files.as_deref());
    if files.inputs.is_empty() {
        let mut faults = files.faults;
        if faults.is_empty() {
            let hint = "name a folder of data bags, or one with cmdline and cache/";
            faults.push(fault_of_file(root, "there is nothing of CloudStack's here", hint));
        }
        return Err(faults);
    }
    let listed = files.nics.as_ref().map(|list| Nics::parse(list.text()));
    let devices = Devices::new(listed.as_ref().unwrap_or(nics), listed.is_some());
    merge_and_translate(files, devices, options)
}

fn merge_and_translate(
    files: Files,
    devices: Devices<'_>,
    options: &Options,
) -> Result<Translation, Vec<Diagnostic>> {
    let mut merger = Merger::new(devices);
    merger.notes.list = files.faults;
    for input in &files.inputs {
        merger.merge(input);
    }
    let Merger { bags, mut notes, is_torn, .. } = merger;
    let has_errors = notes.list.iter().any(|fault| fault.severity == Severity::Error);
    if has_errors && bags == bags::Bags::default() {
        return Err(notes.list);
    }
    let (set, pending) = translate::translate(&bags, options, &mut notes);
    let sources = files.inputs.into_iter().map(|input| input.source);
    let sources = sources.chain(files.sequence).chain(files.nics).collect();
    let is_torn = is_torn || files.is_torn;
    Ok(Translation { set, faults: notes.list, pending, sources, is_torn })
}

/// What one command file comes to on a router that has `bag`s and a command line before it: for tests and fuzzing,
/// without a file system.
///
/// # Errors
/// When nothing usable can be read.
pub fn translate_texts(
    command_line: &str,
    bags: &[(&str, &str)],
    commands: &[(&str, &str)],
) -> Result<Translation, Vec<Diagnostic>> {
    let input =
        |role, name: &str, text: &str| Input { role, source: Source::new(name, text.to_owned()) };
    let mut inputs: Vec<Input> = bags
        .iter()
        .map(|(name, text)| input(Role::Bag((*name).to_owned()), &format!("{name}.json"), text))
        .collect();
    inputs.push(input(Role::CommandLine, "cmdline", command_line));
    inputs.extend(commands.iter().map(|(name, text)| {
        let is_aggregate = name.ends_with(".cfg");
        input(if is_aggregate { Role::Aggregate } else { Role::Command }, name, text)
    }));
    let files = Files { inputs, ..Files::default() };
    merge_and_translate(files, Devices::new(&Nics::default(), false), &Options::default())
}

/// The files and folders that [`translate`] would look at.
#[must_use]
pub fn looks_at(root: &Path, options: &super::Options) -> Vec<PathBuf> {
    files::folders(root, options.cloudstack.command_files.as_deref())
}
