"""Files, batches and fine-tuning jobs through a real service, by OpenAI's client; restarts by kill -9."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import orjson
import pytest
from watching import awaited as until
from watching import held, in_steps

from steelyard.artefact import write_durably
from steelyard.serving import ServeSettings, new_key, start
from steelyard.serving.base.store import ObjectStore, one_line

CHAT = "/v1/chat/completions"


def client(service):
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def line(custom_id: str, url: str = CHAT, **body) -> dict:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": custom_id}], "max_tokens": 4, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked}


def jsonl(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    for name in ("STATE", "LEDGER", "CACHE"):
        monkeypatch.setenv(f"STEELYARD_{name}", str(tmp_path / name.lower()))
    return tmp_path / "state"


@pytest.fixture
def begun(tiny_ir, state):
    """`begun()` starts a service named tiny over the same state; all are stopped at the end."""
    made = []

    def begin(**more):
        made.append(start(tiny_ir, ServeSettings(name="tiny", mode="exact", **more), die_with_parent=False))
        return made[-1]

    yield begin
    for service in made:
        service.stop()


def kill(service) -> None:
    os.kill(service.pid, signal.SIGKILL)
    service.process.wait()


def test_files_come_back_as_they_went_and_are_private(begun, state):
    files = client(begun()).files
    data = os.urandom(3_000_000)
    made = files.create(file=("rows.bin", data), purpose="user_data")
    assert (made.bytes, made.filename, made.purpose) == (len(data), "rows.bin", "user_data")
    assert files.retrieve(made.id) == made
    assert files.content(made.id).read() == data
    second = files.create(file=("b.jsonl", b"{}\n"), purpose="batch", expires_after={
        "anchor": "created_at", "seconds": 3600})  # fmt: skip
    assert second.expires_at == second.created_at + 3600
    assert [f.id for f in files.list()] == [second.id, made.id]
    assert [f.id for f in files.list(order="asc", limit=1)] == [made.id, second.id]  # by pages of one
    assert [f.id for f in files.list(purpose="batch")] == [second.id]
    assert files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        files.content(made.id)
    home = state / "serving" / "tiny"
    assert oct(home.stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize(
    ("form", "file", "word"),
    [
        ({"purpose": "vision"}, True, "purpose"),
        ({}, True, "purpose"),
        ({"purpose": "batch"}, False, "file"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, True, "expires_after"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "5"},
            True,
            "expires_after",
        ),
    ],
)
def test_a_form_that_is_wrong_is_said(begun_once, form, file, word):
    sent = {"file": ("a", b"x")} if file else {"other": ("", b"x")}
    answer = httpx.post(f"{begun_once.url}/v1/files", data=form, files=sent)
    assert answer.status_code == 400 and word in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def begun_once(tiny_ir, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_STATE", str(tmp_path_factory.mktemp("state")))
        service = start(tiny_ir, ServeSettings(name="tiny", mode="exact"))
    yield service
    service.stop()


def test_other_requests_to_files_are_refused_plainly(begun_once):
    url = begun_once.url
    assert httpx.post(f"{url}/v1/files", json={}).status_code == 400
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert httpx.post(f"{url}/v1/files", content=b"nonsense", headers=broken).status_code == 400
    assert httpx.get(f"{url}/v1/files/..%2f..%2fetc").status_code == 404
    assert httpx.get(f"{url}/v1/files?limit=x").status_code == 400
    assert httpx.get(f"{url}/v1/files?after=file-none").status_code == 400


def test_a_batch_answers_each_line(begun_once):
    api = client(begun_once)
    rows = [line(f"r{i}", temperature=0) for i in range(12)]
    rows += [line("bad", max_tokens=100_000), line("streamed", stream=True)]
    file = api.files.create(file=("in.jsonl", jsonl(*rows)), purpose="batch")
    made = api.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"for": "test"}
    )
    assert made.status == "validating" and made.metadata == {"for": "test"}
    done = until(lambda: api.batches.retrieve(made.id), lambda b: b.status in ("completed", "failed"))
    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 14, 12, 2)
    output = [json.loads(x) for x in api.files.content(done.output_file_id).text.splitlines()]
    assert sorted(o["custom_id"] for o in output) == sorted(f"r{i}" for i in range(12))
    told = next(o for o in output if o["custom_id"] == "r3")["response"]
    direct = api.chat.completions.create(**rows[3]["body"])
    assert told["status_code"] == 200
    assert told["body"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
    assert done.usage.output_tokens == sum(
        o["response"]["body"]["usage"]["completion_tokens"] for o in output
    )
    errors = [json.loads(x) for x in api.files.content(done.error_file_id).text.splitlines()]
    assert {e["custom_id"]: e["response"]["status_code"] for e in errors} == {"bad": 400, "streamed": 400}
    assert made.id in [b.id for b in api.batches.list()]


def test_a_batch_that_is_wrong_fails_with_its_lines(begun_once):
    api = client(begun_once)
    wrong = [line("a"), line("a"), line("b", url="/v1/completions"), {"custom_id": "c"}]
    file = api.files.create(file=("in.jsonl", jsonl(*wrong) + b"{\n"), purpose="batch")
    made = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    failed = until(lambda: api.batches.retrieve(made.id), lambda b: b.status == "failed")
    assert [e.line for e in failed.errors.data] == [2, 3, 4, 5]
    assert failed.errors.data[0].code == "duplicate_custom_id"
    for more in ({"input_file_id": "file-none"}, {"endpoint": "/v1/images/edits"}):
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **more}
        with pytest.raises(openai.BadRequestError):
            api.batches.create(**asked)


def test_a_batch_can_be_cancelled(begun_once):
    api = client(begun_once)
    rows = [line(f"r{i}", max_tokens=400, ignore_eos=True) for i in range(1000)]
    file = api.files.create(file=("in.jsonl", jsonl(*rows)), purpose="batch")
    made = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    until(lambda: api.batches.retrieve(made.id), lambda b: b.request_counts.completed > 0)
    assert api.batches.cancel(made.id).status == "cancelling"
    done = until(lambda: api.batches.retrieve(made.id), lambda b: b.status == "cancelled")
    assert 0 < done.request_counts.completed < 1000
    answers = api.files.content(done.output_file_id).text.splitlines()
    assert len(answers) == done.request_counts.completed
    with pytest.raises(openai.ConflictError):
        api.batches.cancel(made.id)


def test_a_batch_outlives_its_input_file(begun_once):
    api = client(begun_once)
    rows = [line(f"r{i}", max_tokens=60, ignore_eos=True) for i in range(60)]
    file = api.files.create(file=("in.jsonl", jsonl(*rows)), purpose="batch")
    made = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    until(lambda: api.batches.retrieve(made.id), lambda b: b.status != "validating")
    api.files.delete(file.id)
    done = until(lambda: api.batches.retrieve(made.id), lambda b: b.status in ("completed", "failed"))
    assert (done.status, done.request_counts.completed) == ("completed", 60)
    assert len(api.files.content(done.output_file_id).text.splitlines()) == 60


def test_what_the_engine_refuses_is_the_answer_of_its_line(begun_once):
    """A schema that no grammar holds: 400 at once, not asked again for a day."""
    api = client(begun_once)
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    held = {"type": "json_schema", "json_schema": {"name": "few", "schema": schema}}
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a"}], response_format=held
        )
    rows = [line("held", response_format=held), line("plain")]
    file = api.files.create(file=("in.jsonl", jsonl(*rows)), purpose="batch")
    made = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    done = until(lambda: api.batches.retrieve(made.id), lambda b: b.status in ("completed", "failed"))
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)


def test_a_batch_can_be_cancelled_while_counts_are_saved(begun_once):
    api = client(begun_once)
    for _ in range(5):
        rows = [line(f"r{i}", max_tokens=400, ignore_eos=True) for i in range(1000)]
        file = api.files.create(file=("in.jsonl", jsonl(*rows)), purpose="batch")
        made = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        until(lambda made=made: api.batches.retrieve(made.id), lambda b: b.request_counts.completed > 0)
        assert api.batches.cancel(made.id).status == "cancelling"
        until(lambda made=made: api.batches.retrieve(made.id), lambda b: b.status == "cancelled")


def test_writers_of_one_file_at_once_leave_one_whole(tmp_path):
    texts = [bytes([65 + i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: write_durably(tmp_path / "one", data), texts * 5))
    assert (tmp_path / "one").read_bytes() in texts and [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_batch_goes_on_after_a_kill_without_being_asked_for(begun, state):
    service = begun()
    api = client(service)
    rows = [line(f"r{i}", max_tokens=60, ignore_eos=True) for i in range(400)]
    file = api.files.create(file=("in.jsonl", jsonl(*rows)), purpose="batch")
    with held(service):
        made = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        in_steps(service, lambda: api.batches.retrieve(made.id).request_counts.completed > 5)
        kill(service)
    store = ObjectStore(state / "serving" / "tiny")
    before = list(store.lines("batch_output", made.id))
    asked_before = len(store.numbers("batch_errors", made.id)) + len(before)
    assert 5 < asked_before < 400
    api = client(begun())
    until(lambda: store.get("batches", made.id).shown["status"], lambda s: s == "completed", 200)
    done = api.batches.retrieve(made.id)
    lines = api.files.content(done.output_file_id).read().splitlines()
    ids = [json.loads(x)["custom_id"] for x in lines]
    assert set(before) <= set(lines)  # what was answered is not asked again
    assert sorted(ids) == sorted(f"r{i}" for i in range(400)) and done.request_counts.completed == 400


def test_only_one_service_works_on_a_store(begun):
    first = begun()
    api = client(first)
    file = api.files.create(file=("in.jsonl", jsonl(line("a"))), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    made = api.batches.create(**asked)
    second = client(begun())
    assert second.batches.retrieve(made.id).id == made.id
    with pytest.raises(openai.InternalServerError, match="another service"):
        second.batches.create(**asked)


def test_what_one_key_keeps_no_other_sees(begun, tmp_path):
    file = tmp_path / "keys.json"
    keys = {name: new_key(file, name) for name in ("one", "two", "admin")}
    document = json.loads(file.read_bytes())
    for entry in document["keys"]:
        entry |= {"scopes": ["inference", "tune", "admin"]} if entry["id"] == "admin" else {}
    file.write_text(json.dumps(document))
    url = f"{begun(keys=str(file)).url}/v1"
    one, two, admin = (openai.OpenAI(base_url=url, api_key=k, max_retries=0) for k in keys.values())
    made = one.files.create(file=("in.jsonl", jsonl(line("a"))), purpose="batch")
    batch = one.batches.create(input_file_id=made.id, endpoint=CHAT, completion_window="24h")
    for read in (two.files.retrieve, two.files.content, two.files.delete):
        with pytest.raises(openai.NotFoundError):
            read(made.id)
    with pytest.raises(openai.NotFoundError):
        two.batches.cancel(batch.id)
    with pytest.raises(openai.BadRequestError):
        two.batches.create(input_file_id=made.id, endpoint=CHAT, completion_window="24h")
    assert not list(two.files.list()) and not list(two.batches.list())
    assert made.id in [f.id for f in admin.files.list()]
    with pytest.raises(openai.PermissionDeniedError):
        one.fine_tuning.jobs.create(model="tiny", training_file=made.id)
    done = until(lambda: one.batches.retrieve(batch.id), lambda b: b.status == "completed")
    assert one.files.content(done.output_file_id).text and done.request_counts.completed == 1


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\x85d", "e\x1cf\x0bg\rh"])
def test_a_record_is_one_line_to_every_reader(text):
    """Python's `splitlines` breaks at more characters than JSON escapes."""
    (line,) = one_line(orjson.dumps({"text": text})).decode().splitlines()
    assert json.loads(line)["text"] == text
