//! Compiles the XDP program with clang (feature `af-xdp`).
//!
//! `STEER_BPF_OBJ=path` takes a program that was compiled elsewhere instead.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/io/xdp/steer.bpf.c";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=STEER_BPF_OBJ");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_AF_XDP").is_none() {
        return ExitCode::SUCCESS;
    }
    let output = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("steer.bpf.o");
    let made = match env::var_os("STEER_BPF_OBJ") {
        Some(object) => copy(Path::new(&object), &output),
        None => compile(&output),
    };
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("cargo::error={what}");
            ExitCode::FAILURE
        }
    }
}

fn copy(object: &Path, output: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", object.display());
    std::fs::copy(object, output)
        .map(|_| ())
        .map_err(|error| format!("STEER_BPF_OBJ={}: {error}", object.display()))
}

fn compile(output: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let run = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"])
        // Debian keeps asm/types.h in the host's folder, where the bpf target does not look.
        .arg(format!("-I/usr/include/{architecture}-linux-gnu"))
        .args(["-c", SOURCE, "-o"])
        .arg(output)
        .output()
        .map_err(|error| {
            format!(
                "cannot run {clang} to compile {SOURCE}: {error}; install it \
                 (apt-get install clang libbpf-dev), or name a compiled program in STEER_BPF_OBJ"
            )
        })?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    let first = said.lines().find(|line| line.contains("error")).unwrap_or("no message");
    eprintln!("{said}");
    Err(format!(
        "{clang} could not compile {SOURCE}: {first}; its headers come with \
         apt-get install libbpf-dev linux-libc-dev"
    ))
}
