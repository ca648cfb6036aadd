//! The program: started when it is needed, killed when it hangs, and started again.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use super::locked;
use super::wire::{
    Answer, Call, Hello, Line, MAX_LINE_BYTES, News, PayState, Problem, Request, VERSION,
};
use crate::secret::Secret;
use crate::wallet::{WalletError, bounded};

/// Lines that wait to be written.
const WAITING: usize = 64;

/// Between two starts of a program.
const START_PAUSE: Duration = Duration::from_secs(1);

/// The longest name of an account.
const MAX_ACCOUNT: usize = 200;

/// Variables of ours that are no business of a wallet program, and the files that stand in for them.
const SECRETS: [&str; 9] = [
    "NOSTR_SECRET_KEY",
    "AGENT_COMPUTE_MNEMONIC",
    "AGENT_COMPUTE_PASSWORD",
    "AGENT_COMPUTE_NEW_PASSWORD",
    "NWC_URI",
    "NWC_URL",
    "NWC_CONNECTION_STRING",
    "BREEZ_API_KEY",
    "OPENAI_API_KEY",
];

/// Why a question has no answer.
#[derive(Clone, Debug)]
pub(super) enum Unanswered {
    /// It said that it can't or won't.
    Said(Problem),
    /// It died, hung, or said what makes no sense.
    Gone(String),
}

/// What became of an order.
pub(super) enum Untold {
    /// It was not given.
    NotGiven(String),
    /// It was given.
    Lost(Unanswered),
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, Problem>>>>>;

/// One life of the program.
#[derive(Debug)]
struct Life {
    lines: mpsc::Sender<String>,
    waiting: Waiting,
    /// Cancelled when it is over; the watcher kills what is left of it.
    over: CancellationToken,
    /// Cancelled when nothing is left of it.
    gone: CancellationToken,
    why: Arc<Mutex<Option<String>>>,
    hello: Hello,
}

impl Life {
    fn end(&self, why: &str) {
        locked(&self.why).get_or_insert_with(|| why.to_owned());
        self.over.cancel();
    }

    fn reason(&self) -> String {
        let why = locked(&self.why).clone();
        why.unwrap_or_else(|| "the wallet program has ended".to_owned())
    }
}

/// A program and its present life.
#[derive(Debug)]
pub(super) struct Program {
    command: Vec<OsString>,
    within: Duration,
    hide: Vec<String>,
    /// What it is told at each start: JSON. Only a program of ours is told anything.
    config: Option<Secret>,
    life: tokio::sync::Mutex<Present>,
    next: AtomicU64,
    hints: watch::Sender<u64>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Present {
    life: Option<Arc<Life>>,
    /// What it said of itself at first.
    hello: Option<Hello>,
    started: Option<Instant>,
}

impl Program {
    pub(super) fn new(
        command: &[OsString],
        within: Duration,
        hide: Vec<String>,
        config: Option<Secret>,
    ) -> Result<Self, WalletError> {
        if command.is_empty() {
            let empty = "[wallet.process] command names no program".to_owned();
            return Err(WalletError::Refused(empty));
        }
        Ok(Self {
            command: command.to_vec(),
            within,
            hide,
            config,
            life: tokio::sync::Mutex::default(),
            next: AtomicU64::new(1),
            hints: watch::Sender::new(0),
            tasks: Mutex::default(),
        })
    }

    pub(super) fn hints(&self) -> watch::Receiver<u64> {
        self.hints.subscribe()
    }

    /// What it says of itself.
    pub(super) async fn hello(&self) -> Result<Hello, WalletError> {
        Ok(self.living().await?.hello.clone())
    }

    /// Asks something. A program that does not answer in time is killed.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        call: Call,
        within: Duration,
    ) -> Result<T, Unanswered> {
        let life = self.living().await.map_err(gone)?;
        let (id, answer) = self.send(&life, call).await?;
        // Whoever asks no more tells it so.
        let mut cancel = Cancel {
            life: &life,
            id: Some(id),
        };
        let value = match timeout(within, self.answer(&life, answer)).await {
            Ok(answered) => answered,
            Err(_) => {
                life.end("the wallet program did not answer in time, and was stopped");
                Err(Unanswered::Gone(life.reason()))
            }
        };
        cancel.id = None;
        read(&life, value?)
    }

    /// Gives an order to pay. It goes on however long the program takes.
    pub(super) async fn pay(&self, call: Call, within: Duration) -> Result<PayState, Untold> {
        let life = match self.living().await {
            Ok(life) => life,
            Err(error) => return Err(Untold::NotGiven(error.to_string())),
        };
        let (id, answer) = match self.send(&life, call).await {
            Ok(sent) => sent,
            // It may have been written.
            Err(why) => return Err(Untold::Lost(why)),
        };
        match timeout(within, self.answer(&life, answer)).await {
            Ok(value) => value
                .and_then(|value| read(&life, value))
                .map_err(Untold::Lost),
            Err(_) => {
                locked(&life.waiting).remove(&id);
                let late = "the wallet program has not answered the order yet".to_owned();
                Err(Untold::Lost(Unanswered::Gone(late)))
            }
        }
    }

    async fn send(
        &self,
        life: &Life,
        call: Call,
    ) -> Result<(u64, oneshot::Receiver<Result<Value, Problem>>), Unanswered> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        locked(&life.waiting).insert(id, tell);
        let request = Request { id: Some(id), call };
        let line =
            serde_json::to_string(&request).map_err(|error| Unanswered::Gone(error.to_string()))?;
        if life.lines.send(line).await.is_err() {
            life.end("the wallet program does not read any more");
            return Err(Unanswered::Gone(life.reason()));
        }
        Ok((id, told))
    }

    async fn answer(
        &self,
        life: &Life,
        told: oneshot::Receiver<Result<Value, Problem>>,
    ) -> Result<Value, Unanswered> {
        tokio::select! {
            // What it said before its end counts.
            biased;
            told = told => match told {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(problem)) => Err(Unanswered::Said(problem)),
                Err(_) => Err(Unanswered::Gone(life.reason())),
            },
            () = life.gone.cancelled() => Err(Unanswered::Gone(life.reason())),
        }
    }

    /// The program that lives, or a new one once nothing is left of the one before.
    async fn living(&self) -> Result<Arc<Life>, WalletError> {
        let mut present = self.life.lock().await;
        if let Some(life) = &present.life {
            if !life.over.is_cancelled() {
                return Ok(Arc::clone(life));
            }
            life.gone.cancelled().await;
        }
        if let Some(started) = present.started {
            sleep_until(started + START_PAUSE).await;
        }
        present.started = Some(Instant::now());
        let life = self.start().await?;
        let hello = present.hello.get_or_insert_with(|| life.hello.clone());
        if *hello != life.hello {
            life.end("it says now that it is another wallet");
            return Err(WalletError::Storage(life.reason()));
        }
        let life = Arc::new(life);
        present.life = Some(Arc::clone(&life));
        Ok(life)
    }

    async fn start(&self) -> Result<Life, WalletError> {
        let name = self.command[0].to_string_lossy().into_owned();
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for secret in SECRETS
            .into_iter()
            .chain(self.hide.iter().map(String::as_str))
        {
            command
                .env_remove(secret)
                .env_remove(format!("{secret}_FILE"));
        }
        // Ctrl-C is for us: the program ends when its stdin does, once it has finished what it must.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| unreachable(format!("{name} can't be started: {error}")))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(unreachable(format!("{name} has no pipes")));
        };
        let (lines, to_write) = mpsc::channel(WAITING);
        let mut life = Life {
            lines,
            waiting: Arc::default(),
            over: CancellationToken::new(),
            gone: CancellationToken::new(),
            why: Arc::default(),
            hello: Hello {
                version: VERSION,
                account: String::new(),
                network: crate::units::Network::Mainnet,
                changes: false,
                capabilities: super::wire::Promises::default(),
            },
        };
        {
            let mut tasks = locked(&self.tasks);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(write(stdin, to_write));
            tasks.spawn(log(stderr));
            tasks.spawn(attend(
                child,
                stdout,
                Attended {
                    waiting: Arc::clone(&life.waiting),
                    over: life.over.clone(),
                    gone: life.gone.clone(),
                    why: Arc::clone(&life.why),
                    hints: self.hints.clone(),
                },
            ));
        }
        life.hello = self.greet(&life).await?;
        Ok(life)
    }

    /// The handshake.
    async fn greet(&self, life: &Life) -> Result<Hello, WalletError> {
        let config = self.config.as_ref();
        let config = config.and_then(|config| serde_json::from_str(config.expose()).ok());
        let greeted = async {
            let version = VERSION;
            let (_, answer) = self.send(life, Call::Hello { version, config }).await?;
            self.answer(life, answer).await
        };
        let value = match timeout(self.within, greeted).await {
            Ok(Ok(value)) => value,
            Ok(Err(why)) => {
                life.end("the wallet program was not understood");
                return Err(super::told(why));
            }
            Err(_) => {
                life.end("the wallet program did not say hello in time");
                return Err(unreachable(life.reason()));
            }
        };
        let refused = |why: String| {
            life.end(&why);
            Err(WalletError::Refused(why))
        };
        let hello: Hello = match serde_json::from_value(value) {
            Ok(hello) => hello,
            Err(error) => {
                return refused(format!(
                    "its hello makes no sense: {}",
                    bounded(&error.to_string())
                ));
            }
        };
        if hello.version != VERSION {
            let theirs = hello.version;
            return refused(format!(
                "it speaks version {theirs} of the protocol, this program {VERSION}"
            ));
        }
        let account = &hello.account;
        if account.is_empty()
            || account.len() > MAX_ACCOUNT
            || account.chars().any(char::is_control)
        {
            return refused("its account has no name of 1 to 200 bytes".to_owned());
        }
        Ok(hello)
    }
}

fn gone(error: WalletError) -> Unanswered {
    match error {
        WalletError::Unreachable(why) => Unanswered::Gone(why),
        error => Unanswered::Said(error.into()),
    }
}

fn unreachable(why: String) -> WalletError {
    WalletError::Unreachable(why)
}

fn read<T: DeserializeOwned>(life: &Life, value: Value) -> Result<T, Unanswered> {
    serde_json::from_value(value).map_err(|_| {
        life.end("the wallet program gave an answer that makes no sense, and was stopped");
        Unanswered::Gone(life.reason())
    })
}

/// Tells the program that an answer is not waited for, when dropped before it came.
struct Cancel<'a> {
    life: &'a Life,
    id: Option<u64>,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        locked(&self.life.waiting).remove(&id);
        let request = Request {
            id: None,
            call: Call::Cancel { id },
        };
        if let Ok(line) = serde_json::to_string(&request) {
            // A hint: a program that is behind with reading gets on without.
            let _ = self.life.lines.try_send(line);
        }
    }
}

async fn write(stdin: ChildStdin, mut lines: mpsc::Receiver<String>) {
    let mut stdin = FramedWrite::new(stdin, LinesCodec::new());
    while let Some(line) = lines.recv().await {
        if stdin.send(line).await.is_err() {
            // Its end is seen by who reads from it.
            return;
        }
    }
}

async fn log(stderr: ChildStderr) {
    let mut lines = FramedRead::new(stderr, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => {
                tracing::info!(target: "agent_compute::wallet::process", "{}", bounded(&line))
            }
            Err(LinesCodecError::MaxLineLengthExceeded) => {}
            Err(LinesCodecError::Io(_)) => return,
        }
    }
}

/// What whoever attends a program needs.
struct Attended {
    waiting: Waiting,
    over: CancellationToken,
    gone: CancellationToken,
    why: Arc<Mutex<Option<String>>>,
    hints: watch::Sender<u64>,
}

/// Reads what the program says until it ends or misbehaves, and sees to it that nothing is left of it.
async fn attend(mut child: Child, stdout: ChildStdout, of: Attended) {
    let why = tokio::select! {
        why = listen(stdout, &of) => why,
        () = of.over.cancelled() => String::new(),
    };
    locked(&of.why).get_or_insert(why);
    of.over.cancel();
    // It may have ended by itself.
    let _ = child.start_kill();
    let _ = child.wait().await;
    locked(&of.waiting).clear();
    of.gone.cancel();
    hint(&of.hints);
}

/// Why there is nothing more to hear.
async fn listen(stdout: ChildStdout, of: &Attended) -> String {
    let mut lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    while let Some(line) = lines.next().await {
        let line = match line {
            Ok(line) => line,
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                return format!(
                    "the wallet program wrote a line of more than {MAX_LINE_BYTES} bytes, and was stopped"
                );
            }
            Err(LinesCodecError::Io(error)) => return error.to_string(),
        };
        match serde_json::from_str(&line) {
            Ok(Line::Answer(Answer { id, result, error })) => {
                let waiter = locked(&of.waiting).remove(&id);
                let answer = match error {
                    Some(problem) => Err(problem.bounded()),
                    None => Ok(result.unwrap_or(Value::Null)),
                };
                match waiter {
                    Some(waiter) => {
                        let _ = waiter.send(answer);
                    }
                    // Late: whoever looks now sees more than before.
                    None => hint(&of.hints),
                }
            }
            Ok(Line::News {
                method: News::Changed,
            }) => hint(&of.hints),
            Err(_) => {
                return "the wallet program wrote what is no message, and was stopped".to_owned();
            }
        }
    }
    "the wallet program has ended".to_owned()
}

fn hint(hints: &watch::Sender<u64>) {
    hints.send_modify(|count| *count = count.wrapping_add(1));
}
