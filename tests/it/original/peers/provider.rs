//! The deployed seller.

use super::*;

/// `agent-provider`'s flags, and what its model says.
#[derive(Clone, Debug, Default)]
pub struct Served {
    pub channel: Option<String>,
    pub stream: bool,
    pub wallet: Option<SimWallet>,
    /// Said of every prompt, piece by piece; an error without a model.
    pub model: Option<Vec<String>>,
}

/// `agent-provider`, at work until it is dropped.
pub struct Provider {
    pub pubkey: String,
    pub channel: String,
    _work: JoinSet<()>,
}

impl Provider {
    pub async fn start(relay: &str, served: Served) -> Self {
        let mut line = Line::connect(relay, Keys::generate()).await;
        let pubkey = line.key();
        let channel = match &served.channel {
            Some(channel) => channel.clone(),
            None => {
                let about = json!({
                    "name": "OpenAgents Compute Marketplace",
                    "about": "Agents negotiate NIP-90 jobs with Bitcoin payments",
                    "picture": "",
                    "relays": [DEFAULT_RELAY],
                });
                let made = line.publish(40, vec![], about.to_string()).await;
                made.id.to_hex()
            }
        };
        announce(&mut line, relay, &channel, &served).await;
        line.join("provider-sub", &channel).await;
        let since = now();
        let mut work = JoinSet::new();
        let of = channel.clone();
        work.spawn(async move { serve(line, &of, served, since).await });
        Self {
            pubkey,
            channel,
            _work: work,
        }
    }
}

/// Whether a relay serves the subscription of the later version's provider, which names itself and a UUID.
pub async fn hears_direct_requests(relay: &str) -> bool {
    let mut provider = Line::connect(relay, Keys::generate()).await;
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let id = format!("job-requests-{}-{uuid}", provider.key());
    let filter = json!({"kinds": [5050], "#p": [provider.key()]});
    provider.subscribe(&id, filter).await;
    let mut customer = Line::connect(relay, Keys::generate()).await;
    let to = vec!["p".to_owned(), provider.key()];
    customer
        .publish(5050, vec![to], "What is 2+2?".into())
        .await;
    timeout(Duration::from_secs(10), provider.next(&id))
        .await
        .is_ok()
}

/// Once each, at the start.
async fn announce(line: &mut Line, relay: &str, channel: &str, served: &Served) {
    let models: Vec<String> = served.model.iter().map(|_| "mock:latest".into()).collect();
    let announcement = Said::ServiceAnnouncement {
        kind: 5050,
        price_msats: 10_000,
        spark_address: "mock-spark-address".into(),
        network: Net::Regtest,
        provider_pubkey: Some(line.key()),
        models: models.clone(),
        capabilities: vec!["text-generation".into()],
    };
    line.say(channel, &announcement).await;
    let mut tags = vec![
        vec!["handler", "compute_provider"],
        vec!["capability", "text-generation"],
        vec!["price", "10000", "per-request", "msats"],
        vec!["channel", channel],
        vec!["relay", relay],
        vec!["network", "regtest"],
    ];
    tags.extend(models.iter().map(|model| vec!["model", model]));
    let tags = tags
        .into_iter()
        .map(|tag| tag.into_iter().map(str::to_owned).collect())
        .collect();
    let about = json!({
        "name": "OpenAgents Compute Provider",
        "description": "NIP-90 text generation service with Lightning payments",
    });
    line.publish(31990, tags, about.to_string()).await;
}

/// One message after the other: while a job runs, nobody else is heard.
async fn serve(mut line: Line, channel: &str, served: Served, since: u64) {
    let mut pending: HashMap<String, String> = HashMap::new();
    let mut processed: HashSet<String> = HashSet::new();
    loop {
        let event = line.next("provider-sub").await;
        if event.created_at.as_secs() < since || event.pubkey == line.keys.public_key() {
            continue;
        }
        match serde_json::from_str(&event.content) {
            Ok(Said::JobRequest {
                prompt,
                target_provider,
                ..
            }) => {
                if target_provider.is_some_and(|target| target != line.key()) {
                    continue;
                }
                let job_id = format!("job_{}", &event.id.to_hex()[..16]);
                pending.insert(job_id.clone(), prompt);
                let (bolt11, payment_hash) = match &served.wallet {
                    None => ("lnbcrt100n1mock".into(), "mock_payment_hash".into()),
                    Some(wallet) => (ten_sats(wallet).await, job_id.clone()),
                };
                let invoice = Said::Invoice {
                    job_id,
                    bolt11,
                    amount_msats: 10_000,
                    payment_hash: Some(payment_hash),
                };
                line.say(channel, &invoice).await;
            }
            // On anybody's word, for any job, and once.
            Ok(Said::PaymentSent { job_id, .. }) => {
                if !processed.insert(job_id.clone()) {
                    continue;
                }
                let prompt = pending.remove(&job_id).unwrap_or_else(|| "Hello".into());
                let result = infer(&mut line, channel, &job_id, &prompt, &served).await;
                line.say(channel, &Said::JobResult { job_id, result }).await;
            }
            // HtlcLocked is noted, PreimageRelease claimed where there is a wallet.
            _ => {}
        }
    }
}

async fn ten_sats(wallet: &SimWallet) -> String {
    let request = InvoiceRequest {
        amount: Msat::new(10_000),
        expiry_secs: 3600,
        hold: None,
        description: "NIP-90 Job".into(),
    };
    wallet.invoice(request).await.unwrap().bolt11
}

async fn infer(
    line: &mut Line,
    channel: &str,
    job_id: &str,
    prompt: &str,
    served: &Served,
) -> String {
    let Some(model) = &served.model else {
        return "Error: No inference backend available. Install Ollama: https://ollama.ai".into();
    };
    let pieces: Vec<String> = model
        .iter()
        .map(|piece| piece.replace("{prompt}", prompt))
        .collect();
    if served.stream {
        let last = std::iter::once((String::new(), true));
        for (chunk, is_final) in pieces.iter().map(|it| (it.clone(), false)).chain(last) {
            let chunk = Said::StreamChunk {
                job_id: job_id.to_owned(),
                chunk,
                is_final,
            };
            line.say(channel, &chunk).await;
        }
    }
    pieces.concat()
}
