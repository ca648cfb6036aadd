"""A Spark wallet (Breez SDK) that speaks the wallet protocol of agent-compute, version 1, on stdin and stdout.

The protocol is described in src/wallet/process.rs. What is particular here:

* `hello` brings the secrets (`config`), so that they are in no argument, environment or file.
* Amounts are whole sats: what is not is refused.
* Before an order leaves, its hash is put on record (`orders`), so that none is ever given twice; the SDK gets an
  idempotency key made of the same hash.
* Without a network the SDK synchronises, says that all is well, and that there is no money. So nothing is said to be
  missing, and no balance is told, unless its operators have just answered a question of ours.
* What the SDK reports as failed after an order left is told as unknown, and looked up, unless the money is back.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import sqlite3
import sys
import time
import uuid

VERSION = 1
MAX_LINE_BYTES = 64 * 1024

# Seconds. The other side waits for 20, and for a payment for 90.
CALL_PATIENCE = 18
PAY_PATIENCE = 60
LOCK_PATIENCE = 10
LAST_PATIENCE = 2

# For so long after the operators have answered, they need not be asked again.
FRESH = 5

PAGE = 100

SCHEMA = """
CREATE TABLE IF NOT EXISTS invoices (
    payment_hash TEXT PRIMARY KEY,
    bolt11 TEXT NOT NULL,
    amount_msat INTEGER NOT NULL,
    description TEXT NOT NULL,
    hold INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS orders (
    payment_hash TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    -- Why it provably never left; null once it may have.
    never_left TEXT,
    short_of_funds INTEGER NOT NULL DEFAULT 0
);
"""


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def unsupported(what):
    return Problem("unsupported", what)


def refused(why):
    return Problem("refused", why)


def unreachable(why):
    return Problem("unreachable", why)


def whole_sats(msat):
    if not isinstance(msat, int) or msat <= 0 or msat % 1000 != 0:
        raise refused("Spark moves whole sats, and this is not: %s msat" % msat)
    return msat // 1000


class Spark:
    def __init__(self, sdk_module, sdk, account, config):
        self.b = sdk_module
        self.sdk = sdk
        self.account = account
        self.network = config["network"]
        self.heard_at = None
        self.under_way = set()
        self.books = sqlite3.connect(os.path.join(config["storage_dir"], "orders.sqlite"), isolation_level=None)
        self.books.execute("PRAGMA synchronous = FULL")
        self.books.executescript(SCHEMA)

    # What the SDK says, as an answer or as a Problem.

    def problem(self, error):
        name = type(error).__name__
        words = " ".join(str(error).split())[:200] or name
        if isinstance(error, asyncio.TimeoutError):
            return unreachable("Spark does not answer")
        if name in ("NetworkError", "ChainServiceError") or "Transport error" in words or "onnection" in words:
            return unreachable("Spark can't be reached: " + words)
        if name == "StorageError":
            return Problem("storage", words)
        return refused(words)

    async def call(self, coroutine, patience=CALL_PATIENCE):
        try:
            return await asyncio.wait_for(coroutine, patience)
        except Exception as error:  # noqa: BLE001: every error of the SDK becomes an answer.
            raise self.problem(error) from None

    async def synced(self):
        """Hears from the operators, and lets the SDK take over what they know."""
        if self.heard_at is not None and time.monotonic() - self.heard_at < FRESH:
            return
        await self.call(self.sdk.get_user_settings())
        await self.call(self.sdk.sync_wallet(request=self.b.SyncWalletRequest()))
        self.heard_at = time.monotonic()

    # Methods of the protocol.

    async def balance(self, _):
        await self.synced()
        info = await self.call(self.sdk.get_info(request=self.b.GetInfoRequest(ensure_synced=False)))
        return {"balance_msat": info.balance_sats * 1000}

    async def addresses(self, _):
        method = self.b.ReceivePaymentMethod.SPARK_ADDRESS()
        request = self.b.ReceivePaymentRequest(payment_method=method)
        spark = (await self.call(self.sdk.receive_payment(request=request))).payment_request
        lightning = await self.call(self.sdk.get_lightning_address())
        return {"addresses": [spark] + ([lightning.lightning_address] if lightning else [])}

    async def terms(self, bolt11):
        """The hash and the amount that an invoice itself names."""
        parsed = await self.call(self.sdk.parse(bolt11))
        if not parsed.is_BOLT11_INVOICE():
            raise refused("this is no BOLT11 invoice")
        return parsed[0].payment_hash, parsed[0].amount_msat

    async def prepared(self, bolt11):
        request = self.b.PrepareSendPaymentRequest(payment_request=self.b.PaymentRequest.INPUT(bolt11))
        prepared = await self.call(self.sdk.prepare_send_payment(request=request))
        method = prepared.payment_method
        if not method.is_BOLT11_INVOICE():
            raise refused("the SDK takes this for something else than a BOLT11 invoice")
        return prepared, method.lightning_fee_sats * 1000

    async def fee_quote(self, params):
        _, fee = await self.prepared(params["bolt11"])
        return {"fee_msat": fee}

    async def invoice(self, params):
        sats = whole_sats(params["amount_msat"])
        hold = params.get("payment_hash")
        now = int(time.time())
        if hold is not None:
            row = self.books.execute(
                "SELECT bolt11, amount_msat, description, hold, expires_at FROM invoices WHERE payment_hash = ?", (hold,)
            ).fetchone()
            if row is not None:
                same = row[1:4] == (params["amount_msat"], params["description"], 1) and now < row[4]
                if same and await self.found(hold, self.b.PaymentType.RECEIVE) is None:
                    return {"bolt11": row[0]}
                raise refused("this hash was in an invoice before")
        method = self.b.ReceivePaymentMethod.BOLT11_INVOICE(
            description=params["description"],
            amount_sats=sats,
            expiry_secs=params["expiry_secs"],
            payment_hash=hold,
            receiver_identity_public_key=None,
        )
        request = self.b.ReceivePaymentRequest(payment_method=method)
        bolt11 = (await self.call(self.sdk.receive_payment(request=request))).payment_request
        payment_hash, _ = await self.terms(bolt11)
        self.books.execute(
            "INSERT OR REPLACE INTO invoices VALUES (?, ?, ?, ?, ?, ?)",
            (payment_hash, bolt11, params["amount_msat"], params["description"], int(hold is not None),
             now + params["expiry_secs"]),
        )
        return {"bolt11": bolt11}

    async def found(self, payment_hash, kind):
        """The payment with this hash, as the SDK has it; the one that got furthest, if there are several."""
        best = None
        offset = 0
        rank = {"FAILED": 0, "PENDING": 1, "COMPLETED": 2}
        while True:
            request = self.b.ListPaymentsRequest(type_filter=[kind], offset=offset, limit=PAGE)
            page = (await self.call(self.sdk.list_payments(request=request))).payments
            for payment in page:
                htlc = htlc_of(payment)
                if htlc is None or htlc.payment_hash != payment_hash:
                    continue
                if best is None or rank[payment.status.name] > rank[best.status.name]:
                    best = payment
            if len(page) < PAGE:
                return best
            offset += PAGE

    async def incoming(self, params):
        payment_hash = params["payment_hash"]
        payment = await self.found(payment_hash, self.b.PaymentType.RECEIVE)
        if payment is not None:
            status, htlc = payment.status.name, htlc_of(payment)
            if status == "COMPLETED":
                return {"state": "settled"}
            if status == "FAILED" or htlc.status.name == "RETURNED":
                return {"state": "cancelled"}
            return {"state": "held", "deadline": htlc.expiry_time}
        row = self.books.execute("SELECT expires_at FROM invoices WHERE payment_hash = ?", (payment_hash,)).fetchone()
        if row is None:
            return {"state": "not_found"}
        # Unpaid for all that is known here: before that is said of one that is over, the network is heard.
        if time.time() < row[0]:
            return {"state": "open"}
        await self.synced()
        return {"state": "expired"}

    async def settle(self, params):
        preimage = params["preimage"]
        request = self.b.ClaimHtlcPaymentRequest(preimage=preimage)
        try:
            await self.call(self.sdk.claim_htlc_payment(request=request))
        except Problem:
            payment_hash = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
            payment = await self.found(payment_hash, self.b.PaymentType.RECEIVE)
            if payment is None or payment.status.name != "COMPLETED":
                raise
        return {}

    async def cancel_invoice(self, _):
        raise unsupported("give held money back: on Spark it goes back by itself when its time is over")

    def order(self, payment_hash):
        return self.books.execute(
            "SELECT never_left, short_of_funds FROM orders WHERE payment_hash = ?", (payment_hash,)
        ).fetchone()

    def never_left(self, payment_hash, why, short_of_funds=False):
        self.books.execute(
            "UPDATE orders SET never_left = ?, short_of_funds = ? WHERE payment_hash = ?",
            (why, int(short_of_funds), payment_hash),
        )
        return {"state": "failed", "reason": why, "insufficient_funds": short_of_funds}

    async def pay(self, params):
        payment_hash = params["payment_hash"]
        try:
            whole_sats(params["amount_msat"])
            if await self.terms(params["bolt11"]) != (payment_hash, params["amount_msat"]):
                raise refused("the invoice is about another payment than the order")
            if self.order(payment_hash) is not None or await self.found(payment_hash, self.b.PaymentType.SEND):
                # It was ordered before, in this life or another: it is never ordered again.
                known = await self.outgoing(params)
                if known["state"] == "not_found":
                    return {"state": "unknown", "reason": "it was ordered before, and Spark does not list it"}
                return known
            prepared, fee = await self.prepared(params["bolt11"])
        except Problem as problem:
            # Preparing sends nothing.
            return {"state": "failed", "reason": str(problem), "insufficient_funds": short_of_funds(problem)}
        if fee > params["max_fee_msat"]:
            why = "routing would cost %d msat, more than the %d allowed" % (fee, params["max_fee_msat"])
            return {"state": "failed", "reason": why, "insufficient_funds": False}
        try:
            self.books.execute("INSERT INTO orders (payment_hash, at) VALUES (?, ?)", (payment_hash, int(time.time())))
        except sqlite3.IntegrityError:
            return {"state": "unknown", "reason": "the same payment is being ordered"}
        self.under_way.add(payment_hash)
        try:
            request = self.b.SendPaymentRequest(
                prepare_response=prepared,
                options=self.b.SendPaymentOptions.BOLT11_INVOICE(
                    prefer_spark=False, completion_timeout_secs=PAY_PATIENCE
                ),
                idempotency_key=str(uuid.UUID(payment_hash[:32])),
            )
            sent = await asyncio.wait_for(self.sdk.send_payment(request=request), PAY_PATIENCE + 10)
            return told(sent.payment, sure=False)
        except asyncio.TimeoutError:
            return {"state": "unknown", "reason": "Spark has not said what became of it yet"}
        except Exception as error:  # noqa: BLE001: whatever it is, the order may have left.
            if type(error).__name__ == "InsufficientFunds":
                return self.never_left(payment_hash, "the wallet is short of funds", True)
            return {"state": "unknown", "reason": str(self.problem(error))}
        finally:
            self.under_way.discard(payment_hash)

    async def outgoing(self, params):
        payment_hash = params["payment_hash"]
        payment = await self.found(payment_hash, self.b.PaymentType.SEND)
        if payment is not None:
            return told(payment, sure=True)
        row = self.order(payment_hash)
        if row is not None and row[0] is not None:
            return {"state": "failed", "reason": row[0], "insufficient_funds": bool(row[1])}
        if payment_hash in self.under_way:
            return {"state": "in_flight"}
        await self.synced()
        return {"state": "not_found"}

    async def history(self, params):
        await self.synced()
        request = self.b.ListPaymentsRequest(limit=min(params["limit"], 1000))
        payments = (await self.call(self.sdk.list_payments(request=request))).payments
        return {"movements": [movement(payment) for payment in payments if payment.method.name != "TOKEN"]}


def htlc_of(payment):
    return getattr(payment.details, "htlc_details", None)


def short_of_funds(problem):
    return "nsufficient" in str(problem)


def told(payment, sure):
    """What the SDK says of an order. A failure is believed when it is looked up."""
    status, htlc = payment.status.name, htlc_of(payment)
    if status == "COMPLETED":
        preimage = htlc.preimage if htlc is not None else None
        return {"state": "paid", "preimage": preimage, "fee_msat": int(payment.fees) * 1000}
    if status == "PENDING":
        return {"state": "in_flight"}
    if sure or (htlc is not None and htlc.status.name == "RETURNED"):
        return {"state": "failed", "reason": "Spark says that it failed", "insufficient_funds": False}
    return {"state": "unknown", "reason": "Spark says that it failed"}


def movement(payment):
    htlc = htlc_of(payment)
    return {
        "direction": "outgoing" if payment.payment_type.name == "SEND" else "incoming",
        "state": {"COMPLETED": "settled", "PENDING": "pending", "FAILED": "failed"}[payment.status.name],
        "amount_msat": int(payment.amount) * 1000,
        "fee_msat": int(payment.fees) * 1000,
        "payment_hash": htlc.payment_hash if htlc is not None else None,
        "created_at": payment.timestamp,
        "description": getattr(payment.details, "description", None),
    }


async def locked(storage_dir):
    """One process per wallet: two would spend the same leaves. One that is about to end is waited for."""
    lock = open(os.path.join(storage_dir, "lock"), "w")
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() >= until:
                raise refused("another program uses this Spark wallet, and it can be open only once") from None
            await asyncio.sleep(0.1)


async def opened(config, changed):
    try:
        import breez_sdk_spark as b
    except ImportError as error:
        raise Problem("storage", "the Spark SDK can't be loaded (%s): run `wallet setup spark`" % error) from None
    storage_dir = config["storage_dir"]
    os.makedirs(storage_dir, mode=0o700, exist_ok=True)
    lock = await locked(storage_dir)
    network = {"mainnet": b.Network.MAINNET, "regtest": b.Network.REGTEST, "signet": b.Network.SIGNET}
    if config["network"] not in network:
        raise refused("Spark is on mainnet, signet and regtest, not on %s" % config["network"])
    settings = b.default_config(network=network[config["network"]])
    settings.api_key = config.get("api_key")
    provider = config.get("service_provider")
    if provider is not None:
        settings.spark_config.ssp_config.base_url = provider["base_url"]
        settings.spark_config.ssp_config.identity_public_key = provider["identity_public_key"]
        settings.spark_config.ssp_config.schema_endpoint = None
        # There are no operators beside it to tell what is private.
        settings.private_enabled_default = False
    seed = b.Seed.MNEMONIC(mnemonic=config["mnemonic"], passphrase=None)
    request = b.ConnectRequest(config=settings, seed=seed, storage_dir=storage_dir)
    try:
        sdk = await asyncio.wait_for(b.connect(request=request), CALL_PATIENCE)
        info = await sdk.get_info(request=b.GetInfoRequest(ensure_synced=False))
    except Exception as error:  # noqa: BLE001: its words may quote what it was given.
        raise refused("the Spark SDK can't be opened: %s" % type(error).__name__) from None

    class Listener(b.EventListener):
        async def on_event(self, event):
            changed()

    await sdk.add_event_listener(listener=Listener())
    spark = Spark(b, sdk, info.identity_pubkey, config)
    spark.lock = lock
    return spark


class Server:
    def __init__(self, out):
        self.out = out
        self.spark = None
        self.tasks = set()

    def say(self, line):
        self.out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self.out.flush()

    async def hello(self, params):
        if params["version"] != VERSION:
            raise refused("this program speaks version %d" % VERSION)
        if self.spark is None:
            self.spark = await opened(params["config"], lambda: self.say({"method": "changed"}))
        return {
            "version": VERSION,
            "account": self.spark.account,
            "network": self.spark.network,
            "changes": True,
            "capabilities": {"hold_invoices": True, "binding_fee_quote": False, "authoritative_lookup": False},
        }

    async def act(self, method, params):
        if method == "hello":
            return await self.hello(params)
        known = ("balance", "addresses", "fee_quote", "invoice", "incoming", "settle", "cancel_invoice", "pay",
                 "outgoing", "history")
        if method not in known or self.spark is None:
            raise unsupported("do what was asked")
        return await getattr(self.spark, method)(params)

    async def answer(self, request):
        try:
            self.say({"id": request["id"], "result": await self.act(request["method"], request.get("params", {}))})
        except Problem as problem:
            self.say({"id": request["id"], "error": {"code": problem.code, "message": str(problem)}})
        except Exception as error:  # noqa: BLE001: a bug here must not look like silence.
            # Its words may quote a secret.
            print("%s in %s" % (type(error).__name__, request["method"]), file=sys.stderr, flush=True)
            if request["method"] == "pay":
                result = {"state": "unknown", "reason": "the adapter failed: %s" % type(error).__name__}
                self.say({"id": request["id"], "result": result})
            else:
                message = "the adapter failed: %s" % type(error).__name__
                self.say({"id": request["id"], "error": {"code": "storage", "message": message}})

    async def serve(self):
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            request = json.loads(line)
            if "id" not in request:
                # A hint that an answer is not waited for.
                continue
            task = asyncio.create_task(self.answer(request))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if self.tasks:
            await asyncio.wait(self.tasks)
        if self.spark is not None:
            # What it keeps outlives any end; whoever comes next waits for the lock.
            await asyncio.wait({asyncio.create_task(self.spark.sdk.disconnect())}, timeout=LAST_PATIENCE)
            os._exit(0)


def main():
    os.umask(0o077)
    # Whatever a library prints is no message.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        asyncio.run(Server(out).serve())
    except (BrokenPipeError, KeyboardInterrupt):
        pass


main()
