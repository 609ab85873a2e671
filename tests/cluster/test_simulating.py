"""The simulator: nothing is foreseen, its account equals an independent replay, queues are as in theory."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cluster import Setup, changed, read_trace, run_setup
from steelyard.errors import WrongUse

ROOT = Path(__file__).resolve().parents[2]
SETUP = Setup(devices=24, serving=8)
HEAD = "job_id,submit_s,gpus,duration_s,status,min_gpus,max_gpus\n"
FIGURES = (
    "mean_queue_s",
    "mean_jct_s",
    "slo_violation_share",
    "goodput",
    "idle_recovered_share",
    "jobs_done",
)


@pytest.fixture(scope="module")
def judge():
    spec = importlib.util.spec_from_file_location("bench_replay", ROOT / "bench" / "replay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def traces(folder: Path, seed: int, count: int = 120, hours: int = 12) -> tuple[Path, Path]:
    """Jobs that ask for more than training owns at times, and a load that rises and falls."""
    random = Random(seed)
    rows, needs = [], []
    for number in range(count):
        gpus = random.choice([1, 1, 1, 2, 2, 4, 8])
        least, most = (gpus, gpus) if random.random() < 0.3 else (max(1, gpus // 2), 2 * gpus)
        duration = round(random.lognormvariate(6.5, 1.6))
        rows.append(f"j{number},{random.randrange(hours * 3600)},{gpus},{duration},done,{least},{most}\n")
    for minute in range(hours * 60):
        needs.append(max(0, min(8, round(4 - 3 * ((minute % 240) / 120 - 1) + random.gauss(0, 0.7)))))
    jobs, load = folder / f"jobs-{seed}.csv", folder / f"load-{seed}.csv"
    jobs.write_text(HEAD + "".join(rows))
    load.write_text("t_s,rps,need\n" + "".join(f"{60 * m},1.0,{need}\n" for m, need in enumerate(needs)))
    return jobs, load


@pytest.mark.parametrize("policy", ["tide", "fixed", "backfill", "fifo"])
@pytest.mark.parametrize("faulty", [False, True])
def test_the_account_equals_an_independent_replay(judge, tmp_path, policy: str, faulty: bool) -> None:
    jobs, load = traces(tmp_path, 1)
    faults = tmp_path / "faults.csv"
    rows = [f"{1_000 + 900 * n},{n * 7 % 24},{300 + 60 * n}\n" for n in range(30)]
    faults.write_text("t_s,device,down_s\n" + "".join(rows))
    setup = replace(SETUP, policy=policy, faults=str(faults) if faulty else "")
    events = tmp_path / "events.jsonl"
    document = run_setup(read_trace(jobs, load, setup), setup, events).document()
    figures, breaches = judge.replay(events, jobs, load)
    assert breaches == []
    assert {name: document[name] for name in FIGURES} == pytest.approx(figures)
    assert document["jobs_done"] == 120 and (document["failures"] > 10) == faulty


def test_the_judge_sees_a_device_used_twice_and_work_that_is_lost(judge, tmp_path) -> None:
    jobs, load = traces(tmp_path, 1)
    events = tmp_path / "events.jsonl"
    run_setup(read_trace(jobs, load, SETUP), SETUP, events)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    starts = [line for line in lines if line["kind"] == "start"]
    starts[5]["devices"] = starts[4]["devices"]
    for line in lines:
        line["saved_s"] = 0.0 if line["kind"] == "preempt" else None
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, breaches = judge.replay(events, jobs, load)
    assert any("used by" in breach for breach in breaches)


@given(st.integers(0, 10_000), st.integers(60, 600), st.booleans())
@settings(max_examples=12, deadline=None)
def test_nothing_is_foreseen(tmp_path_factory, judge, seed: int, minute: int, rigid: bool) -> None:
    """Another load after T, other lengths of jobs that are not done by T: the same decisions until T."""
    folder = tmp_path_factory.mktemp("foresight")
    jobs, load = traces(folder, seed)
    setup = replace(SETUP, rigid=rigid)
    trace = read_trace(jobs, load, setup)
    run_setup(trace, setup, folder / "events.jsonl")
    before = until(folder / "events.jsonl", minute * 60)

    random = Random(seed)
    progress = progress_at(judge, folder / "events.jsonl", jobs, load, rigid, minute * 60)
    loads = [n if m < minute else random.randint(0, 8) for m, n in enumerate(trace.loads)]
    others = [
        job
        if job.id not in progress
        else replace(job, duration_s=progress[job.id] + random.expovariate(1e-3) + 1)
        for job in trace.jobs
    ]
    run_setup(replace(trace, jobs=others, loads=loads), setup, folder / "others.jsonl")
    assert until(folder / "others.jsonl", minute * 60) == before


def until(events: Path, t_s: float) -> list[dict]:
    return [event for line in events.open() if (event := json.loads(line))["t"] <= t_s]


def progress_at(judge, events: Path, jobs: Path, load: Path, rigid: bool, t_s: float) -> dict[str, float]:
    """Of each job that is not done at `t_s`: how far it is."""
    import csv

    replay = judge.Replay(list(csv.DictReader(jobs.open())), [0], rigid)
    lines = [json.loads(line) for line in events.open()]
    replay.begin(lines[0])
    for event in lines[1:]:
        if event["t"] > t_s:
            break
        replay.apply(event | {"kind": event["kind"].replace("reclaim", "reclaim_")})
    replay.time = t_s
    for job in list(replay.held):
        replay.advance(job)
    return {job: done for job, done in replay.progress.items() if job not in replay.done}


@pytest.mark.parametrize(("service", "factor"), [("exponential", 1.0), ("constant", 0.5)])
def test_queues_are_as_theory_has_them(tmp_path, service: str, factor: float) -> None:
    """One device, arrivals at random: M/M/1 waits rho / (1 - rho) of a service time, M/D/1 half of it."""
    random, mean_s, rho = Random(6), 10.0, 0.3
    t_s, rows = 0.0, []
    for number in range(20_000):
        t_s += random.expovariate(rho / mean_s)
        length = random.expovariate(1 / mean_s) if service == "exponential" else mean_s
        rows.append(f"j{number},{t_s},1,{length}\n")
    jobs, load = tmp_path / "jobs.csv", tmp_path / "load.csv"
    jobs.write_text("job_id,submit_s,gpus,duration_s\n" + "".join(rows))
    load.write_text("t_s,need\n0,0\n")
    setup = Setup(devices=1, serving=0, policy="fifo")
    waited_s = run_setup(read_trace(jobs, load, setup), setup).document()["mean_queue_s"]
    assert waited_s == pytest.approx(factor * rho / (1 - rho) * mean_s, rel=0.05)


def test_the_same_seed_gives_the_same_faults(tmp_path) -> None:
    jobs, load = traces(tmp_path, 3)
    setup = Setup(devices=4_000, serving=8, faults="published", seed=4)
    trace = read_trace(jobs, load, setup)
    told = []
    for seed in (4, 4, 5):
        run_setup(trace, replace(setup, seed=seed), tmp_path / "events.jsonl")
        told.append((tmp_path / "events.jsonl").read_text())
    assert told[0] == told[1] != told[2] and '"fail"' in told[0]


def test_a_question_changes_one_thing() -> None:
    assert changed(SETUP, "devices=+50").devices == 74
    assert changed(SETUP, "serving=-8").serving == 0
    assert changed(SETUP, "policy=fixed, rigid") == replace(SETUP, policy="fixed", rigid=True)
    assert changed(SETUP, "lend=22-6").rules.lends_at(23 * 3_600) and not changed(
        SETUP, "lend=22-6"
    ).rules.lends_at(12 * 3_600)


@pytest.mark.parametrize(
    "question", ["devices=more", "size=3", "policy=best", "lend=night", "serving=24", "rigid=1", ""]
)
def test_what_is_no_question_is_refused(question: str) -> None:
    with pytest.raises(WrongUse) as caught:
        changed(SETUP, question)
    assert caught.value.hint


JOB_FAULTS = [
    ("j0,5,1,10,done,1,1\nj1,x,1,10,done,1,1\n", 3, "submit_s"),
    ("j0,5,1,-10,done,1,1\n", 2, "duration_s"),
    ("j0,5,0,10,done,1,1\n", 2, "gpus"),
    ("j0,5,1.5,10,done,1,2\n", 2, "gpus"),
    ("j0,5,2,10,done,3,4\n", 2, "min_gpus"),
    ("j0,5,1,nan,done,1,1\n", 2, "duration_s"),
    ("j0,5,1,,done,1,1\n", 2, "duration_s"),
    ("j0,5,1,10,done\n", 2, None),
    (",5,1,10,done,1,1\n", 2, "job_id"),
    ("j0,5,1,10,done,1,1\nj0,6,1,10,done,1,1\n", 3, "job_id"),
]


@pytest.mark.parametrize(("rows", "line", "field"), JOB_FAULTS)
def test_the_first_fault_of_jobs_is_named_with_its_line(tmp_path, rows: str, line: int, field: str) -> None:
    _, load = traces(tmp_path, 1)
    jobs = tmp_path / "jobs.csv"
    jobs.write_text(HEAD + rows)
    with pytest.raises(WrongUse) as caught:
        read_trace(jobs, load, SETUP)
    assert caught.value.where.file == str(jobs)
    assert (caught.value.where.line, caught.value.where.field) == (line, field)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("t_s,need\n0,1\n120,1\n", 3),  # a minute is missing
        ("t_s,need\n60,1\n", 2),
        ("t_s,need\n0,-1\n", 2),
        ("t_s,need\n0,9\n", 2),  # more than serving has
        ("t_s,need,colour\n0,1,red\n", 1),
        ("t_s,rps\n0,1\n", 1),
        ("t_s,need,need\n0,1,1\n", 1),
        ("t_s,need\n", None),
        ("", 1),
        ("t_s,need\n0,\xff\n", None),
    ],
)
def test_the_first_fault_of_a_load_is_named_with_its_line(tmp_path, text: str, line: int | None) -> None:
    jobs, _ = traces(tmp_path, 1)
    load = tmp_path / "load.csv"
    load.write_bytes(text.encode("latin-1"))
    with pytest.raises(WrongUse) as caught:
        read_trace(jobs, load, SETUP)
    assert (caught.value.where.file, caught.value.where.line) == (str(load), line)


def test_a_job_wider_than_training_is_refused_before_anything_runs(tmp_path) -> None:
    jobs, load = tmp_path / "jobs.csv", traces(tmp_path, 1)[1]
    jobs.write_text(HEAD + "j0,5,17,10,done,17,17\n")
    with pytest.raises(WrongUse, match="needs 17 devices, training owns 16"):
        run_setup(read_trace(jobs, load, SETUP), SETUP, tmp_path / "events.jsonl")
    assert not list(tmp_path.glob("*events*"))


def test_a_file_of_events_is_whole_or_not_there(tmp_path) -> None:
    jobs, load = traces(tmp_path, 1)
    trace = read_trace(jobs, load, SETUP)
    broken = replace(trace, loads=[])
    with pytest.raises(ValueError):
        run_setup(broken, SETUP, tmp_path / "events.jsonl")
    assert not list(tmp_path.glob("*events*"))
    with pytest.raises(WrongUse):
        run_setup(trace, SETUP, tmp_path / "nowhere" / "events.jsonl")


def test_the_setup_stands_in_the_document() -> None:
    assert set(SETUP.document()) == set(asdict(SETUP)) - {"restart_s"}
