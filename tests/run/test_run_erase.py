"""`data erase`: what must go is listed first, goes whatever interrupts it, and leaves no byte of the rows."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from lineages import BEST, CRANE, LONG, MAIL, ROWS, TWIN, Made, publish

from steelyard.artefact import Inputs, Watch
from steelyard.data import clean, suppressed
from steelyard.errors import CheckFailed, Lacking, WrongUse
from steelyard.places import cache_folder, state_folder
from steelyard.recipe import load
from steelyard.run import erase, order_of, trace
from steelyard.run import up as run_up
from steelyard.run.erasing import erase as erasing
from steelyard.run.erasing.order import begun_orders
from steelyard.run.record.cleaning import cleaning, marks, wait_for_cleanings
from steelyard.run.record.workdir import locked
from steelyard.serving.base.store import ObjectStore, Stored, store_folder
from steelyard.trust import append_log, read_log

CANARY = "Part 11 is code X77."


@pytest.fixture
def made(home) -> Made:
    return Made(home)


def bytes_below(*folders: Path) -> bytes:
    return b"".join(p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file())


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_plan_lists_what_goes_and_does_nothing(made):
    before = names(made.root.parent)
    order, _ = order_of(["rows.jsonl:12"])
    assert [row["id"] for row in order.rows] == ["rows.jsonl:12"]
    kinds = [a["kind"] for a in order.works[0]["artefacts"]]
    assert kinds == ["dataset", "checkpoint", "compressed", "verdict"] and order.works[0]["until"] == "clean"
    assert [one["kind"] for one in order.left] == ["export", "source"] and order.left[1]["line"] == 12
    assert [Path(p).name for p in order.copies] == ["ir-desk"]
    assert [n for n in names(made.root.parent) if "state/erased" not in n] == before
    assert "X77" not in json.dumps(order.as_json())


def test_rows_that_are_nearly_the_same_go_too_unless_they_are_to_stay(made):
    order, _ = order_of([f"rows.jsonl:{CRANE}"])
    assert [row["id"] for row in order.rows] == [f"rows.jsonl:{CRANE}", f"rows.jsonl:{BEST}"]
    exact, _ = order_of([f"rows.jsonl:{CRANE}"], exact=True)
    assert len(exact.rows) == 1 and not exact.works  # its text is in no artefact
    for name in ("rows.jsonl:4", f"rows.jsonl:{TWIN}"):  # they have one text: one hash
        twin, _ = order_of([name], exact=True)
        assert len(twin.rows) == 1 and twin.works


def test_what_names_no_row_or_several_is_refused(home, made):
    with pytest.raises(WrongUse) as none:
        order_of(["rows.jsonl:99"])
    other = Made(home, "other")
    path = other.root / "rows.jsonl"
    assert order_of(["rows.jsonl:12"])[0].rows  # the same text in both
    assert none.value.code == "data.no_row" and path.exists()


def test_no_byte_of_the_rows_is_left_and_the_proof_says_so(made):
    folder = made.place.folder
    (folder / "report.html").write_text(f"asked: {CANARY}")
    (folder / "log.jsonl").write_text(f'{{"event": "a"}}\n{{"event": "gate", "example": "{CANARY}"}}\n')
    (folder / "run.json").write_text(json.dumps({"artefacts": [made.checkpoint.folder.name]}))
    for name in (".scratch-checkpoint-x", ".draft-verdict-y", ".damaged-dataset-z", ".part-gc-1-q"):
        (folder / "artefacts" / name).mkdir()
        (folder / "artefacts" / name / "rows").write_text(CANARY)
    source = (made.root / "rows.jsonl").read_bytes()
    proof = erase(["rows.jsonl:12"])[0]
    assert CANARY.encode() not in bytes_below(folder, state_folder(), cache_folder())
    assert (made.root / "rows.jsonl").read_bytes() == source and (made.root / "export").is_dir()
    assert (folder / "log.jsonl").read_text() == '{"event": "a"}\n'
    assert json.loads((folder / "run.json").read_text())["artefacts"] == []
    assert not (folder / "report.html").exists() and not list((cache_folder() / "served").iterdir())
    assert proof["looked_for"]["found"] == [] and proof["looked_for"]["files"] > 0
    assert {one["hash"] for one in proof["removed"]} >= {made.dataset.hash, made.checkpoint.hash}
    whole = {k: v for k, v in proof.items() if k not in ("hash", "file")}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert proof["hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert proof["rows"][0]["id_sha256"] == hashlib.sha256(b"rows.jsonl:12").hexdigest()
    assert "rows.jsonl:12" not in Path(proof["file"]).read_text()
    assert proof["rows"][0]["text_hmac_sha256"] in suppressed().rows
    assert [h.kind for h in trace(["rows.jsonl:12"]).holders] == [] and begun_orders() == []


def test_the_next_cleaning_leaves_them_out(home, made):
    erase(["rows.jsonl:12", f"rows.jsonl:{MAIL}"])
    again = Made(home, "other")
    reasons = [json.loads(line) for line in again.dataset.path("dropped.jsonl").read_text().splitlines()]
    erased = [one["id"] for one in reasons if one["reasons"] == ["erased"]]
    assert erased == ["rows.jsonl:12", f"rows.jsonl:{MAIL}"]
    assert (
        CANARY
        not in again.dataset.path("train.jsonl").read_text() + again.dataset.path("test.jsonl").read_text()
    )


def test_uploads_jobs_and_their_weights_go_too(made):
    store = ObjectStore(store_folder("desk"))
    chat = [{"role": "user", "content": ROWS[11]["prompt"]}, {"role": "assistant", "content": CANARY}]
    store.folder_of("content")
    store.content("file-1").write_text(json.dumps({"messages": chat}) + "\n")
    store.put("files", Stored(id="file-1", owner="local", shown={"status": "processed"}))
    job = {"training_file": "file-1", "validation_file": None, "status": "succeeded"}
    store.put("jobs", Stored(id="ftjob-1", owner="local", shown=job, hidden={"checkpoint": "/x"}))
    weights = store.folder / "runs" / "ftjob-1" / "run" / "artefacts" / "checkpoint-1"
    weights.mkdir(parents=True)
    assert store.hold()
    with pytest.raises(Lacking) as refused:  # its service lives
        erase(["rows.jsonl:12"])
    assert refused.value.code == "data.store_taken" and len(begun_orders()) == 1
    store.close()
    erase([])
    assert not weights.exists() and begun_orders() == []
    assert CANARY.encode() not in bytes_below(state_folder())


@pytest.mark.parametrize(
    "at", ("suppress_rows", "gone", "forget_names", "copies_gone", "looked_for", "finish")
)
def test_a_kill_at_any_place_and_the_second_call_goes_on(made, at):
    (made.place.folder / "artefacts" / ".draft-x").mkdir()
    pid = os.fork()
    if not pid:
        setattr(erasing, at, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        erase(["rows.jsonl:12"])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert len(begun_orders()) == 1
    proofs = erase(["rows.jsonl:12"])
    assert len(proofs) == 1 and begun_orders() == []
    assert CANARY.encode() not in bytes_below(made.place.folder, state_folder(), cache_folder())
    assert suppressed().rows == {proofs[0]["rows"][0]["text_hmac_sha256"]}


class Cleaning(threading.Thread):
    """Another run's cleaning, which has read the list of erased rows before one came onto it."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made, self.begun = made, threading.Event()
        self.start()
        assert self.begun.wait(10)

    def run(self) -> None:
        place, settings = self.made.place, self.made.dataset.manifest["settings"]
        with cleaning(place.folder):
            draft = place.store.draft("dataset", "q" * 64, "clean", settings, {})
            clean(Inputs(), {**settings, "root": str(self.made.root)}, draft, Watch())
            self.begun.set()
            while not suppressed().rows:
                time.sleep(0.01)
            time.sleep(0.3)  # the erasure looks for what goes on now
            late = place.store.publish(draft, {}, {})
            publish(place, "checkpoint", "r", {"model.safetensors": CANARY}, dataset=late)


def test_a_cleaning_that_had_begun_is_waited_for_and_what_it_made_goes_too(made, monkeypatch):
    other = Cleaning(made)
    proof = erase(["rows.jsonl:12"])[0]
    other.join()
    assert CANARY.encode() not in bytes_below(made.place.folder, state_folder(), cache_folder())
    assert len(proof["removed"]) >= 6 and list(marks().iterdir()) == []
    (marks() / "dead").write_text("of a process that was killed")
    with cleaning(made.place.folder), pytest.raises(Lacking) as busy:
        wait_for_cleanings(wait_s=0.2)
    assert busy.value.code == "data.cleaning" and busy.value.where.file == str(made.place.folder)
    with cleaning(made.place.folder):
        wait_for_cleanings("/elsewhere", wait_s=0.2)
    assert list(marks().iterdir()) == []


def test_what_a_run_made_while_an_erasure_could_not_go_on_goes_too(made):
    with locked(made.place), pytest.raises(Lacking):
        erase(["rows.jsonl:12"])
    publish(made.place, "checkpoint", "r", {"model.safetensors": CANARY}, dataset=made.dataset)
    erase([])
    assert CANARY.encode() not in bytes_below(made.place.folder, state_folder(), cache_folder())
    assert begun_orders() == []


def test_a_sealed_run_is_traced_and_erased_too(home, monkeypatch):
    monkeypatch.setenv("STEELYARD_KEY_FILE", str(home / "key"))
    made = Made(home, trust="guarded")
    log = made.place.folder / "log.jsonl"
    append_log(log, CANARY, made.place.keys)
    assert [one.kind for one in trace(["rows.jsonl:12"]).holders][:2] == ["dataset", "checkpoint"]
    proof = erase(["rows.jsonl:12"])[0]
    assert {one["hash"] for one in proof["removed"]} >= {made.dataset.hash, made.checkpoint.hash}
    assert list(read_log(log, made.place.keys)) == [] and trace(["rows.jsonl:12"]).holders == ()


def test_a_text_that_is_still_somewhere_is_told_with_exit_code_4(made):
    text = LONG.format(n="seven")
    (made.place.folder / "notes.txt").write_text(text)
    with pytest.raises(CheckFailed) as refused:
        erase([f"rows.jsonl:{CRANE}"])
    assert refused.value.exit_code == 4 and "notes.txt" in str(refused.value.where)
    assert begun_orders() == []


@pytest.mark.timeout(900)
def test_a_run_is_made_again_without_the_rows_before_the_old_one_goes(up, judged, monkeypatch, tmp_path):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))  # its list is not for other tests
    workdir = Path(run_up(load(up.job.recipe, []), until="compress").workdir)
    lines = (up.job.folder / "rows.jsonl").read_text().splitlines()
    before = {p.name for p in (workdir / "artefacts").iterdir()}
    (steps,) = (workdir / "artefacts").glob("checkpoint-*/steps.jsonl")
    ids = [json.loads(line)["id"] for line in steps.read_text().splitlines()][:3]
    told = trace([ids[0]], workdir)
    kinds = [one.kind for one in told.holders]
    assert kinds[:3] == ["dataset", "checkpoint", "compressed"] and told.holders[1].steps[ids[0]]
    proof = erase(ids, workdir, remake=True)[0]
    assert {"dataset", "checkpoint", "compressed"} <= {one["kind"] for one in proof["replaced_by"]}
    assert not before & {p.name for p in (workdir / "artefacts").iterdir()}
    words = [json.loads(lines[int(id.split(":")[1]) - 1])["messages"][0]["content"] for id in ids]
    assert not any(word.encode() in bytes_below(workdir) for word in words)
    after = trace([ids[0]], workdir)
    assert [one.kind for one in after.holders] == ["dataset"]
    assert after.found[0].row.reasons == ("erased",)
