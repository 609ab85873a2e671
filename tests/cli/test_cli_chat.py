"""chat as a user types it, to a real server that writes down what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.main import run as command
from steelyard.cli.telling import options
from steelyard.cli.verbs import chat as verb
from steelyard.run.usual import usual_in

PIECES = ("Hel", "lo")


class Recorder(BaseHTTPRequestHandler):
    """Streams "Hello"; refuses whoever has not the key, where there is one."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body | {"key": self.headers.get("authorization")})
        key = self.server.key
        if key and self.headers.get("authorization") != f"Bearer {key}":
            return self._send(401, json.dumps({"error": {"message": "a key is needed"}}).encode())
        lines = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in PIECES]
        self._send(200, "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]")).encode())
        return None

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.asked, server.key = [], None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def talk(server, monkeypatch, capsys, tmp_path):
    """Lines typed into `steelyard chat URL ...`: exit code, output, what the server was asked."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("STEELYARD_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    url = f"http://127.0.0.1:{server.server_address[1]}"

    def run(*words: str, typed: tuple[str, ...] = (), piped: str | None = None) -> tuple[int, str, str]:
        lines = iter(typed)
        monkeypatch.setattr("builtins.input", lambda prompt: next(lines, ""))
        monkeypatch.setattr("sys.stdin", Stdin(piped))
        monkeypatch.setattr(options.OPTIONS, "quiet", False)
        code = command(["chat", url, *words])
        return code, *capsys.readouterr()

    run.url = url
    return run


class Stdin:
    def __init__(self, piped: str | None) -> None:
        self.piped = piped

    def isatty(self) -> bool:
        return self.piped is None

    def read(self) -> str:
        return self.piped or ""


def test_a_talk_keeps_what_was_said_and_sends_no_temperature(talk, server) -> None:
    code, out, _ = talk(typed=("hi", "and?"))
    assert code == 0 and out.splitlines() == ["Hello", "Hello"]
    first, second = server.asked
    assert "temperature" not in first and first["max_tokens"] == 512
    assert [m["content"] for m in second["messages"]] == ["hi", "Hello", "and?"]


@pytest.mark.parametrize("word", ["/bye", "/exit", ""])
def test_commands_are_not_sent_to_the_model(talk, server, word: str) -> None:
    code, _, err = talk(typed=("/help", "/what", word, "never asked"))
    assert code == 0 and server.asked == []
    assert "/bye" in err and "there is no /what" in err and "/temperature" in err


def test_flags_reach_the_request(talk, server) -> None:
    server.key = "s3cret"
    code, out, _ = talk("--temperature", "0.3", "--max-tokens", "7", "--api-key", "s3cret", "--system", "Ops",
                        "restart it")  # fmt: skip
    (asked,) = server.asked
    assert (code, out, asked["temperature"], asked["max_tokens"]) == (0, "Hello\n", 0.3, 7)
    assert asked["messages"][0] == {"role": "system", "content": "Ops"} and asked["key"] == "Bearer s3cret"


def test_without_its_key_the_way_out_works(talk, server) -> None:
    server.key = "s3cret"
    code, _, err = talk("hello")
    assert code == 2 and "--api-key KEY" in err
    code, _, err = talk(typed=("hello", "/bye"))
    assert code == 0 and "--api-key KEY" in err  # a talk goes on after an error


def test_standard_input_is_one_question(talk, server) -> None:
    code, out, _ = talk("sum up:", piped="a long text\n")
    assert (code, out) == (0, "Hello\n")
    assert server.asked[0]["messages"][-1]["content"] == "sum up:\n\na long text"
    assert talk(piped="")[0] == 2


def test_temperature_and_clear_within_a_talk(talk, server) -> None:
    _, _, err = talk(typed=("/temperature 0.7", "hi", "/temperature warm", "/clear", "again"))
    assert [a["temperature"] for a in server.asked] == [0.7, 0.7] and "from 0 to 2" in err
    assert len(server.asked[1]["messages"]) == 1


def rows_of_a_run(folder: Path, *systems: str | None) -> Path:
    """A run's folder whose data set has these system prompts."""
    dataset = folder / "artefacts" / "dataset-1"
    dataset.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for system in systems:
        first = [{"role": "system", "content": system}] if system else []
        rows.append(
            {"messages": [*first, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
        )
    (dataset / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_datas_system_prompts_by_how_often_they_stand(tmp_path: Path) -> None:
    folder = rows_of_a_run(tmp_path / "run", "Ops", "Support", "Support", None)
    assert usual_in(folder) == ["Support", "Ops"]
    (folder / "artefacts" / "checkpoint-1").mkdir()
    (folder / "artefacts" / "checkpoint-1" / "manifest.json").write_text("{}")
    assert usual_in(folder / "artefacts" / "checkpoint-1") == ["Support", "Ops"]
    assert usual_in(tmp_path / "nowhere") == [] and usual_in(rows_of_a_run(tmp_path / "bare", None)) == []


def test_a_talk_begins_with_the_usual_system_prompt(talk, server, monkeypatch, tmp_path) -> None:
    folder = rows_of_a_run(tmp_path / "run", "Support", "Support", "Ops")
    monkeypatch.setattr("steelyard.run.usual._folder_of", lambda url: folder if url == talk.url else None)
    _, _, err = talk(typed=("hi", "/system 2", "hi", "/system Be brief.", "hi", "/system"))
    assert [a["messages"][0]["content"] for a in server.asked] == ["Support", "Ops", "Be brief."]
    assert "Support  (of the data" in err and "2  Ops" in err
    talk("--system", "", "hi")
    assert server.asked[-1]["messages"][0]["role"] == "user"


def test_every_command_is_in_the_help() -> None:
    assert {name.split()[0] for name, _ in verb.HELP} >= {
        "/help",
        "/bye",
        "/system",
        "/temperature",
        "/clear",
    }
