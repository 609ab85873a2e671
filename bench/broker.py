"""The key broker under attack: how many of the requests that must be refused are, and do the good ones pass?

    python bench/broker.py [--json] [--rounds N]

A broker in this process, behind a real socket, asked over HTTP as `steelyard broker get` asks. Each attack is
a replayed nonce, a wrong measurement, stale collateral or a downgraded policy (or protocol). A request counts
as refused only where no key came back and the answer is a problem of the protocol (401, 404). Quotes are of
the SIMULATED platform.
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from steelyard.broker import Broker, Settings, TeeKey, broker_app, get_key
from steelyard.broker.client import attestation
from steelyard.trust import SimulatedTee

SECRET, NAME = b"the data key of a checkpoint", "team/key/one"
POLICY = """version: 1
tee: [tdx]
tcb_status: [UpToDate]
max_collateral_age_days: 20
tdx: {mr_td: ["%s"], rtmr0: ["%s"]}
binding: sha384
root_ca: root.pem
"""
GOOD = POLICY % ("00" * 48, "00" * 48)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, datetime.now(UTC)
        self.tee = SimulatedTee("tdx", self.now)
        (folder / "root.pem").write_bytes(self.tee.root_pem)
        file = folder / "keys" / NAME
        file.parent.mkdir(parents=True)
        file.write_bytes(SECRET)
        file.chmod(0o600)
        self.reset()
        settings = Settings(
            resources=folder / "keys", policy=folder / "policy.yaml", collateral=folder / "collateral.json"
        )
        self.broker = Broker(settings, lambda *_, **__: None, lambda: self.now.timestamp())

    def reset(self) -> None:
        (self.folder / "policy.yaml").write_text(GOOD)
        (self.folder / "collateral.json").write_bytes(self.tee.collateral())

    # -------------------------------------------------------------- one handshake

    def run(
        self,
        client: httpx.Client,
        *,
        quote: Callable[[bytes], bytes] | None = None,
        auth: dict[str, Any] | None = None,
        before_attest: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
        before_resource: Callable[[], None] = lambda: None,
    ) -> bool:
        """Whether the key came out. Raises AssertionError for an answer that is no problem."""
        client.cookies.clear()
        asked = {"version": "0.4.0", "tee": "tdx", "extra-params": {}} | (auth or {})
        answer = client.post("auth", json=asked)
        if not ok(answer):
            return False
        key = TeeKey("ec")
        body = before_attest(attestation(answer.json()["nonce"], key, quote or self.tee.quote))
        if not ok(client.post("attest", json=body)):
            return False
        before_resource()
        answer = client.get(f"resource/{NAME}")
        return ok(answer) and key.open(answer.json()) == SECRET

    # -------------------------------------------------------------- attacks

    def replays(self, client: httpx.Client, round_: int) -> Iterator[tuple[str, bool]]:
        key = TeeKey("ec")
        client.cookies.clear()
        nonce = client.post("auth", json={"version": "0.4.0", "tee": "tdx"}).json()["nonce"]
        body = attestation(nonce, key, self.tee.quote)
        assert ok(client.post("attest", json=body))
        yield "the same attestation again", ok(client.post("attest", json=body))
        client.cookies.clear()
        yield "without its session", ok(client.post("attest", json=body))
        yield "in another session", self.run(client, before_attest=lambda _: body)
        late = {"late": timedelta(seconds=121 + round_)}

        def wait(body: dict[str, Any]) -> dict[str, Any]:
            self.now += late["late"]
            return body

        yield "after its time", self.run(client, before_attest=wait)
        other = base64.b64encode(bytes([round_ % 256]) * 32).decode()

        def swapped(body: dict[str, Any]) -> dict[str, Any]:
            body["runtime-data"]["nonce"] = other
            return body

        yield "a nonce of one's own", self.run(client, before_attest=swapped)

    def measurements(self, client: httpx.Client, round_: int) -> Iterator[tuple[str, bool]]:
        bit = 1 << round_ % 8
        flipped = bytes([bit]) + bytes(47)
        at_end = bytes(47) + bytes([bit])
        for name in ("mr_td", "rtmr0"):
            for value in (flipped, at_end):
                yield name, self.run(client, quote=lambda d, n=name, v=value: self.tee.quote(d, **{n: v}))
        debug = bytes([bit]) + b"\0\0\x10" + bytes(4)
        yield "debug", self.run(client, quote=lambda d: self.tee.quote(d, td_attributes=debug))
        service = {"mr_service_td": flipped}
        yield "a service TD", self.run(client, quote=lambda d: self.tee.quote(d, 5, **service))
        yield "another root", self.run(client, quote=SimulatedTee("tdx", self.now).quote)
        yield "an enclave", self.run(client, quote=SimulatedTee("sgx", self.now).quote)

        def flip(data: bytes) -> bytes:
            quote = bytearray(self.tee.quote(data))
            quote[(97 * round_ + 48) % len(quote)] ^= bit
            return bytes(quote)

        yield "a flipped bit", self.run(client, quote=flip)

        def other_key(body: dict[str, Any]) -> dict[str, Any]:
            body["runtime-data"]["tee-pubkey"] = TeeKey("ec").jwk
            return body

        yield "another key", self.run(client, before_attest=other_key)

    def collateral(self, client: httpx.Client, round_: int) -> Iterator[tuple[str, bool]]:
        file = self.folder / "collateral.json"
        old = self.tee.tcb_info()
        old["issueDate"] = f"{self.now - timedelta(days=21 + round_):%Y-%m-%dT%H:%M:%SZ}"
        ended = self.tee.tcb_info()
        ended["nextUpdate"] = f"{self.now - timedelta(hours=1 + round_):%Y-%m-%dT%H:%M:%SZ}"
        worse = self.tee.tcb_info()
        worse["tcbLevels"][0]["tcbStatus"] = "OutOfDate"
        stale = {
            "older than the policy allows": self.tee.collateral(old),
            "over": self.tee.collateral(ended),
            "revoked": self.tee.collateral(revoked=["pck"]),
            "OutOfDate": self.tee.collateral(worse),
            "of another platform": SimulatedTee("tdx", self.now).collateral(),
        }
        for name, data in stale.items():
            file.write_bytes(data)
            yield f"{name}, at the attestation", self.run(client)
            self.reset()
            yield (
                f"{name}, since",
                self.run(client, before_resource=lambda d=data: file.write_bytes(d) and None),
            )
            self.reset()

    def downgrades(self, client: httpx.Client, round_: int) -> Iterator[tuple[str, bool]]:
        file = self.folder / "policy.yaml"
        weaker = {
            "binding: raw": GOOD.replace("sha384", "raw"),
            "binding: none": GOOD.replace("sha384", "none"),
            "no binding": GOOD.replace("binding: sha384\n", ""),
            "any code": GOOD + "require_measurement: false\n",
            "no measurement": GOOD.replace(f'mr_td: ["{"00" * 48}"], ', ""),
            "Intel's root": GOOD.replace("root_ca: root.pem\n", ""),
            "Revoked allowed": GOOD.replace("[UpToDate]", "[UpToDate, Revoked]"),
        }
        for name, text in weaker.items():
            file.write_text(text)
            yield f"{name}, at the attestation", self.run(client)
            self.reset()
            yield (
                f"{name}, since",
                self.run(client, before_resource=lambda t=text: file.write_text(t) and None),
            )
            self.reset()
        for version in ("0.1.1", "0.2.0", "0.3.0", "0.4.1", "0.4", ""):
            yield f"protocol {version!r}", self.run(client, auth={"version": version})
        yield "tee sample", self.run(client, auth={"tee": "sample"})
        yield "announced as sgx", self.run(client, auth={"tee": "sgx"})


def ok(answer: httpx.Response) -> bool:
    if answer.status_code == 200:
        return True
    assert answer.status_code in (401, 404), answer.status_code
    assert answer.headers["content-type"] == "application/problem+json"
    return False


def serve(app: Any) -> tuple[str, uvicorn.Server]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}", server


def measure(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        url, server = serve(broker_app(bench.broker))
        refused: Counter[str] = Counter()
        tried: Counter[str] = Counter()
        passed, slow, released = 0, [], []
        attacks = {
            "replayed nonce": bench.replays,
            "wrong measurement": bench.measurements,
            "stale collateral": bench.collateral,
            "downgraded policy": bench.downgrades,
        }
        with httpx.Client(base_url=f"{url}/kbs/v0/", timeout=60) as client:
            for round_ in range(rounds):
                begun = time.perf_counter()
                passed += bench.run(client)
                slow.append(time.perf_counter() - begun)
                for kind, attack in attacks.items():
                    for name, came_out in attack(client, round_):
                        tried[kind] += 1
                        refused[kind] += not came_out
                        released += [f"{kind}: {name}"] if came_out else []
        keys = {
            kind: get_key(url, NAME, bench.tee.quote, kind=kind) == SECRET for kind in ("akp", "ec", "rsa")
        }
        server.should_exit = True
    return {
        "good": {"tried": rounds, "released": passed, "by_key": keys, "median_s": statistics.median(slow)},
        "attacks": {kind: {"tried": tried[kind], "refused": refused[kind]} for kind in attacks},
        "released_wrongly": released,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    told = measure(options.rounds)
    if options.json:
        return print(json.dumps(told, indent=1))
    good = told["good"]
    print(f"good: {good['released']} of {good['tried']} released, median {good['median_s'] * 1000:.0f} ms")
    for kind, counts in told["attacks"].items():
        print(f"{kind}: {counts['refused']} of {counts['tried']} refused")
    print(f"released wrongly: {told['released_wrongly'] or 'none'}")


if __name__ == "__main__":
    main()
