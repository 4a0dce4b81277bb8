//! What tests with real interfaces share. They need root, and say so when they skip.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

#[allow(dead_code, reason = "not every file of tests needs all of it")]
pub mod router;
#[allow(dead_code, reason = "not every file of tests needs it")]
pub mod tagged;

/// A network namespace of this test's own, deleted with everything in it.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new namespace with its loopback interface up, or none (and a line that says why).
    pub fn new(purpose: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root for network namespaces");
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nwt-{}-{count}-{purpose}", std::process::id());
        let output = Command::new("ip").args(["netns", "add", &name]).output();
        match output {
            Ok(output) if output.status.success() => {}
            other => {
                println!("skipped: ip netns add does not work here: {other:?}");
                return None;
            }
        }
        let namespace = Self { name };
        namespace.run("ip link set lo up");
        Some(namespace)
    }

    /// Its name, for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command inside; it must succeed. Returns what it printed.
    pub fn run(&self, command: &str) -> String {
        let output = self.command(command).output().expect(command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {command}: {error}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `act` in a thread inside; threads it starts are inside as well.
    #[allow(dead_code, reason = "not every file of tests needs it")]
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).expect("a namespace");
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), network).expect("may enter it");
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether a command inside succeeds.
    #[allow(dead_code, reason = "not every file of tests needs it")]
    pub fn succeeds(&self, command: &str) -> bool {
        self.command(command).output().expect(command).status.success()
    }

    /// A command inside, still to be started. Its words are separated by spaces.
    pub fn command(&self, command: &str) -> Command {
        let mut words = vec!["netns", "exec", &self.name];
        words.extend(command.split_whitespace());
        let mut process = Command::new("ip");
        process.args(words);
        process
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A virtual cable between two namespaces, both ends up.
pub fn cable(one: (&Namespace, &str), other: (&Namespace, &str)) {
    let (peer, end) = (other.0.name(), other.1);
    one.0.run(&format!("ip link add {} type veth peer name {end} netns {peer}", one.1));
    for (namespace, name) in [one, other] {
        namespace.run(&format!("sysctl -qw net.ipv6.conf.{name}.disable_ipv6=1"));
        namespace.run(&format!("ip link set {name} up"));
    }
}

/// Waits until `claim` holds, for `limit` at most; returns whether it did.
pub fn eventually(limit: Duration, mut claim: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if claim() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
