"""Keys counted in Postgres by services of many hosts: exactly, through its death, and never in the open."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress

import orjson
import pytest
from databases import Database, needs_postgres
from watching import until

from steelyard.errors import Lacking, Refused, WrongUse
from steelyard.serving import ServeSettings, accounts_of, new_key
from steelyard.serving.base.accounts.postgres import PostgresAccounts
from steelyard.serving.base.accounts.postgres_address import read_address
from steelyard.serving.base.accounts.settling import Claim, Level, Want, settled
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.service.tls import own_certificate

pytest.importorskip("pg8000")


@contextmanager
def started(server):
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def database():
    with started(Database()) as made:
        yield made


@pytest.fixture
def place(database, tmp_path, request):
    """(URL of an empty database, a file with one key)."""
    file = tmp_path / "keys.json"
    new_key(file, "team-a")
    name = f"d{abs(hash(request.node.name))}"
    return database.new(name), file


def limited(file, **limits):
    document = orjson.loads(file.read_bytes())
    document["keys"][0].update(limits)
    file.write_bytes(orjson.dumps(document))


def service(place, events=None):
    url, file = place
    told = [] if events is None else events
    shared = PostgresAccounts(read_address(url))
    return KeyRing(None, file, lambda event, **more: told.append((event, more)), shared=shared)


async def asked(ring, times, tokens=None):
    """How many of so many requests at once are let in; those with tokens spend them all."""
    account = ring.account("team-a")

    async def one():
        try:
            if tokens is None:
                await ring.take_request(account)
            else:
                async with ring.reserved(account, tokens, None, None) as reservation:
                    await asyncio.sleep(0)
                    reservation.spend_prompt(tokens)
            return 1
        except ApiError as e:
            assert e.status == 429
            return 0

    return sum(await asyncio.gather(*(one() for _ in range(times))))


async def over_all(rings, times, tokens=None):
    return await asyncio.gather(*(asked(ring, times, tokens) for ring in rings))


@needs_postgres
def test_a_limit_a_minute_holds_exactly_over_services(place):
    limited(place[1], requests_per_minute=40)
    rings = [service(place) for _ in range(4)]
    let_in = asyncio.run(over_all(rings, 30))
    assert sum(let_in) == 40, let_in
    with pytest.raises(ApiError, match="rate limit of 40 requests") as caught:
        asyncio.run(rings[0].take_request(rings[0].account("team-a")))
    assert 0 < caught.value.retry_after_s <= 1.5
    for ring in rings:
        ring.close()


@needs_postgres
def test_a_budget_holds_exactly_over_services(place):
    """Each request holds what it may spend; a service that begins later knows what was spent."""
    limited(place[1], budget_tokens=200)
    rings = [service(place) for _ in range(3)]
    assert sum(asyncio.run(over_all(rings, 40, tokens=10))) == 20
    late = service(place)
    with pytest.raises(ApiError, match=r"budget of 200 tokens is used up|may be spent"):
        asyncio.run(_held(late, 1))
    for ring in (*rings, late):
        ring.close()
    assert late.account("team-a").used_tokens == 200


async def _held(ring, tokens):
    async with ring.reserved(ring.account("team-a"), tokens, None, None):
        pass


@needs_postgres
def test_tokens_under_way_elsewhere_are_held_and_then_free(place, database):
    limited(place[1], budget_tokens=100)
    one, other = service(place), service(place)

    async def turns():
        async with one.reserved(one.account("team-a"), 100, None, None):
            with pytest.raises(ApiError, match="may be spent by requests under way"):
                await _held(other, 10)
        await one.share()
        await _held(other, 10)

    asyncio.run(turns())
    one.close()
    other.close()


@needs_postgres
def test_who_gives_up_while_it_asks_holds_nothing(place):
    limited(place[1], budget_tokens=100)
    ring = service(place)

    async def given_up():
        asking = asyncio.create_task(_held(ring, 100))
        await asyncio.sleep(0)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await ring.share()
        await ring.share()

    asyncio.run(given_up())
    assert ring.account("team-a").pending == 0
    ring.close()


@needs_postgres
def test_the_database_dies_and_comes_back(place, database):
    """Nobody is turned away meanwhile; what was counted is told afterwards, once, and said in the log."""
    limited(place[1], budget_tokens=10_000, requests_per_minute=1000)
    events = []
    ring, other = service(place, events), service(place)
    account = ring.account("team-a")
    try:
        assert asyncio.run(asked(ring, 5, tokens=10)) == 5
        ring.save()
        database.kill()
        assert asyncio.run(asked(ring, 3, tokens=10)) == 3
        assert asyncio.run(asked(ring, 3)) == 3
        ring.save()
    finally:
        database.start()
    ring.save()
    other.save()
    assert [event for event, _ in events] == ["keys.not_shared", "keys.shared_again"]
    assert account.used_tokens == other.account("team-a").used_tokens == 80
    ring.close()
    other.close()


class Away:
    """A place that lets everybody wait, and then fails."""

    exact, ahead_s, place = True, 0.0, "nowhere"

    def used(self, make=True):
        return {}

    def settle(self, claims):
        time.sleep(0.4)
        raise OSError(0, "timed out")

    def close(self):
        pass


def test_while_the_database_lets_wait_only_the_first_requests_do(tmp_path):
    """A machine that lost its power refuses nothing: it does not answer at all."""
    file = tmp_path / "keys.json"
    new_key(file, "team-a")
    limited(file, requests_per_minute=1000)
    ring = KeyRing(None, file, shared=Away())

    async def late():
        """Seconds for a request while another waits, for one after that, for the end."""
        first = asyncio.create_task(asked(ring, 1))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        assert await asked(ring, 1) == 1
        beside = time.monotonic() - begun
        assert await first == 1
        await asyncio.sleep(0.45)
        begun = time.monotonic()
        assert await asked(ring, 3) == 3
        after = time.monotonic() - begun
        begun = time.monotonic()
        await ring.share_last()
        ring.close()
        return beside, after, time.monotonic() - begun

    beside, after, end = asyncio.run(late())
    assert (beside < 0.7, after < 0.3, end < 0.75) == (True, True, True), (beside, after, end)


def test_an_id_that_is_given_out_again_while_its_old_key_asks(tmp_path):
    """Two accounts of one id in one exchange."""
    file = tmp_path / "keys.json"
    new_key(file, "team-a")
    limited(file, requests_per_minute=10)
    asked_of = []

    class Counting(Away):
        def settle(self, claims):
            asked_of.append([claim.whose for claim in claims])
            return {claim.whose: settled(None, claim, 0.0)[1] for claim in claims}

    ring = KeyRing(None, file, shared=Counting())

    async def both():
        old = ring.account("team-a")
        limited(file, owner="key-" + "0" * 32)
        ring._load()
        asking = [ring.take_request(old), ring.take_request(old), ring.take_request(ring.account("team-a"))]
        await asyncio.gather(*asking)

    asyncio.run(both())
    assert len(set(asked_of[0])) == 2
    assert ring.account("team-a").requests.level == pytest.approx(9, abs=0.1)


def answering(words):
    """The port of a server that answers so to the first words of whoever comes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer():
        with closing(listening), closing(listening.accept()[0]) as near:
            near.recv(4096)
            near.sendall(words)
            near.recv(4096)

    threading.Thread(target=answer, daemon=True).start()
    return listening.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "more", "error"),
    [
        (b"R\0\0\0\x06\0\0", "", OSError),  # cut short: the client library has an error of its own for that
        (b"R\0\0\0\x08\0\0\0\x03", "", Lacking),  # a password is asked for, and there is none
        (b"N", "?sslmode=verify-full", Lacking),  # no TLS
    ],
)
def test_what_a_server_answers_is_away_or_a_refusal(words, more, error, tmp_path, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(error):
        PostgresAccounts(read_address(f"postgresql://a@127.0.0.1:{answering(words)}/x{more}")).used()


def test_a_user_without_a_name_is_told_to_give_one(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: {}["uid"])
    with pytest.raises(WrongUse, match="names no user"):
        read_address("postgresql://localhost/x")


@needs_postgres
def test_a_real_server_is_spoken_to_by_tls_and_known_by_its_certificate(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "a password")
    made = {}
    for state, names in (("right", ["localhost"]), ("other", ["db.example"])):
        monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / state))
        made[state] = own_certificate(names)
    with started(Database(tls=made["right"])) as server:
        server.new("accounts")
        url = f"postgresql://steelyard@localhost:{server.port}/accounts?sslmode=verify-full&sslrootcert="
        with closing(PostgresAccounts(read_address(url + str(made["right"][0])))) as shared:
            assert shared.settle([claim(taken=1)])
            ways = "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            assert server.sql(f"{ways} WHERE datname = 'accounts'") == [[True, "TLSv1.3"]]
        other_name = url.replace("localhost", "127.0.0.1")
        for wrong in (url + str(made["other"][0]), other_name + str(made["right"][0])):
            with pytest.raises(Lacking) as refused:
                PostgresAccounts(read_address(wrong)).used()
            assert "its certificate: " in refused.value.why


@needs_postgres
def test_a_transaction_that_a_copy_never_had_does_not_count(place):
    """After a restore: its number is in the future there, for good."""
    shared = PostgresAccounts(read_address(place[0]))
    shared._unheard = "99999999999"
    assert shared.heard_of() is False and shared.settle([claim(taken=1)])
    shared.close()


@needs_postgres
def test_two_services_that_begin_at_once_make_schema_and_rows_in_turn(place):
    services = [PostgresAccounts(read_address(place[0])) for _ in range(2)]
    meet, failed = threading.Barrier(2), []

    def make(shared, order):
        try:
            for turn in range(25):
                known = [claim(taken=1, key_id=f"{turn}-{n}") for n in (1, 2, 3)][::order]
                meet.wait(20)
                shared.settle(known)
        except OSError as e:
            failed.append(e)
            meet.abort()

    threads = [threading.Thread(target=make, args=pair) for pair in zip(services, (1, -1), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for shared in services:
        shared.close()


class Cutting(threading.Thread):
    """Between a service and its database: passes the next COMMIT on (or not), and cuts the line."""

    def __init__(self, to, near, passes_on):
        super().__init__(daemon=True)
        self.to, self.passes_on, self.armed = to, passes_on, False
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(near))
        self.listening.listen()
        self.start()

    def run(self):
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.to)
            threading.Thread(target=self._back, args=(far, near), daemon=True).start()
            threading.Thread(target=self._forth, args=(near, far), daemon=True).start()

    def _back(self, far, near):
        with suppress(OSError):
            while (words := far.recv(65536)) and self.armed != "cut":
                near.sendall(words)
        near.close()

    def _forth(self, near, far):
        with suppress(OSError):
            while words := near.recv(65536):
                if self.armed is True and b"COMMIT" in words:
                    self.armed = "cut"
                    if self.passes_on:
                        far.sendall(words)
                        far.recv(100)
                    near.shutdown(socket.SHUT_RDWR)
                    break
                far.sendall(words)
            far.shutdown(socket.SHUT_RDWR)


@needs_postgres
@pytest.mark.parametrize("passes_on", [True, False])
def test_a_commit_that_nobody_heard_of_counts_once(place, database, tmp_path, passes_on):
    limited(place[1], budget_tokens=1000, requests_per_minute=2)
    url = read_address(place[0])
    name = f".s.PGSQL.{url.port}"
    cutting = Cutting(f"{url.socket}/{name}", tmp_path / name, passes_on)
    ring = service((place[0].replace(f"host={url.socket}", f"host={tmp_path}"), place[1]))
    other = service(place)
    account = ring.account("team-a")
    with closing(cutting.listening):
        account.spend(10)
        ring.save()
        account.spend(7)
        cutting.armed = True
        assert asyncio.run(asked(ring, 1)) == 1  # asked there, decided here
        assert ring._sharing.fault is not None
        cutting.armed = False
        account.spend(3)
        assert until(lambda: ring.save() or ring._sharing.fault is None)  # once the older one has ended there
        ring.save()
        other.save()
        assert account.used_tokens == other.account("team-a").used_tokens == 20
        assert 1 <= other.account("team-a").requests.level < 2  # one request, counted once
    ring.close()
    other.close()


@needs_postgres
def test_a_newer_schema_is_refused_and_nothing_is_written(place, database):
    service(place).close()
    name = place[0].partition("?")[0].rsplit("/", 1)[1]
    database.sql("UPDATE steelyard.version SET version = 99", database=name)
    with pytest.raises(Lacking, match="takes no service in") as caught:
        service(place)
    assert "version 99" in caught.value.why and caught.value.exit_code == 5
    assert database.sql("SELECT version FROM steelyard.version", database=name) == [[99]]


@needs_postgres
def test_the_password_stands_in_a_private_file_and_nowhere_else(place, database, tmp_path, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    limited(place[1], budget_tokens=100)
    name = place[0].partition("?")[0].rsplit("/", 1)[1]
    url = f"postgresql://steelyard@127.0.0.1:{database.port}/{name}"
    file = tmp_path / "password"
    file.write_text("another\n")
    file.chmod(0o600)
    with pytest.raises(Lacking, match="takes no service in"):
        KeyRing(None, place[1], shared=PostgresAccounts(read_address(url, str(file))))
    file.write_text("a password\n")
    ring = KeyRing(None, place[1], shared=PostgresAccounts(read_address(url, str(file))))
    assert "a password" not in repr(ring) + ring._sharing.accounts.place
    ring.close()
    file.chmod(0o644)
    with pytest.raises(Refused, match="others can read"):
        PostgresAccounts(read_address(url, str(file))).used()
    (tmp_path / ".pgpass").write_text(f"*:1:*:*:no\n127.0.0.1:{database.port}:*:steelyard:a password\n")
    (tmp_path / ".pgpass").chmod(0o600)
    PostgresAccounts(read_address(url)).used()


@pytest.mark.parametrize(
    ("url", "error", "word"),
    [
        ("postgresql://a:secret@db/x", WrongUse, "holds a password"),
        ("postgresql://a@db/x?password=secret", WrongUse, "holds a password"),
        ("postgresql://a@db/x?sslmode=require", Refused, "does not protect"),
        ("postgresql://a@db/x?sslmode=disable", Refused, "does not protect"),
        ("postgresql://a@db/x?secret=1", WrongUse, "is not known"),
        ("postgresql://a@db:port/x", WrongUse, "no address"),
        ("mysql://a@db/x", WrongUse, "no address"),
        ("postgresql://a@db", WrongUse, "names no database"),
        ("postgresql://a@/x", WrongUse, "names no one host"),
    ],
)
def test_addresses_that_are_refused(url, error, word):
    with pytest.raises(error, match=word) as caught:
        read_address(url)
    assert "secret@" not in str(caught.value) and "=secret" not in str(caught.value)


def test_another_machine_is_spoken_to_by_tls_alone():
    assert read_address("postgresql://a@db.example/x").tls
    assert not read_address("postgresql://a@127.0.0.1/x").tls
    assert read_address("postgresql://a@localhost/x?sslmode=verify-full").tls


def test_accounts_go_with_keys():
    with pytest.raises(WrongUse, match="nothing to count without keys"):
        accounts_of(ServeSettings(accounts="postgresql://a@localhost/x"))
    with pytest.raises(WrongUse, match="goes with"):
        accounts_of(ServeSettings(accounts_password="x"))


def claim(a_minute=10.0, taken=0.0, **more):
    about = {"key_id": "k", "owner": "o", "period": 0, "tokens": 0, "known": 0} | more
    return Claim(levels={"requests": Level(a_minute=a_minute, taken=taken)}, **about)


def test_a_limit_that_changes_to_and_fro_is_no_refill():
    """Two hosts whose files differ for a while."""
    row, _ = settled(None, claim(taken=10), 0.0)
    for _ in range(5):
        for a_minute in (20.0, 10.0):
            row, total = settled(row, claim(a_minute), 0.0)
    assert total.levels["requests"] == 0


def test_what_a_lost_service_held_is_free_after_a_while():
    row, _ = settled(None, claim(budget=100, wants=(Want(tokens=100),)), 0.0, "lost")
    want = claim(budget=100, wants=(Want(tokens=10),))
    assert settled(row, want, 29.0, "b")[1].refusals[0].what == "under_way"
    assert settled(row, want, 31.0, "b")[1].refusals == (None,)


def test_a_clock_that_was_set_back_gives_nothing_and_goes_on():
    row, _ = settled(None, claim(taken=10), 1e6)
    row, total = settled(row, claim(), 1000.0)
    assert total.levels["requests"] == 0
    assert settled(row, claim(), 1030.0)[1].levels["requests"] == pytest.approx(5)
