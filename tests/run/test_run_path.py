"""The whole path through the command line: to a live service, again, interrupted, killed, offline, sealed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

STEPS = ["clean", "train", "compress", "gate", "serve"]
PAYLOADS = ("dataset", "checkpoint", "compressed")


def tuning_of_its_own_model(url):
    """A job that begins from what the run has served, cancelled at once: its status."""
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows = ("rows.jsonl", "".join(json.dumps(row) + "\n" for _ in range(20)))
    file = httpx.post(
        f"{url}/v1/files", files={"file": rows}, data={"purpose": "fine-tune"}, timeout=30
    ).json()
    asked = {"model": "default", "training_file": file["id"]}
    job = httpx.post(f"{url}/v1/fine_tuning/jobs", json=asked, timeout=30)
    assert job.status_code == 200, job.text
    return httpx.post(f"{url}/v1/fine_tuning/jobs/{job.json()['id']}/cancel", timeout=60).json()["status"]


def audited(job, tmp_path: Path):
    """The same job with its acts written into a log of its own, and receipts of its answers."""
    signed = {
        "STEELYARD_AUDIT": str(tmp_path / "audit"),
        "STEELYARD_SIGNING_KEY": str(tmp_path / "signing-key"),
    }
    text = job.recipe.read_text(encoding="utf-8")
    job.recipe.write_text(text.replace("serve: {", "serve: {receipts: true, "), encoding="utf-8")
    return replace(job, env={**job.env, **signed})


def check_receipt(job, url: str, steps: list[dict]) -> None:
    """Of an answer of the service: it names the model that was served and the gate's verdict on it."""
    body = {"model": "default", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 4}
    wants = {"x-steelyard-receipt": "yes"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=wants, timeout=30)
    files = {"request": answer.request.content, "answer": answer.content}
    files["receipt"] = answer.headers["x-steelyard-receipt"].encode()
    for name, data in files.items():
        (job.folder / name).write_bytes(data)
    words = [str(job.folder / name) for name in files]
    checked = job.run("audit", "answer", words[2], "--request", words[0], "--answer", words[1])
    assert checked.returncode == 0, checked.stdout
    receipt = json.loads(checked.stdout)["receipt"]
    assert receipt["model"] == steps[2]["hash"]
    assert receipt["gate"] == {"verdict": "passed", "hash": steps[3]["hash"]}


ACTS = [
    *("gate.judged", "service.started", "service.promoted"),
    *("tuning.created", "tuning.ended"),
    "key.made",  # which a receipt is signed with
    *("service.started", "service.promoted", "service.stopped"),  # again: then the older one ends
    *("service.started", "service.promoted"),  # after a kill, which leaves no word
    "service.stopped",
]


def check_acts(job, steps: list[dict]) -> None:
    lines = json.loads(job.run("audit", "show").stdout)["lines"]
    assert [line["act"] for line in lines] == ACTS
    assert {line["artefact"] for line in lines if "artefact" in line} == {steps[2]["hash"]}
    verified = job.run("audit", "verify")
    assert verified.returncode == 0 and json.loads(verified.stdout)["lines"] == len(ACTS)


def test_from_recipe_to_live_service_and_again(make_job, tmp_path):
    job = audited(make_job(), tmp_path)
    done = job.up()
    try:
        assert [s["step"] for s in done["steps"]] == STEPS
        assert {s["state"] for s in done["steps"]} == {"done"}
        for step in done["steps"]:
            assert {"wall_s", "peak_rss_bytes"} <= set(step["predicted"]) & set(step["measured"])
        assert set(done["scores"]) == {"base", "tuned", "served"}
        assert done["gate"]["verdict"] == "passed"
        rows = done["rows"]
        assert rows["read"] == rows["kept"] + sum(rows["dropped"].values()) == 300
        assert rows["kept"] == rows["taught"] + rows["held_out"] and rows["tokens_taught"] > 0
        asked = {"model": "default", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 4}
        answer = httpx.post(f"{done['service']['url']}/v1/chat/completions", json=asked, timeout=30).json()
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["system_fingerprint"] == done["steps"][2]["hash"]
        check_receipt(job, done["service"]["url"], done["steps"])
        assert tuning_of_its_own_model(done["service"]["url"]) == "cancelled"
        report = Path(done["report"]).read_text(encoding="utf-8")
        assert done["steps"][1]["hash"][:16] in report and "http" not in report.split("Live at")[0]
        key = str(job.folder / "sign.key")
        assert job.run("keys", "new", "--output", key).returncode == 0
        signed = json.loads(job.run("receipt", str(job.workdir), "--key", key).stdout)
        words = ("verify", signed["receipt"], "--key", f"{key[:-4]}.pub", "--in", str(job.workdir))
        verified = json.loads(job.run(*words).stdout)
        assert verified["sha256"] == done["steps"][2]["hash"] and len(verified["compared"]) >= 5
        assert verified["receipt"]["data"][0]["name"] == "rows.jsonl"
        again = job.up()
        assert [s["state"] for s in again["steps"]] == ["reused"] * 4 + ["done"]
        assert [s["hash"] for s in again["steps"]] == [s["hash"] for s in done["steps"]]
        rows = json.loads(job.run("ledger").stdout)["rows"]
        assert {r["step"] for r in rows if r["run"] == done["run"]} == set(STEPS)
        listed = json.loads(job.run("status", "--workdir", str(job.workdir)).stdout)["runs"]
        assert listed[0]["state"] == "serving" and listed[0]["service"]["url"] == again["service"]["url"]
        front = psutil.Process(again["service"]["pid"])
        engines = front.children(recursive=True)
        front.kill()
        psutil.wait_procs([front, *engines], timeout=60)
        listed = json.loads(job.run("status", "--workdir", str(job.workdir)).stdout)["runs"]
        assert (listed[0]["state"], listed[0]["service"]) == ("dead", None)
        back = job.up()
        assert [s["state"] for s in back["steps"]] == ["reused"] * 4 + ["done"]
        assert back["service"]["url"] == again["service"]["url"]
        lines = (job.workdir / "service" / "log.jsonl").read_text().splitlines()
        assert {json.loads(line)["event"] for line in lines} >= {"service.published", "request"}
    finally:
        stopped = job.run("stop", "tiny", "--workdir", str(job.workdir))
    assert stopped.returncode == 0
    check_acts(job, done["steps"])
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{again['service']['url']}/live", timeout=2)


def test_a_plan_alone_predicts_every_step(make_job):
    planned = make_job().up("--until", "plan")
    assert [s["state"] for s in planned["steps"]] == ["planned"] * 5
    assert {"ttft_s", "tpot_s", "output_tok_s"} <= set(planned["steps"][4]["predicted"])
    assert {"steps", "step_s", "tokens"} <= set(planned["steps"][1]["predicted"])


def test_a_plan_tells_what_others_leave_of_the_cores(make_job):
    """Also where all its parts are cached: what was looked at then was too short a time to tell."""
    job = make_job()
    job.up("--until", "plan")
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        job.up("--until", "plan")
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert json.loads((job.workdir / "plan.json").read_text())["cores"]["now"] < 0.9


@pytest.mark.timeout(900)
def test_kill_at_random_moments_changes_no_bit(make_job):
    unbroken = make_job(steps=40, name="unbroken")
    begun = time.monotonic()
    unbroken.up("--until", "compress")
    whole_s = time.monotonic() - begun
    broken = make_job(steps=40, name="broken")
    shutil.copy(unbroken.recipe, broken.recipe)
    draw = random.Random(7)
    for _ in range(3):
        process = start(broken, "--until", "compress")
        with_limit(process, draw.uniform(0.2, 0.9) * whole_s)
        process.kill()
        process.wait()
    broken.up("--until", "compress")
    assert broken.hashes() == unbroken.hashes()
    assert set(unbroken.hashes()) == set(PAYLOADS)


def start(job, *words: str) -> subprocess.Popen[str]:
    command = job.command("up", str(job.recipe), "--yes", "--json", *words)
    return subprocess.Popen(
        command, env=dict(job.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def with_limit(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def test_interrupt_stops_in_time_and_goes_on(make_job):
    job = make_job(steps=10_000)
    process = start(job, "--until", "train")
    assert any("train: " in line for line in process.stderr), "no step was told"  # each 10 s
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - begun < 15
    assert process.returncode == 6, out
    assert "again" in json.loads(out)["error"]["hint"]
    assert list((job.workdir / "artefacts").glob(".scratch-*/*")), "no checkpoint to go on from"


def wait_for(path: Path, text: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(encoding="utf-8")):
        assert time.monotonic() < end, f"{text} never stood in {path.name}"
        time.sleep(0.1)


def test_nothing_of_a_killed_run_lives_on(make_job):
    job = make_job(steps=4000)
    process = start(job, "--until", "train")
    wait_for(job.workdir / "log.jsonl", '"train.planned"')
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while any(lives(child) for child in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(lives(child) for child in children)


def lives(process: psutil.Process) -> bool:
    """A zombie does not: who adopted it may leave it so."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_two_in_one_folder(make_job):
    job = make_job(steps=4000)
    first = start(job, "--until", "train")
    try:
        wait_for(job.workdir / "log.jsonl", '"step.start"')
        error = job.error(5, "--until", "train")
        assert error["code"] == "run.locked" and str(first.pid) in error["message"]
    finally:
        first.kill()
        first.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root for a network namespace")
def test_no_network_is_needed(make_job):
    job = make_job()
    command = " ".join(job.command("up", str(job.recipe), "--yes", "--json", "--no-keep"))
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"ip link set lo up 2>/dev/null || ifconfig lo up; {command}"],
        env=dict(job.env),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["gate"]["verdict"] == "passed"


CANARY = "canaryword"


def test_guarded_leaves_nothing_plain_on_disk(make_job):
    job = make_job(trust="guarded")
    told = {"messages": [{"role": "user", "content": CANARY}, {"role": "assistant", "content": "ok"}]}
    with (job.folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    done = job.up("--until", "compress")
    assert done["steps"][0]["state"] == "done"
    files = [f for f in job.workdir.rglob("*") if f.is_file()]
    assert not [f for f in files if CANARY.encode() in f.read_bytes()]
    artefacts = [f for f in files if "artefacts" in f.parts]
    assert artefacts and all(f.suffix == ".sealed" for f in artefacts)
    again = job.up("--until", "compress")
    assert [s["state"] for s in again["steps"][:3]] == ["reused"] * 3
    events = job.run("logs", "--workdir", str(job.workdir))
    assert events.returncode == 0 and "step.end" in events.stdout
    assert b"step.end" not in (job.workdir / "log.jsonl").read_bytes()


def test_guarded_serves(make_job):
    done = make_job(trust="guarded").up("--no-keep")
    assert done["gate"]["verdict"] == "passed" and done["service"]
