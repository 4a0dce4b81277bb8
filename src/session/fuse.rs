//! Tests die between two stores to the region, as a `kill -9` would have it; the engine has no fuse.

#[cfg(test)]
thread_local! {
    static STEPS_LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// Stands before every store that changes what the region says of sessions.
#[inline(always)]
pub fn step() {
    #[cfg(test)]
    STEPS_LEFT.with(|left| match left.get() {
        None => {}
        Some(0) => {
            left.set(None);
            std::panic::panic_any(Burnt);
        }
        Some(steps) => left.set(Some(steps - 1)),
    });
}

/// What a thread dies of when its fuse burns through.
#[cfg(test)]
pub struct Burnt;

/// Lets this thread make `steps` more stores, then die before the next one. Returns what `act`
/// returns, or nothing if it died.
#[cfg(test)]
pub fn burn<T>(steps: u32, act: impl FnOnce() -> T) -> Option<T> {
    STEPS_LEFT.with(|left| left.set(Some(steps)));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    STEPS_LEFT.with(|left| left.set(None));
    match outcome {
        Ok(value) => Some(value),
        Err(cause) if cause.is::<Burnt>() => None,
        Err(cause) => std::panic::resume_unwind(cause),
    }
}
