//! A stand-in for Spark's service provider, on this machine: as much of its GraphQL as it takes to sign in, make an
//! invoice and estimate a fee.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use agent_compute::ids::PaymentHash;
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::issue::{Draft, sign};
use agent_compute::wallet::spark::ServiceProvider;
use nostr::Keys;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What routing costs, in sats.
pub(super) const FEE_SATS: u64 = 3;

/// What a request for an invoice is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Invoice,
    /// One on another hash.
    AnotherHash,
    /// A refusal.
    Error,
    /// None.
    Silence,
}

pub(super) struct Provider {
    address: String,
    /// Requests for an invoice so far.
    pub(super) asked: Arc<AtomicUsize>,
    /// Told at each of them.
    pub(super) bell: Arc<Notify>,
    _serving: JoinSet<()>,
}

impl Provider {
    pub(super) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (asked, bell) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut serving = JoinSet::new();
        let told = (Arc::clone(&asked), Arc::clone(&bell));
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, bell) = told.clone();
                open.spawn(async move {
                    let told = move || {
                        asked.fetch_add(1, Ordering::SeqCst);
                        bell.notify_one();
                    };
                    // Whoever hangs up is done.
                    let _ = serve(stream, answer, told).await;
                });
            }
        });
        Self {
            address,
            asked,
            bell,
            _serving: serving,
        }
    }

    pub(super) fn reference(&self) -> ServiceProvider {
        ServiceProvider {
            base_url: self.address.clone(),
            identity_public_key: format!("02{}", Keys::generate().public_key()),
        }
    }
}

async fn serve(
    stream: TcpStream,
    answer: Answer,
    asked_for_invoice: impl Fn(),
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let request: Value = serde_json::from_slice(&body).unwrap();
        let input = &request["variables"]["input"];
        let data = match request["operationName"].as_str().unwrap() {
            "GetChallenge" => json!({"get_challenge": {"protected_challenge": challenge(input)}}),
            "VerifyChallenge" => json!({"verify_challenge": {
                "valid_until": "2100-01-01T00:00:00+00:00", "session_token": "token"
            }}),
            "RequestLightningReceive" => {
                asked_for_invoice();
                match answer {
                    Answer::Silence => {
                        tokio::time::sleep(Duration::from_secs(600)).await;
                        return Ok(());
                    }
                    Answer::Error => Value::Null,
                    Answer::Invoice | Answer::AnotherHash => received(input, answer),
                }
            }
            "LightningSendFeeEstimate" => json!({"lightning_send_fee_estimate": {
                "__typename": "LightningSendFeeEstimateOutput", "fee_estimate": sats(FEE_SATS)
            }}),
            _ => Value::Null,
        };
        let answer = match data {
            Value::Null => json!({"errors": [{"message": "not today"}]}),
            data => json!({"data": data}),
        };
        let body = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
    }
}

fn now() -> u64 {
    #[allow(
        clippy::disallowed_methods,
        reason = "the invoice is checked by the clock of this machine"
    )]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// `ProtectedChallenge { version = 1, challenge = 10: { version = 1, timestamp = 10, nonce = 20, public_key = 30 },
/// server_hmac = 20 }`, as Protocol Buffers, in base64 without padding.
fn challenge(input: &Value) -> String {
    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(number & 0x7f).unwrap();
            number >>= 7;
            if number == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    }
    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        let length = u64::try_from(bytes.len()).unwrap();
        [varint(number << 3 | 2), varint(length), bytes.to_vec()].concat()
    }
    let key = input["public_key"].as_str().unwrap();
    let key: Vec<u8> = (0..key.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
        .collect();
    let version = [8, 1];
    let inner = [
        version.to_vec(),
        varint(10 << 3),
        varint(now()),
        field(20, &[0; 32]),
        field(30, &key),
    ]
    .concat();
    let whole = [version.to_vec(), field(10, &inner), field(20, &[0; 32])].concat();
    base64(&whole)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..three.len()].copy_from_slice(three);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for place in 0..=three.len() {
            let letter = word >> (18 - 6 * place) & 0x3f;
            text.push(char::from(LETTERS[usize::try_from(letter).unwrap()]));
        }
    }
    text
}

fn sats(amount: u64) -> Value {
    json!({
        "__typename": "CurrencyAmount", "original_value": amount, "original_unit": "SATOSHI",
        "preferred_currency_unit": "USD", "preferred_currency_value_rounded": 0
    })
}

fn received(input: &Value, answer: Answer) -> Value {
    let hash: PaymentHash = match (answer, input["payment_hash"].as_str()) {
        (Answer::AnotherHash, _) | (_, None) => PaymentHash::from_bytes([9; 32]),
        (_, Some(hash)) => hash.parse().unwrap(),
    };
    let amount = input["amount_sats"].as_u64().unwrap();
    let draft = Draft {
        network: Network::Regtest,
        payment_hash: hash,
        payment_secret: [7; 32],
        amount: Some(Msat::new(amount * 1_000)),
        description: input["memo"].as_str().unwrap_or_default().to_owned(),
        created_at: UnixSecs::new(now()),
        expiry_secs: input["expiry_secs"].as_u64().unwrap(),
        min_final_cltv: 144,
    };
    let bolt11 = sign(&draft, Keys::generate().secret_key()).unwrap();
    let at = "2026-01-01T00:00:00Z";
    json!({"request_lightning_receive": {"request": {
        "__typename": "LightningReceiveRequest", "id": "LightningReceiveRequest:1", "created_at": at, "updated_at": at,
        "network": "REGTEST", "lightning_request_status": "INVOICE_CREATED",
        "invoice": {
            "__typename": "Invoice", "encoded_invoice": bolt11, "bitcoin_network": "REGTEST", "payment_hash": hash,
            "amount": sats(amount), "created_at": at, "invoice_expired_at": "2100-01-01T00:00:00Z", "memo": input["memo"]
        },
        "transfer": null, "lightning_receive_payment_preimage": null, "receiver_identity_public_key": null
    }}})
}
