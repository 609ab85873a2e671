"""`rollback`: back to the model before, on the same port, no request lost; refused where it cannot be."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import httpx
import pytest
from conftest import free_port
from hypothesis import given
from hypothesis import strategies as st
from publishing import Desk

from steelyard import run
from steelyard.errors import CheckFailed, Lacking, Refused, WrongUse
from steelyard.run.record.promotions import (
    KEEP,
    Promotion,
    publishing,
    pushed,
    read_promotions,
    up_to,
    write_promotions,
)
from steelyard.run.rolling import rollback as rolling
from steelyard.serving import find

ASKED = {"model": "default", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 4}


class Asking(threading.Thread):
    """Asks without a pause; each answer's model, and what went wrong."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.over = url, threading.Event()
        self.models: list[str] = []
        self.failed: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                answer = httpx.post(f"{self.url}/v1/chat/completions", json=ASKED, timeout=30)
                self.models.append(answer.raise_for_status().json()["system_fingerprint"])
            except httpx.HTTPError as error:
                self.failed.append(repr(error))

    def until(self, model: str) -> None:
        end = time.monotonic() + 20
        while self.models[-1:] != [model] and time.monotonic() < end:
            time.sleep(0.02)

    def end(self) -> None:
        self.over.set()
        self.join()


@pytest.fixture(scope="session")
def served_model(tiny_models, tmp_path_factory) -> Path:
    """The tiny llama as an engine loads it."""
    from steelyard.compression import export_form

    export_form(tiny_models("llama"), out := tmp_path_factory.mktemp("ir"), "f32")
    return out


@pytest.fixture
def desk(home, served_model, monkeypatch):
    """A work folder with its own audit log; its service ends with the test."""
    monkeypatch.setenv("STEELYARD_AUDIT", str(home / "audit"))
    monkeypatch.setenv("STEELYARD_SIGNING_KEY", str(home / "signing-key"))
    desk = Desk(home, served_model, free_port())
    yield desk
    run.stop("desk")


def code_of(kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        run.rollback("desk")
    assert caught.value.message and caught.value.hint
    return caught.value.code


def acts(home: Path) -> list[tuple[str, str]]:
    lines = (home / "audit" / "log.jsonl").read_text().splitlines()
    return [(line["act"], line.get("artefact")) for line in map(json.loads, lines)]


def test_back_under_load_and_no_further(desk, home):
    one, two, passed = desk.made("a"), desk.made("b"), desk.verdict("c")
    desk.publish(one, passed)
    assert code_of(WrongUse) == "rollback.nothing_before"
    url = desk.publish(two)["url"]
    asking = Asking(url)
    asking.start()
    try:
        asking.until(two.hash)
        done = run.rollback("desk")
        asking.until(one.hash)
    finally:
        asking.end()
    assert asking.failed == [] and asking.models[-1] == one.hash and two.hash in asking.models
    assert (done["artefact"], done["before"], done["service"]["url"]) == (one.hash, two.hash, url)
    assert find(desk.place.service).pid == done["service"]["pid"]
    (left,) = read_promotions(desk.place)
    assert (left.hash, left.verdict) == (one.hash, passed.hash)
    assert ("service.rolled_back", one.hash) in acts(home)
    assert code_of(WrongUse) == "rollback.nothing_before"
    assert asking.url == url and httpx.get(f"{url}/ready").status_code == 200


def test_back_to_what_an_older_version_published(desk):
    """It knew fewer settings, and some that are none any more: what came later has its default."""
    desk.publish(one := desk.made("a"))
    desk.publish(two := desk.made("b"))
    file = desk.place.service / "promotions.json"
    document = json.loads(file.read_text())
    older, newer = document["promotions"]
    for name in ("verdict", "verdict_folder", "memory_bytes"):
        del older[name]
    for name in ("speculative", "draft", "route", "launch", "fingerprint"):
        del older["settings"][name]
    older["settings"]["abandoned"] = 1
    newer["settings"] |= {"route": "/nowhere", "later": 1}  # the newer model's own affair
    file.write_text(json.dumps(document))
    assert run.rollback("desk")["artefact"] == one.hash
    (left,) = read_promotions(desk.place)
    assert left.settings.get("route") is None and find(desk.place.service).fingerprint == one.hash
    document["promotions"][0].pop("keyed")  # of another making altogether
    file.write_text(json.dumps(document))
    assert [one.hash for one in read_promotions(desk.place)] == [two.hash]
    assert code_of(WrongUse) == "rollback.nothing_before"


def test_what_cannot_be_gone_back_to_is_one_clear_error(desk, home, monkeypatch):
    one, two = desk.made("a"), desk.made("b")
    desk.publish(one)
    desk.publish(two)
    service = find(desk.place.service)
    with monkeypatch.context() as patch:
        patch.setattr(rolling, "free_bytes", lambda: 1000)
        assert code_of(Lacking) == "rollback.memory"
    with publishing(desk.place), pytest.raises(Lacking) as caught, publishing(desk.place, wait_s=0.1):
        pass
    assert caught.value.code == "service.locked"
    (one.folder / "note.txt").write_text("z")
    assert code_of(CheckFailed) == "artefact.changed"
    shutil.rmtree(one.folder)
    assert code_of(Lacking) == "rollback.gone"
    proofs = home / "state" / "erased" / "proofs"
    proofs.mkdir(parents=True, exist_ok=True)
    (proofs / "broken.json").write_text("{")
    (proofs / "one.json").write_text(json.dumps({"removed": [{"hash": one.hash}, {"hash": None}]}))
    assert code_of(Refused) == "rollback.erased"
    assert find(desk.place.service) == service and service.alive(), "the service is as it was"
    assert [p.hash for p in read_promotions(desk.place)] == [one.hash, two.hash]


def test_a_dead_service_goes_back_too_and_gc_leaves_what_that_needs(desk):
    one, two = desk.made("a"), desk.made("b")
    desk.publish(one)
    desk.publish(two)
    desk.place.refers.write_text(json.dumps({"run": "r-1", "base": "b", "artefacts": [two.folder.name]}))
    other = desk.made("d")
    gone = [Path(w["path"]).name for w in run.collect(workdir=desk.place.folder)["removed"]]
    assert gone == [other.folder.name]
    find(desk.place.service).stop(now=True)
    done = run.rollback("desk")
    assert done["artefact"] == one.hash and find(desk.place.service).fingerprint == one.hash


def test_access_stays_as_it_is_now_and_no_key_is_remembered(home, served_model, monkeypatch):
    """A key that was asked for since is asked for after going back."""
    monkeypatch.setenv("DESK_KEY", "s3cret-of-the-desk")
    desk = Desk(home, served_model, free_port())
    try:
        desk.publish(desk.made("a"))
        newer = Desk(home, served_model, desk.recipe.serve.port, ", api_key: env:DESK_KEY")
        url = newer.publish(newer.made("b"))["url"]
        assert "s3cret" not in "".join(f.read_text() for f in desk.place.service.glob("*.json*"))
        monkeypatch.delenv("DESK_KEY")
        assert code_of(Refused) == "rollback.no_key"
        monkeypatch.setenv("DESK_KEY", "s3cret-of-the-desk")
        run.rollback("desk")
        assert httpx.post(f"{url}/v1/chat/completions", json=ASKED).status_code == 401
        headers = {"authorization": "Bearer s3cret-of-the-desk"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=ASKED, headers=headers)
        assert answer.status_code == 200
    finally:
        run.stop("desk")


# ------------------------------------------------------------------ the stack


def one(hash: str) -> Promotion:
    return Promotion(
        at="", hash=hash, folder=f"compressed-{hash}", settings={}, keyed=False, host="h", port=1
    )


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_last_published_is_on_top_and_what_stood_before_below(hashes):
    stack: list[Promotion] = []
    for hash in hashes:
        stack = pushed(stack, one(hash))
    told = [p.hash for p in stack]
    different = [h for i, h in enumerate(hashes) if i == 0 or hashes[i - 1] != h]
    assert told == different[-KEEP:]


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.sampled_from([*"abcde", None]))
def test_a_stack_is_cut_to_what_is_served(hashes, served):
    stack = [one(h) for h in hashes]
    cut = up_to(stack, served)
    assert cut == stack[: len(cut)] and (served not in hashes or cut[-1].hash == served)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"promotions": 3}', '{"promotions": [{"hash": "a"}]}'])
def test_a_damaged_file_remembers_nothing(desk, text):
    write_promotions(desk.place, [one("a")])
    assert len(read_promotions(desk.place)) == 1
    (desk.place.service / "promotions.json").write_text(text)
    assert read_promotions(desk.place) == []
