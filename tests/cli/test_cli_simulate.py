"""simulate: the contract's keys, what if, the page, one error with file and line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as tree

import pytest

KEYS = {
    "mean_queue_s", "mean_jct_s", "slo_violation_share", "goodput", "idle_recovered_share", "jobs_done",
    "wall_s",
}  # fmt: skip
JOBS = "job_id,submit_s,gpus,duration_s,status,min_gpus,max_gpus\n" + "".join(
    f"j{n},{n * 40},{1 + n % 4},{300 + n * 7},done,{1 + n % 2},{2 + n % 5 + n % 4}\n" for n in range(60)
)
FLEET = ("--devices", "12", "--serving", "6")


@pytest.fixture
def traces(tmp_path):
    (tmp_path / "jobs.csv").write_text(JOBS)
    (tmp_path / "load.csv").write_text(
        "t_s,rps,need\n" + "".join(f"{m * 60},1,{2 + m % 3}\n" for m in range(60))
    )
    return ("jobs.csv", "--load", "load.csv", *FLEET)


def test_the_document_the_events_and_the_page(steelyard, tmp_path, traces) -> None:
    words = (
        "--what-if",
        "devices=+4",
        "--what-if",
        "policy=fixed",
        "--events",
        "e.jsonl",
        "--page",
        "p.html",
    )
    done = steelyard("simulate", *traces, *words, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and set(document) >= KEYS and document["jobs_done"] == 60
    assert [row["question"] for row in document["what_if"]] == ["devices=+4", "policy=fixed"]
    more, fixed = document["what_if"]
    assert more["mean_queue_s"] <= document["mean_queue_s"] < fixed["mean_queue_s"]
    first = json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])
    assert first["kind"] == "meta" and first["restart_s"] >= 20 and first["reclaim_s"] >= 60
    assert first["ckpt_s"] <= 1800 and (first["devices"], first["serving"]) == (12, 6)
    page = (tmp_path / "p.html").read_text()
    drawn = page.split("<svg")[1:]
    assert len(drawn) == 5  # two of bars, three over time
    for part in drawn:
        tree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")
    assert "<script" not in page and "http:" not in page and "https:" not in page


def test_a_table_for_people_in_both_languages(told, traces, tmp_path, capsys) -> None:
    from steelyard.cli.main import run

    assert run(["simulate", *traces, "--what-if", "rigid", "--lang", "zh", "--page", "p.html"]) == 0
    text = capsys.readouterr().out
    assert "平均等待" in text and "> tide" in text and "6 + 6" in text
    assert "如果" in (tmp_path / "p.html").read_text()


def test_a_gap_is_one_error_with_file_and_line(steelyard, tmp_path, traces) -> None:
    (tmp_path / "load.csv").write_text("t_s,rps,need\n0,1,2\n180,1,2\n")
    done = steelyard("simulate", *traces, "--json", "--events", "e.jsonl")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["code"] == "trace.value"
    assert (error["where"]["file"], error["where"]["line"], error["where"]["field"]) == ("load.csv", 3, "t_s")
    assert error["hint"] and not (tmp_path / "e.jsonl").exists()
