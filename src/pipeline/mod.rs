//! The core: a batch of frames in, a verdict for each out. No clock, no file, no socket.
