//! A report beside an earlier one, and what a report says in plain words.

use std::fs;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::cli::bench::Report;
use crate::cli::output::Failure;

/// CSIT's session profiles: hosts, each with 63 sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// 64,512 sessions.
    #[value(name = "csit-h1024")]
    #[serde(rename = "csit-h1024")]
    H1024,
    /// 258,048 sessions.
    #[value(name = "csit-h4096")]
    #[serde(rename = "csit-h4096")]
    H4096,
    /// 1,032,192 sessions.
    #[value(name = "csit-h16384")]
    #[serde(rename = "csit-h16384")]
    H16384,
    /// 4,128,768 sessions.
    #[value(name = "csit-h65536")]
    #[serde(rename = "csit-h65536")]
    H65536,
}

impl Profile {
    /// How many sessions it has.
    pub fn sessions(self) -> u32 {
        let hosts = match self {
            Self::H1024 => 1024,
            Self::H4096 => 4096,
            Self::H16384 => 16_384,
            Self::H65536 => 65_536,
        };
        hosts * 63
    }
}

/// A figure of two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Its name in the report.
    pub figure: &'static str,
    /// In the earlier report.
    pub before: f64,
    /// In this one.
    pub now: f64,
    /// `before` divided by `now`.
    pub ratio: f64,
}

/// An earlier report: what `--json` printed.
pub struct Earlier(Value);

impl Earlier {
    /// Reads it.
    ///
    /// # Errors
    /// When there is no such report.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |error: &dyn std::fmt::Display| {
            Failure::refused(format!("{} is no report of bench --json: {error}", path.display()))
        };
        let text = fs::read(path).map_err(|error| refused(&error))?;
        let report: Value = serde_json::from_slice(&text).map_err(|error| refused(&error))?;
        if report["ns_per_packet"].is_f64() {
            Ok(Self(report))
        } else {
            Err(refused(&"it has no ns_per_packet"))
        }
    }

    /// Every figure that both reports have. Reports of older builds may have fewer.
    pub fn compared(&self, now: &Report) -> Vec<Compared> {
        let compared = |&(figure, now): &(&'static str, f64)| {
            let before = self.0[figure].as_f64().filter(|&before| before > 0.0)?;
            Some(Compared { figure, before, now, ratio: before / now })
        };
        figures(now).iter().filter_map(compared).collect()
    }

    /// What was measured otherwise, in words.
    pub fn differences(&self, now: &Report) -> Vec<String> {
        let set_up = [
            ("sessions", u64::from(now.sessions)),
            ("size", now.size.into()),
            ("workers", now.workers.into()),
            ("acl_rules", now.acl_rules.into()),
        ];
        let mut differences: Vec<String> = set_up
            .iter()
            .filter_map(|&(name, now)| {
                let before = self.0[name].as_u64().filter(|&before| before != now)?;
                Some(format!("{name} {before} then, {now} now"))
            })
            .collect();
        let protocol = serde_json::to_value(now.protocol).unwrap_or_default();
        if self.0["protocol"] != protocol {
            differences.push(format!("protocol {} then, {protocol} now", self.0["protocol"]));
        }
        differences
    }
}

fn figures(report: &Report) -> [(&'static str, f64); 9] {
    [
        ("ns_per_packet", report.ns_per_packet),
        ("floor_ns_per_packet", report.floor_ns_per_packet),
        ("floors", report.floors),
        ("mpps", report.mpps),
        ("ns_per_new_session", report.ns_per_new_session),
        ("new_sessions_per_second", report.new_sessions_per_second),
        ("bytes_per_session", report.bytes_per_session),
        ("table_bytes_per_session", report.table_bytes_per_session),
        ("compile_ms", report.compile_ms),
    ]
}

/// What a report means for whoever runs a router on this machine.
pub fn verdict(report: &Report) -> String {
    let workers = match report.workers {
        1 => "one worker".to_owned(),
        many => format!("{many} workers"),
    };
    format!(
        "With {workers} and {sessions} open sessions this machine can translate {mpps:.1} million packets of \
         {size} bytes a second, before what network cards cost. The memory's floor is {floor:.0} ns a packet; \
         natwerk takes {packet:.0} ns, which is {floors:.1} floors. It can open {rate:.0} thousand sessions a \
         second; each takes {new:.0} ns, which is {new_floors:.0} floors, and {bytes:.0} bytes of memory.",
        sessions = report.sessions,
        mpps = report.mpps,
        size = report.size,
        floor = report.floor_ns_per_packet,
        packet = report.ns_per_packet,
        floors = report.floors,
        rate = report.new_sessions_per_second / 1e3,
        new = report.ns_per_new_session,
        new_floors = report.ns_per_new_session / report.floor_ns_per_packet,
        bytes = report.bytes_per_session,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            sessions: 64_512,
            size: 64,
            workers: 1,
            ns_per_packet: 100.0,
            floor_ns_per_packet: 40.0,
            floors: 2.5,
            mpps: 10.0,
            ns_per_new_session: 1000.0,
            new_sessions_per_second: 1e6,
            bytes_per_session: 190.0,
            ..Report::default()
        }
    }

    fn earlier(change: impl FnOnce(&mut Report)) -> Earlier {
        let mut report = report();
        change(&mut report);
        Earlier(serde_json::to_value(report).expect("a report is JSON"))
    }

    #[test]
    fn a_figure_that_halved_has_ratio_two() {
        let compared = earlier(|it| it.ns_per_packet = 200.0).compared(&report());
        let ratio = |figure| compared.iter().find(|it| it.figure == figure).map(|it| it.ratio);
        assert_eq!(ratio("ns_per_packet"), Some(2.0));
        assert_eq!(ratio("mpps"), Some(1.0));
        // Neither says anything of what was not measured.
        assert_eq!(ratio("compile_ms"), None);
    }

    #[test]
    fn other_sets_of_arguments_are_named() {
        assert_eq!(earlier(|_| ()).differences(&report()), Vec::<String>::new());
        let other = earlier(|it| {
            it.workers = 2;
            it.protocol = crate::cli::bench::Carried::Tcp;
        });
        assert_eq!(
            other.differences(&report()),
            ["workers 2 then, 1 now", "protocol \"tcp\" then, \"udp\" now"]
        );
    }

    #[test]
    fn a_verdict_counts_in_floors() {
        let verdict = verdict(&report());
        for words in [
            "10.0 million packets of 64 bytes",
            "2.5 floors",
            "1000 thousand sessions",
            "25 floors",
        ] {
            assert!(verdict.contains(words), "{words} in {verdict}");
        }
    }

    #[test]
    fn a_profile_is_hosts_with_63_sessions() {
        let sessions = Profile::value_variants().iter().map(|profile| profile.sessions());
        assert_eq!(sessions.collect::<Vec<_>>(), [64_512, 258_048, 1_032_192, 4_128_768]);
    }
}
