//! The parts of `--help` that are no flags.

/// What `agent-customer --help` ends with.
pub(super) const CUSTOMER: &str = "\
Examples:
  agent-customer demo                                         a whole market on this machine, with play money
  agent-customer --prompt \"What is the capital of France?\"    discover, choose the cheapest, pay, print
  agent-customer --select npub1… --max-price 5000 --prompt @question.txt
  git diff | agent-customer --json --prompt -                 one JSON object a line, for programs
  agent-customer --dry-run --prompt hello                     what would be bought, and from whom
  agent-customer --retries 3 --prompt hello                   three others may be asked if the first one fails
  agent-customer budget                                       what is spent, set aside and left

Limits:
  [runway] in config.toml holds what may be spent per job, per tick and per UTC day, fees included.
  Flags can lower these limits, never raise them. Defaults: 1000, 1000 and 10000 sats.

Exit codes (and the `code` of the JSON error):
    0                    delivered
    1  internal          a bug
    2  usage             flags or configuration are off
    3  no_provider       none found, or none matches what was asked
    4  budget            a limit refuses it; nothing paid
    5  payment_failed    definitely not paid
    6  payment_unknown   may have been paid; the money stays set aside; run `recover`
    7  undelivered       paid, or locked, and no result came
    8  network           no relay or wallet reachable; nothing paid
    9  timeout           before any payment
   10  provider_refused  the provider said no; nothing paid
   11  bad_invoice       the invoice did not pass our checks; nothing paid
   12  wallet            none, locked, short of funds, or lacking what was asked; nothing paid
   13  ledger            the ledger can't be opened, locked or written; nothing paid
   14  bad_receipt       `receipt verify`: a receipt does not hold
  130  interrupted       Ctrl-C; the ledger is left recoverable

Environment (secrets also as NAME_FILE, the name of a file that holds them):
  AGENT_COMPUTE_HOME        one folder for configuration, keys and records
  NOSTR_SECRET_KEY          nsec, hex or ncryptsec: the key to use instead of the home's
  AGENT_COMPUTE_MNEMONIC    BIP39 words, likewise
  AGENT_COMPUTE_PASSWORD    opens the home's key, if it is encrypted, and an ncryptsec; encrypts a new key
  AGENT_COMPUTE_NEW_PASSWORD  what `identity password` sets
  AGENT_COMPUTE_SIM_BANK    the file with the play money of the sim wallet
  AGENT_COMPUTE_SIM_FAULT   timeout-after, timeout-before, refuse, slow or no-preimage: for tests
  RUST_LOG, NO_COLOR        log on stderr (default: warn); no colours";

/// What `agent-provider --help` ends with.
pub(super) const PROVIDER: &str = "\
Examples:
  agent-provider --create-channel --backend echo --wallet sim
  agent-provider --channel note1… --price 5000 --price-per-1k-tokens 2000 --model llama3
  agent-provider --create-channel --backend-url http://127.0.0.1:8080 --model tiny --stream
  agent-provider relay --listen 127.0.0.1:7777               a relay of one's own, for tests and LANs
  agent-provider jobs                                        what was sold

On stdout: `CHANNEL CREATED: <64 hex>` when it made a channel, then `READY <64 hex pubkey>` once it can
be found and asked. With --json, events in their place. It runs until SIGINT or SIGTERM, then withdraws
its listing and finishes paid jobs; a second signal stops at once.

Exit codes (and the `code` of the JSON error):
    0                stopped as asked
    1  internal      a bug
    2  usage         flags or configuration are off
    8  network       no relay, wallet or model server reachable
   12  wallet        none, locked, or lacking what was asked
   13  ledger        the record of jobs can't be opened, locked or written
  130  interrupted   stopped at once

Environment (secrets also as NAME_FILE, the name of a file that holds them):
  AGENT_COMPUTE_HOME        one folder for configuration, keys and records
  NOSTR_SECRET_KEY          nsec, hex or ncryptsec: the key to use instead of the home's
  AGENT_COMPUTE_MNEMONIC    BIP39 words, likewise
  AGENT_COMPUTE_PASSWORD    opens the home's key, if it is encrypted, and an ncryptsec; encrypts a new key
  AGENT_COMPUTE_NEW_PASSWORD  what `identity password` sets
  AGENT_COMPUTE_SIM_BANK    the file with the play money of the sim wallet
  OPENAI_API_KEY            sent to https://api.openai.com alone; other servers' keys: backend_key
  RUST_LOG, NO_COLOR        log on stderr (default: warn); no colours";

/// What `agent-customer doctor --help` ends with.
pub(super) const CUSTOMER_DOCTOR: &str = "\
Each check is a line: ok, warning or problem, what it is about, and the command that mends it. With --json
an object a line: {\"v\":1,\"check\",\"subject\",\"status\",\"message\",\"fix\":…|null}. It only looks: nothing is made,
repaired or paid, and no password is asked for.

Checks: config, files, identity, ledger, clock, relay (one each), wallet. The clock is held against what
relays say it is (HTTP's Date), and against the ledger, which was never written later than now.

Exit code: 0 when nothing is a problem, warnings or not; else that of the gravest problem, as a purchase
would end with: 2 configuration, files or identity, 13 ledger, 12 wallet, 4 nothing above reserve_sats,
8 no relay, 11 a clock that is far off.";

/// What `agent-provider doctor --help` ends with.
pub(super) const PROVIDER_DOCTOR: &str = "\
Each check is a line: ok, warning or problem, what it is about, and the command that mends it. With --json
an object a line: {\"v\":1,\"check\",\"subject\",\"status\",\"message\",\"fix\":…|null}. It only looks: nothing is made,
repaired or announced, and no password is asked for.

Checks: config, files, identity, jobs, clock, relay (one each), listing, wallet, backend. The clock is held
against what relays say it is (HTTP's Date).

Exit code: 0 when nothing is a problem, warnings or not; else that of the gravest problem: 2 configuration,
files, identity or backend, 13 job store, 12 wallet, 8 no relay, no listing there or no model server, 11 a
clock that is far off.";

/// What `completions --help` ends with.
pub(super) const COMPLETIONS: &str = "\
Where to put it (for agent-customer; agent-provider goes beside it):
  bash        agent-customer completions bash > ~/.local/share/bash-completion/completions/agent-customer
  zsh         agent-customer completions zsh > _agent-customer, in a folder that $fpath names
  fish        agent-customer completions fish > ~/.config/fish/completions/agent-customer.fish
  elvish      agent-customer completions elvish >> ~/.config/elvish/rc.elv
  powershell  agent-customer completions powershell >> $PROFILE";

/// What a short help (`-h`) ends with.
pub(super) const MORE: &str = "--help says more: examples, limits, exit codes, environment.";
