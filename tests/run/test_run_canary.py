"""A canary through a real service: it takes the place, or goes, by itself; what it has counted is kept."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import free_port
from publishing import Desk
from test_run_rollback import Asking, served_model  # noqa: F401  (a fixture)

from steelyard import run
from steelyard.errors import WrongUse
from steelyard.run.record.promotions import read_promotions
from steelyard.serving import find

CANARY = ", canary: {{share: 50%, requests: 20, errors: 20%, slower: 20}}"


@pytest.fixture
def desk(home, served_model, monkeypatch) -> Iterator[Callable[[str], Desk]]:  # noqa: F811
    monkeypatch.setenv("STEELYARD_AUDIT", str(home / "audit"))
    monkeypatch.setenv("STEELYARD_SIGNING_KEY", str(home / "signing-key"))
    port = free_port()
    yield lambda more=CANARY: Desk(home, served_model, port, more.replace("{{", "{").replace("}}", "}"))
    run.stop("desk")


@pytest.fixture
def asking() -> Iterator[Callable[[str], Asking]]:
    threads: list[Asking] = []

    def ask(url: str) -> Asking:
        threads.append(Asking(url))
        threads[-1].start()
        return threads[-1]

    yield ask
    for thread in threads:
        thread.end()


def until(is_so: Callable[[], Any], limit_s: float = 60) -> Any:
    end = time.monotonic() + limit_s
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def state(desk: Desk) -> str:
    return run.canary("desk", workdir=desk.place.folder)["state"]


def acts(desk: Desk) -> list[str]:
    lines = (desk.root / "audit" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["act"] for line in lines]


def test_a_sound_candidate_takes_the_place_by_itself_and_stays(desk, asking):
    desk = desk()
    one, two = desk.made("a"), desk.made("b")
    first = desk.publish(one)
    assert "canary" not in first, "nothing stands yet: it is published at once"
    client = asking(first["url"])
    begun = desk.publish(two)
    assert (begun["pid"], begun["canary"]["requests"]) == (first["pid"], 20)
    assert run.status(desk.place.folder)[0]["canary"]["hash"] == two.hash
    assert until(lambda: client.models[-1:] == [two.hash])
    assert until(lambda: state(desk) == "settled")
    client.end()
    told = run.canary("desk")
    assert client.failed == [] and told["tally"]["pairs"] >= 20 and told["tally"]["failed"] == 0
    assert told["tally"]["agreement"] == told["tally"]["compared"], "both answer alike"
    assert find(desk.place.service).pid == begun["canary"]["pid"]
    assert [p.hash for p in read_promotions(desk.place)] == [one.hash, two.hash]
    assert "canary.begun" in acts(desk) and acts(desk).count("service.promoted") == 2


def test_a_worse_candidate_goes_by_itself_and_no_client_sees_of_it(desk, asking):
    """Its context is too short for what is asked: it refuses what the standing one answers."""
    desk = desk()
    one, two = desk.made("a"), desk.made("b")
    client = asking(desk.publish(one)["url"])
    begun = desk.publish(two, max_model_len=8)
    assert until(lambda: state(desk) == "back")
    assert until(lambda: "canary" not in run.status(desk.place.folder)[0])
    client.end()
    assert client.failed == [] and set(client.models) == {one.hash}
    assert "errors" in run.canary("desk")["tally"]["why"]
    assert find(desk.place.service).pid == begun["pid"]
    with pytest.raises(WrongUse) as caught:
        run.canary("desk", take=True)
    assert caught.value.code == "canary.none"


def test_what_a_killed_candidate_has_counted_is_gone_on_from(desk, asking):
    desk = desk(CANARY.replace("requests: 20", "requests: 4000"))
    one, two = desk.made("a"), desk.made("b")
    url = desk.publish(one)["url"]
    client = asking(url)
    begun = desk.publish(two)
    pairs = lambda: run.canary("desk")["tally"]["pairs"]  # noqa: E731
    assert until(lambda: pairs() >= 5)
    os.kill(begun["canary"]["pid"], signal.SIGKILL)
    assert until(lambda: state(desk) == "ended")
    before = pairs()
    desk.publish(two)
    assert until(lambda: pairs() > before) and state(desk) == "shadowing"
    done = run.rollback("desk")
    assert (done["artefact"], done["before"]) == (one.hash, two.hash), "the model before has never left"
    client.end()
    assert client.failed == [] and set(client.models) == {one.hash} and "canary.ended" in acts(desk)


def test_it_goes_back_by_itself_where_answers_fail_after_the_promotion(desk, asking):
    desk = desk(CANARY.replace("requests: 20", "requests: 60"))
    one, two = desk.made("a"), desk.made("b")
    client = asking(desk.publish(one)["url"])
    desk.publish(two)
    run.canary("desk", take=True)
    assert state(desk) == "watching" and find(desk.place.service).fingerprint == two.hash
    two.folder.rename(two.folder.with_name("away"))  # its engine cannot start again
    for pid in find(desk.place.service).engine_pids:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: (service := find(desk.place.service)) and service.fingerprint == one.hash, 120)
    assert until(lambda: client.models[-1:] == [one.hash])
    assert [p.hash for p in read_promotions(desk.place)] == [one.hash]
    assert until(lambda: "service.rolled_back" in acts(desk))
