//! Wallet programs: the suite over stdio, programs that die, hang and talk nonsense, and the two programs of
//! ours with one each.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_compute::ids::Preimage;
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::conformance::{Harness, Lost, Outcome, run};
use agent_compute::wallet::process::{ProcessOptions, ProcessWallet};
use agent_compute::wallet::sim::{SimOptions, SimWallet, audit};
use agent_compute::wallet::{Incoming, Outgoing, PayOutcome, Wallet, WalletError};
use async_trait::async_trait;
use nostr::Keys;
use tempfile::TempDir;

use crate::harness::{Provider, World, run as run_program};
use crate::wallet::{asking, order};

/// The example, which serves play money.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap();
    built.join("examples").join("wallet_process")
}

fn options() -> ProcessOptions {
    ProcessOptions {
        network: Network::Regtest,
        answer_within: Duration::from_secs(10),
        pay_within: Duration::from_secs(10),
        hide: Vec::new(),
    }
}

/// A bank of play money, and programs that serve its accounts.
struct Bank {
    folder: TempDir,
}

impl Bank {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("bank.sqlite")
    }

    fn account(&self) -> (SimWallet, Vec<OsString>) {
        let key = Keys::generate().public_key();
        let wallet = SimWallet::open(&self.file(), key, SimOptions::default()).unwrap();
        let words = [program().into(), self.file().into(), key.to_hex().into()];
        (wallet, words.to_vec())
    }

    /// A program of `sh` lines; `$real` runs the true one, `$mark` is a file of this program's own.
    fn script(&self, real: &[OsString], lines: &str) -> Vec<OsString> {
        let name = self
            .folder
            .path()
            .join(format!("{}.sh", Keys::generate().public_key()));
        let mut text = String::new();
        let real: Vec<&str> = real.iter().map(|word| word.to_str().unwrap()).collect();
        writeln!(text, "real=\"{}\"", real.join(" ")).unwrap();
        writeln!(text, "mark=\"{}.mark\"", name.display()).unwrap();
        text.push_str(lines);
        std::fs::write(&name, text).unwrap();
        vec!["sh".into(), name.into()]
    }
}

async fn open(command: &[OsString]) -> ProcessWallet {
    ProcessWallet::open(command, options()).await.unwrap()
}

/// Answers everything as the true one does, a process each, until it is told to pay; then `at_pay`.
fn until_pay(at_pay: &str) -> String {
    format!(
        r#"[ -e "$mark" ] && exit 1
while read -r line; do
  case "$line" in
    *'"method":"pay"'*) touch "$mark"; {at_pay}; exit 1 ;;
    *) printf '%s\n' "$line" | $real ;;
  esac
done
"#
    )
}

struct Pair {
    payer: ProcessWallet,
    payee: ProcessWallet,
    losing: [ProcessWallet; 2],
}

#[async_trait]
impl Harness for Pair {
    fn payer(&self) -> Arc<dyn Wallet> {
        Arc::new(self.payer.clone())
    }

    fn payee(&self) -> Arc<dyn Wallet> {
        Arc::new(self.payee.clone())
    }

    fn losing(&self, lost: Lost) -> Option<Arc<dyn Wallet>> {
        let [request, answer] = &self.losing;
        Some(Arc::new(match lost {
            Lost::Request => request.clone(),
            Lost::Answer => answer.clone(),
        }))
    }
}

#[tokio::test]
async fn a_wallet_program_keeps_every_promise() {
    let bank = Bank::new();
    let (_, payer) = bank.account();
    let (_, payee) = bank.account();
    let lost = bank.script(&payer, &until_pay("true"));
    let unanswered = bank.script(
        &payer,
        &until_pay("printf '%s\\n' \"$line\" | $real >/dev/null"),
    );
    let pair = Pair {
        losing: [open(&lost).await, open(&unanswered).await],
        payer: open(&payer).await,
        payee: open(&payee).await,
    };
    let report = run(&pair).await;
    for case in &report.cases {
        let may_be_skipped = [
            "an expired invoice is a proven failure",
            "a hold past its deadline returns the money",
            "a fee above the cap is a proven failure",
            "a wallet without hold invoices says so",
        ];
        if may_be_skipped.contains(&case.name) {
            assert!(
                matches!(case.outcome, Outcome::NotApplicable(_)),
                "{case:?}"
            );
        } else {
            assert_eq!(case.outcome, Outcome::Passed, "\n{report}");
        }
    }
    assert!(audit(&bank.file()).unwrap().is_balanced());
}

#[tokio::test]
async fn a_program_that_dies_over_a_payment_is_started_again_and_asked() {
    let bank = Bank::new();
    let (_, real) = bank.account();
    let (payee, _) = bank.account();
    // Its second life is the true one.
    let pays = until_pay("printf '%s\\n' \"$line\" | $real >/dev/null");
    let lines = pays.replace("&& exit 1", "&& exec $real");
    let wallet = open(&bank.script(&real, &lines)).await;
    let invoice = payee.invoice(asking(10_000)).await.unwrap();
    let outcome = wallet.pay(order(&invoice)).await;
    assert!(
        matches!(
            outcome,
            PayOutcome::Paid {
                preimage: Some(_),
                ..
            }
        ),
        "{outcome:?}"
    );

    // It died before it paid: the next one knows nothing of it.
    let lines = until_pay("true").replace("&& exit 1", "&& exec $real");
    let wallet = open(&bank.script(&real, &lines)).await;
    let invoice = payee.invoice(asking(10_000)).await.unwrap();
    let outcome = wallet.pay(order(&invoice)).await;
    assert!(matches!(outcome, PayOutcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(
        wallet.outgoing(invoice.payment_hash).await,
        Ok(Outgoing::NotFound)
    );
    assert_eq!(
        payee.incoming(invoice.payment_hash).await,
        Ok(Incoming::Open)
    );
}

#[tokio::test]
async fn a_program_that_is_gone_before_the_order_was_told_nothing() {
    let bank = Bank::new();
    let (_, real) = bank.account();
    let (payee, _) = bank.account();
    // It answers one question, and never starts again.
    let lines = r#"[ -e "$mark" ] && exit 1
touch "$mark"
read -r line; printf '%s\n' "$line" | $real
"#;
    let wallet = open(&bank.script(&real, lines)).await;
    let invoice = payee.invoice(asking(10_000)).await.unwrap();
    assert!(matches!(
        wallet.balance().await,
        Err(WalletError::Unreachable(_))
    ));
    let outcome = wallet.pay(order(&invoice)).await;
    let PayOutcome::Failed(proof) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(proof.words().contains("nothing was paid"), "{proof:?}");
}

#[tokio::test]
async fn nonsense_and_silence_end_a_life_and_not_the_wallet() {
    let bank = Bank::new();
    let (account, real) = bank.account();
    for misdeed in [
        "echo nonsense",
        "echo '{\"id\":\"one\"}'",
        "printf '\\377\\376\\n'",
        "head -c 100000 /dev/zero | tr '\\0' x; echo",
        // The answer to something, that is none to this.
        "echo \"{\\\"id\\\":$(expr \"$line\" : '.*\"id\":\\([0-9]*\\)'),\\\"result\\\":[]}\"",
        "exit 3",
        "kill -9 $$",
        "sleep 600",
    ] {
        let lines = format!(
            r#"[ -e "$mark" ] && exec $real
touch "$mark"
read -r line; printf '%s\n' "$line" | $real
read -r line; {misdeed}
sleep 600
"#
        );
        let hasty = ProcessOptions {
            answer_within: Duration::from_secs(2),
            ..options()
        };
        let command = bank.script(&real, &lines);
        let wallet = ProcessWallet::open(&command, hasty).await.unwrap();
        let first = wallet.balance().await;
        assert!(
            matches!(first, Err(WalletError::Unreachable(_))),
            "{misdeed}: {first:?}"
        );
        assert_eq!(wallet.balance().await, account.balance().await, "{misdeed}");
    }
}

#[tokio::test]
async fn a_program_is_one_wallet_or_none() {
    let bank = Bank::new();
    let (_, real) = bank.account();
    let (_, other) = bank.account();
    let other: Vec<&str> = other.iter().map(|word| word.to_str().unwrap()).collect();
    // Another account after a restart.
    let lines = format!(
        "[ -e \"$mark\" ] && exec {}\ntouch \"$mark\"\nread -r line; printf '%s\\n' \"$line\" | $real\n",
        other.join(" ")
    );
    let wallet = open(&bank.script(&real, &lines)).await;
    let _ = wallet.balance().await;
    let second = wallet.balance().await;
    assert!(
        matches!(&second, Err(WalletError::Storage(why)) if why.contains("another wallet")),
        "{second:?}"
    );

    let hello = |result: &str| {
        let lines =
            format!("read -r line; printf '%s\\n' '{{\"id\":1,\"result\":{result}}}'; sleep 600\n");
        let command = bank.script(&real, &lines);
        async move { ProcessWallet::open(&command, options()).await.map(|_| ()) }
    };
    for result in [
        r#"{"version":2,"account":"a","network":"regtest"}"#,
        r#"{"version":1,"account":"","network":"regtest"}"#,
        r#"{"version":1,"account":"a\nb","network":"regtest"}"#,
        r#"{"version":1,"account":"a","network":"mainnet"}"#,
        r#"{"version":1,"account":"a","network":"moon"}"#,
        r"{}",
        "7",
    ] {
        let opened = hello(result).await;
        assert!(
            matches!(opened, Err(WalletError::Refused(_))),
            "{result}: {opened:?}"
        );
    }
    assert_eq!(
        hello(r#"{"version":1,"account":"a","network":"regtest"}"#).await,
        Ok(())
    );
    let none = ProcessWallet::open(&[OsString::from("/no/such/program")], options()).await;
    assert!(matches!(none, Err(WalletError::Unreachable(_))), "{none:?}");
}

#[tokio::test]
async fn what_a_program_does_not_know_is_no_end_of_it() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    let bank = Bank::new();
    let (account, _) = bank.account();
    let (mut ask, input) = tokio::io::duplex(64 * 1024);
    let (output, answers) = tokio::io::duplex(64 * 1024);
    let serving = agent_compute::wallet::process::serve(Arc::new(account), input, output);
    let asking = async {
        let mut answers = BufReader::new(answers).lines();
        let mut answer = async || {
            loop {
                let line = answers.next_line().await.unwrap().unwrap();
                if !line.contains("changed") {
                    return line;
                }
            }
        };
        ask.write_all(b"{\"id\":7,\"method\":\"fly\",\"params\":{}}\n")
            .await
            .unwrap();
        let said = answer().await;
        assert!(
            said.contains("\"id\":7") && said.contains("unsupported"),
            "{said}"
        );
        ask.write_all(b"{\"id\":8,\"method\":\"balance\",\"params\":{}}\n")
            .await
            .unwrap();
        let said = answer().await;
        assert_eq!(said, "{\"id\":8,\"result\":{\"balance_msat\":100000000}}");
        drop(ask);
    };
    let (served, ()) = tokio::join!(serving, asking);
    served.unwrap();
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_is_called_off_and_a_slow_one_holds_up_no_other() {
    let bank = Bank::new();
    let (account, real) = bank.account();
    // What is asked for a fee is never answered; all lines are kept.
    let lines = r#"while read -r line; do
  printf '%s\n' "$line" >> "$mark"
  case "$line" in
    *fee_quote*|*cancel*) ;;
    *) printf '%s\n' "$line" | $real ;;
  esac
done
"#;
    let command = bank.script(&real, lines);
    let wallet = open(&command).await;
    let asked = wallet.fee_quote("lnbcrt1");
    let given_up = tokio::time::timeout(Duration::from_millis(300), asked).await;
    assert!(given_up.is_err());
    assert_eq!(wallet.balance().await, account.balance().await);
    let mark = PathBuf::from(format!("{}.mark", command[1].to_str().unwrap()));
    let said = std::fs::read_to_string(mark).unwrap();
    assert!(
        said.contains(r#"{"method":"cancel","params":{"id":2}}"#),
        "{said}"
    );
}

#[tokio::test]
async fn a_program_sees_the_end_of_its_wallet() {
    let bank = Bank::new();
    let (_, real) = bank.account();
    let lines = "touch \"$mark\"\n$real\necho ended >> \"$mark\"\n";
    let command = bank.script(&real, lines);
    let mark = format!("{}.mark", command[1].to_str().unwrap());
    let wallet = open(&command).await;
    wallet.balance().await.unwrap();
    drop(wallet);
    let until = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(&mark).unwrap().ends_with("ended\n") {
        assert!(Instant::now() < until, "it never sees its stdin end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_lying_program_is_held_to_invoice_and_preimage() {
    let bank = Bank::new();
    let (_, real) = bank.account();
    let (payee, _) = bank.account();
    let invoice = payee.invoice(asking(99_000)).await.unwrap();
    let wrong = Preimage::from_bytes([9; 32]).reveal();
    let lines = format!(
        r#"while read -r line; do
  id=$(expr "$line" : '.*"id":\([0-9]*\)')
  case "$line" in
    *'"method":"invoice"'*) echo "{{\"id\":$id,\"result\":{{\"bolt11\":\"{}\"}}}}" ;;
    *'"method":"pay"'*) echo "{{\"id\":$id,\"result\":{{\"state\":\"paid\",\"preimage\":\"{wrong}\",\"fee_msat\":5}}}}" ;;
    *) printf '%s\n' "$line" | $real ;;
  esac
done
"#,
        invoice.bolt11
    );
    let wallet = open(&bank.script(&real, &lines)).await;
    let made = wallet.invoice(asking(10_000)).await;
    assert!(matches!(made, Err(WalletError::Refused(_))), "{made:?}");
    let paid = wallet.pay(order(&invoice)).await;
    let fee = Msat::new(5);
    assert_eq!(
        paid,
        PayOutcome::Paid {
            preimage: None,
            fee
        }
    );
}

#[test]
fn a_program_gets_our_environment_without_our_secrets() {
    let bank = Bank::new();
    let world = World::new();
    let (_, real) = bank.account();
    let command = bank.script(&real, "env > \"$mark\"\nexec $real\n");
    let words: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
    let toml = format!(
        "[wallet.process]\ncommand = [{}]\n[provider]\nbackend_key = \"env:MY_SERVERS_KEY\"\n",
        words.join(", ")
    );
    world.config("buyer", &toml);
    let args = [
        "--wallet",
        "process",
        "--network",
        "regtest",
        "--json",
        "wallet",
        "balance",
    ];
    let mut balance = world.bare_customer("buyer", &args);
    let secrets = [
        "NOSTR_SECRET_KEY",
        "AGENT_COMPUTE_MNEMONIC",
        "AGENT_COMPUTE_PASSWORD",
        "NWC_URI",
        "NWC_URL_FILE",
        "OPENAI_API_KEY",
        "MY_SERVERS_KEY",
    ];
    for name in secrets {
        balance.env(name, "hush-hush");
    }
    balance.env("LND_DIR", "over-there");
    let said = run_program(&mut balance).expect(0).last();
    assert_eq!(
        (&said["balance_msat"], &said["wallet"]),
        (&100_000_000.into(), &"process".into())
    );
    let given = std::fs::read_to_string(format!("{}.mark", command[1].to_str().unwrap())).unwrap();
    assert!(given.contains("LND_DIR=over-there"));
    assert!(!given.contains("hush-hush"), "{given}");
}

#[test]
fn the_two_programs_buy_and_sell_with_a_wallet_program_each() {
    let bank = Bank::new();
    let world = World::new();
    let mut accounts = Vec::new();
    for home in ["buyer", "seller"] {
        let (account, command) = bank.account();
        let words: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
        let words = words.join(", ");
        let toml = format!(
            "[wallet]\nkind = \"process\"\n[wallet.process]\ncommand = [{words}]\nnetwork = \"regtest\"\n"
        );
        world.config(home, &toml);
        accounts.push(account);
    }
    let sell = [
        "--relay",
        &world.relay,
        "--backend",
        "echo",
        "--create-channel",
        "--price",
        "7000",
    ];
    let _seller = Provider::start(&mut world.bare_provider("seller", &sell));
    for escrow in [&[][..], &["--htlc"]] {
        let words = ["--relay", &world.relay, "--json", "--prompt", "a job"];
        let mut buy = world.bare_customer("buyer", &[&words[..], escrow].concat());
        assert_eq!(run_program(&mut buy).expect(0).last()["text"], "a job");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let balance = |of: &SimWallet| runtime.block_on(of.balance()).unwrap().get();
    crate::harness::eventually("the money is there", || {
        (balance(&accounts[0]), balance(&accounts[1]))
            == (100_000_000 - 14_000, 100_000_000 + 14_000)
    });
    let history = ["--json", "wallet", "history"];
    let paid = run_program(&mut world.bare_customer("buyer", &history)).expect(0);
    let sold = run_program(&mut world.bare_provider("seller", &history)).expect(0);
    for (ran, direction) in [(&paid, "outgoing"), (&sold, "incoming")] {
        let lines = ran.events();
        assert_eq!(lines.len(), 2, "{}", ran.stdout);
        for line in lines {
            let said = (&line["direction"], &line["state"], &line["amount_msat"]);
            assert_eq!(said, (&direction.into(), &"settled".into(), &7000.into()));
        }
    }
    let doctor =
        run_program(&mut world.bare_customer("buyer", &["--relay", &world.relay, "doctor"]));
    assert!(
        doctor
            .stdout
            .contains("real money on regtest, hold invoices"),
        "{}",
        doctor.stdout
    );
    let none = run_program(&mut world.bare_customer(
        "none",
        &["--wallet", "process", "--json", "wallet", "balance"],
    ));
    assert!(
        none.expect(2).last()["message"]
            .as_str()
            .unwrap()
            .contains("[wallet.process] command")
    );
    assert!(Path::new(&program()).exists());
}
