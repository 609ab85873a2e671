"""An engine with a server of its own behind the whole service: started, asked in ids, watched, ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from vllm_server import CRASH, interpreter
from watching import CLIENT, awaited, until

from steelyard.errors import Lacking, WrongUse
from steelyard.processes import family
from steelyard.serving import ServeSettings, start

ASK = {"model": "default", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return interpreter(tmp_path_factory.mktemp("vllm"))


def served(tiny_models, python, **more):
    settings = ServeSettings(name="tiny", engine="vllm", engine_python=str(python), platform="cpu", **more)
    return start(tiny_models("llama"), settings)


@pytest.fixture(scope="module")
def service(tiny_models, python):
    service = served(tiny_models, python)
    yield service
    service.stop()


def server_of(service) -> psutil.Process:
    """The process of the engine's own server."""
    return awaited(lambda: _servers(service), bool)[0]


def _servers(service) -> list[psutil.Process]:
    found = []
    for pid in family([service.pid]):
        try:
            process = psutil.Process(pid)
            if "--uds" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(pid: int) -> bool:
    """Ended; nobody may have fetched its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ask(service, **more):
    return CLIENT.post(f"{service.url}/v1/chat/completions", json=ASK | more)


def completion(service, prompt, **more):
    body = {"model": "default", "prompt": prompt, "max_tokens": 6, **more}
    return CLIENT.post(f"{service.url}/v1/completions", json=body)


def test_an_answer_whole_and_streamed(service):
    answer = ask(service)
    assert answer.status_code == 200, answer.text
    whole = answer.json()
    assert whole["usage"]["completion_tokens"] == 6 and whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    with CLIENT.stream("POST", f"{service.url}/v1/chat/completions", json=ASK | {"stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: {")]
    assert len(lines) > 2 and whole["choices"][0]["message"]["content"]
    assert CLIENT.get(f"{service.url}/health").status_code == 200


def test_what_the_server_refuses_is_a_400_with_its_words(service):
    answer = completion(service, "a", guided_regex="(a")
    assert answer.status_code == 400 and "regex" in answer.text


def test_it_listens_in_a_private_place_and_its_key_is_in_no_command_line(service):
    process = server_of(service)
    words = process.cmdline()
    socket = Path(words[words.index("--uds") + 1])
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    key = process.environ()["VLLM_API_KEY"]
    assert key and not any(
        key in word for pid in family([service.pid]) for word in psutil.Process(pid).cmdline()
    )
    assert "STEELYARD_API_KEY" not in process.environ()


def test_on_a_cpu_a_step_takes_whole_prompts(service):
    """vLLM 0.32 ends there at a seeded answer whose prompt was read in two steps."""
    words = server_of(service).cmdline()
    assert "--no-enable-chunked-prefill" in words
    length, step = (
        int(words[words.index(flag) + 1]) for flag in ("--max-model-len", "--max-num-batched-tokens")
    )
    assert step >= length


def test_kill_9_of_the_server_starts_it_again(service):
    before = server_of(service)
    before.send_signal(signal.SIGKILL)
    assert until(lambda: gone(before.pid))
    assert awaited(lambda: ask(service), lambda answer: answer.status_code == 200).json()["choices"]
    assert server_of(service).pid != before.pid


def test_a_request_that_ends_the_server_is_failed_and_the_others_are_answered(service):
    assert completion(service, CRASH).status_code >= 500
    assert awaited(lambda: ask(service), lambda answer: answer.status_code == 200)


def test_stop_leaves_no_process_and_no_socket(tiny_models, python):
    service = served(tiny_models, python)
    process = server_of(service)
    place = Path(process.cmdline()[process.cmdline().index("--uds") + 1]).parent
    started = family([service.pid])
    service.stop()
    assert until(lambda: all(map(gone, started)))
    assert until(lambda: not place.exists())


def test_kill_9_of_the_front_ends_the_server_too(tiny_models, python):
    service = served(tiny_models, python)
    process = server_of(service)
    os.kill(service.pid, signal.SIGKILL)
    assert until(lambda: gone(process.pid))


def test_a_server_that_does_not_start_says_why(tiny_models, python):
    with pytest.raises(Lacking) as caught:
        served(tiny_models, python, engine_args=("--seed", "4"))
    assert "no such seed" in (caught.value.why or "")


def test_wrong_args_are_refused_before_anything_starts(tiny_models, python):
    with pytest.raises(WrongUse, match="steelyard's own"):
        served(tiny_models, python, engine_args=("--trust-remote-code",))
    with pytest.raises(WrongUse, match="all devices"):
        served(tiny_models, python, replicas=2)
