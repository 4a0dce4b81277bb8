//! Loading BPF programs into the kernel.

use std::io;

use aya::programs::ProgramError;

/// Loads a program by `load`, and again if that was interrupted: a signal to the thread ends the kernel's check of the
/// program with EAGAIN.
///
/// # Errors
/// Those of `load`.
pub fn loaded(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    undisturbed(load, |error| match error {
        ProgramError::LoadError { io_error, .. } => is_interruption(io_error),
        _ => false,
    })
}

fn undisturbed<E>(
    mut load: impl FnMut() -> Result<(), E>,
    is_interruption: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(error) if is_interruption(&error) => {}
            done => return done,
        }
    }
    load()
}

fn is_interruption(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// As many as libbpf makes.
const ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_check_is_made_again_and_no_other() {
        let tries_of = |code, succeeds_at| {
            let mut tries = 0;
            let load = || {
                tries += 1;
                let error = io::Error::from_raw_os_error(code);
                if tries == succeeds_at { Ok(()) } else { Err(error) }
            };
            let is_loaded = undisturbed(load, is_interruption).is_ok();
            (tries, is_loaded)
        };
        assert_eq!(tries_of(libc::EAGAIN, 3), (3, true));
        assert_eq!(tries_of(libc::EAGAIN, 9), (ATTEMPTS, false));
        assert_eq!(tries_of(libc::EACCES, 3), (1, false));
    }
}
