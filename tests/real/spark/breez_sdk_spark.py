"""A stand-in for the Spark SDK: its calls, as far as the adapter makes them, over play money.

What the real SDK does without the internet is tested with the real SDK. Payments need Spark's operators: here they
are moved by `wallet_process`, the example of a wallet program, whose command is in `stand-in.json` in the storage.
"""

import asyncio
import json
import os
import types
from enum import Enum


class Network(Enum):
    MAINNET = 0
    REGTEST = 1
    SIGNET = 2


class PaymentType(Enum):
    SEND = 0
    RECEIVE = 1


class PaymentStatus(Enum):
    COMPLETED = 0
    PENDING = 1
    FAILED = 2


class PaymentMethod(Enum):
    LIGHTNING = 0


class SparkHtlcStatus(Enum):
    WAITING_FOR_PREIMAGE = 0
    PREIMAGE_SHARED = 1
    RETURNED = 2


class NetworkError(Exception):
    pass


class SparkError(Exception):
    pass


class InsufficientFunds(Exception):
    pass


class EventListener:
    pass


def record(name, *fields):
    """A class that takes these by name, as all of the SDK's do."""

    def make(self, *args, **kwargs):
        given = dict(zip(fields, args), **kwargs)
        unknown = set(given) - set(fields)
        assert not unknown, "%s takes no %s" % (name, unknown)
        for field in fields:
            setattr(self, field, given.get(field))

    return type(name, (), {"__init__": make})


ConnectRequest = record("ConnectRequest", "config", "seed", "storage_dir")
SyncWalletRequest = record("SyncWalletRequest")
GetInfoRequest = record("GetInfoRequest", "ensure_synced")
ReceivePaymentRequest = record("ReceivePaymentRequest", "payment_method")
PrepareSendPaymentRequest = record("PrepareSendPaymentRequest", "payment_request")
SendPaymentRequest = record("SendPaymentRequest", "prepare_response", "options", "idempotency_key")
ListPaymentsRequest = record("ListPaymentsRequest", "type_filter", "offset", "limit")
ClaimHtlcPaymentRequest = record("ClaimHtlcPaymentRequest", "preimage")


class Seed:
    MNEMONIC = record("MNEMONIC", "mnemonic", "passphrase")


class PaymentRequest:
    INPUT = record("INPUT", "input")


class SendPaymentOptions:
    BOLT11_INVOICE = record("BOLT11_INVOICE", "prefer_spark", "completion_timeout_secs")


class ReceivePaymentMethod:
    SPARK_ADDRESS = record("SPARK_ADDRESS")
    BOLT11_INVOICE = record(
        "BOLT11_INVOICE", "description", "amount_sats", "expiry_secs", "payment_hash", "receiver_identity_public_key"
    )


def default_config(network):
    return types.SimpleNamespace(network=network, api_key=None)


class Parsed(list):
    def is_BOLT11_INVOICE(self):
        return True


class Program:
    """The wallet program that the money is in."""

    def __init__(self, process):
        self.process = process
        self.waiting = {}
        self.last = 0
        self.listeners = []

    async def listen(self):
        while line := await self.process.stdout.readline():
            answer = json.loads(line)
            if "id" in answer:
                self.waiting.pop(answer["id"]).set_result(answer)
            else:
                for listener in self.listeners:
                    await listener.on_event(None)

    async def ask(self, method, **params):
        self.last += 1
        answered = asyncio.get_running_loop().create_future()
        self.waiting[self.last] = answered
        line = json.dumps({"id": self.last, "method": method, "params": params})
        self.process.stdin.write(line.encode() + b"\n")
        answer = await answered
        if "error" in answer:
            raise SparkError(answer["error"]["message"])
        return answer["result"]


async def connect(request):
    with open(os.path.join(request.storage_dir, "stand-in.json")) as file:
        orders = json.load(file)
    process = await asyncio.create_subprocess_exec(
        *orders["program"], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    program = Program(process)
    sdk = BreezSdk(program, orders)
    sdk.task = asyncio.create_task(program.listen())
    hello = await program.ask("hello", version=1)
    sdk.account = hello["account"]
    return sdk


class BreezSdk:
    def __init__(self, program, orders):
        self.program = program
        self.orders = orders
        self.failed = {}

    async def get_user_settings(self):
        return types.SimpleNamespace()

    async def sync_wallet(self, request):
        return types.SimpleNamespace()

    async def disconnect(self):
        self.program.process.stdin.close()
        await self.program.process.wait()

    async def add_event_listener(self, listener):
        self.program.listeners.append(listener)
        return "listener"

    async def get_info(self, request):
        sats = (await self.program.ask("balance"))["balance_msat"] // 1000
        return types.SimpleNamespace(identity_pubkey=self.account.replace(":", "-"), balance_sats=sats)

    async def get_lightning_address(self):
        return None

    async def receive_payment(self, request):
        method = request.payment_method
        if isinstance(method, ReceivePaymentMethod.SPARK_ADDRESS):
            return types.SimpleNamespace(payment_request="sparkrt1standin")
        made = await self.program.ask(
            "invoice",
            amount_msat=method.amount_sats * 1000,
            expiry_secs=method.expiry_secs,
            description=method.description,
            payment_hash=method.payment_hash,
        )
        return types.SimpleNamespace(payment_request=made["bolt11"])

    async def parse(self, text):
        return Parsed([types.SimpleNamespace(payment_hash=payment_hash(text), amount_msat=amount_msat(text))])

    async def prepare_send_payment(self, request):
        bolt11 = request.payment_request.input
        fee = (await self.program.ask("fee_quote", bolt11=bolt11))["fee_msat"] // 1000
        method = types.SimpleNamespace(lightning_fee_sats=fee, is_BOLT11_INVOICE=lambda: True)
        return types.SimpleNamespace(payment_method=method, bolt11=bolt11)

    async def send_payment(self, request):
        twist = self.orders.get("at_send")
        if twist == "lost":
            raise NetworkError("connection lost")
        bolt11 = request.prepare_response.bolt11
        asked = dict(
            bolt11=bolt11,
            payment_hash=payment_hash(bolt11),
            amount_msat=amount_msat(bolt11),
            max_fee_msat=10_000_000,
            purchase=request.idempotency_key.replace("-", ""),
        )
        paid = await self.program.ask("pay", **asked)
        if twist == "die":
            os._exit(1)
        if twist == "lost after":
            raise NetworkError("connection lost")
        if paid["state"] == "failed":
            if paid.get("insufficient_funds"):
                raise InsufficientFunds("short of funds")
            failed = payment(PaymentType.SEND, PaymentStatus.FAILED, asked["payment_hash"], 0, 0, None, 0, 0)
            failed.details.htlc_details.status = SparkHtlcStatus.RETURNED
            self.failed[asked["payment_hash"]] = failed
            return types.SimpleNamespace(payment=failed)
        return types.SimpleNamespace(payment=await self.sent(asked["payment_hash"], asked["amount_msat"], 0))

    async def movements(self):
        return (await self.program.ask("history", limit=1000))["movements"]

    async def sent(self, payment_hash, amount, at):
        found = await self.program.ask("outgoing", payment_hash=payment_hash)
        status = {"paid": "COMPLETED", "in_flight": "PENDING", "failed": "FAILED", "not_found": "FAILED"}
        return payment(
            PaymentType.SEND, PaymentStatus[status[found["state"]]], payment_hash, amount, found.get("fee_msat", 0),
            found.get("preimage"), at, 0,
        )

    async def received(self, payment_hash, amount, at):
        found = await self.program.ask("incoming", payment_hash=payment_hash)
        status = {"settled": "COMPLETED", "held": "PENDING", "cancelled": "FAILED"}.get(found["state"])
        if status is None:
            return None
        deadline = found.get("deadline", 0)
        return payment(PaymentType.RECEIVE, PaymentStatus[status], payment_hash, amount, 0, None, at, deadline)

    async def list_payments(self, request):
        found = []
        for movement in await self.movements():
            kind = PaymentType.SEND if movement["direction"] == "outgoing" else PaymentType.RECEIVE
            if request.type_filter is not None and kind not in request.type_filter:
                continue
            one = self.sent if kind is PaymentType.SEND else self.received
            found.append(await one(movement["payment_hash"], movement["amount_msat"], movement["created_at"]))
        if request.type_filter is None or PaymentType.SEND in request.type_filter:
            found.extend(self.failed.values())
        offset = request.offset or 0
        page = [one for one in found if one is not None][offset : offset + (request.limit or 100)]
        return types.SimpleNamespace(payments=page)

    async def claim_htlc_payment(self, request):
        await self.program.ask("settle", preimage=request.preimage)


def payment(kind, status, payment_hash, amount, fee, preimage, at, deadline):
    htlc = types.SimpleNamespace(
        payment_hash=payment_hash,
        preimage=preimage,
        expiry_time=deadline,
        status=SparkHtlcStatus.WAITING_FOR_PREIMAGE,
    )
    return types.SimpleNamespace(
        payment_type=kind,
        status=status,
        amount=amount // 1000,
        fees=fee // 1000,
        timestamp=at,
        method=PaymentMethod.LIGHTNING,
        details=types.SimpleNamespace(htlc_details=htlc, description=None),
    )


# As much of BOLT11 as it takes to read an invoice of play money.

LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def amount_msat(bolt11):
    human = bolt11[: bolt11.rindex("1")]
    digits = "".join(c for c in human.removeprefix("lnbcrt") if c.isdigit())
    unit = human[-1]
    return int(digits) * {"m": 100_000_000, "u": 100_000, "n": 100, "p": 1}[unit] // (10 if unit == "p" else 1)


def payment_hash(bolt11):
    words = [LETTERS.index(c) for c in bolt11[bolt11.rindex("1") + 1 :]]
    at = 7
    while True:
        tag, length = words[at], words[at + 1] * 32 + words[at + 2]
        if LETTERS[tag] == "p":
            bits = "".join(format(word, "05b") for word in words[at + 3 : at + 3 + length])
            return "%064x" % int(bits[:256], 2)
        at += 3 + length
