//! Numbers for rules that stay the same for the same rule across reloads, so that counters go on.
