//! Compiles the BPF programs with clang (feature `af-xdp`).
//!
//! `STEER_BPF_OBJ=path`, `PUNT_BPF_OBJ=path` and `GENERATE_BPF_OBJ=path` take programs that were
//! compiled elsewhere instead.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Each program's source, its object in `OUT_DIR`, and the variable that names one made elsewhere.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("src/io/generator/generate.bpf.c", "generate.bpf.o", "GENERATE_BPF_OBJ"),
    ("src/io/xdp/steer.bpf.c", "steer.bpf.o", "STEER_BPF_OBJ"),
    ("src/host/punt.bpf.c", "punt.bpf.o", "PUNT_BPF_OBJ"),
];

/// What they include.
const HEADERS: [&str; 4] = [
    "src/io/checksum.bpf.h",
    "src/io/punted.bpf.h",
    "src/io/xdp/carry.bpf.h",
    "src/io/xdp/shortcut.bpf.h",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    for header in HEADERS {
        println!("cargo::rerun-if-changed={header}");
    }
    for (source, _, variable) in PROGRAMS {
        println!("cargo::rerun-if-changed={source}");
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_AF_XDP").is_none() {
        return ExitCode::SUCCESS;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for (source, object, variable) in PROGRAMS {
        let output = folder.join(object);
        let made = match env::var_os(variable) {
            Some(object) => copy(variable, Path::new(&object), &output),
            None => compile(source, variable, &output),
        };
        if let Err(what) = made {
            println!("cargo::error={what}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn copy(variable: &str, object: &Path, output: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", object.display());
    std::fs::copy(object, output)
        .map(|_| ())
        .map_err(|error| format!("{variable}={}: {error}", object.display()))
}

fn compile(source: &str, variable: &str, output: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let run = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"])
        // Debian keeps asm/types.h in the host's folder, where the bpf target does not look.
        .arg(format!("-I/usr/include/{architecture}-linux-gnu"))
        .args(["-c", source, "-o"])
        .arg(output)
        .output()
        .map_err(|error| {
            format!(
                "cannot run {clang} to compile {source}: {error}; install it \
                 (apt-get install clang libbpf-dev), or name a compiled program in {variable}"
            )
        })?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    let first = said.lines().find(|line| line.contains("error")).unwrap_or("no message");
    eprintln!("{said}");
    Err(format!(
        "{clang} could not compile {source}: {first}; its headers come with \
         apt-get install libbpf-dev linux-libc-dev"
    ))
}
