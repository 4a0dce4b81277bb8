//! `natwerk` as a process on a router of its own, with a folder for its files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Namespace, cable, eventually};

/// How long anything may take that has to happen at all.
pub const LONG: Duration = Duration::from_secs(20);

/// `eth2` is public, `eth0` leads to guests, rules are in `rules.json`.
pub const CONFIG: &str = r#"
rules = ["FOLDER/rules.json"]
state_dir = "FOLDER/state"
control_socket = "FOLDER/control.sock"
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
[workers]
frames = 4096
[sessions]
max = 4096
"#;

/// The same with its own addresses, and shortcuts; packets are taken at `hook`.
pub fn config_with_hook(hook: &str) -> String {
    let workers = format!("[workers]\nshortcuts = 1024\nhook = {hook:?}");
    format!("manage_addresses = true\n{}", CONFIG.replace("[workers]", &workers))
}

/// A guest network behind one address.
pub const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
                  "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"],
                  "egress_default": "allow"}]
}"#;

/// A namespace that the engine runs in.
pub struct Router {
    pub namespace: Namespace,
    folder: tempfile::TempDir,
}

impl Router {
    /// A router without interfaces, with its configuration; none where namespaces cannot be made.
    pub fn new(config: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let router = Self { namespace: Namespace::new("router")?, folder };
        router.write("natwerk.toml", config);
        Some(router)
    }

    /// A guest (10.1.1.5 on `g0`) and somebody on the internet (203.0.113.1 on `i0`), on the router's cables.
    pub fn between(&self) -> Option<(Namespace, Namespace)> {
        let (guest, internet) = (Namespace::new("guest")?, Namespace::new("internet")?);
        cable((&self.namespace, "eth0"), (&guest, "g0"));
        cable((&self.namespace, "eth2"), (&internet, "i0"));
        guest.run("ip address add 10.1.1.5/24 dev g0");
        guest.run("ip route add default via 10.1.1.1");
        internet.run("ip address add 203.0.113.1/24 dev i0");
        Some((guest, internet))
    }

    /// Where the file called `name` is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file; `FOLDER` in its text is the router's folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let folder = self.folder.path().to_str().expect("a name");
        let path = self.path(name);
        fs::write(&path, text.replace("FOLDER", folder)).expect("written");
        path
    }

    /// `natwerk` with these arguments and the router's configuration, in its namespace.
    pub fn natwerk(&self, arguments: &str) -> Command {
        let mut command =
            self.namespace.command(&format!("{} {arguments}", env!("CARGO_BIN_EXE_natwerk")));
        command.arg("--config").arg(self.path("natwerk.toml"));
        command
    }

    /// Starts the engine and waits until it is ready.
    pub fn start(&self) -> Running {
        Running::ready(&mut self.natwerk("run"), &self.path("log"))
    }

    /// What `natwerk` prints, which must succeed.
    pub fn says(&self, arguments: &str) -> String {
        output(&mut self.natwerk(arguments))
    }

    /// What the engine has logged since it started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A command in `namespace`, in the folder of the router's files.
    pub fn command(&self, namespace: &Namespace, command: &str) -> Command {
        let mut process = namespace.command(command);
        process.current_dir(self.folder.path());
        process
    }

    /// Starts a program in `namespace`; what it says is added to the file `programs`.
    pub fn background(&self, namespace: &Namespace, command: &str) -> Running {
        let log = self.path("programs");
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let mut process = self.command(namespace, command);
        process.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        Running { child: process.spawn().expect(command), line: String::new() }
    }
}

/// What a command prints, which must succeed.
pub fn output(command: &mut Command) -> String {
    let output = command.output().expect("run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that does not outlive its test.
pub struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Starts `natwerk`, logging to the file `log`, and waits until it says that it is ready.
    pub fn ready(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::create(log).expect("a log");
        let child = command.stdout(Stdio::piped()).stderr(file).spawn().expect("started");
        let mut running = Self { child, line: String::new() };
        let output = running.child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut running.line).expect("read");
        let logged = fs::read_to_string(log).unwrap_or_default();
        assert!(running.line.starts_with("ready "), "{:?}\n{logged}", running.line);
        running
    }

    /// The line that it said it is ready with.
    pub fn line(&self) -> &str {
        self.line.trim()
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    }

    /// Ends it by a signal; returns its exit code, none if the signal was its end.
    pub fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Asked first: some programs have children to end.
        self.signal("-TERM");
        if !eventually(Duration::from_secs(3), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Whether all of these programs are installed; says which is not.
pub fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new("which").arg(program).output();
        let found = found.is_ok_and(|output| output.status.success());
        if !found {
            println!("skipped: {program} is not installed");
        }
        found
    })
}
