"""The real command line: exit codes, the shape of errors, what stands on which stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from steelyard.artefact import Store

USAGE = [
    # words, exit code, code, part of message or hint
    (["nonsense"], 2, "cli.usage", "see steelyard --help"),
    (["vlidate"], 2, "cli.usage", "validate"),
    (["up", "--nonsense"], 2, "cli.usage", "--nonsense"),
    (["up", "--until", "nowhere", "r.yaml"], 2, "cli.usage", "nowhere"),
    (["up", "missing.yaml"], 2, "recipe.missing", "steelyard init"),
    (["validate"], 2, "recipe.missing", "steelyard.yaml"),
    (["validate", "missing.csv"], 2, "results.missing", "missing.csv"),
    (["validate", "--lang", "fr"], 2, "cli.usage", "fr"),
    (["validate", "--set"], 2, "cli.usage", "--set wants a value"),
    (["hardware", "--set", "seed=1"], 2, "cli.usage", "no recipe"),
    (["hardware", "xeon-838"], 2, "device.unknown", "xeon-8380"),
    (["plan", "--model", "llama-3-8b", "--tokens", "many"], 2, "cli.usage", "many"),
    (["plan", "--model", "llama-3-8b", "--job", "dance"], 2, "cli.usage", "dance"),
    (["up", "{recipe}"], 2, "cli.yes", "--yes"),
    (["up", "{recipe}", "--yes", "--set", "serve.api_key=env:NO_KEY"], 2, "serve.key_unset", "NO_KEY"),
    (["run", "serve"], 2, "cli.usage", "run does not serve"),
    (["serve", "demo", "--port", "high"], 2, "cli.usage", "--port"),
    (["serve", "demo", "--speculative", "magic"], 2, "cli.usage", "--speculative"),
    (["serve", "demo", "--speculative", "draft"], 2, "serve.speculative", "--draft"),
    (["serve", "demo", "--adapter", "no-folder"], 2, "cli.usage", "--adapter"),
    (["serve", "demo", "--keys", "no/such-file"], 2, "serve.keys", "no/such-file"),
    (["serve", "demo", "--host", "0.0.0.0"], 3, "serve.no_key", "--api-key"),
    (["serve", "no/such-model"], 2, "model.unknown", "no/such-model"),
    (["gate", "demo", "localhost:1"], 2, "cli.usage", "http://"),
    (["eval", "http://127.0.0.1:9", "--tasks", "none.jsonl"], 2, "gate.tasks_unreadable", "JSON"),
    (["eval", "demo", "--tasks", "t", "--metric", "people"], 2, "cli.not_yet", "people"),
    (["eval", "demo", "--tasks", "t", "--metric", "judge"], 2, "cli.usage", "--judge http"),
    (["chat", "http://127.0.0.1:9", "hello"], 5, "chat.no_answer", "127.0.0.1:9"),
    (["chat"], 2, "chat.empty", "prompt"),
    (["scan", "nothing"], 2, "scan.missing", "nothing"),
    (["export", "demo", "--to", "gguf", "--output", "x"], 4, "export.unproven", "--unproven"),
    (["export", "demo", "--to", "wav", "--output", "x"], 2, "cli.usage", "hf | gguf"),
    (["pull", "org/name", "--offline"], 2, "cli.offline", "DIR"),
    (["pull", "org/name"], 2, "cli.offline", "DIR"),  # HF_HUB_OFFLINE: conftest.py
    (["init", "x", "--data", "none.csv"], 2, "init.no_data", "none.csv"),
    (["data", "pictures", "--nonsense"], 2, "cli.usage", "see steelyard data pictures --help"),
    (["data", "nonsense"], 2, "cli.usage", "see steelyard data --help"),
    (["stop", "nothing"], 2, "run.unknown", "nothing"),
]


@pytest.mark.parametrize(("words", "exit_code", "code", "part"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_an_error_is_one_document(steelyard, tmp_path, words, exit_code, code, part) -> None:
    (tmp_path / "r.yaml").write_text("model: demo\ntrain: []\n")
    done = steelyard(*(word.replace("{recipe}", "r.yaml") for word in words), "--json")
    assert done.returncode == exit_code, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert set(error) == {"code", "message", "where", "why", "hint"}
    assert set(error["where"]) == {"file", "line", "field"}
    assert error["message"] and error["hint"]
    assert part in error["message"] + error["hint"]


def test_an_error_for_people_is_on_stderr(steelyard, tmp_path) -> None:
    (tmp_path / "r.yaml").write_text("model: demo\ntrian: []\n")
    done = steelyard("validate", "r.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: unknown key trian at the top of a recipe   [recipe.unknown_key]",
        "  at: r.yaml:2, trian",
        "  fix: did you mean train?",
    ]


def test_the_same_in_chinese(steelyard, tmp_path) -> None:
    (tmp_path / "r.yaml").write_text("model: demo\ntrian: []\n")
    for done in (
        steelyard("validate", "r.yaml", "--lang", "zh"),
        steelyard("validate", "r.yaml", env={"STEELYARD_LANG": "zh"}),
        steelyard("validate", "r.yaml", env={"LANG": "zh_CN.UTF-8"}),
    ):
        assert done.stderr.startswith("错误： 配方中有未知的字段   [recipe.unknown_key]")
        assert "位置： r.yaml:2, trian" in done.stderr


def test_help_is_for_every_verb_in_both_languages(steelyard) -> None:
    done = steelyard("--help")
    assert done.returncode == 0 and "up " in done.stdout
    assert "--json" in done.stdout
    zh = steelyard("up", "--help", "--lang", "zh").stdout
    assert "计划、询问、逐步执行、提供服务。" in zh
    assert steelyard().stdout == done.stdout


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from steelyard.cli.main import run\n"
        "run(['--help'])\n"
        "heavy = ('pydantic', 'numpy', 'httpx', 'cryptography', 'torch', 'pyarrow', 'ruamel.yaml',\n"
        "         'steelyard.recipe', 'steelyard.planner', 'steelyard.run', 'steelyard.serving')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_version(steelyard) -> None:
    assert steelyard("--version").stdout.startswith("steelyard ")


def test_a_bug_is_short_and_leaves_a_trace(tmp_path, monkeypatch, capsys) -> None:
    from steelyard.cli import main

    def broken(arguments: list[str]) -> int:
        secret = "row of a user"
        raise ZeroDivisionError(secret)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys.modules["steelyard.cli.main"], "_verb", broken)
    with pytest.raises(SystemExit) as left:
        main(["status"])
    told = capsys.readouterr().err
    assert left.value.code == 1
    assert "this is a bug in steelyard: ZeroDivisionError   [internal.bug]" in told
    log = (tmp_path / "steelyard" / "errors.log").read_text()
    assert "in broken" in log and "row of a user" not in log + told


def test_interrupted_tells_how_to_go_on(monkeypatch, capsys) -> None:
    from steelyard.cli import main

    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["steelyard.cli.main"], "_verb", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["up", "--json"])
    assert left.value.code == 6
    error = json.loads(capsys.readouterr().out)["error"]
    assert "run the same command again" in error["hint"]


def test_ctrl_c_within_a_verb_is_told_too(tmp_path) -> None:
    """A table that never comes: the verb waits for it until the signal."""
    os.mkfifo(tmp_path / "rows.csv")
    words = [sys.executable, "-m", "steelyard", "validate", str(tmp_path / "rows.csv")]
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    with opened_for(running, tmp_path / "rows.csv"):
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 6
    assert "[run.interrupted]" in told and "Traceback" not in told


def opened_for(reader, fifo):
    """Its writing end once `reader` reads: a plain open waits for ever where the reader has died."""
    end = time.monotonic() + 60
    while reader.poll() is None and time.monotonic() < end:
        with suppress(OSError):
            return os.fdopen(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "w")
        time.sleep(0.05)
    reader.kill()
    raise AssertionError(reader.communicate())


def test_a_closed_pipe_is_no_error(steelyard, tmp_path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m steelyard hardware | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["hardware --json", "hardware"])
def test_a_full_disk_under_the_answer_is_said(words) -> None:
    done = subprocess.run(
        f"{sys.executable} -m steelyard {words} > /dev/full",
        shell=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 5
    assert "[disk.full]" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("folder", ["/proc/x", "/proc/1/x", "steelyard.yaml/below"])
def test_a_folder_that_cannot_be_made_is_a_clear_error(steelyard, tmp_path, folder: str) -> None:
    (tmp_path / "steelyard.yaml").write_text("model: demo\ntrain: []\n")
    done = steelyard("up", "--yes", "--workdir", folder, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], error["where"]["field"]) == (2, "run.workdir", "--workdir")
    assert error["why"] and error["hint"]


def test_export_takes_a_run(steelyard, tmp_path) -> None:
    free = ("--unproven", "--rows", "0")
    (tmp_path / "run" / "artefacts").mkdir(parents=True)
    done = steelyard("export", "run", "--to", "hf", "--output", "out", "--json", *free)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "export.not_trained") and "--until train" in error["hint"]
    store = Store(tmp_path / "run" / "artefacts")
    draft = store.draft("checkpoint", "k" * 64, "train", {}, {})
    (draft.folder / "config.json").write_text("{}")
    tuned = store.publish(draft, {}, {})
    done = steelyard("export", "run", "--to", "hf", "--output", "out", "--json", *free)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "config.json").exists() and not (tmp_path / "out" / "manifest.json").exists()
    (tuned.folder / "config.json").write_text("[]")
    done = steelyard("export", "run", "--to", "hf", "--output", "again", "--json", *free)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (4, "artefact.changed")
    assert not (tmp_path / "again").exists(), "what was changed since it was published is not copied out"


def test_a_folder_of_that_name_hides_no_run(steelyard, tmp_path) -> None:
    (tmp_path / "demo").mkdir()
    done = steelyard("report", "demo", "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["code"] == "report.no_run" and "known runs" in error["hint"]
