//! A whole market of real processes: a relay, providers, customers, and one bank of play money.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up on it. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

const CUSTOMER: &str = env!("CARGO_BIN_EXE_agent-customer");
const PROVIDER: &str = env!("CARGO_BIN_EXE_agent-provider");

/// Waits until `what` is true, looking again every few milliseconds.
pub fn eventually(why: &str, mut what: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < until, "never happened: {why}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child process whose output is read line by line, killed when dropped.
pub struct Running {
    pub child: Child,
    /// Behind a lock so that threads can share the world that this is a part of.
    lines: Mutex<Receiver<String>>,
    seen: Vec<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines: Mutex::new(lines),
            seen: Vec::new(),
        }
    }

    /// The first line, from the start, that `wanted` takes.
    pub fn wait_for<T>(&mut self, why: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        if let Some(found) = self.seen.iter().find_map(|line| wanted(line)) {
            return found;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .get_mut()
                .unwrap()
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("{why}: not among {:?}", self.seen));
            let found = wanted(&line);
            self.seen.push(line);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// How many lines it has printed by now.
    pub fn lines_so_far(&mut self) -> usize {
        self.seen.extend(self.lines.get_mut().unwrap().try_iter());
        self.seen.len()
    }

    /// SIGKILL: no goodbye of any kind.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the process ends", || {
            let ended = self.child.try_wait().unwrap();
            code = ended.and_then(|status| status.code());
            ended.is_some()
        });
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a finished command left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The lines of `--json`.
    pub fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// The last line of `--json`.
    pub fn last(&self) -> Value {
        self.events()
            .pop()
            .unwrap_or_else(|| panic!("no output: {self:?}"))
    }

    /// The first event of this name.
    pub fn event(&self, name: &str) -> Option<Value> {
        self.events()
            .into_iter()
            .find(|event| event["event"] == name)
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// A relay, a bank, and a folder for everybody's homes.
pub struct World {
    pub dir: TempDir,
    pub relay: String,
    relay_process: Option<Running>,
}

impl World {
    /// With a relay of its own, as a separate process.
    pub fn new() -> Self {
        let mut command = Command::new(PROVIDER);
        command.args(["relay", "--listen", "127.0.0.1:0"]);
        let mut relay = Running::start(&mut command);
        let url = relay.wait_for("the relay's address", |line| {
            line.starts_with("ws://").then(|| line.trim().to_owned())
        });
        Self {
            relay_process: Some(relay),
            ..Self::on(url)
        }
    }

    /// On a relay that somebody else runs.
    pub fn on(relay: String) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            relay,
            relay_process: None,
        }
    }

    pub fn kill_relay(&mut self) {
        self.relay_process.take().unwrap().kill();
    }

    /// Kills the relay, if it runs, and starts one at the same address. It remembers nothing.
    pub fn restart_relay(&mut self) {
        if let Some(mut relay) = self.relay_process.take() {
            relay.kill();
        }
        let address = self.relay.trim_start_matches("ws://").trim_end_matches('/');
        let mut command = Command::new(PROVIDER);
        command.args(["relay", "--listen", address]);
        let mut relay = Running::start(&mut command);
        relay.wait_for("the relay's address", |line| {
            line.starts_with("ws://").then_some(())
        });
        self.relay_process = Some(relay);
    }

    pub fn bank(&self) -> PathBuf {
        self.dir.path().join("bank.sqlite")
    }

    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str, home: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| name.starts_with("LLVM_") || name == "PATH"))
            .env("AGENT_COMPUTE_SIM_BANK", self.bank())
            .env("AGENT_COMPUTE_HOME", self.home(home))
            .env("RUST_LOG", "warn,nostr_relay_builder=off");
        command
    }

    /// `agent-customer` with this home, on the relay, paying from the bank.
    pub fn customer(&self, home: &str, args: &[&str]) -> Command {
        let mut command = self.command(CUSTOMER, home);
        command
            .args(["--relay", &self.relay, "--wallet", "sim"])
            .args(args);
        command
    }

    /// The same without `--relay` and `--wallet`.
    pub fn bare_customer(&self, home: &str, args: &[&str]) -> Command {
        let mut command = self.command(CUSTOMER, home);
        command.args(args);
        command
    }

    pub fn bare_provider(&self, home: &str, args: &[&str]) -> Command {
        let mut command = self.command(PROVIDER, home);
        command.args(args);
        command
    }

    /// Buys, with `--json`.
    pub fn buy(&self, home: &str, args: &[&str]) -> Ran {
        let mut all = vec!["--json"];
        all.extend_from_slice(args);
        run(&mut self.customer(home, &all))
    }

    /// A provider that is ready: with the echo backend, in a channel of its own unless `args` say otherwise.
    pub fn provider(&self, home: &str, args: &[&str]) -> Provider {
        let mut command = self.command(PROVIDER, home);
        command.args(["--relay", &self.relay, "--backend", "echo"]);
        if !args.contains(&"--no-wallet") {
            command.args(["--wallet", "sim"]);
        }
        if !args.contains(&"--channel") {
            command.arg("--create-channel");
        }
        command.args(args);
        Provider::start(&mut command)
    }

    /// Writes the config of a home.
    pub fn config(&self, home: &str, toml: &str) {
        let home = self.home(home);
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("config.toml"), toml).unwrap();
    }

    /// What the owner of this home can spend, in msat.
    pub fn balance(&self, home: &str) -> u64 {
        let ran =
            run(&mut self.bare_customer(home, &["--json", "--wallet", "sim", "wallet", "balance"]));
        ran.expect(0).last()["balance_msat"].as_u64().unwrap()
    }

    pub fn provider_balance(&self, home: &str) -> u64 {
        let ran =
            run(&mut self.bare_provider(home, &["--json", "--wallet", "sim", "wallet", "balance"]));
        ran.expect(0).last()["balance_msat"].as_u64().unwrap()
    }

    /// `budget` of this home: spent, reserved and unknown today.
    pub fn daily(&self, home: &str) -> (u64, u64, u64) {
        let ran = run(&mut self.customer(home, &["--json", "budget"])).expect(0);
        let daily = ran.last()["daily"].clone();
        let number = |name: &str| daily[name].as_u64().unwrap();
        (
            number("spent_msat"),
            number("reserved_msat"),
            number("unknown_msat"),
        )
    }
}

/// A provider process that said READY.
pub struct Provider {
    pub process: Running,
    pub pubkey: String,
    pub channel: Option<String>,
}

impl Provider {
    pub fn start(command: &mut Command) -> Self {
        let mut process = Running::start(command);
        let pubkey = process.wait_for("READY", |line| {
            line.strip_prefix("READY ").map(str::to_owned)
        });
        let channel = process
            .seen
            .iter()
            .find_map(|line| line.strip_prefix("CHANNEL CREATED: ").map(str::to_owned));
        Self {
            process,
            pubkey,
            channel,
        }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, "")
}

/// Runs a command to its end, with this on its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What the play money of a bank adds up to, by the bank's own audit.
pub fn assert_conserved(bank: &Path) {
    let audit = agent_compute::wallet::sim::audit(bank).unwrap();
    assert!(audit.is_balanced(), "{audit:?}");
}

/// The same program, not allowed to make any file larger than `kib`: as on a full disk, a write fails beyond
/// that, unless the program lets the signal end it that comes with it.
pub fn with_file_limit(command: &Command, kib: u64) -> Command {
    let mut shell = Command::new("bash");
    let script = format!("ulimit -f {kib}; exec \"$@\"");
    shell
        .args(["-c", &script, "bash"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell
}
