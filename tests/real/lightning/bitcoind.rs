//! A regtest chain.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A bitcoind of this test's own. Killed when dropped.
pub(super) struct Chain {
    process: Child,
    cli: PathBuf,
    folder: PathBuf,
    pub(super) rpc: u16,
}

pub(super) const USER: &str = "test";
pub(super) const PASSWORD: &str = "test";

impl Chain {
    pub(super) fn start(folder: &Path) -> Result<Self, String> {
        let program = program()?;
        std::fs::create_dir_all(folder).unwrap();
        let rpc = free_port();
        let process = Command::new(&program)
            .arg(format!("-datadir={}", folder.display()))
            .arg(format!("-rpcport={rpc}"))
            .arg(format!("-rpcuser={USER}"))
            .arg(format!("-rpcpassword={PASSWORD}"))
            .args([
                "-regtest",
                "-server",
                "-listen=0",
                "-fallbackfee=0.00001",
                "-printtoconsole=0",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}", program.display()))?;
        let chain = Self {
            process,
            cli: program.with_file_name("bitcoin-cli"),
            folder: folder.to_owned(),
            rpc,
        };
        let until = Instant::now() + Duration::from_secs(60);
        while chain.try_ask(&["getblockchaininfo"]).is_err() {
            assert!(Instant::now() < until, "bitcoind does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        chain.ask(&["createwallet", "miner"]);
        chain.mine(101);
        Ok(chain)
    }

    pub(super) fn mine(&self, blocks: u32) {
        self.ask(&["-generate", &blocks.to_string()]);
    }

    pub(super) fn send(&self, address: &str, btc: &str) {
        self.ask(&["sendtoaddress", address, btc]);
        self.mine(6);
    }

    fn ask(&self, args: &[&str]) -> String {
        self.try_ask(args).unwrap()
    }

    fn try_ask(&self, args: &[&str]) -> Result<String, String> {
        let ran = Command::new(&self.cli)
            .arg(format!("-datadir={}", self.folder.display()))
            .arg(format!("-rpcport={}", self.rpc))
            .arg(format!("-rpcuser={USER}"))
            .arg(format!("-rpcpassword={PASSWORD}"))
            .arg("-regtest")
            .args(args)
            .output()
            .map_err(|error| error.to_string())?;
        if ran.status.success() {
            Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&ran.stderr).into_owned())
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Which bitcoind: the one that is named, one on the path, or one that the script unpacks.
fn program() -> Result<PathBuf, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is told where a program is"
    )]
    let (named, path) = (std::env::var_os("BITCOIND_EXE"), std::env::var_os("PATH"));
    if let Some(named) = named {
        return Ok(named.into());
    }
    let found = path.as_deref().and_then(|path| {
        let mut places = std::env::split_paths(path).map(|folder| folder.join("bitcoind"));
        places.find(|place| place.exists())
    });
    if let Some(found) = found {
        return Ok(found);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bitcoind");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-bitcoind.sh");
    // One at a time: several tests want it.
    static ONCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONCE.lock();
    let ran = Command::new("sh").arg(script).arg(&folder).output();
    match ran {
        Ok(ran) if ran.status.success() => Ok(folder.join("bitcoind")),
        Ok(ran) => {
            let why = String::from_utf8_lossy(&ran.stderr).into_owned();
            let why = why.lines().last().unwrap_or("it says nothing").to_owned();
            Err(format!("no bitcoind, and none can be had: {why}"))
        }
        Err(error) => Err(format!("no bitcoind, and none can be had: {error}")),
    }
}
