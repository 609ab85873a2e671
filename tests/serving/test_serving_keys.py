"""The file of keys: changed, broken, removed; whose things are whose when a name is given out again."""

from __future__ import annotations

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from watching import CLIENT, awaited

from steelyard.errors import WrongUse
from steelyard.serving import ServeSettings, new_key, start
from steelyard.serving.base import keys as module
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.guard import Guard
from steelyard.serving.base.keys import KeyRing, read_keys
from steelyard.serving.base.store import owner_of


async def who(request):
    return JSONResponse({"owner": owner_of(request)})


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """(ring, file, key, events): one key of a file, looked at without waiting."""
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.0)
    file, events = tmp_path / "keys.json", []
    key = new_key(file, "team-a")
    return KeyRing("own", file, lambda event, **more: events.append((event, more))), file, key, events


def client(ring):
    guard = Guard(Starlette(routes=[Route(path, who) for path in ("/v1/models", "/health")]), ring)
    return TestClient(guard, base_url="http://localhost")


def status(ring, key, path="/v1/models"):
    return client(ring).get(path, headers={"authorization": f"Bearer {key}"}).status_code


@pytest.mark.parametrize("harm", [lambda file: file.write_text('{"keys": ['), os.unlink])
def test_a_broken_file_closes_its_keys_and_is_said_once(ring, harm):
    ring, file, key, events = ring
    good = file.read_bytes()
    assert status(ring, key) == 200
    harm(file)
    assert [status(ring, key) for _ in range(3)] == [401] * 3
    assert status(ring, "own") == 200  # of --api-key: it stands in no file
    assert [event for event, _ in events] == ["keys.unreadable"] and str(file) in events[0][1]["file"]
    assert status(ring, key, "/health") == 200 and status(ring, "sk-other", "/health") == 401
    file.write_bytes(good)
    assert status(ring, key) == 200 and events[-1][0] == "keys.readable_again" and ring.fault is None


def test_a_write_while_the_file_is_read_is_not_missed(ring, monkeypatch):
    """A key is taken out after the old text has been read: its stamp must not stand for the new text."""
    ring, file, key, _ = ring
    read = module.read_keys

    def read_slowly(path):
        keys = read(path)
        path.write_text('{"keys": []}')
        return keys

    monkeypatch.setattr(module, "read_keys", read_slowly)
    os.utime(file)
    ring.look()
    monkeypatch.setattr(module, "read_keys", read)
    assert status(ring, key) == 401


def test_a_write_within_one_tick_of_the_clock_is_not_missed(ring, monkeypatch):
    """A file this young is read again although nothing shows a change."""
    _, file, key, _ = ring
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 60.0)
    monkeypatch.setattr(module, "_stamp", lambda file: (file.stat().st_mtime_ns, 0, 0, 0))
    ring, times = KeyRing(None, file), file.stat()
    document = orjson.loads(file.read_bytes())
    document["keys"][0]["sha256"] = "0" * 64
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))  # as long as before
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    ring.look()
    assert status(ring, key) == 401


def owner(ring, key):
    return client(ring).get("/v1/models", headers={"x-api-key": key}).json()["owner"]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_name_given_out_again_inherits_nothing(ring, by_hand):
    ring, file, key, _ = ring
    if by_hand:  # an entry that somebody wrote without an owner
        document = orjson.loads(file.read_bytes())
        del document["keys"][0]["owner"]
        file.write_bytes(orjson.dumps(document))
    first = owner(ring, key)
    ring.account("team-a").used_tokens = 70
    assert first.startswith("key-") and owner(ring, "own") == "api-key"
    file.unlink()
    again = new_key(file, "team-a")
    assert owner(ring, again) not in (first, "team-a") and status(ring, key) == 401
    assert ring.account("team-a").used_tokens == 0
    assert ring.of_owner(first) is None and ring.of_owner(owner(ring, again)).id == "team-a"


def test_budgets_of_the_same_owner_outlast_the_process(ring):
    ring, file, _, _ = ring
    document = orjson.loads(file.read_bytes())
    document["keys"][0]["budget_tokens"] = 100
    file.write_bytes(orjson.dumps(document))
    ring.look()
    ring.account("team-a").spend(70)
    ring.save()
    assert KeyRing(None, file).account("team-a").used_tokens == 70
    document["keys"][0]["sha256"] = "0" * 64
    document["keys"][0]["owner"] = "key-" + "1" * 32
    file.write_bytes(orjson.dumps(document))
    assert KeyRing(None, file).account("team-a").used_tokens == 0


def limited(ring, file, **limits):
    document = orjson.loads(file.read_bytes())
    document["keys"][0].update(limits)
    file.write_bytes(orjson.dumps(document))
    ring.look()
    return ring.account("team-a")


def test_services_of_one_host_share_budgets(ring):
    """Each tells what it counted and learns what the others did, in any order; a candidate tells later."""
    first, file, _, _ = ring
    one = limited(first, file, budget_tokens=1000)
    one.spend(70)
    first.save()
    second, candidate = KeyRing(None, file), KeyRing(None, file)
    candidate.shares = False
    other = second.account("team-a")
    assert other.used_tokens == 70
    one.spend(100)
    other.spend(5)
    candidate.account("team-a").spend(20)
    candidate.save()
    for service in (second, first, second):
        service.save()
    assert one.used_tokens == other.used_tokens == 175
    other.spend(825)
    second.save()
    first.save()
    with pytest.raises(ApiError, match="budget of 1000 tokens is used up"):
        one.check_tokens(1)
    candidate.shares = True
    candidate.save()
    assert (
        candidate.account("team-a").used_tokens == 1020 == KeyRing(None, file).account("team-a").used_tokens
    )


def test_services_of_one_host_share_limits_a_minute(ring):
    first, file, _, _ = ring
    one = limited(first, file, requests_per_minute=10)
    second = KeyRing(None, file)
    other = second.account("team-a")
    for _ in range(6):
        one.take_request()
    first.save()
    second.save()
    for _ in range(4):
        other.take_request()
    with pytest.raises(ApiError, match="rate limit of 10 requests"):
        other.take_request()
    second.save()
    first.save()
    with pytest.raises(ApiError, match="rate limit of 10 requests"):
        one.take_request()
    assert one.requests.level < 1


def test_what_is_counted_while_others_are_asked_is_kept(ring):
    """A request ends between the claim and its answer; and a file that cannot be used loses nothing."""
    first, file, _, _ = ring
    told = []
    first._sharing.report = lambda event, **fields: told.append(event)
    one = limited(first, file, budget_tokens=1000, tokens_per_minute=600)
    one.spend(10)
    sharing, claims = first._sharing, [(one, one.claim())]
    one.spend(7)
    sharing._settle(claims, sharing._blocking([claim for _, claim in claims]))
    assert one.used_tokens == 17 and one.tokens.level == pytest.approx(583, abs=5)
    shared = first._sharing.accounts.file
    first.close()
    shared.write_bytes(b"no database" * 1000)
    first._sharing.accounts = type(first._sharing.accounts)(shared)
    for _ in range(2):
        one.spend(3)
        first.save()
    assert told.count("keys.not_shared") == 1 and one.used_tokens == 23
    shared.unlink()
    first.save()
    assert KeyRing(None, file).account("team-a").used_tokens == one.used_tokens == 23
    assert shared.stat().st_mode & 0o077 == 0


def test_budgets_are_kept_in_memory_while_the_disk_is_full(ring):
    first, file, _, _ = ring
    told = []
    first._sharing.report = lambda event, **fields: told.append(event)
    one = limited(first, file, budget_tokens=1000)
    shared = first._sharing.accounts.file
    shared.unlink(missing_ok=True)
    shared.symlink_to("/dev/full")
    for _ in range(2):
        one.spend(10)
        first.save()  # each half second, and at the end: nothing dies of it
    assert told == ["keys.not_shared"] and one.used_tokens == 20
    shared.unlink()
    first.save()
    assert KeyRing(None, file).account("team-a").used_tokens == 20


def test_counts_of_an_earlier_version_are_taken_over(ring):
    first, file, _, _ = ring
    owner = limited(first, file, budget_tokens=1000).key.owner
    file.with_name(file.name + ".used").write_bytes(orjson.dumps({"team-a": [0, 640, owner]}))
    newer = KeyRing(None, file)
    newer.save()
    assert KeyRing(None, file).account("team-a").used_tokens == newer.account("team-a").used_tokens == 640


def old_file(file, rows):
    old = file.with_name(file.name + ".used")
    old.write_bytes(orjson.dumps(rows))
    return old


def test_services_that_start_together_take_old_counts_over_once(ring):
    first, file, _, _ = ring
    owner = limited(first, file, budget_tokens=1000).key.owner
    old = old_file(file, {"team-a": [0, 400, owner]})
    with ThreadPoolExecutor(6) as threads:
        services = list(threads.map(lambda _: KeyRing(None, file), range(6)))
    for service in (*services, *services):
        service.save()
    assert [service.account("team-a").used_tokens for service in services] == [400] * 6
    assert not old.exists()


def test_old_counts_hold_while_the_disk_is_full(ring):
    first, file, _, _ = ring
    limited(first, file, budget_tokens=1000)
    old = old_file(file, {"team-a": [0, 400]})
    shared = file.with_name(file.name + ".sqlite")
    shared.unlink(missing_ok=True)
    shared.symlink_to("/dev/full")
    service = KeyRing(None, file)
    account = service.account("team-a")
    account.spend(10)
    service.save()
    assert account.used_tokens == 410 and old.exists()
    shared.unlink()
    service.save()
    assert account.used_tokens == 410 == KeyRing(None, file).account("team-a").used_tokens


def test_counts_without_owners_are_taken_over_and_no_row_spoils_another(ring):
    first, file, _, _ = ring
    limited(first, file, budget_tokens=1000)
    old_file(file, {"x": 3, "y": ["a", 1], "team-a": [0, 400], "z": [0, 1 << 63]})
    for _ in range(2):
        service = KeyRing(None, file)
        service.save()
        assert service.account("team-a").used_tokens == 400


def test_a_file_that_cannot_be_read_for_once_brings_no_old_counts_back(ring, monkeypatch):
    first, file, _, _ = ring
    owner = limited(first, file, budget_tokens=1000).key.owner
    old_file(file, {"team-a": [0, 400, owner]})
    KeyRing(None, file).save()

    def fails(self, *a, **k):
        raise OSError(5, "for once")

    with monkeypatch.context() as patch:
        patch.setattr(module.SqliteAccounts, "used", fails)
        service = KeyRing(None, file)
    service.save()
    assert service.account("team-a").used_tokens == 400 == KeyRing(None, file).account("team-a").used_tokens


def test_a_candidate_takes_old_counts_over_when_it_is_promoted(ring):
    """Until then the older service writes them."""
    first, file, _, _ = ring
    owner = limited(first, file, budget_tokens=1000).key.owner
    old = old_file(file, {"team-a": [0, 400, owner]})
    candidate = KeyRing(None, file, shares=False)
    assert candidate.account("team-a").used_tokens == 400 and old.exists()
    candidate.save()
    old_file(file, {"team-a": [0, 450, owner]})
    candidate.shares = True
    candidate.save()
    assert candidate.account("team-a").used_tokens == 450 and not old.exists()


def test_a_candidate_that_is_promoted_counts_beside_the_older_service_at_once(ring):
    """That one may drain for long."""
    first, file, _, _ = ring
    one = limited(first, file, budget_tokens=1000, requests_per_minute=5)
    candidate = KeyRing(None, file, shares=False)
    one.spend(1000)
    for _ in range(5):
        one.take_request()
    first.save()
    candidate.promoted()
    other = candidate.account("team-a")
    with pytest.raises(ApiError, match="budget of 1000 tokens is used up"):
        other.check_tokens(1)
    with pytest.raises(ApiError, match="requests"):
        other.take_request()


def test_a_count_that_no_place_holds_costs_no_other_key_its_sharing(ring):
    """Such an error is told like any other of the place, and the claims come again."""
    first, file, _, events = ring
    one = limited(first, file, budget_tokens=1000)
    one.spend(2**64)
    first.save()
    assert [event for event, _ in events] == ["keys.not_shared"] and "OverflowError" in events[0][1]["why"]
    one.spend(-(2**64) + 7)
    first.save()
    assert events[-1][0] == "keys.shared_again" and KeyRing(None, file).account("team-a").used_tokens == 7


@pytest.mark.parametrize(
    ("field", "value"), [("tokens_per_minute", 10**20), ("budget_days", 1e-15), ("weight", 1e400)]
)
def test_a_limit_that_nothing_counts_is_one_error(ring, field, value):
    _, file, _, _ = ring
    document = orjson.loads(file.read_bytes())
    document["keys"][0][field] = value
    file.write_text(json.dumps(document))
    with pytest.raises(WrongUse) as refused:
        read_keys(file)
    assert field in refused.value.where.field


def test_an_idle_service_writes_nothing_and_still_learns(ring):
    first, file, _, _ = ring
    one = limited(first, file, budget_tokens=1000, requests_per_minute=10)
    second = KeyRing(None, file)
    for service in (first, second, first):
        service.save()
    looking = sqlite3.connect(file.with_name(file.name + ".sqlite"))

    def version():
        return looking.execute("PRAGMA data_version").fetchone()

    before = version()
    for service in (first, second) * 3:
        service.save()
    assert version() == before
    second.account("team-a").spend(70)
    second.account("team-a").take_request()
    second.save()
    assert version() != before
    first.save()
    assert one.used_tokens == 70 and one.requests.level < 9.5
    looking.close()


@pytest.mark.parametrize("name", ["api-key", "local"])
def test_names_of_the_service_itself_are_refused(tmp_path, name):
    with pytest.raises(WrongUse, match="own"):
        new_key(tmp_path / "new.json", name)
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps({"keys": [{"id": name, "sha256": "0" * 64}]}))
    with pytest.raises(WrongUse, match="own"):
        KeyRing(None, file)


def test_a_service_with_a_broken_file_of_keys_is_degraded(tiny_ir, tmp_path):
    file, log = tmp_path / "keys.json", tmp_path / "log"
    key = {"authorization": f"Bearer {new_key(file, 'team-a')}"}
    service = start(tiny_ir, ServeSettings(mode="exact", keys=str(file)), log=log)
    try:
        assert CLIENT.get(f"{service.url}/health", headers=key).json()["status"] == "healthy"
        file.write_text("{")
        sick = awaited(
            lambda: CLIENT.get(f"{service.url}/health", headers=key), lambda told: told.status_code == 503
        )
        assert sick.json() == {"status": "degraded"}
        refused = httpx.get(f"{service.url}/v1/models", headers=key)
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "keys_unreadable"
        assert b"keys.unreadable" in log.read_bytes()
    finally:
        service.stop()


@pytest.mark.parametrize("harm", ["removed", "replaced"])
def test_a_file_that_is_removed_under_services_is_noticed(ring, harm):
    """They go on together in a new one, with all that they had counted."""
    first, file, _, _ = ring
    one = limited(first, file, budget_tokens=1000, requests_per_minute=10)
    second = KeyRing(None, file)
    other = second.account("team-a")
    one.spend(70)
    for service in (first, second, first):
        service.save()
    shared = file.with_name(file.name + ".sqlite")
    if harm == "replaced":
        shared.write_bytes(b"")  # nobody has it open: a new file by that name
    shared.unlink()
    if harm == "replaced":
        shared.touch(0o600)
    one.spend(20)
    other.spend(5)
    other.take_request()
    for service in (first, second, first):
        service.save()
    assert one.used_tokens == other.used_tokens == 95 == KeyRing(None, file).account("team-a").used_tokens
    assert one.requests.level < 9.5 and shared.stat().st_mode & 0o077 == 0
