// A provider and a customer on NDK, speaking plain NIP-90 without payment.
//
//   node ndk.mjs provider RELAY             lists itself, says "ready KEY", and repeats what it is asked
//   node ndk.mjs customer RELAY KEY JOBS    finds that provider, buys, and prints its times in ms as JSON
import NDK, { NDKEvent, NDKPrivateKeySigner } from "@nostr-dev-kit/ndk";
import WebSocket from "ws";

// Node 20 has none of its own.
globalThis.WebSocket ??= WebSocket;

const [role, relay, ...rest] = process.argv.slice(2);
const signer = NDKPrivateKeySigner.generate();
const ndk = new NDK({ explicitRelayUrls: [relay], signer, enableOutboxModel: false });
await ndk.connect(5000);

async function publish(kind, content, tags) {
  const event = new NDKEvent(ndk, { kind, content, tags });
  await event.publish();
  return event;
}

/** Calls `heard` with each event of this filter until it says true. */
function until(filter, heard) {
  return new Promise((resolve) => {
    const subscription = ndk.subscribe(filter, { closeOnEose: false, groupable: false });
    subscription.on("event", (event) => {
      if (heard(event)) {
        subscription.stop();
        resolve(event);
      }
    });
  });
}

async function provide() {
  const { pubkey } = await signer.user();
  await publish(31990, JSON.stringify({ name: "NDK" }), [["d", "echo"], ["k", "5050"]]);
  const since = Math.floor(Date.now() / 1000);
  const subscription = ndk.subscribe({ kinds: [5050], "#p": [pubkey], since }, { closeOnEose: false });
  subscription.on("event", async (request) => {
    const about = [["e", request.id], ["p", request.pubkey]];
    await publish(7000, "", [["status", "processing"], ...about]);
    await publish(6050, request.tagValue("i"), about);
  });
  subscription.on("eose", () => console.log(`ready ${pubkey}`));
}

async function buy(key, jobs) {
  const listings = await ndk.fetchEvents({ kinds: [31990], "#k": ["5050"] });
  const listing = [...listings].find((listing) => listing.pubkey === key);
  if (!listing) throw new Error("no such provider is listed");
  const { pubkey } = await signer.user();
  const times = [];
  for (let nth = 0; nth < jobs; nth += 1) {
    const prompt = `What is the capital of country ${nth}?`;
    const begun = performance.now();
    const request = new NDKEvent(ndk, { kind: 5050, content: "", tags: [["i", prompt, "text"], ["p", key]] });
    await request.sign();
    const answered = (event) => event.pubkey === key && event.tagValue("e") === request.id;
    const result = until({ kinds: [6050, 7000], "#p": [pubkey] }, (event) => event.kind === 6050 && answered(event));
    await request.publish();
    const { content } = await result;
    times.push(performance.now() - begun);
    if (content !== prompt) throw new Error(`not what was asked for: ${content}`);
  }
  console.log(JSON.stringify(times));
  process.exit(0);
}

if (role === "provider") await provide();
else await buy(rest[0], Number(rest[1]));
