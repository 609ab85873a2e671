"""What `trust explain` says of each hop, beside what lies there; and the path of `sealed`, rehearsed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard import run
from steelyard.artefact import Scratch, Store, adopt
from steelyard.errors import CheckFailed, Problem, Refused, WrongUse
from steelyard.recipe import load
from steelyard.run.planning.checks import check_all_known, check_vouched, tls_settings
from steelyard.trust import REHEARSED, append_log, load_keys, make_signing_keys, sign_model

sys.path.append(str(Path(__file__).parents[1] / "serving"))  # its engine that computes nothing
CANARY = b"zqcanaryzq"
ROOT = Path(__file__).resolve().parents[2]


def recipe_at(folder: Path, level: str, **serve: object):
    (folder / "rows.jsonl").write_text("")
    text = {"name": "r", "model": "demo", "data": [{"path": "rows.jsonl", "ability": "a"}], "serve": serve}
    level_of_file = "sealed" if level == REHEARSED else level
    (folder / "r.yaml").write_text(json.dumps(text | {"trust": level_of_file}))
    read = load(folder / "r.yaml")
    return run.rehearsed(read) if level == REHEARSED else read


def told(hops) -> dict[str, run.Hop]:
    return {f"{one.hop}: {one.what}": one for one in hops}


def plain(folder: Path) -> bool:
    return any(CANARY in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("level", ["open", "guarded", REHEARSED])
def test_what_is_explained_is_what_lies_there(level, home):
    keys = load_keys(level, "key", home)
    rows = told(run.explain(recipe_at(home, level)))
    store = Store(home / "artefacts", keys)
    draft = store.draft("dataset", "k", "clean", {"note": CANARY.decode()}, {})
    (draft.folder / "rows").write_bytes(CANARY)
    made = store.publish(draft, {}, {})
    assert plain(store.folder) is not rows["artefact: payload and manifest"].protected
    assert made.manifest["seal"] == (rows["artefact: payload and manifest"].by or None)
    (home / "source").write_bytes(CANARY)
    Scratch(home / "scratch", keys).write("point", home / "source")
    assert plain(home / "scratch") is not rows["checkpoint: resume points"].protected
    (home / "logs").mkdir()
    append_log(home / "logs" / "log", CANARY.decode(), keys)
    assert plain(home / "logs") is not rows["log: log of the run and of its service"].protected


@pytest.mark.parametrize("level", ["open", "guarded", REHEARSED])
def test_what_is_explained_of_a_service_is_what_it_does(level, tiny_models, home, monkeypatch):
    from faking import faked

    monkeypatch.setenv("STEELYARD_KEY_FILE", str(home / "key"))
    rows = told(run.explain(recipe_at(home, level)))

    async def main() -> None:
        async with faked(tiny_models("llama"), trust=level) as service:
            await service.upload(CANARY, purpose="user_data")
            assert plain(home / "state") is not rows["service: files, batches and their results"].protected
            asked = {"model": "tiny", "input": "x", "max_output_tokens": 2}
            made = await service.json("POST", "responses", json=asked)
            assert made["store"] is (level != REHEARSED)
            if level == REHEARSED:
                for more in ({"store": True}, {"background": True}):
                    said = await service.json("POST", "responses", status=400, json=asked | more)
                    assert said["error"]["code"] == "refused_at_sealed"
                assert rows["service: responses"].by == "none is kept: store is refused"

    asyncio.run(main())


def test_every_word_of_an_explanation_is_chinese_too(home):
    texts = json.loads((ROOT / "src/steelyard/cli/zh.json").read_text("utf-8"))["texts"]
    source = (ROOT / "src/steelyard/run/service/protection.py").read_text("utf-8")
    said = {text for level in ("open", "guarded", REHEARSED) for serve in ({}, {"tls": "auto"})
            for one in run.explain(recipe_at(home, level, **serve))
            for text in (one.hop, one.what, one.by, one.left)}  # fmt: skip
    said |= {s for s in re.findall(r'"([a-z][^"{]* [^"{]*)"', source) if "\n" not in s}
    assert sorted(s for s in said if s and "SYSEAL1" not in s and s not in texts) == []


def test_the_line_follows_the_recipe(home):
    lone, served = (told(run.explain(recipe_at(home, "guarded", **s))) for s in ({}, {"tls": "auto"}))
    assert [rows["client: requests and answers"].protected for rows in (lone, served)] == [False, True]
    assert told(run.explain(recipe_at(home, REHEARSED)))[
        "wire: loopback: the gate and its services"
    ].protected
    (home / "rows.jsonl").chmod(0o600)
    assert told(run.explain(load(home / "r.yaml")))["file: data files"].by == "only their owner may read them"
    assert run.refusal(load(home / "r.yaml")) and run.refusal(recipe_at(home, "guarded")) is None


# ------------------------------------------------------------------ core dumps

CRASH = """
import os, resource, sys
from pathlib import Path
from steelyard.trust import load_keys
load_keys(sys.argv[1], "key", Path("."))
print(resource.getrlimit(resource.RLIMIT_CORE)[0])
sys.stdout.flush()
if os.fork() == 0:
    os.abort()
os.wait()
os.abort()
"""


@pytest.mark.parametrize("level", ["open", "guarded"])
def test_whoever_holds_keys_leaves_no_core_dump_nor_do_its_children(level, tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard != resource.RLIM_INFINITY:
        pytest.skip("no core dump is allowed here at all")
    most = (hard, hard)
    ended = subprocess.run(
        [sys.executable, "-c", CRASH, level], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, most),
    )  # fmt: skip
    assert ended.returncode == -6, ended.stderr
    assert ended.stdout.strip() == ("-1" if level == "open" else "1")
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() == "core":
        assert any(tmp_path.glob("core*")) is (level == "open")


# ------------------------------------------------------------------ a rehearsal


def test_only_sealed_is_rehearsed_and_never_in_production(home, monkeypatch):
    with pytest.raises(WrongUse) as wrong:
        run.up(recipe_at(home, "guarded"), rehearse=True)
    assert wrong.value.code == "trust.rehearse"
    with pytest.raises(Refused) as refused:
        run.up(recipe_at(home, "sealed"))
    assert refused.value.code == "trust.no_tee"
    sealed = recipe_at(home, "sealed")
    monkeypatch.setenv("STEELYARD_ENV", "production")
    with pytest.raises(Refused) as refused:
        run.up(sealed, rehearse=True)
    assert refused.value.code == "trust.simulated" and not (home / "runs").exists()
    with pytest.raises(Refused):
        load_keys(REHEARSED, "key", home)


def test_a_recipe_cannot_ask_for_a_rehearsal(home):
    (home / "r.yaml").write_text("name: r\nmodel: demo\ntrain: []\ntrust: rehearsed\n")
    with pytest.raises(WrongUse):
        load(home / "r.yaml")


def test_a_base_that_the_scan_does_not_know_is_refused_where_sealed(home):
    (home / "base").mkdir()
    (home / "base" / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    sealed = recipe_at(home, REHEARSED)
    verdicts = {one.verdict for one in __import__("steelyard.trust", fromlist=["scan"]).scan(home / "base")}
    if "unknown" in verdicts:
        with pytest.raises(CheckFailed) as refused:
            check_all_known(sealed, home / "base")
        assert refused.value.code == "scan.unknown"
    check_all_known(replace(sealed, trust=replace(sealed.trust, level="guarded")), home / "base")


def test_a_sealed_base_is_signed_or_pinned(home):
    base = home / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    signer = make_signing_keys(home / "publisher.key")

    def checked(level, **trust):
        sealed = recipe_at(home, REHEARSED)
        check_vouched(replace(sealed, trust=replace(sealed.trust, level=level, **trust)), base)

    with pytest.raises(Refused) as refused:
        checked("sealed")
    found = adopt(base).hash
    assert refused.value.code == "trust.base_unvouched" and found in refused.value.hint
    for level in ("sealed", REHEARSED, "guarded"):
        checked(level, base_sha256=("0" * 64, found))
        with pytest.raises(CheckFailed) as changed:
            checked(level, base_sha256=("0" * 64,))
        assert changed.value.code == "trust.base_changed"
    for name in (".cache/huggingface/download/config.json.metadata", ".git/HEAD", ".gitattributes"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("fetched at another time")
        checked("sealed", base_sha256=(found,))
    (base / ".more.safetensors").write_text("read as weights where no index is")
    with pytest.raises(CheckFailed):
        checked("sealed", base_sha256=(found,))
    (base / ".more.safetensors").unlink()
    checked("guarded")
    public = ("publisher.pub",)
    with pytest.raises(CheckFailed):
        checked("sealed", base_signers=public)
    sign_model(base, signer)
    checked("sealed", base_signers=public)
    (base / "config.json").write_text("{} ")
    os.utime(base / "config.json", ns=(1, 1))
    with pytest.raises(CheckFailed):
        checked("guarded", base_signers=public)


@pytest.mark.timeout(600)
def test_a_rehearsal_says_simulated_everywhere_and_no_service_speaks_plain(judged, up):
    urls: list[str] = []
    judged.ask = urls.append
    with pytest.raises(Refused, match="nobody vouches") as unpinned:
        run.up(load(up.job.recipe, ["trust=sealed"]), keep=False, rehearse=True)
    found = re.search("[0-9a-f]{64}", unpinned.value.hint)[0]
    sealed = [f"trust={{level: sealed, base_sha256: [{found}]}}"]
    outcome = run.up(load(up.job.recipe, sealed), keep=False, rehearse=True)
    assert outcome.as_json()["trust"] == "SIMULATED"
    assert [url.split(":")[0] for url in (*urls, outcome.service["url"])] == ["https", "https"]
    place = up.job.workdir
    assert json.loads((place / "plan.json").read_text())["trust"] == "SIMULATED"
    assert "SIMULATED" in (place / "report.html").read_text()
    keys = load_keys(REHEARSED, os.environ["STEELYARD_KEY_FILE"], place)
    made = Store(place / "artefacts", keys).all()
    assert made and all(one.manifest["seal"].startswith("SIMULATED") for one in made)
    from steelyard.trust import read_log

    for log in (place / "log.jsonl", place / "service" / "log.jsonl"):
        lines = [json.loads(line) for line in read_log(log, keys)]
        assert lines and all(line["trust"] == "SIMULATED" for line in lines), log
    assert tls_settings(run.rehearsed(load(up.job.recipe, ["trust=sealed"])))["tls_cert"] == "auto"


def test_a_plan_opens_nothing_and_stays_where_it_is(home, monkeypatch):
    monkeypatch.setenv("STEELYARD_KEY_FILE", str(home / "key"))
    here = os.readlink("/proc/self/ns/mnt")
    guarded = recipe_at(home, "guarded")
    monkeypatch.setattr("steelyard.run.start.prepare", out_of_it)  # what it asks of models and rows is slow
    for ask in (run.plan, lambda recipe: run.up(recipe, until="plan")):
        with pytest.raises(Problem, match="begun"):
            ask(guarded)
    assert os.readlink("/proc/self/ns/mnt") == here


def out_of_it(*_: object) -> None:
    raise Problem("run.stopped", "a plan has begun", hint="")
