"""What outlives a request: faults of lines, full disks, restarts, deletion, limits, sealing."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from faking import completions, faked, tokenizer_folder

from steelyard.errors import Refused
from steelyard.serving import new_key
from steelyard.serving.base.store import ObjectStore, Stored, database
from steelyard.serving.base.store import objects as stores
from steelyard.serving.base.store.database import StoreFull
from steelyard.serving.base.store.sealing import Plain
from steelyard.serving.jobs import batch_input, batches
from steelyard.trust import load_keys

ENDED = ("completed", "failed", "expired", "cancelled")


def ended(document) -> bool:
    return document["status"] in ENDED


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("fake"))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("STEELYARD_KEY_FILE", str(tmp_path / "key"))
    return tmp_path / "state" / "serving"


def on_disk(state: Path, text: bytes) -> list[str]:
    """Files that hold it."""
    return [str(p.relative_to(state)) for p in state.rglob("*") if p.is_file() and text in p.read_bytes()]


def fill(store: ObjectStore) -> int:
    """Let the database grow no further, as on a full disk. Returns the limit it had."""
    limit = store.database.rows("PRAGMA max_page_count")[0][0]
    pages = store.database.rows("PRAGMA page_count")[0][0]
    store.database.rows(f"PRAGMA max_page_count = {pages}")
    filler = Stored(id="filler", owner=None, shown={"text": "x" * 2000})
    with pytest.raises(StoreFull):
        for i in range(100):
            store.put("filler", Stored(id=f"filler{i}", owner=None, shown=filler.shown))
    return int(limit)


# ---------------------------------------------------------------------- lines


def test_a_line_that_meets_an_internal_fault_is_an_error_of_its_own(folder, monkeypatch):
    ask = batches.ask

    async def faulty(app, path, body, caller, request_id):
        if body["prompt"] in ("say 3", "say 29"):
            raise RecursionError("deep")
        return await ask(app, path, body, caller, request_id)

    async def main():
        async with faked(folder) as service:
            monkeypatch.setattr(batches, "ask", faulty)
            file = await service.upload(completions(31))
            made = await service.batch(file["id"])
            done = await service.until(f"batches/{made['id']}", ended)
            assert done["status"] == "completed"
            assert done["request_counts"] == {"total": 31, "completed": 29, "failed": 2}
            errors = await service.content(done["error_file_id"])
            assert {e["custom_id"]: e["response"]["status_code"] for e in errors} == {"r3": 500, "r29": 500}
            assert len(await service.content(done["output_file_id"])) == 29

    asyncio.run(main())


def test_broken_lines_are_errors_of_their_own_and_the_others_are_answered(folder, monkeypatch):
    monkeypatch.setattr(batch_input, "BODY_BYTES", 1000)
    rows = completions(20).splitlines(keepends=True)
    rows[3] = b'{"custom_id": "r3", \n'
    rows[5] = b"[" * 900 + b"\n"
    rows[7] = b'{"custom_id": "r7", "body": "' + b"x" * 5000 + b'"}\n'
    rows[9] = rows[8]
    rows[11] = rows[11].replace(b'"say 11"', b"{}")

    async def main():
        async with faked(folder) as service:
            file = await service.upload(b"".join(rows).rstrip())  # the last line has no end
            made = await service.batch(file["id"])
            done = await service.until(f"batches/{made['id']}", ended)
            assert done["request_counts"] == {"total": 20, "completed": 15, "failed": 5}
            errors = await service.content(done["error_file_id"])
            codes = [e["error"]["code"] if e["error"] else e["response"]["status_code"] for e in errors]
            assert codes == ["invalid_json_line", "too_deep", "line_too_long", "duplicate_custom_id", 400]

    asyncio.run(main())


def test_output_files_are_made_once_and_what_was_answered_is_not_asked_again(folder, monkeypatch):
    """The end fails twice, as a full disk has it; polls meanwhile copy nothing."""
    failures = [StoreFull("for the test"), StoreFull("for the test")]
    end = batches.end

    def failing(*arguments, **more):
        if failures:
            raise failures.pop()
        return end(*arguments, **more)

    async def main():
        async with faked(folder) as service:
            monkeypatch.setattr(batches, "end", failing)
            monkeypatch.setattr(batches, "PARK_S", (0.05, 0.2))
            file = await service.upload(completions(12))
            made = await service.batch(file["id"])
            done = await service.until(f"batches/{made['id']}", ended)
            assert (done["status"], done["errors"]) == ("completed", None)
            assert len((await service.json("GET", "files"))["data"]) == 2 and service.engine.asked == 12

    asyncio.run(main())


def test_a_full_disk_parks_a_batch_that_says_so_and_goes_on_by_itself(folder, monkeypatch):
    monkeypatch.setattr(batches, "PARK_S", (0.05, 0.1))

    async def main():
        async with faked(folder) as service:
            file = await service.upload(completions(40, max_tokens=200))
            service.engine.going.clear()
            made = await service.batch(file["id"])
            await service.until(f"batches/{made['id']}", lambda b: b["status"] == "in_progress")
            limit = await asyncio.to_thread(fill, service.stores.store)
            service.engine.going.set()
            parked = await service.until(f"batches/{made['id']}", lambda b: b["errors"])
            assert parked["status"] == "in_progress"
            assert "disk" in parked["errors"]["data"][0]["message"]
            service.stores.store.database.rows(f"PRAGMA max_page_count = {limit}")
            done = await service.until(f"batches/{made['id']}", ended)
            assert (done["status"], done["errors"]) == ("completed", None)
            assert done["request_counts"]["completed"] == service.engine.asked == 40

    asyncio.run(main())


def test_a_batch_goes_on_with_the_next_service_unasked_for(folder, state):
    async def first():
        async with faked(folder) as service:
            file = await service.upload(completions(20))
            service.engine.going.clear()
            made = await service.batch(file["id"])
            await service.until(f"batches/{made['id']}", lambda b: b["status"] == "in_progress")
        return made["id"]

    async def second(batch_id):
        async with faked(folder) as service:
            async with asyncio.timeout(30):  # not a single poll over HTTP
                while service.stores.store.get("batches", batch_id).shown["status"] != "completed":
                    await asyncio.sleep(0.02)
            done = await service.json("GET", f"batches/{batch_id}")
            assert len(await service.content(done["output_file_id"])) == 20

    batch_id = asyncio.run(first())
    asyncio.run(second(batch_id))


# ---------------------------------------------------------------------- full disks, broken stores


def test_an_upload_on_a_full_disk_is_a_clear_error_and_leaves_nothing(folder, state, monkeypatch):
    def no_room(self, source, size_bytes, target):
        target.with_name(f".{target.name}.part").touch()
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            target.with_name(f".{target.name}.part").unlink()

    async def main():
        async with faked(folder) as service:
            file = await service.upload(b"{}\n")
            monkeypatch.setattr(Plain, "keep", no_room)
            answer = await service.upload(b"{}\n", status=507)
            assert answer["error"]["code"] == "disk_full" and "free some space" in answer["error"]["message"]
            assert [p.name for p in (state / "tiny" / "content").iterdir()] == [file["id"]]

    asyncio.run(main())


def test_nothing_stays_of_a_copy_that_fails(tmp_path):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(errno.ENOSPC, "No space left on device")

    store = ObjectStore(tmp_path)
    with pytest.raises(StoreFull):
        store.keep("file-1", Broken(), 10)
    assert list((tmp_path / "content").iterdir()) == []


def test_a_database_that_cannot_be_read_is_set_aside(tmp_path, capfd):
    (tmp_path / "store.sqlite").write_bytes(b"no database" * 1000)
    store = ObjectStore(tmp_path)
    store.put("files", Stored(id="file-1", owner=None, shown={}))
    assert store.get("files", "file-1") and len(list(tmp_path.glob("store.sqlite.unreadable-*"))) == 1
    assert "store.set_aside" in capfd.readouterr().err


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    store = ObjectStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.together():
        store.put("files", Stored(id="file-1", owner=None, shown={}))
        store.append("log", "file-1", {"a": 1})
        raise ZeroDivisionError
    assert store.get("files", "file-1") is None and store.records("log", "file-1") == []


def old_store(home: Path) -> None:
    """As earlier versions left it: one batch under way, a torn and a joined line in its log."""
    for name in ("files", "batches", "content", "batch_output", "job_events"):
        (home / name).mkdir(parents=True)
    shown = {
        "id": "file-1", "object": "file", "bytes": 4, "created_at": 1, "filename": "a", "purpose": "batch",
        "status": "processed", "status_details": None, "expires_at": None,
    }  # fmt: skip
    (home / "files" / "file-1.json").write_text(json.dumps({"owner": "local", "shown": shown, "hidden": {}}))
    (home / "files" / "file-2.json").write_text('{"owner": ')
    (home / "content" / "file-1").write_bytes(completions(4))
    ends = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    batch = {
        "id": "batch_1", "object": "batch", "endpoint": "/v1/completions", "errors": None, "model": None,
        "input_file_id": "file-1", "completion_window": "24h", "status": "in_progress",
        "output_file_id": None, "error_file_id": None, "created_at": 1, "expires_at": 2**33,
        **{f"{end}_at": None for end in ends}, "metadata": None, "usage": None,
        "request_counts": {"total": 4, "completed": 2, "failed": 0},
    }  # fmt: skip
    document = {"owner": "local", "shown": batch, "hidden": {"output_life_s": None}}
    (home / "batches" / "batch_1.json").write_text(json.dumps(document))
    (home / "content" / "batch_1").hardlink_to(home / "content" / "file-1")
    answer = {"id": "x", "custom_id": "r1", "response": {"status_code": 200, "body": {}}, "error": None}
    torn = json.dumps(answer) + '\n{"id": "half{"id": "y", "custom_id": "r2"}\n{"id": "torn'
    (home / "batch_output" / "batch_1.jsonl").write_text(torn)


def test_a_store_of_the_old_layout_is_read_in_torn_lines_and_all(folder, state, capfd):
    old_store(state / "tiny")

    async def main():
        async with faked(folder) as service:
            done = await service.until("batches", lambda page: page["data"] and ended(page["data"][0]))
            assert done["data"][0]["status"] == "completed" and service.engine.asked == 3
            assert len(await service.content(done["data"][0]["output_file_id"])) == 4
            assert (await service.json("GET", "files/file-1"))["filename"] == "a"

    asyncio.run(main())
    left = sorted(p.name for p in (state / "tiny").iterdir() if p.is_dir())
    assert left == ["content"] and "store.read_in" in capfd.readouterr().err


# ---------------------------------------------------------------------- deletion and ends


def test_what_is_deleted_is_nowhere_on_the_disk(folder, state):
    async def main():
        async with faked(folder) as service:
            file = await service.upload(b"canary-of-a-file\n", purpose="user_data")
            asked = {"model": "tiny", "input": "canary-of-a-response", "max_output_tokens": 2}
            response = await service.json("POST", "responses", json=asked)
            assert on_disk(state, b"canary-of-a-file") and on_disk(state, b"canary-of-a-response")
            await service.json("DELETE", f"files/{file['id']}")
            await service.json("DELETE", f"responses/{response['id']}")
            await service.json("GET", f"responses/{response['id']}", status=404)
            assert on_disk(state, b"canary") == []

    asyncio.run(main())


def test_what_is_deleted_leaves_the_log_once_nobody_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "WAIT_S", 0.1)
    store = ObjectStore(tmp_path)
    store.put("responses", Stored(id="resp-1", owner=None, shown={"text": "canary-in-the-log"}))
    reader = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM objects").fetchone() == (1,)
    store.drop("responses", "resp-1")
    assert on_disk(tmp_path, b"canary") and store.sweep() == 0 and on_disk(tmp_path, b"canary")
    reader.execute("COMMIT")
    store.sweep()
    assert on_disk(tmp_path, b"canary") == []
    reader.close()


def test_a_process_killed_after_a_deletion_leaves_no_row_in_the_log(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from steelyard.serving.base.store import ObjectStore, Stored\n"
        "store = ObjectStore(Path(sys.argv[1]))\n"
        "store.put('responses', Stored(id='resp-1', owner=None, shown={'text': 'canary'}))\n"
        "store.database.shrink = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.drop('responses', 'resp-1')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    assert on_disk(tmp_path, b"canary")
    store = ObjectStore(tmp_path)
    store.sweep()
    assert on_disk(tmp_path, b"canary") == []
    store.close()


def test_what_has_expired_is_not_there_and_the_sweep_deletes_it(tmp_path, monkeypatch):
    store = ObjectStore(tmp_path)
    store.keep("file-1", io.BytesIO(b"canary"), 6)
    store.put("files", Stored(id="file-1", owner=None, shown={"text": "canary"}, expires_at=2000))
    monkeypatch.setattr(stores.time, "time", lambda: 1000.0)
    assert store.get("files", "file-1") and store.sweep() == 0
    monkeypatch.setattr(stores.time, "time", lambda: 3000.0)
    assert store.get("files", "file-1") is None and store.all("files") == []
    assert store.sweep() == 1 and on_disk(tmp_path, b"canary") == []


def test_jobs_and_their_weights_can_be_deleted(folder, state):
    async def main():
        async with faked(folder) as service:
            store = service.stores.store
            run = state / "tiny" / "runs" / "ftjob-1"
            (run / "adapter").mkdir(parents=True)
            (run / "adapter" / "weights").write_bytes(b"canary")
            shown = {
                "id": "ftjob-1", "status": "succeeded", "fine_tuned_model": "tiny:desk", "metadata": None,
                "training_file": "file-1", "validation_file": None,
            }  # fmt: skip
            job = Stored(id="ftjob-1", owner="local", shown=shown, hidden={"adapter": "desk", "base": "demo"})
            store.put("jobs", job)
            await service.json("DELETE", "models/tiny:desk")
            assert (await service.json("GET", "fine_tuning/jobs/ftjob-1"))["fine_tuned_model"] is None
            assert on_disk(state, b"canary") == []
            await service.json("DELETE", "fine_tuning/jobs/ftjob-1")
            await service.json("GET", "fine_tuning/jobs/ftjob-1", status=404)

    asyncio.run(main())


def test_a_job_that_has_ended_keeps_its_weights_and_not_its_rows(folder, state):
    """A stand-in for the run: what one leaves in the job's folder."""

    async def main():
        async with faked(folder) as service:
            tuning = service.stores.tuning
            home = state / "tiny" / "runs" / "ftjob-1"
            made = {
                name: home / "run" / "artefacts" / name for name in ("dataset", "checkpoint", "compressed")
            }
            for path in made.values():
                path.mkdir(parents=True)
                (path / "bytes").write_bytes(b"canary" if path.name == "dataset" else b"weights")
            (home / "training.jsonl").write_bytes(b"canary")
            (home / "run" / "report.html").write_bytes(b"canary")
            point = {"step": 1, "loss": 2.0, "learning_rate": 0.1, "tokens": 3}
            (made["checkpoint"] / "curve.jsonl").write_text(json.dumps(point) + "\n")
            # A job that is open would be taken up by the service's own worker.
            shown = {"id": "ftjob-1", "status": "paused", "fine_tuned_model": None, "metadata": None}
            hidden = {"adapter": "desk", "base": "demo"}
            tuning.store.put("jobs", Stored(id="ftjob-1", owner="local", shown=shown, hidden=hidden))
            names = {"train": "checkpoint", "compress": "compressed"}
            steps = [{"step": step, "artefact": str(made[name]), "hash": "h"} for step, name in names.items()]
            await tuning.runs._succeed("ftjob-1", {"steps": steps})
            job = await service.json("GET", "fine_tuning/jobs/ftjob-1")
            assert (job["status"], job["fine_tuned_model"]) == ("succeeded", "tiny:desk")
            assert on_disk(state, b"canary") == [] and len(on_disk(state / "tiny" / "runs", b"weights")) == 2
            assert tuning.store.get("jobs", "ftjob-1").size_bytes > 0
            await service.json("DELETE", "fine_tuning/jobs/ftjob-1")
            assert not home.exists() and on_disk(state, b"weights") == []

    asyncio.run(main())


def test_copies_of_a_deleted_jobs_model_go_with_it(folder, state, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    served, notes = tmp_path / "cache" / "served", tmp_path / "cache" / "served_of"
    for name, of in (("ir-mine", "hash-of-mine"), ("ir-other", "hash-of-other")):
        (served / name).mkdir(parents=True)
        (served / name / "weights").write_bytes(b"canary" if name == "ir-mine" else b"other")
        notes.mkdir(exist_ok=True)
        (notes / name).write_text(of)

    async def main():
        async with faked(folder) as service:
            checkpoint = state / "tiny" / "runs" / "ftjob-1" / "run" / "artefacts" / "checkpoint-1"
            checkpoint.mkdir(parents=True)
            (checkpoint / "manifest.json").write_text('{"hash": "hash-of-mine"}')
            shown = {"id": "ftjob-1", "status": "succeeded", "fine_tuned_model": None, "metadata": None}
            store = service.stores.store
            store.put("jobs", Stored(id="ftjob-1", owner="local", shown=shown, hidden={"adapter": "desk"}))
            await service.json("DELETE", "fine_tuning/jobs/ftjob-1")
            assert on_disk(tmp_path / "cache", b"canary") == [] and not (notes / "ir-mine").exists()
            assert (served / "ir-other" / "weights").exists()

    asyncio.run(main())


def test_a_deleted_file_takes_its_rows_out_of_the_jobs_that_wait(folder, state):
    async def main():
        async with faked(folder) as service:
            store = service.stores.store
            file = await service.upload(b"canary\n", purpose="fine-tune")
            run = state / "tiny" / "runs" / "ftjob-1"
            run.mkdir(parents=True)
            (run / "training.jsonl").hardlink_to(store.content(file["id"]))
            shown = {
                "id": "ftjob-1", "status": "paused", "training_file": file["id"], "validation_file": None,
                "fine_tuned_model": None, "metadata": None,
            }  # fmt: skip
            store.put("jobs", Stored(id="ftjob-1", owner="local", shown=shown, hidden={"adapter": "desk"}))
            await service.json("DELETE", f"files/{file['id']}")
            assert on_disk(state, b"canary") == []
            assert (await service.json("GET", "fine_tuning/jobs/ftjob-1"))["status"] == "cancelled"

    asyncio.run(main())


# ---------------------------------------------------------------------- limits


def test_a_key_has_limits_of_its_own(folder, tmp_path):
    file = tmp_path / "keys.json"
    keys = {name: new_key(file, name) for name in ("one", "two")}
    document = json.loads(file.read_bytes())
    document["keys"][0] |= {"files": 2, "stored_bytes": 5000, "batches": 1}
    file.write_text(json.dumps(document))

    async def main():
        async with faked(folder, keys=file) as service:
            one, two = ({"authorization": f"Bearer {key}"} for key in keys.values())
            await service.upload(b"x" * 6000, status=403, headers=one)
            made = await service.upload(completions(2), headers=one)
            await service.upload(b"x", headers=one)
            answer = await service.upload(b"x", status=403, headers=one)
            assert answer["error"]["code"] == "quota_exceeded" and "2 files" in answer["error"]["message"]
            await service.upload(b"x", headers=two)
            service.engine.going.clear()
            await service.batch(made["id"], headers=one)
            asked = {"input_file_id": made["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
            await service.json("POST", "batches", status=403, json=asked, headers=one)

    asyncio.run(main())


# ---------------------------------------------------------------------- responses


def test_responses_outlive_the_service_with_their_events(folder):
    async def first():
        async with faked(folder) as service:
            asked = {"model": "tiny", "input": "hello", "max_output_tokens": 3}
            plain = await service.json("POST", "responses", json=asked)
            made = await service.json("POST", "responses", json={**asked, "background": True})
            await service.until(f"responses/{made['id']}", lambda r: r["status"] == "incomplete")
        return plain, made["id"]

    async def second(plain, background):
        async with faked(folder) as service:
            assert await service.json("GET", f"responses/{plain['id']}") == plain
            path = f"/v1/responses/{background}?stream=true&starting_after=0"
            events = (await service.http.get(path)).text.split("\n\n")[:-1]
            assert events[0].startswith("event: response.in_progress")
            assert events[-1].startswith("event: response.incomplete")
            asked = {"model": "tiny", "input": "more", "max_output_tokens": 2}
            more = {"previous_response_id": plain["id"], **asked}
            await service.json("POST", "responses", json=more)
            item = plain["output"][0]["id"]
            references = [{"type": "item_reference", "id": item}, {"role": "user", "content": "and"}]
            await service.json("POST", "responses", json={**asked, "input": references})

    plain, background = asyncio.run(first())
    asyncio.run(second(plain, background))


def cut_off(folder, **more):
    """A background response under way as a kill -9 leaves it, and as an end in good order does."""

    async def main():
        async with faked(folder) as service:
            service.engine.going.clear()
            asked = {"model": "tiny", "input": "hello", "background": True, "max_output_tokens": 3, **more}
            made = await service.json("POST", "responses", json=asked)
            killed = service.stores.store.get("responses", made["id"])
            assert killed.shown["status"] == "queued"
            if more.get("followed"):
                path = f"/v1/responses/{made['id']}?stream=true"
                follower = asyncio.create_task(service.http.get(path))
                while service.stores.responses.live[made["id"]].request is not None:
                    await asyncio.sleep(0)
        if more.get("followed"):
            await follower
        async with faked(folder, begin=False) as service:
            return killed, service.stores.store.get("responses", made["id"])

    return asyncio.run(main())


def test_a_background_response_that_was_cut_off_is_made_again(folder):
    killed, ended = cut_off(folder, instructions="be brief", seed=3)
    assert ended.shown["status"] == "queued", "left to the next service"

    async def again(document):
        async with faked(folder, begin=False) as service:
            service.stores.store.put("responses", document)
        async with faked(folder) as service:
            made = await service.until(f"responses/{document.id}", lambda r: r["status"] == "incomplete")
            same = ("id", "created_at", "instructions", "max_output_tokens")
            assert {name: made[name] for name in same} == {name: killed.shown[name] for name in same}
            assert made["usage"]["output_tokens"] == 3 and made["output"]
            await asyncio.gather(*service.stores.responses._saving)
            assert "request" not in service.stores.store.get("responses", document.id).hidden

    for document in (killed, ended):
        asyncio.run(again(document))


def test_a_background_response_that_cannot_be_made_again_is_failed(folder):
    """Its events were followed, it has ended the service too often, or its model is not there any more."""
    killed, ended = cut_off(folder, followed=True)
    assert ended.shown["status"] == "failed" and "ask again" in ended.shown["error"]["message"]
    often = killed.with_hidden(tries=3)
    foreign = killed.with_hidden(request={**killed.hidden["request"], "model": "another"})

    async def again(document, words):
        async with faked(folder, begin=False) as service:
            service.stores.store.put("responses", document)
        async with faked(folder) as service:
            cut = await service.until(f"responses/{document.id}", lambda r: r["status"] == "failed")
            assert words in cut["error"]["message"]

    for document, words in ((often, "ask again"), (foreign, "another")):
        asyncio.run(again(document, words))


def test_who_follows_too_late_does_not_write_over_the_end(folder, monkeypatch):
    """The thread that notes that a response is followed has its turn only once the service has ended it."""
    to_thread, late = asyncio.to_thread, threading.Event()

    async def slow(work, *arguments):
        def when_ended():
            if getattr(work, "__name__", "") in ("put", "_put_under_way"):
                late.wait(60)
            return work(*arguments)

        return await to_thread(when_ended)

    async def main():
        async with faked(folder) as service:
            service.engine.going.clear()
            asked = {"model": "tiny", "input": "hello", "background": True, "max_output_tokens": 3}
            made = await service.json("POST", "responses", json=asked)
            responses = service.stores.responses
            monkeypatch.setattr(asyncio, "to_thread", slow)
            following = asyncio.create_task(responses.followed(responses.live[made["id"]]))
            await asyncio.sleep(0)
            await responses.close()
            late.set()
            await following
            return service.stores.store.get("responses", made["id"])

    assert asyncio.run(main()).shown["status"] == "failed"


def test_events_count_and_the_oldest_responses_of_a_key_go_first(folder):
    async def main():
        async with faked(folder) as service:
            responses = service.stores.responses
            asked = {"model": "tiny", "input": "hello", "background": True, "max_output_tokens": 100}
            ids = []
            for _ in range(4):
                made = await service.json("POST", "responses", json=asked)
                ids.append(made["id"])
                await service.until(f"responses/{made['id']}", lambda r: r["status"] == "incomplete")
                await asyncio.gather(*responses._saving)
                if not responses.store.lines_bytes("response_events", ids[0]):
                    break
                size = responses.store.get("responses", ids[0]).size_bytes
                assert size > responses.store.lines_bytes("response_events", ids[0]) > 5000
                responses.most_bytes = 3 * size + 500
            await service.json("GET", f"responses/{ids[0]}", status=404)
            await service.json("GET", f"responses/{ids[-1]}")
            assert on_disk(responses.store.folder, ids[0].encode()) == []

    asyncio.run(main())


def test_an_answer_that_cannot_be_stored_is_given_all_the_same(folder, monkeypatch):
    async def main():
        async with faked(folder) as service:
            await service.upload(b"x")
            await asyncio.to_thread(fill, service.stores.store)
            asked = {"model": "tiny", "input": "hello " * 2000, "max_output_tokens": 2}
            asked["truncation"] = "auto"
            made = await service.json("POST", "responses", json={**asked, "input": "hello " * 200})
            assert made["store"] is False

    asyncio.run(main())


# ---------------------------------------------------------------------- sealed


def test_at_guarded_nothing_lies_plain(folder, state):
    async def main():
        async with faked(folder, trust="guarded") as service:
            rows = completions(3, user="canary").replace(b"say", b"canary")
            file = await service.upload(rows)
            made = await service.batch(file["id"])
            done = await service.until(f"batches/{made['id']}", ended)
            assert done["status"] == "completed" and len(await service.content(done["output_file_id"])) == 3
            answer = await service.http.get(f"/v1/files/{file['id']}/content")
            assert answer.content == rows
            asked = {"model": "tiny", "input": "canary", "max_output_tokens": 2}
            response = await service.json("POST", "responses", json=asked)
            tuning = await service.upload(b"canary\n", purpose="fine-tune")
            job = {"model": "demo", "training_file": tuning["id"]}
            refused = await service.json("POST", "fine_tuning/jobs", status=403, json=job)
            assert refused["error"]["code"] == "refused_at_guarded"
        assert state.exists() and on_disk(state, b"canary") == []
        async with faked(folder, trust="guarded") as service:
            assert await service.json("GET", f"responses/{response['id']}") == response

    asyncio.run(main())


def test_a_store_sealed_for_another_key_is_refused(tmp_path):
    first, second = (load_keys("guarded", str(tmp_path / name), tmp_path) for name in ("a", "b"))
    ObjectStore(tmp_path / "store", first).put("files", Stored(id="file-1", owner=None, shown={}))
    with pytest.raises(Refused):
        ObjectStore(tmp_path / "store", second)


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "sm4-gcm"])
def test_a_record_that_was_put_elsewhere_does_not_open(tmp_path, cipher):
    keys = load_keys("guarded", str(tmp_path / "key"), tmp_path, (), cipher)
    store = ObjectStore(tmp_path / "store", keys)
    for name in ("file-1", "file-2"):
        store.put("files", Stored(id=name, owner=None, shown={}))
    with sqlite3.connect(tmp_path / "store" / "store.sqlite") as connection:
        connection.execute("UPDATE objects SET id = 'file-3' WHERE id = 'file-2'")
    from cryptography.exceptions import InvalidTag

    with pytest.raises(InvalidTag):
        store.get("files", "file-3")
    other = load_keys("guarded", str(tmp_path / "key"), tmp_path)  # the documents keep their first cipher
    assert ObjectStore(tmp_path / "store", other).get("files", "file-1").id == "file-1"
    assert (tmp_path / "store" / "store.key").read_bytes()[7] == (1 if cipher == "aes-256-gcm" else 3)
