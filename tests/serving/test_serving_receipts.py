"""A receipt holds for just these bytes of request and answer, this model and time; nobody else sees it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import pytest
from faked import FakeEngine, client_of, served_app

from steelyard.cli import main
from steelyard.serving.base.keys import KeyRing
from steelyard.trust import check_answer, read_receipt, signing_key, taken_apart, verifying_key

CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "hi"}]
ASKED = json.dumps(
    {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
).encode()
STREAMED = json.dumps({**json.loads(ASKED), "stream": True}).encode()
BODIES = {
    CHAT: ASKED,
    "/v1/completions": b'{"model": "tiny", "prompt": "hi", "max_tokens": 2}',
    "/v1/responses": b'{"model": "tiny", "input": "hi", "max_output_tokens": 2, "store": false}',
    "/v1/messages": b'{"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}',
}
WANTS = {"x-steelyard-receipt": "yes", "content-type": "application/json"}
GATE = {"verdict": "passed", "hash": "b" * 64}


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_SIGNING_KEY", str(tmp_path / "signing-key"))
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))


@pytest.fixture
def ask(tokenizer_folder):
    """ask(path, body, ...) -> the responses of requests in turn, over the real application."""

    def asking(*requests, receipts: bool = True, keys: KeyRing | None = None):
        async def work():
            application, served = served_app(
                tokenizer_folder, FakeEngine(), keys=keys, receipts=receipts, fingerprint="f" * 64
            )
            served.gate = GATE
            async with client_of(application) as client:
                return [await send(client, *request) for request in requests]

        return asyncio.run(asyncio.wait_for(work(), 60))

    return asking


async def send(client, path, body=None, headers=WANTS):
    if callable(path):
        path = path()
    if body is None:
        return await client.get(path, headers=headers)
    return await client.post(path, content=body, headers=headers)


@pytest.mark.parametrize("path", BODIES)
def test_a_whole_answer_has_its_receipt_in_a_header(ask, path) -> None:
    (answer,) = ask((path, BODIES[path]))
    assert answer.status_code == 200
    line = read_receipt(answer.headers["x-steelyard-receipt"].encode())
    assert check_answer(line, BODIES[path], answer.content, verifying_key(None), "f" * 64) == ()
    says = json.loads(line)
    assert says["request"]["path"] == path and says["gate"] == GATE and says["adapters"] == {}
    assert says["id"] == answer.headers["x-steelyard-receipt-id"]
    assert "hi" not in says.values()


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_has_its_receipt_in_a_last_comment(ask, path) -> None:
    body = json.dumps({**json.loads(BODIES[path]), "stream": True}).encode()
    (answer,) = ask((path, body))
    sent, line = taken_apart(answer.content)
    assert answer.headers["content-type"].startswith("text/event-stream") and line
    assert check_answer(line, body, sent, verifying_key(None)) == ()
    assert sent.endswith(b"\n\n") and b"steelyard-receipt" not in sent


def test_an_error_has_one_too(ask) -> None:
    (answer,) = ask((CHAT, b"no JSON"))
    line = read_receipt(answer.headers["x-steelyard-receipt"].encode())
    assert answer.status_code == 400 and json.loads(line)["answer"]["status"] == 400
    assert check_answer(line, b"no JSON", answer.content, verifying_key(None)) == ()


def test_it_is_given_only_where_the_service_and_the_request_say_so(ask) -> None:
    json_alone = {"content-type": "application/json"}
    for answers in (
        ask((CHAT, ASKED, json_alone)),
        ask((CHAT, ASKED), receipts=False),
        ask(("/tokenize", b'{"model": "tiny", "prompt": "hi"}')),
    ):
        assert not [name for name in answers[0].headers if "receipt" in name]


def test_a_client_passes_over_the_comment(tokenizer_folder) -> None:
    openai = pytest.importorskip("openai")

    async def work():
        application, _ = served_app(tokenizer_folder, FakeEngine(), receipts=True)
        async with client_of(application) as http:
            client = openai.AsyncOpenAI(api_key="x", base_url="http://localhost/v1", http_client=http)
            wants = {"x-steelyard-receipt": "yes"}
            chunks = await client.chat.completions.create(
                model="tiny", messages=SAY, max_tokens=3, stream=True, extra_headers=wants
            )
            return [chunk async for chunk in chunks]

    chunks = asyncio.run(asyncio.wait_for(work(), 60))
    assert chunks[-1].choices[0].finish_reason == "length"


def test_any_byte_changed_is_refused(ask) -> None:
    (answer,) = ask((CHAT, ASKED))
    line, own = read_receipt(answer.headers["x-steelyard-receipt"].encode()), verifying_key(None)
    for at in range(len(ASKED)):
        assert check_answer(line, flipped(ASKED, at), answer.content, own) == ("request",)
    for at in range(len(answer.content)):
        assert check_answer(line, ASKED, flipped(answer.content, at), own) == ("answer",)
    for at in range(len(line)):
        assert check_answer(flipped(line, at), ASKED, answer.content, own) == ("signature",)
    assert check_answer(line, ASKED + b" ", answer.content[:-1], own) == ("request", "answer")
    assert check_answer(line, ASKED, answer.content, own, "e" * 64) == ("model",)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_what_is_put_behind_a_stream_is_refused(ask) -> None:
    (answer,) = ask((CHAT, STREAMED))
    for changed in (
        answer.content + b"data: more\n\n",
        answer.content[:-1],
        answer.content.replace(b"data", b"Data"),
    ):
        sent, line = taken_apart(changed)
        assert line is None or check_answer(line, STREAMED, sent, verifying_key(None))


def test_the_log_key_of_a_line_is_no_receipt(ask) -> None:
    """The same key signs both, each under a domain of its own."""
    (answer,) = ask((CHAT, ASKED))
    says = json.loads(read_receipt(answer.headers["x-steelyard-receipt"].encode()))
    forged = signing_key().signed(
        {k: v for k, v in says.items() if k not in ("key", "sig")}, b"steelyard/audit/1/line"
    )
    assert check_answer(forged, ASKED, answer.content, verifying_key(None)) == ("signature",)


def test_it_is_given_again_by_its_id_to_the_same_key(tmp_path, ask, tokenizer_folder) -> None:
    def entry(name: str) -> dict:
        return {"id": name, "sha256": hashlib.sha256(f"sk-{name}".encode()).hexdigest()}

    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [entry("a"), entry("b")]}))

    async def work():
        application, _ = served_app(tokenizer_folder, FakeEngine(), keys=KeyRing(None, file), receipts=True)
        async with client_of(application) as client:
            by = {name: {**WANTS, "authorization": f"Bearer sk-{name}"} for name in "ab"}
            first = await client.post(CHAT, content=ASKED, headers=by["a"])
            place = f"/v1/receipts/{first.headers['x-steelyard-receipt-id']}"
            others = [await client.get(place, headers=by[name]) for name in "ab"]
            return first, others, await client.get("/v1/receipts/rcpt-none", headers=by["a"])

    first, (own, foreign), none = asyncio.run(asyncio.wait_for(work(), 60))
    assert base64.b64encode(own.content).decode() == first.headers["x-steelyard-receipt"]
    assert foreign.status_code == none.status_code == 404


def test_an_adapter_that_answers_is_named_by_its_hash(tokenizer_folder, tmp_path) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")

    async def work():
        engine = FakeEngine()
        engine.adapters = {"desk": str(folder)}
        application, _ = served_app(tokenizer_folder, engine, receipts=True)
        async with client_of(application) as client:
            body = json.dumps({**json.loads(ASKED), "model": "desk"}).encode()
            return await client.post(CHAT, content=body, headers=WANTS)

    answer = asyncio.run(asyncio.wait_for(work(), 60))
    says = json.loads(read_receipt(answer.headers["x-steelyard-receipt"].encode()))
    assert answer.status_code == 200 and len(says["adapters"]["desk"]) == 64


# ------------------------------------------------------------------ the verb


def called(capsys, *words: str) -> tuple[int, dict]:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "answer", *words, "--json"])
    return ended.value.code or 0, json.loads(capsys.readouterr().out)


def test_the_verb_reads_headers_values_lines_and_streams(ask, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole, stream = ask((CHAT, ASKED), (CHAT, STREAMED))
    value = whole.headers["x-steelyard-receipt"]
    files = {
        "head": f"HTTP/1.1 200 OK\r\nX-Steelyard-Receipt: {value}\r\nserver: x\r\n\r\n".encode(),
        "value": value.encode(),
        "line": base64.b64decode(value),
        "request": ASKED,
        "answer": whole.content,
        "request.stream": STREAMED,
        "answer.stream": stream.content,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    both = ("--request", "request", "--answer", "answer")
    for name in ("head", "value", "line"):
        code, document = called(capsys, name, *both, "--key", signing_key().public)
        assert code == 0 and document["verdict"] == "accepted" and document["receipt"]["model"] == "f" * 64
    assert called(capsys, "--request", "request.stream", "--answer", "answer.stream")[0] == 0
    code, document = called(capsys, "head", "--request", "request.stream", "--answer", "answer")
    assert code == 4 and document["reasons"] == ["request"]
    assert called(capsys, *both)[1]["error"]["code"] == "audit.no_receipt"
    assert called(capsys, "nowhere", *both)[1]["error"]["code"] == "audit.no_file"
    assert called(capsys, "head")[1]["error"]["code"] == "cli.usage"
