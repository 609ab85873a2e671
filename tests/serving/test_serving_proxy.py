"""Sealed prompts end to end: a service, a recording relay, the local proxy, and clients that know nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate

import httpx
import pytest
import uvicorn
from scripted import ScriptedEngine, served_app

from steelyard.errors import Lacking, Refused, WrongUse
from steelyard.model import Tokenizer
from steelyard.serving import Accepts, EngineSettings, ServeSettings, promote, start
from steelyard.serving.base.access import Access
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.proxying import app as app_module
from steelyard.serving.proxying import upstream as upstream_module
from steelyard.serving.proxying.app import ProxyApp
from steelyard.serving.proxying.upstream import Upstream
from steelyard.serving.service.sealed_door import SealedDoor
from steelyard.serving.service.sealing import sealing_of
from steelyard.serving.service.tls import tls_context
from steelyard.trust import WELL_KNOWN, Head, MessageReader, RequestSealer, end_of, head_of

CANARY = "heron-4711-in-the-reeds"
SECRET = "secret-key-of-a-user"
KEY = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("STEELYARD_STATE", str(folder))
        yield folder


@contextmanager
def running(application, context=None):
    """An ASGI application behind a real socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, lifespan="off", log_config=None, ws="none", log_level=60)
    config.load()
    config.ssl = context
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    kind = "https" if context else "http"
    yield f"{kind}://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listening.close()


class Service:
    """The real application behind its sealed door, over an engine that says the canary."""

    def __init__(self, folder, **settings):
        own = ServeSettings(name="tiny", sealed_prompts=True, fingerprint="abc", **settings)
        tokenizer = Tokenizer(folder)
        engine = ScriptedEngine(tokenizer, EngineSettings(folder=str(folder), max_model_len=512))
        engine.text = f"It is {CANARY}, and {CANARY} again."
        application, _ = served_app(folder, engine, KeyRing(SECRET, None, lambda *a, **k: None))
        self.sealing = sealing_of(own)
        self.app = SealedDoor(application, Access(), self.sealing.key, self.sealing.statement)
        self.tls = tls_context(own)
        self.pin = self.sealing.about.get("pin")


@pytest.fixture(scope="module")
def service(tokenizer_folder):
    return Service(tokenizer_folder)


@pytest.fixture(scope="module")
def url(service):
    """Plain HTTP: sealing alone stands between it and a reader."""
    with running(service.app) as url:
        yield url


@contextmanager
def proxy_to(url, **trusted):
    with running(ProxyApp(Upstream(url, Accepts(**trusted)), Access())) as local:
        yield local


class Relay:
    """Passes TCP on and keeps what passes; `cut_after` bytes of answers it closes both ends."""

    def __init__(self, url: str) -> None:
        self.to = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.seen = bytearray()
        self.cut_after: int | None = None
        self.ends: list[socket.socket] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"{url.partition(':')[0]}://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def turn_to(self, url: str) -> None:
        """Those connected are cut off; who comes then comes there."""
        self.to = ("127.0.0.1", int(url.rpartition(":")[2]))
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self.listening.accept()
            far = socket.create_connection(self.to)
            self.ends += near, far
            for one, other, is_answer in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(one, other, is_answer), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := one.recv(512):
                self.seen += data
                passed += len(data) if self.cut_after else 0
                if is_answer and self.cut_after and passed > self.cut_after:
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxying(url, *flags, env=None):
    """`steelyard proxy` as a user starts it."""
    command = [sys.executable, "-m", "steelyard", "proxy", url, "--port", "0", "--json", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    try:
        line = b""
        for piece in iter(process.stdout.readline, b""):
            line += piece
            try:
                yield json.loads(line), process
                break
            except json.JSONDecodeError:
                continue
        else:
            yield None, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        process.stdout.close()
        process.stderr.close()


def body(**more):
    content = f"Say {CANARY} " * 3
    return {"model": "default", "messages": [{"role": "user", "content": content}], "max_tokens": 60, **more}


@pytest.fixture(scope="module")
def local(service, url):
    """The proxy behind a relay that keeps all that passes."""
    relay = Relay(url)
    with proxy_to(relay.url, pin=service.pin) as local:
        yield local, relay


CHAT = "/v1/chat/completions"


def test_nothing_of_prompt_key_or_answer_is_on_the_wire(local):
    url, relay = local
    begin = len(relay.seen)
    answer = httpx.post(f"{url}{CHAT}", headers=KEY, json=body(), timeout=60)
    assert answer.status_code == 200 and CANARY in answer.json()["choices"][0]["message"]["content"]
    with httpx.stream("POST", f"{url}{CHAT}", headers=KEY, json=body(stream=True), timeout=60) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 5
    assert_sealed(relay.seen[begin:])


def assert_sealed(wire):
    wire = bytes(wire).lower()
    assert len(wire) > 4000 and b"ohttp-gateway" in wire
    for word in (CANARY, SECRET, "authorization", "completions", "messages", "choices", "max_tokens"):
        for form in (word.encode(), base64.b64encode(word.encode())[:-4], word.encode().hex().encode()):
            assert form.lower() not in wire, form


def test_the_first_token_does_not_wait_for_the_last(tokenizer_folder):
    """The engine makes no second token before the client has the first."""
    service = Service(tokenizer_folder)
    go_on = threading.Event()

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.to_thread(go_on.wait, 30)
        await send({"type": "http.response.body", "body": b"last"})

    service.app.inner = answer
    with (
        running(service.app) as url,
        proxy_to(url, pin=service.pin) as local,
        httpx.stream("POST", f"{local}/x", content=b"x", timeout=60) as streamed,
    ):
        pieces = streamed.iter_raw()
        assert next(pieces) == b"first"
        go_on.set()
        assert b"".join(pieces) == b"last"


def test_the_front_holds_behind_it_as_before_it(local):
    """Keys, checks of bodies, routes, errors: the answers are those of the service itself."""
    url, _ = local
    with httpx.Client(base_url=url, timeout=60) as client:
        refused = client.post(CHAT, json=body())
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["x-request-id"]
        assert client.get("/v1/models", headers=KEY).json()["data"][0]["id"]
        wrong = client.post(CHAT, json=body(max_tokens="many"), headers=KEY)
        assert wrong.status_code == 400 and "max_tokens" in wrong.text
        assert client.get("/nowhere", headers=KEY).status_code == 404
        kind = {**KEY, "content-type": "text/plain"}
        assert client.post(CHAT, content=b"x", headers=kind).status_code == 415
        assert client.post(CHAT, json={"x": "y" * (5 << 20)}, headers=KEY).status_code == 413
        big = {"file": ("a.jsonl", b"{}\n" * 3_000_000)}
        file = client.post("/v1/files", headers=KEY, data={"purpose": "batch"}, files=big)
        assert file.status_code == 200 and file.json()["bytes"] == 9_000_000
        assert client.get("/live").status_code == 200


def test_web_pages_do_not_come_in_through_the_proxy(local):
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        assert httpx.get(f"{local[0]}/v1/models", headers={**KEY, **headers}).status_code == 403


def test_plain_prompts_are_refused_by_the_service(url):
    answer = httpx.post(f"{url}{CHAT}", json=body(), headers=KEY)
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "sealed_only"
    assert "steelyard proxy" in answer.json()["error"]["message"]
    assert httpx.get(f"{url}/live").status_code == 200
    assert httpx.get(f"{url}/metrics").status_code == 401
    keys = httpx.get(f"{url}{WELL_KNOWN}")
    assert keys.headers["content-type"] == "application/ohttp-keys" and len(keys.content) == 1227
    assert httpx.get(f"{url}/v1/attestation").status_code == 400
    for path in (WELL_KNOWN, "/v1/attestation"):
        assert httpx.get(f"{url}{path}", headers={"origin": "https://evil.example"}).status_code == 403


def sealed_by_hand(service, date=None, path=b"/v1/models"):
    """Bytes of a request, and what opens its answer."""
    sealer = RequestSealer(service.sealing.key.config)
    when = formatdate(time.time() if date is None else date, usegmt=True).encode()
    fields = [(b"authorization", KEY["authorization"].encode()), (b"date", when)]
    head = head_of(Head(method=b"GET", path=path, fields=fields))
    return sealer.beginning + sealer.chunk(head) + sealer.chunk(end_of(), final=True), sealer.answer()


def post(url, data):
    kind = {"content-type": "message/ohttp-chunked-req"}
    return httpx.post(f"{url}{WELL_KNOWN}", content=data, headers=kind)


def read(opener, data):
    reader = MessageReader()
    content = b"".join(map(reader.feed, [*opener.feed(data), opener.close()]))
    reader.close()
    return reader.head.status, content


def test_a_request_is_answered_once(service, url):
    data, opener = sealed_by_hand(service)
    first = post(url, data)
    assert first.status_code == 200 and first.headers["content-type"] == "message/ohttp-chunked-res"
    status, content = read(opener, first.content)
    assert status == 200 and json.loads(content)["object"] == "list"
    again = post(url, data)
    assert again.status_code == 409 and "came before" in again.json()["title"]
    late, _ = sealed_by_hand(service, time.time() - 600)
    assert post(url, late).json()["type"].endswith("#date")
    for wrong in (data[:-1], data[:40], b"", b"x" * 3000, data[:1] + b"\0" + data[2:]):
        assert post(url, wrong).json()["type"].endswith("#ohttp-key")
    inside, opener = sealed_by_hand(service, path=WELL_KNOWN.encode())
    assert read(opener, post(url, inside).content)[0] == 404  # no door inside the door


def test_an_answer_that_is_cut_off_is_an_error_at_the_client(service, url):
    """By whoever stands between: the client is told, and its connection does not end as if all were well."""
    relay = Relay(url)
    lines = []
    with proxy_to(relay.url, pin=service.pin) as local:
        assert httpx.get(f"{local}/live").status_code == 200
        relay.cut_after = 2000
        with (
            pytest.raises(httpx.RemoteProtocolError),
            httpx.stream(
                "POST", f"{local}{CHAT}", headers=KEY, timeout=60, json=body(stream=True)
            ) as streamed,
        ):
            for line in streamed.iter_lines():
                lines.append(line)
        assert "sealed.cut" in "".join(lines) and "[DONE]" not in "".join(lines)
        relay.cut_after = 100
        answer = httpx.post(f"{local}{CHAT}", headers=KEY, json=body(), timeout=60)
        assert answer.status_code == 502 and not answer.text.count(CANARY)


def test_a_service_that_was_started_anew_is_appraised_anew(service, url, tokenizer_folder, tmp_path):
    """Its sealing key is new, its pin is not: clients notice nothing. Another one in its place is refused."""
    relay = Relay(url)
    with proxy_to(relay.url, pin=service.pin) as local:
        assert httpx.post(f"{local}{CHAT}", headers=KEY, json=body(), timeout=60).status_code == 200
        with running(Service(tokenizer_folder).app) as second:
            relay.turn_to(second)
            answer = httpx.post(f"{local}{CHAT}", headers=KEY, json=body(), timeout=60)
            assert answer.status_code == 200, answer.text
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STEELYARD_STATE", str(tmp_path))
            strange = Service(tokenizer_folder)
        with running(strange.app) as third:
            relay.turn_to(third)
            begin = len(relay.seen)
            answer = httpx.post(f"{local}{CHAT}", headers=KEY, json=body(), timeout=60)
    assert answer.status_code == 502 and "not the one that is pinned" in answer.text
    assert CANARY.encode() not in relay.seen[begin:]


POLICY = """version: 1
tee: [tdx]
tcb_status: [UpToDate]
tdx: {{mr_td: ["{mr_td}"]}}
binding: sha512
{root}
"""


def appraise(url, **trusted):
    async def ask():
        upstream = Upstream(url, Accepts(**trusted))
        try:
            return (await upstream.ready())[0]
        finally:
            await upstream.close()

    return asyncio.run(ask())


def test_an_attested_service_is_appraised_and_its_tls_key_pinned(
    tokenizer_folder, home, tmp_path, monkeypatch
):
    service = Service(tokenizer_folder, attest="simulated", tls_cert="auto")

    def policy(mr_td="00" * 48, root="root_ca: root.pem"):
        (tmp_path / "policy.yaml").write_text(POLICY.format(mr_td=mr_td, root=root))
        return tmp_path / "policy.yaml"

    with running(service.app, service.tls) as url:
        told = httpx.get(f"{url}/v1/attestation?nonce={'ab' * 32}", verify=False).json()
        (tmp_path / "root.pem").write_text(told["evidence"]["simulated_root"])
        with proxy_to(url, policy=policy()) as local:
            assert httpx.post(f"{local}{CHAT}", headers=KEY, json=body(), timeout=60).status_code == 200
        appraised = appraise(url, policy=policy())
        assert "SIMULATED" in appraised.verdict.detail and appraised.release.artefact == "abc"
        assert len(appraised.tls_spki_sha256) == 64
        with ssl_ends_here(url, home) as between, pytest.raises(Refused, match="another ends TLS"):
            appraise(between, policy=policy())
        for wrong in (lambda: policy(mr_td="11" * 48), lambda: policy(root="")):
            with pytest.raises(Refused, match="fails its appraisal"):
                appraise(url, policy=wrong())
        with pytest.raises(Refused, match="no identity"):
            appraise(url, pin="0" * 64)
        monkeypatch.setenv("STEELYARD_ENV", "production")
        with pytest.raises(Refused) as refused:
            appraise(url, policy=policy())
        assert "SIMULATED" in refused.value.why


@contextmanager
def ssl_ends_here(url, home):
    """Somebody who ends TLS before the service, under a certificate of his own."""
    from steelyard.serving.service.tls import _signed

    file = home / "between.pem"
    file.write_bytes(b"".join(_signed(["127.0.0.1"])))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    async def ask(scope, receive, send):
        target = f"{url}{scope['path']}?{scope['query_string'].decode()}"
        async with httpx.AsyncClient(verify=False) as client:
            answer = await client.get(target)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": []})
        await send({"type": "http.response.body", "body": answer.content})

    with running(ask, context) as between:
        yield between


# ------------------------------------------------------------------ through the doors


def test_served_for_real_and_proxied_by_the_command(tiny_ir, home):
    """A candidate is judged in plain; once it is published, users' requests come sealed, by TLS 1.3 too."""
    service = start(tiny_ir, ServeSettings(mode="exact", sealed_prompts=True, tls_cert="auto"))
    try:
        ask = {"model": "default", "prompt": CANARY, "max_tokens": 3, "echo": True}
        assert httpx.post(f"{service.url}/v1/completions", json=ask, timeout=60).status_code == 200
        published = promote(service, "127.0.0.1", 0)
        assert httpx.post(f"{published.url}/v1/completions", json=ask, verify=False).status_code == 403
        assert published.healthy()
        with proxying(published.url, "--pin", pin_of(home)) as (told, process):
            assert told["service"] == published.url and told["pin"] == pin_of(home)
            answer = httpx.post(f"{told['url']}/v1/completions", json=ask, timeout=60)
            assert answer.status_code == 200 and CANARY in answer.text
        with proxying(published.url, "--pin", "0" * 64) as (told, process):
            assert told["error"]["code"] == "appraisal.refused" and process.wait(120) == 3
    finally:
        service.stop()


def pin_of(home):
    from steelyard.trust import Identity

    return Identity.of(home / "tls" / "identity.key").pin


def test_what_is_asked_wrong_is_one_error(monkeypatch):
    for url in ("models.example", "ftp://x", "http://"):
        with pytest.raises(WrongUse, match="no address"):
            Upstream(url, Accepts(pin="0" * 64))
    with pytest.raises(WrongUse, match="no pin"):
        Upstream("http://127.0.0.1:9", Accepts(pin="abc"))
    with pytest.raises(WrongUse, match="neither"):
        Upstream("http://127.0.0.1:9", Accepts())
    with pytest.raises(Lacking, match="nothing answers"):
        appraise("http://127.0.0.1:9", pin="0" * 64)
    with pytest.raises(WrongUse, match="no prompts are sealed"):
        sealing_of(ServeSettings(attest="simulated"))
    with pytest.raises(Lacking, match="cannot make a quote"):
        sealing_of(ServeSettings(attest="tdx", sealed_prompts=True))
    monkeypatch.setenv("STEELYARD_ENV", "production")
    with pytest.raises(Refused, match="SIMULATED"):
        sealing_of(ServeSettings(attest="simulated", sealed_prompts=True))


def test_a_service_without_sealed_prompts_has_no_statement():
    async def nothing(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    with running(nothing) as url, pytest.raises(Refused, match="says nothing of its sealing key"):
        appraise(url, pin="0" * 64)


class Drip:
    """A server that says a beginning, and then a byte every now and then, for ever."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning, self.over = beginning, threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self.listening, suppress(OSError):
            while True:
                one, _ = self.listening.accept()
                threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one: socket.socket) -> None:
        with one, suppress(OSError):
            one.recv(65536)
            one.sendall(self.beginning)
            while not self.over.wait(0.05):
                one.sendall(b" ")


HEAD = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n"


def test_who_drips_a_statement_or_an_error_holds_nobody_up(monkeypatch):
    """Before its statement nobody is known: it is a stranger, and all requests wait for it."""
    monkeypatch.setattr(upstream_module, "STATEMENT_S", 0.3)
    monkeypatch.setattr(app_module, "STATEMENT_S", 0.3)
    drip = Drip(HEAD % b"200 OK")
    with pytest.raises(Lacking, match="nothing answers") as caught:
        appraise(drip.url, pin="0" * 64)
    assert "within" in caught.value.why
    drip.over.set()

    async def asked() -> str:
        drip = Drip(HEAD % b"502 Bad Gateway")
        async with httpx.AsyncClient() as client, client.stream("GET", drip.url) as answer:
            told = await app_module.problem_of(answer)
        drip.over.set()
        return told

    assert asyncio.run(asked()) == "HTTP 502"
