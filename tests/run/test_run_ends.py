"""A run that ends well: nothing cosmetic ends it, and what goes wrong says where its last words stand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard import run
from steelyard.artefact import Place, Progress, Store, Watch, files, own_memory
from steelyard.errors import Lacking, Problem, Refused
from steelyard.recipe import load
from steelyard.run.child import children
from steelyard.run.child.children import call_order, in_child
from steelyard.run.path.rows import compose, fault_of
from steelyard.run.record.workdir import LoggedWatch, Workdir, locked
from steelyard.run.service import sample
from steelyard.run.service.load import Timing, _request, figures, measure_load
from steelyard.run.service.sample import ask_sample
from steelyard.trust import load_keys, read_log


class Heard(Watch):
    """Remembers the events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.output: list[dict[str, Any]] = []

    def log(self, event: str, **fields: Any) -> None:
        self.events.append(event)

    def write(self, event: str, **fields: Any) -> None:
        self.output.append({"event": event} | fields)


# ------------------------------------------------------------------ the whole run


def test_neither_ledger_nor_home_nor_one_token_ends_a_run(judged, up, monkeypatch, tmp_path):
    """Everything that a run only notes for later lies where nothing can be written."""
    in_the_way = tmp_path / "a-file"
    in_the_way.write_text("no folder")
    monkeypatch.setenv("STEELYARD_LEDGER", str(in_the_way / "ledger.db"))
    monkeypatch.setenv("STEELYARD_STATE", str(in_the_way / "state"))
    done = up(["goal.load={users: 1, prompt_tokens: 8, output_tokens: 1}"])
    assert {s.state for s in done.steps} == {"done"} and done.service
    measured = done.record("serve").measured
    assert measured["ttft_s"] > 0 and measured["output_tok_s"] > 0 and "tpot_s" not in measured
    assert len(done.notes) == 1 and "the ledger was not written" in done.notes[0]
    log = [json.loads(line) for line in (Path(done.workdir) / "log.jsonl").read_text().splitlines()]
    events = [entry["event"] for entry in log]
    assert any(e["event"] == "child.output" and "engine.ready" in e["output"] for e in log), "of the service"
    assert events.count("ledger.not_written") == 5 and "run.not_remembered" in events
    rows = done.as_json()["rows"]
    assert fault_of(rows) is None and rows["read"] == 300 and rows["taught"] > 0


def test_a_step_counts_itself_and_says_what_is_left(judged, up):
    class Front(Watch):
        def __init__(self) -> None:
            self.places: list[Place] = []
            self.started: list[dict[str, Any]] = []

        def at(self, place: Place) -> None:
            self.places.append(place)

        def log(self, event: str, **fields: Any) -> None:
            if event == "step.start":
                self.started.append(fields)

    front = Front()
    run.up(load(up.job.recipe), until="compress", watch=front)
    assert [(p.step, p.index, p.count) for p in front.places] == [
        ("plan", 1, 4), ("clean", 2, 4), ("train", 3, 4), ("compress", 4, 4),
    ]  # fmt: skip
    left = [fields["left_s"] for fields in front.started]
    assert left == sorted(left, reverse=True) and left[-1] > 0
    assert front.started[1]["rows"] == 300 and front.started[1]["predicted_s"] > 0


def test_time_left_is_the_steps_own_and_what_comes_after():
    place, bar = Place("train", 3, 6, step_s=100.0, later_s=40.0), Progress(Watch(), "train", 10, "steps")
    assert 139 < place.left_s() <= 140 and 139 < place.left_s(bar) <= 140
    bar.done, bar.started = 10, bar.started - 50
    assert place.left_s(bar) == 40
    assert Place("plan", 1, 6).left_s() is None


# ------------------------------------------------------------------ the sample and the load


@contextmanager
def answering(status: int, body: bytes, hangs: bool = False) -> Iterator[str]:
    """A server on loopback with one answer to everything, or none at all."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if hangs:
                over.wait(10)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def dataset(tmp_path) -> Any:
    store = Store(tmp_path / "artefacts")
    draft = store.draft("dataset", "k" * 64, "clean", {}, {})
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (draft.folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    return store.publish(draft, {}, {})


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def test_a_sample_is_what_the_service_says(dataset):
    with answering(200, event("he") + event("llo") + b"data: [DONE]\n\n") as url:
        assert ask_sample(url, dataset, None, Watch()) == {"question": "q", "answer": "hello"}


def test_an_answer_may_hold_any_separator(dataset):
    """JSON may hold U+2028 and U+0085 as they are; they used to end the event in its middle."""
    said = "a\u2028b\u2029c\x85d\r\ne"
    plain = json.dumps({"choices": [{"delta": {"content": said}}]}, ensure_ascii=False)
    with answering(200, f"data: {plain}\r\n\r\ndata: [DONE]\r\n\r\n".encode()) as url:
        assert ask_sample(url, dataset, None, Watch()) == {"question": "q", "answer": said}


@pytest.mark.parametrize(
    ("status", "body", "hangs"),
    [
        (500, b"{}", False),
        (400, b'{"error": {"message": "too long"}}', False),
        (200, b"data: {broken\n\n", False),
        (200, b'data: {"choices": 3}\n\n', False),
        (200, b'data: {"choices": [null]}\n\n', False),
        (200, b"\xff\xfe", False),
        (200, b"", True),
    ],
)
def test_no_answer_to_the_sample_ends_a_run(dataset, monkeypatch, status, body, hangs):
    monkeypatch.setattr(sample, "WAIT_S", 0.3)
    heard = Heard()
    with answering(status, body, hangs) as url:
        answer = ask_sample(url, dataset, None, heard)
    assert (answer is None and heard.events == ["sample.not_answered"]) or answer["answer"] == ""
    (dataset.folder / "test.jsonl").unlink()
    assert ask_sample("http://127.0.0.1:9", dataset, None, heard) is None


def test_a_slow_sample_is_cut_not_awaited(dataset, monkeypatch):
    monkeypatch.setattr(sample, "WAIT_S", -1.0)  # it has been waited for long enough
    monkeypatch.setattr("httpx.stream", slowly)
    assert ask_sample("http://x", dataset, None, Watch()) == {"question": "q", "answer": "one ..."}


@contextmanager
def slowly(*_: Any, **__: Any) -> Iterator[Any]:
    class Answer:
        status_code = 200

        def iter_bytes(self) -> Iterator[bytes]:
            yield event("one")
            yield event("two")

    yield Answer()


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"{}"), (200, b"[]"), (200, b"no json")])
def test_a_load_that_cannot_be_measured_is_left_out(status, body):
    heard = Heard()
    with answering(status, body) as url:
        assert measure_load(url, None, None, heard) == {}
    assert heard.events == ["serve.not_measured"]


def test_a_measured_answer_may_hold_any_separator():
    """JSON does not escape them, and httpx alone would end the line there."""
    chunk = '{"choices": [{"text": "one\u2028two\u0085three"}], "usage": {"completion_tokens": 3}}'

    async def timed(url: str) -> Timing:
        async with httpx.AsyncClient(base_url=url) as client:
            return await _request(client, [1, 2], 3)

    with answering(200, f"data: {chunk}\n\ndata: [DONE]\n\n".encode()) as url:
        assert asyncio.run(timed(url)).tokens == 3


def test_one_token_answers_have_no_time_between_tokens():
    one = Timing(0.2, None, 1, 0.0, 0.2)
    assert figures([one, one]) == {"ttft_s": 0.2, "output_tok_s": 10.0}
    more = figures([one, Timing(0.3, 0.05, 3, 0.0, 0.4)])
    assert more["tpot_s"] == 0.05 and more["output_tok_s"] == 10.0
    assert figures([Timing(0.1, None, 0, 0.0, 0.1)]) == {}


# ------------------------------------------------------------------ a child's last words

CRASH = """
import sys, types, os, signal, resource
crash = types.ModuleType("steelyard.crash")
def die(how):
    print("words on standard output", flush=True)
    print("last words of a library", file=sys.stderr, flush=True)
    if how == "bad_alloc":
        print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
        os.abort()
    if how == "exit":
        os._exit(1)
    if how == "half loaded":
        status = open("/proc/self/status").read()
        mapped = int(status.split("VmPeak:")[1].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (mapped * 3 // 2, mapped * 3 // 2))
        raise AttributeError("partially initialized module 'torch'")
    if how == "after":
        try:
            raise ImportError("libtorch_cpu.so: failed to map segment from shared object")
        except ImportError:
            raise NameError("name 'torch' is not defined")
    os.write(2, b"x" * 100_000 + b"the very end")
    os.kill(os.getpid(), how)
    return "lived"
crash.die = die
sys.modules["steelyard.crash"] = crash
"""


@pytest.fixture
def crashing(tmp_path, monkeypatch) -> Callable[[int | str, Watch], Any]:
    """A real child that writes, and then sends itself a signal (0: none)."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CRASH)
    path = f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)
    return lambda how, watch: in_child(call_order("crash:die", how=how), watch)


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_child_ended_by_a_signal_names_it_and_where_its_words_stand(crashing, tmp_path, number):
    watch = LoggedWatch(Workdir(tmp_path), Heard())
    with pytest.raises(Problem) as caught:
        crashing(int(number), watch)
    assert number.name in caught.value.message and "crash:die" in caught.value.message
    assert str(tmp_path / "log.jsonl") in caught.value.hint
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "child.output" and last["exit"] == -number
    assert last["output"].endswith("the very end") and len(last["output"]) < 20_000
    assert watch.front.events == [], "a child's words are for the log alone"


def test_what_a_child_wrote_is_logged_though_it_went_well_and_sealed_where_the_run_is(crashing, tmp_path):
    keys = load_keys("guarded", str(tmp_path / "key"), tmp_path)
    place = Workdir(tmp_path, keys)
    assert crashing(0, LoggedWatch(place, Heard())) == "lived"
    assert b"very end" not in place.log.read_bytes()
    assert "the very end" in list(read_log(place.log, keys))[-1]


def test_a_killed_child_is_out_of_memory_as_before(crashing):
    with pytest.raises(Lacking) as caught:
        crashing(int(signal.SIGKILL), Heard())
    assert caught.value.code == "memory.exhausted"


def test_a_child_whose_library_got_no_memory_is_out_of_memory(crashing):
    """C++ ends the process by SIGABRT; only its last words say why."""
    with pytest.raises(Lacking) as caught:
        crashing("bad_alloc", Heard())
    assert caught.value.code == "memory.exhausted"


@pytest.mark.parametrize("how", ["half loaded", "after"])
def test_a_library_that_goes_on_after_a_failed_allocation_is_out_of_memory(crashing, tmp_path, how):
    """Its error is of any kind; the trace stands in the log."""
    watch = LoggedWatch(Workdir(tmp_path), Heard())
    with pytest.raises(Lacking) as caught:
        crashing(how, watch)
    assert caught.value.code == "memory.exhausted"
    assert "carry_out" in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("how", [int(signal.SIGSEGV), "exit"])
def test_under_a_limit_of_memory_an_end_without_a_word_is_put_down_to_it(crashing, monkeypatch, how):
    monkeypatch.setattr(children, "memory_limit_bytes", lambda: 600_000_000)
    with pytest.raises(Lacking) as caught:
        crashing(how, Heard())
    assert caught.value.code == "memory.exhausted" and "ulimit -v" in caught.value.why


# ------------------------------------------------------------------ rows

COUNTS = st.dictionaries(st.sampled_from(["duplicate", "empty", "too_long", "no_answer"]), st.integers(0, 99))


@given(COUNTS, st.integers(0, 99), COUNTS, st.integers(0, 99))
def test_every_row_ends_in_one_place(cleaned, held_out, not_taught, taught):
    train = taught + sum(not_taught.values())
    kept = train + held_out
    account = {"read": kept + sum(cleaned.values()), "kept": kept, "held_out": held_out, "by_reason": cleaned}
    before = compose(account, None)
    assert fault_of(before) is None and before["taught"] is None and before["kept"] == kept
    counts = {"taught": taught, "dropped": not_taught, "split": 0, "truncated": 0, "tokens_taught": 7}
    after = compose(account, counts)
    assert fault_of(after) is None
    assert after["read"] == after["taught"] + after["held_out"] + sum(after["dropped"].values())
    assert set(after) == {
        "read", "kept", "dropped", "held_out", "taught", "split", "truncated", "tokens_taught",
    }  # fmt: skip
    assert fault_of(after | {"read": after["read"] + 1}) and fault_of(after | {"taught": taught + 1})


# ------------------------------------------------------------------ guarded, and the lock


def test_guarded_is_refused_before_anything_where_memory_is_a_disk(up, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "MEMORY", tmp_path / "not-there")
    with pytest.raises(Refused) as caught:
        run.up(load(up.job.recipe, ["trust=guarded"]))
    assert caught.value.code == "trust.no_memory_folder"
    assert not (up.job.workdir / "artefacts").exists()


def test_validate_refuses_guarded_where_memory_is_a_disk(up, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "MEMORY", tmp_path / "not-there")
    run.settle(load(up.job.recipe))
    with pytest.raises(Refused) as caught:
        run.settle(load(up.job.recipe, ["trust=guarded"]))
    assert caught.value.code == "trust.no_memory_folder"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")
def test_guarded_is_refused_before_the_first_step_where_memory_is_small(judged, up, monkeypatch, tmp_path):
    small = tmp_path / "shm"
    small.mkdir()
    own_memory()  # before the mount: `up` would leave it behind in the namespace that it comes from
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setattr(files, "MEMORY", small)
        with pytest.raises(Lacking) as caught:
            run.up(load(up.job.recipe, ["trust=guarded"]))
        assert caught.value.code == "trust.memory_too_small" and "are free" in caught.value.message
        assert not (up.job.workdir / "artefacts").exists()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_look_at_the_lock_is_no_other_run(tmp_path):
    import fcntl

    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with locked(Workdir(tmp_path)):
            pass
