"""`steelyard gc`: what nothing refers to goes, what a run, a lock or a live process uses stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from steelyard.artefact import Artefact, Watch
from steelyard.errors import WrongUse
from steelyard.recipe import load
from steelyard.run import collect
from steelyard.run.known import remember
from steelyard.run.record.promotions import promotion, write_promotions
from steelyard.run.record.workdir import Workdir, locked


@pytest.fixture
def place(home) -> Workdir:
    """A work folder that the registry knows."""
    folder = home / "runs" / "desk"
    folder.mkdir(parents=True)
    (home / "recipe.yaml").write_text("name: desk\nmodel: demo\ntrain: []\n")
    place = Workdir(folder)
    remember(place, "20261129-1", load(home / "recipe.yaml", []), Watch())
    return place


def publish(place: Workdir, kind: str, key: str, size: int = 1000) -> Artefact:
    draft = place.store.draft(kind, key * 64, kind, {}, {})
    (draft.folder / "payload").write_bytes(os.urandom(size))
    return place.store.publish(draft, {}, {})


def refers(place: Workdir, *artefacts: Artefact, **more: Any) -> None:
    names = [a.folder.name for a in artefacts]
    entry = {"run": "r", "base": "b", "artefacts": names, "cached": []} | more
    place.refers.write_text(json.dumps(entry))


def removed(found: dict[str, Any]) -> set[str]:
    return {Path(w["path"]).name for w in found["removed"]}


def test_what_the_last_run_does_not_refer_to_goes(place):
    kept, refusal, old = (
        publish(place, k, n) for k, n in (("checkpoint", "a"), ("refusal", "b"), ("verdict", "c"))
    )
    merged = publish(place, "checkpoint", "d", 50_000)
    store = place.folder / "artefacts"
    for name in (
        ".damaged-checkpoint-1-2",
        ".draft-verdict-x",
        ".scratch-checkpoint-gone",
        ".scratch-checkpoint-on",
    ):
        (store / name).mkdir()
        (store / name / "state").write_bytes(b"12345")
    refers(place, kept, refusal)
    run = json.loads(place.refers.read_text())
    place.refers.write_text(json.dumps(run | {"artefacts": [*run["artefacts"], ".scratch-checkpoint-on"]}))
    before = sorted(p.name for p in store.iterdir())
    shown = collect(dry_run=True)
    assert sorted(p.name for p in store.iterdir()) == before and shown["dry_run"]
    found = collect()
    assert found["removed"] == shown["removed"] and found["bytes"] == shown["bytes"]
    gone = {
        merged.folder.name,
        old.folder.name,
        ".damaged-checkpoint-1-2",
        ".draft-verdict-x",
        ".scratch-checkpoint-gone",
    }
    assert removed(found) == gone
    assert {p.name for p in store.iterdir()} == set(before) - gone
    assert found["removed"][0]["path"] == str(merged.folder), "the largest stands first"
    sizes = {Path(w["path"]).name: w["bytes"] for w in found["removed"]}
    assert sizes[".draft-verdict-x"] == 5 and sizes[merged.folder.name] > 50_000
    assert found["bytes"] == sum(sizes.values())
    kept.check()
    assert collect()["removed"] == [] and collect()["bytes"] == 0


def test_a_folder_in_which_no_run_said_what_it_needs_is_left_alone(place):
    artefact = publish(place, "checkpoint", "a")
    for content in (None, "{half", "[]", "{}"):
        if content is not None:
            place.refers.write_text(content)
        found = collect()
        assert found["removed"] == [] and artefact.folder.is_dir()
        assert any(s["path"] == str(place.folder) for s in found["spared"])


def test_a_locked_folder_is_left_alone(place):
    artefact = publish(place, "checkpoint", "a")
    refers(place)
    script = (
        "import sys, time; from pathlib import Path\n"
        "from steelyard.run.record.workdir import Workdir, locked\n"
        "with locked(Workdir(Path(sys.argv[1]))):\n    print('held', flush=True); time.sleep(60)\n"
    )
    with running(script, str(place.folder)) as holder:
        for dry_run in (True, False):
            found = collect(dry_run=dry_run)
            assert found["removed"] == [] and artefact.folder.is_dir()
            assert str(holder.pid) in found["spared"][0]["why"]
    assert removed(collect()) == {artefact.folder.name}


@contextmanager
def running(script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


HOLDS = {
    "its folder": "fd = os.open(folder, os.O_RDONLY)",
    "a file of it": "fd = open(folder + '/payload', 'rb')",
    "a mapped file": "f = open(folder + '/payload', 'r+b'); fd = mmap.mmap(f.fileno(), 0); f.close()",
    "its name": "fd = None",
}


@pytest.mark.parametrize("how", HOLDS)
def test_what_a_live_process_has_open_is_left_alone(place, how):
    served, old = publish(place, "compressed", "a"), publish(place, "compressed", "b")
    refers(place)
    script = f"import mmap, os, sys, time; folder = sys.argv[1]; {HOLDS[how]}\n"
    script += "print('held', flush=True); time.sleep(60)"
    with running(script, str(served.folder)):
        found = collect()
        assert removed(found) == {old.folder.name} and served.folder.is_dir()
        assert [s["path"] for s in found["spared"]] == [str(served.folder)]
    assert removed(collect()) == {served.folder.name}


def test_the_artefact_of_a_live_service_is_left_alone(place):
    """The service of an earlier run lives on after a later run has failed."""
    import psutil

    served, old = publish(place, "compressed", "a"), publish(place, "compressed", "b")
    refers(place)
    place.service.mkdir()
    with running("print('up', flush=True); import time; time.sleep(60)") as process:
        started = psutil.Process(process.pid).create_time()
        state = {"url": "http://127.0.0.1:1", "pid": process.pid, "control": "x", "started_at": started}
        (place.service / "service.json").write_text(json.dumps(state | {"fingerprint": served.hash}))
        assert removed(collect()) == {old.folder.name}
    assert removed(collect()) == {served.folder.name}


def test_of_the_cache_only_engines_copies_that_no_run_needs(home, place):
    cache = home / "cache"
    for name in (
        "served/ir-needed",
        "served/ir-old",
        "converted/old",
        "counts",
        "models/org/name",
        "served/.part-new",
    ):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_bytes(b"123")
    refers(place, cached=["ir-needed"])
    found = collect()
    assert removed(found) == {"ir-old", "old"} and found["bytes"] == 6
    assert (cache / "served" / "ir-needed").is_dir() and (cache / "served" / ".part-new").is_dir()
    assert (cache / "counts" / "file").exists() and (cache / "models" / "org" / "name").is_dir()
    os.utime(cache / "served" / ".part-new", (1, 1))
    assert removed(collect()) == {".part-new"}


def test_one_folder_alone(home, place):
    (home / "cache" / "served" / "ir-old").mkdir(parents=True)
    artefact = publish(place, "checkpoint", "a")
    refers(place)
    assert removed(collect(workdir=place.folder)) == {artefact.folder.name}
    assert (home / "cache" / "served" / "ir-old").is_dir()
    with pytest.raises(WrongUse, match="there is no folder"):
        collect(workdir=home / "nowhere")


def test_the_command(place):
    artefact = publish(place, "checkpoint", "a")
    refers(place)
    command = [sys.executable, "-m", "steelyard", "gc"]

    def gc(*words: str) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = gc("--dry-run")
    assert str(artefact.folder) in text and "would be freed" in text and artefact.folder.is_dir()
    found = json.loads(gc("--json"))
    assert found["schema"] == "steelyard.gc/1" and removed(found) == {artefact.folder.name}
    assert not artefact.folder.exists()


def test_after_gc_a_run_reuses_all(judged, up: Callable[..., Any]):
    first = up(["seed=1"])
    second = up(["seed=2"])
    names = {Path(s.artefact).name for s in second.steps}
    with locked(Workdir(Path(second.workdir))):
        assert collect(workdir=Path(second.workdir))["removed"] == []
    found = collect(workdir=Path(second.workdir))
    assert removed(found) >= {Path(first.record("train").artefact).name} and not removed(found) & names
    again = up(["seed=2"])
    assert [s.state for s in again.steps] == ["reused"] * 4 + ["done"]


@pytest.mark.parametrize("noted", [True, False])
def test_the_verdict_on_a_model_to_go_back_to_stays(place, noted):
    model = publish(place, "compressed", "a")
    verdict, other = (publish(place, "verdict", key) for key in "bc")
    refers(place)
    settings = {"host": "127.0.0.1", "api_key": None}
    folder = verdict.folder.name if noted else None
    of = {"hash": model.hash, "folder": model.folder.name, "host": "127.0.0.1", "port": 1}
    write_promotions(place, [promotion(settings, **of, verdict=verdict.hash, verdict_folder=folder)])
    assert removed(collect(workdir=place.folder)) == {other.folder.name}
    assert verdict.folder.is_dir()
