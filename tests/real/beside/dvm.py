"""A provider on nostr-dvm, and a customer on the library below it, speaking plain NIP-90 without payment.

    python dvm.py provider RELAY             lists itself, says "ready KEY", and repeats what it is asked
    python dvm.py customer RELAY KEY JOBS    finds that provider, buys, and prints its times in ms as JSON
"""

import asyncio
import json
import sys
import time
from datetime import timedelta

from nostr_sdk import (
    ClientBuilder, EventBuilder, Filter, Keys, Kind, PublicKey, RelayUrl, ReqTarget, Tag, Timestamp,
)

TEXT_GENERATION = Kind(5050)
RESULT = Kind(6050)
LISTING = Kind(31990)


def provide(relay):
    from nostr_dvm.tasks.generic_dvm import GenericDVM
    from nostr_dvm.utils.admin_utils import AdminConfig
    from nostr_dvm.utils.dvmconfig import DVMConfig
    from nostr_dvm.utils.nip89_utils import NIP89Config

    class Echo(GenericDVM):
        KIND = TEXT_GENERATION
        TASK = "echo"

        async def process(self, request_form):
            return json.loads(request_form["options"])["input"]

    keys = Keys.generate()
    config = DVMConfig()
    config.PRIVATE_KEY = keys.secret_key().to_hex()
    config.KIND = TEXT_GENERATION
    config.IDENTIFIER = "echo"
    config.FIX_COST = 0
    config.RELAY_LIST = config.ANNOUNCE_RELAY_LIST = config.SYNC_DB_RELAY_LIST = [relay]
    config.DELETE_ANNOUNCEMENT_ON_SHUTDOWN = False
    listing = NIP89Config()
    listing.DTAG = "echo"
    listing.KIND = TEXT_GENERATION
    listing.CONTENT = json.dumps({"name": "nostr-dvm"})
    admin = AdminConfig()
    admin.REBROADCAST_NIP89 = True
    Echo(name="echo", dvm_config=config, nip89config=listing, admin_config=admin).run()
    # It says nothing when its subscription is in place.
    time.sleep(3)
    print(f"ready {keys.public_key().to_hex()}", flush=True)


async def buy(relay, key, jobs):
    keys, provider = Keys.generate(), PublicKey.parse(key)
    client = ClientBuilder().build()
    await client.add_relay(RelayUrl.parse(relay))
    await client.connect()
    listed = ReqTarget.auto([Filter().kind(LISTING).author(provider)])
    if not (await client.fetch_events(listed, timedelta(seconds=5))):
        raise RuntimeError("no such provider is listed")
    answers = Filter().kind(RESULT).pubkey(keys.public_key()).since(Timestamp.now())
    notifications = client.notifications()
    await client.subscribe(ReqTarget.auto([answers]), None)
    times = []
    for nth in range(jobs):
        prompt = f"What is the capital of country {nth}?"
        begun = time.perf_counter()
        tags = [Tag.parse(["i", prompt, "text"]), Tag.parse(["p", key])]
        request = EventBuilder(TEXT_GENERATION, "").tags(tags).finalize(keys)
        await client.send_event(request)
        content = await answer(notifications, provider, request.id())
        times.append((time.perf_counter() - begun) * 1000)
        if content != prompt:
            raise RuntimeError(f"not what was asked for: {content}")
    print(json.dumps(times), flush=True)


async def answer(notifications, provider, request):
    while True:
        said = await notifications.next()
        if said is None or not said.is_new_event():
            continue
        event = said.event
        answered = any(tag.to_vec()[:2] == ["e", request.to_hex()] for tag in event.tags())
        if event.author().to_hex() == provider.to_hex() and answered:
            return event.content()


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "provider":
        provide(*rest)
    else:
        asyncio.run(buy(rest[0], rest[1], int(rest[2])))
