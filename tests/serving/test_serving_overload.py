"""Overload, keys, deadlines, crashes and slow readers, on a real service."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import orjson
import pytest
from watching import CLIENT, free_port, held, in_steps, read_metrics, seen, until

from steelyard.errors import Refused, WrongUse
from steelyard.serving import ServeSettings, new_key, promote, start
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.host.replicas.cores import physical_cores

ASK = {
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 3,
    "ignore_eos": True,
    "temperature": 0,
}
LONG = {**ASK, "max_tokens": 400}
MANY = {**LONG, "n": 12}  # some seconds of work


def post(service, body, key=None, **headers):
    if key:
        headers["authorization"] = f"Bearer {key}"
    return CLIENT.post(f"{service.url}/v1/chat/completions", json=body, headers=headers)


def running(service):
    return read_metrics(service)["vllm:num_requests_running"]


def begun(service):
    """Answers of which something was made."""
    return read_metrics(service)["vllm:time_to_first_token_seconds_count"]


def text(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def small(tiny_ir):
    """Two slots and a short queue."""
    settings = ServeSettings(mode="exact", max_num_seqs=2, max_queue_s=0.05)
    service = start(tiny_ir, settings)
    yield service
    service.stop()


# ---------------------------------------------------------------------- crashes and hangs


def test_what_nobody_has_seen_is_made_again_after_kill_9(tiny_ir):
    service = start(tiny_ir, ServeSettings(mode="exact"))
    try:
        expected = text(post(service, LONG))
        with ThreadPoolExecutor(8) as pool, held(service):
            asked = [pool.submit(post, service, MANY) for _ in range(4)]
            assert until(lambda: running(service) >= 24)
            in_steps(service, lambda: begun(service) > 1)
            os.kill(service.engine_pid, signal.SIGKILL)
            late = pool.submit(post, service, MANY)  # comes while the engine is away
            answers = [done.result() for done in [*asked, late]]
        made = [choice["message"]["content"] for answer in answers for choice in answer.json()["choices"]]
        assert made == [expected] * 60
        told = read_metrics(service)
        assert told["steelyard:request_retries_total"] >= 1 and told["steelyard:engine_restarts"] == 1
        assert int(told["steelyard:engine_pid"]) != service.engine_pid
    finally:
        service.stop()


@pytest.mark.parametrize("dialect", ["messages", "responses"])
def test_what_is_made_again_stands_once_in_every_dialect(tiny_ir, dialect):
    """The engine dies under way: what it had made before is not part of the answer."""
    asked = {
        "messages": {"messages": LONG["messages"], "max_tokens": 480},
        "responses": {"input": "hello", "max_output_tokens": 480},
    }[dialect]
    body = {"model": "default", "ignore_eos": True, "temperature": 0, **asked}
    service = start(tiny_ir, ServeSettings(mode="exact"))
    try:

        def answer():
            told = CLIENT.post(f"{service.url}/v1/{dialect}", json=body)
            assert told.status_code == 200, told.text
            found = told.json()
            return found["content"] if dialect == "messages" else [o["content"] for o in found["output"]]

        def killed():
            """The answer, and how often it was begun anew."""
            before = read_metrics(service)["steelyard:request_retries_total"]
            with ThreadPoolExecutor(1) as pool, held(service):
                made = pool.submit(answer)
                assert until(lambda: running(service) == 1)
                first = begun(service) + 1
                in_steps(service, lambda: begun(service) == first)
                os.kill(service.engine_pid, signal.SIGKILL)
                return made.result(), read_metrics(service)["steelyard:request_retries_total"] - before

        # An engine that this process could not stop in time has made all of it.
        assert seen(killed, lambda found: found == (answer(), 1))
    finally:
        service.stop()


def test_a_stream_that_has_begun_says_that_it_broke_off(tiny_ir):
    service = start(tiny_ir, ServeSettings(mode="exact", max_model_len=512))
    try:
        with ThreadPoolExecutor(1) as pool, held(service):
            asked = pool.submit(post, service, {**MANY, "stream": True})
            assert until(lambda: running(service) == 12)
            in_steps(service, lambda: begun(service) > 0)
            os.kill(service.engine_pid, signal.SIGKILL)
            first, *_, last = [line for line in asked.result().iter_lines() if line]
        assert "choices" in first and "engine_unavailable" in last and "[DONE]" not in last
        assert until(service.healthy)
    finally:
        service.stop()


def await_restart(service, count, asked):
    until(lambda: read_metrics(service)["steelyard:engine_restarts"] == count or asked.done())


def test_a_request_that_ends_the_engine_each_time_is_given_up(tiny_ir):
    service = start(tiny_ir, ServeSettings(mode="exact", max_model_len=512))
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(post, service, MANY)
            killed = 0
            while not asked.done() and killed < 3:
                told = read_metrics(service)
                if told["steelyard:engine_pid"] and told["vllm:num_requests_running"] >= 12:
                    os.kill(int(told["steelyard:engine_pid"]), signal.SIGKILL)
                    killed += 1
                    await_restart(service, killed, asked)
                    until(lambda: service.healthy() or asked.done())
            answer = asked.result()
        assert answer.status_code in (200, 503)  # 200 where it was done between two kills
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "engine_unavailable" and answer.headers["retry-after"]
        assert until(service.healthy)
    finally:
        service.stop()


def test_a_stopped_engine_is_told_and_goes_on(tiny_ir):
    service = start(tiny_ir, ServeSettings(mode="exact"))
    try:
        with ThreadPoolExecutor(1) as pool:
            with held(service):
                answer = CLIENT.get(f"{service.url}/health")
                assert answer.status_code == 503 and answer.json()["status"] == "stalled"
                asked = pool.submit(post, service, ASK)
                time.sleep(2)  # its front end looks each second whether it hangs
            text(asked.result())
        assert service.healthy() and read_metrics(service)["steelyard:engine_restarts"] == 0
    finally:
        service.stop()


def test_an_engine_that_makes_nothing_is_ended(monkeypatch):
    """The rule alone: a real hang of 20 s is too long for a test."""
    from steelyard.serving.host import engine_process

    now = [100.0]
    used = [(5.0, False)]
    monkeypatch.setattr(engine_process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(engine_process, "_cpu", lambda pid: used[0])

    def limit_after(seconds, cpu_each_s=0.0, stopped=False, token=1.0):
        silence = engine_process.Silence(engine_process.HANG_S, engine_process.SPIN_S)
        for _ in range(int(seconds)):
            used[0] = (used[0][0] + cpu_each_s, stopped)
            now[0] += 1
            if limit := silence.limit_s(1, token):
                return limit
        return None

    assert limit_after(15) is None
    assert limit_after(30) == engine_process.HANG_S
    assert limit_after(200, cpu_each_s=1.0) is None  # a long prompt
    assert limit_after(400, cpu_each_s=1.0) == engine_process.SPIN_S
    assert limit_after(50, stopped=True) is None
    assert limit_after(70, stopped=True) == engine_process.STOPPED_S
    assert limit_after(400, token=None) is None  # nothing was asked of it


# ---------------------------------------------------------------------- the queue


def test_a_full_queue_says_when_to_come_again_and_is_right(small):
    text(post(small, LONG))
    with ThreadPoolExecutor(48) as pool:
        with held(small):
            asked = [pool.submit(post, small, LONG) for _ in range(48)]
            assert until(lambda: any(job.done() for job in asked))
        answers = [job.result() for job in asked]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and len(refused) < 48
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    waits = [int(answer.headers["retry-after"]) for answer in refused]
    assert min(waits) >= 1
    assert [answer.status_code for answer in answers if answer.status_code != 429] == [200] * (
        48 - len(refused)
    )
    assert post(small, ASK).status_code == 200
    assert read_metrics(small)["steelyard:requests_refused_total"] >= len(refused)


def test_a_deadline_ends_the_wait_and_the_work(small):
    with held(small):
        answer = post(small, LONG, **{"x-request-timeout": "0.05"})
        assert answer.status_code == 408 and answer.json()["error"]["code"] == "deadline_exceeded"
        assert until(lambda: running(small) == 0)
        assert read_metrics(small)["steelyard:num_requests_deserted"] <= 1  # 0 where it was not begun in time
    assert until(lambda: read_metrics(small)["steelyard:num_requests_deserted"] == 0)
    with ThreadPoolExecutor(1) as pool, held(small):
        pool.submit(post, small, {**ASK, "n": 2})
        assert until(lambda: running(small) == 2)
        assert post(small, {**LONG, "timeout": 2}).status_code == 408  # 429 if over before it is in line
        assert read_metrics(small)["vllm:num_requests_waiting"] == 0
    assert post(small, ASK, **{"x-request-timeout": "soon"}).status_code == 400
    assert post(small, ASK, **{"x-request-timeout": "200"}).status_code == 200


def test_a_slow_reader_and_one_who_leaves_free_their_slot(small):
    host, port = small.url.removeprefix("http://").split(":")
    body = orjson.dumps({**LONG, "n": 8, "stream": True, "logprobs": True})
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        with held(small):
            slow.sendall(request)  # and never reads
            assert until(lambda: running(small) > 0)
        assert until(lambda: running(small) == 0, 120)
        assert post(small, ASK).status_code == 200
    with held(small):
        with socket.create_connection((host, int(port))) as leaver:
            leaver.sendall(request)
            assert until(lambda: running(small) > 0)
        assert until(lambda: running(small) == 0)
    assert read_metrics(small)["vllm:num_requests_waiting"] == 0


# ---------------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def keyed(tiny_ir, tmp_path_factory):
    """(service, file, {id: key}): a busy and a calm one, one with limits."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {name: new_key(file, name) for name in ("busy", "calm", "limited", "poor", "thrifty", "admin")}
    document = orjson.loads(file.read_bytes())
    more = {
        "limited": {"requests_per_minute": 2},
        "poor": {"budget_tokens": 10},
        "thrifty": {"budget_tokens": 60},
        "admin": {"scopes": ["inference", "admin"], "may_hurry": True},
    }
    for entry in document["keys"]:
        entry |= more.get(entry["id"], {})
    file.write_bytes(orjson.dumps(document))
    candidate = start(tiny_ir, ServeSettings(keys=str(file), max_num_seqs=4, max_queue_s=3600.0))
    service = promote(candidate, "127.0.0.1", free_port(), file.parent)
    yield service, file, keys
    service.stop()


def test_keys_are_kept_as_hashes_and_needed(keyed):
    service, file, keys = keyed
    assert not any(key in file.read_text() for key in keys.values())
    assert file.stat().st_mode & 0o77 == 0
    assert post(service, ASK).status_code == 401
    assert post(service, ASK, "sk-wrong").status_code == 401
    assert post(service, ASK, keys["calm"]).status_code == 200
    refused = httpx.post(
        f"{service.url}/v1/fine_tuning/jobs", json={}, headers={"authorization": f"Bearer {keys['calm']}"}
    )
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "insufficient_scope"


def test_rate_limits_and_budgets(keyed):
    service, file, keys = keyed
    answers = [post(service, ASK, keys["limited"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 30
    assert answers[-1].json()["error"]["type"] == "rate_limit_error"
    assert post(service, ASK, keys["poor"]).status_code == 200
    spent = post(service, ASK, keys["poor"])
    assert spent.status_code == 429 and spent.json()["error"]["code"] == "insufficient_quota"
    assert until(lambda: KeyRing(None, file).account("poor").used_tokens > 10)  # another service's look


def test_a_prompt_that_is_only_scored_is_paid_for(keyed):
    service, _, keys = keyed
    body = {"model": "default", "prompt": "one two three", "max_tokens": 0, "echo": True, "logprobs": 1}
    headers = {"authorization": f"Bearer {keys['poor']}"}
    codes = [CLIENT.post(f"{service.url}/v1/completions", json=body, headers=headers) for _ in range(2)]
    assert codes[-1].status_code == 429 and codes[-1].json()["error"]["code"] == "insufficient_quota"


def test_a_budget_is_not_passed_by_asking_all_at_once(keyed):
    service, _, keys = keyed
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda _: post(service, {**LONG, "max_tokens": 60}, keys["thrifty"]), range(6)))
    good = sum(answer.status_code == 200 for answer in told)
    codes = {answer.json()["error"]["code"] for answer in told if answer.status_code != 200}
    assert 1 <= good <= 2 and codes <= {"rate_limit_exceeded", "insufficient_quota"}


def waiting(service, keys):
    return read_metrics(service, keys["admin"])["vllm:num_requests_waiting"]


def answered_before_calm(service, keys):
    """Of 24 answers to a flood those that came before one to a calm key, which asked last."""
    body = {**LONG, "max_tokens": 200}
    with ThreadPoolExecutor(25) as pool:
        with held(service):
            flood = [pool.submit(post, service, {**body, "n": 8}, keys["busy"]) for _ in range(24)]
            assert until(lambda: waiting(service, keys) == 24 * 8 - 4)
            calm = pool.submit(post, service, body, keys["calm"])
            assert until(lambda: waiting(service, keys) == 24 * 8 - 3)
        text(calm.result())
        before = sum(job.done() for job in flood)
        for job in flood:
            assert job.result().status_code == 200
    return before


def test_a_calm_key_is_served_beside_a_flood(keyed):
    service, _, keys = keyed
    assert seen(lambda: answered_before_calm(service, keys), lambda before: before < 18)


def order_of_tiers(service, keys):
    """In which order usual, flex and urgent answers came, asked in this order."""
    order = []

    def ask(name, body, **more):
        text(post(service, {**body, **more}, keys["admin"]))
        order.append(name)

    with ThreadPoolExecutor(8) as pool:
        with held(service):
            jobs = [pool.submit(ask, "usual", {**LONG, "n": 16}) for _ in range(4)]
            assert until(lambda: waiting(service, keys) == 4 * 16 - 4)
            jobs += [pool.submit(ask, f"flex{i}", ASK, service_tier="flex") for i in range(2)]
            assert until(lambda: waiting(service, keys) == 4 * 16 - 2)
            jobs += [pool.submit(ask, f"urgent{i}", ASK, service_tier="priority") for i in range(2)]
            assert until(lambda: waiting(service, keys) == 4 * 16)
        for job in jobs:
            job.result()
    return order


def test_a_priority_goes_first(keyed):
    service, _, keys = keyed
    urgent = {"urgent0", "urgent1"}
    assert seen(lambda: order_of_tiers(service, keys), lambda order: set(order[:2]) == urgent)


def test_a_revoked_key_is_refused_soon(keyed):
    service, file, keys = keyed
    document = orjson.loads(file.read_bytes())
    document["keys"] = [entry for entry in document["keys"] if entry["id"] != "admin"]
    file.write_bytes(orjson.dumps(document))
    assert until(lambda: post(service, ASK, keys["admin"]).status_code == 401, 20)
    assert post(service, ASK, keys["calm"]).status_code == 200


def test_a_wrong_key_file_is_said(tmp_path, tiny_ir):
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [{"id": "a", "sha256": "x"}]}')
    with pytest.raises(WrongUse, match="pattern"):
        start(tiny_ir, ServeSettings(keys=str(file)))
    with pytest.raises(Refused):
        start(tiny_ir, ServeSettings(host="0.0.0.0"))


# ---------------------------------------------------------------------- replicas


def test_two_replicas_stand_behind_one_door(tiny_ir):
    if len(physical_cores()) < 2:
        pytest.skip("two replicas need two cores")
    service = start(tiny_ir, ServeSettings(mode="exact", replicas=2))
    try:
        first, second = service.engine_pids
        expected = text(post(service, LONG))
        with ThreadPoolExecutor(12) as pool:
            with held(service):
                asked = [pool.submit(post, service, MANY) for _ in range(8)]
                assert until(lambda: running(service) >= 48)
                os.kill(first, signal.SIGKILL)
            assert [text(job.result()) for job in asked] == [expected] * 8
        assert second in service.pids()
        assert until(lambda: read_metrics(service)["steelyard:engine_restarts"] == 1)
    finally:
        service.stop()


def test_prompts_that_begin_alike_go_to_one_replica():
    from types import SimpleNamespace

    from steelyard.serving.host.replicas import Replicas
    from steelyard.serving.host.replicas.balance import blocks_of

    engines = [SimpleNamespace(state="ready", adapters={}) for _ in range(3)]
    pool = Replicas(engines)

    def place(ids):
        return pool._place(len(ids), blocks_of(ids, (None, "")))

    prefix = list(range(200))
    home = place([*prefix, 1])
    pool.balance.take(home, 201, blocks_of([*prefix, 1], (None, "")), 16)
    assert place([*prefix, 2]) == home and place([7] * 200) != home
    pool.balance.replicas[home].backlog += 2000
    assert place([*prefix, 3]) != home  # it has clearly more to do
    pool.balance.replicas[home].backlog -= 2000
    engines[home].state = "stalled"
    assert place([*prefix, 4]) != home
