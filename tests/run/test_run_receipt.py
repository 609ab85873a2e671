"""The receipt of a run: what it names, who can check it, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from finished import write_run

from steelyard.cli.main import run as command
from steelyard.errors import CheckFailed, Problem, WrongUse
from steelyard.run import verify_receipt, write_receipt
from steelyard.trust import Trust, load_trusted, make_signing_keys


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder with data, base and work folder as `up` leaves them: published, not trained."""
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    write_run(tmp_path)
    return tmp_path


@pytest.fixture
def signed(job):
    signer = make_signing_keys(job / "ann.key")
    return write_receipt(str(job / "runs/tiny"), signer, job / "receipt.json")


@pytest.fixture
def trust(signed, job):
    return Trust([load_trusted(job / "ann.pub")])


def refusal(path: Path, trust: Trust, folder: Path | None = None) -> str:
    with pytest.raises(Problem) as caught:
        verify_receipt(path, trust, folder)
    assert caught.value.hint
    return caught.value.code


def test_a_third_party_checks_it_without_the_folder(signed, trust, job):
    shutil.rmtree(job / "runs")
    verified = verify_receipt(signed.path, trust)
    facts = verified.predicate
    assert verified.hybrid and verified.compared == () and len(verified.not_there) == 7
    assert [row["step"] for row in facts["artefacts"]] == ["clean", "train", "compress", "gate"]
    assert verified.subject == facts["artefacts"][2]["hash"]
    assert facts["gate"]["checks"][0]["value"] == 0.4 and facts["gate"]["scores"]["served"] == {"echo": 1.0}
    assert facts["data"][0]["name"] == "rows.jsonl" and facts["recipe"]["hash"] == "a" * 64
    assert facts["elsewhere"] == [] and facts["versions"] == {"python": "3.11", "torch": "2"}
    assert b"secret" not in signed.path.read_bytes()


def test_with_a_folder_every_hash_is_compared(signed, trust, job):
    assert verify_receipt(signed.path, trust, job / "runs/tiny").not_there == ("base", "data rows.jsonl")
    assert verify_receipt(signed.path, trust, job / "base").compared == ("base",)
    assert verify_receipt(signed.path, trust, job).compared == ("data rows.jsonl",)
    one = next((job / "runs/tiny/artefacts").glob("compressed-*"))
    one.rename(job / "mine")
    assert verify_receipt(signed.path, trust, job / "mine").compared == (one.name,)
    (job / "empty").mkdir()
    assert refusal(signed.path, trust, job / "empty") == "receipt.nothing"


def first(folder: Path, pattern: str) -> Path:
    return next((folder / "artefacts").glob(pattern))


CHANGES = {
    "payload": (lambda f: first(f, "compressed-*/model.bin").write_text("smalL"), "artefact.changed"),
    "manifest": (lambda f: replace_in(first(f, "dataset-*/manifest.json"), "1.5", "1.6"), "receipt.changed"),
    "white space": (lambda f: replace_in(first(f, "dataset-*/manifest.json"), ": ", ":"), "receipt.changed"),
    "verdict": (lambda f: replace_in(first(f, "verdict-*/verdict.json"), "0.4", "0.9"), "artefact.changed"),
    "plan": (lambda f: replace_in(f / "plan.json", "EPYC", "Xeon"), "receipt.changed"),
    "file added": (lambda f: (first(f, "checkpoint-*") / "x.py").write_text(""), "receipt.added"),
    "link": (lambda f: (first(f, "checkpoint-*") / "x").symlink_to("/etc/passwd"), "receipt.added"),
    "file missing": (lambda f: first(f, "checkpoint-*/model.bin").unlink(), "artefact.changed"),
    "artefact missing": (lambda f: shutil.rmtree(first(f, "dataset-*")), "receipt.missing"),
    "artefact renamed": (lambda f: first(f, "dataset-*").rename(f / "artefacts/d"), "receipt.missing"),
}  # fmt: skip


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_the_folder_has_its_reason(signed, trust, job, name):
    change, code = CHANGES[name]
    change(job / "runs/tiny")
    assert refusal(signed.path, trust, job / "runs/tiny") == code


def test_no_byte_of_a_receipt_may_change(signed, trust):
    whole = signed.path.read_bytes()
    for at in range(0, len(whole), 211):
        signed.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert refusal(signed.path, trust).startswith("signature."), at


def test_another_signer_is_refused(signed, trust, job):
    eve = make_signing_keys(job / "eve.key")
    write_receipt(str(job / "runs/tiny"), eve, signed.path)
    assert refusal(signed.path, trust) == "signature.wrong_key"


def test_a_model_signature_is_no_receipt_and_the_other_way(signed, trust, job):
    from steelyard.trust import load_signer, sign_model, verify_model

    made = sign_model(job / "base", load_signer(job / "ann.key"))
    assert refusal(made.hybrid, trust) == "signature.wrong_key"  # the elliptic key is missing in it
    with pytest.raises(CheckFailed):
        verify_model(job / "base", trust, signed.path)


def test_a_damaged_artefact_is_not_signed(job):
    signer = make_signing_keys(job / "ann.key")
    first(job / "runs/tiny", "checkpoint-*/model.bin").write_text("Weights")
    with pytest.raises(CheckFailed):
        write_receipt(str(job / "runs/tiny"), signer, job / "receipt.json")
    with pytest.raises(WrongUse):
        write_receipt("nobody", signer)
    (job / "runs/tiny/run.json").unlink()
    with pytest.raises(WrongUse):
        write_receipt(str(job / "runs/tiny"), signer)
    assert not (job / "receipt.json").exists()


def test_the_command_line(job, monkeypatch, capsys):
    monkeypatch.setenv("STEELYARD_SIGN_KEY", str(make_signing_keys(job / "own.key").path))
    workdir = str(job / "runs/tiny")
    assert command(["receipt", workdir, "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["receipt"]
    assert command(["verify", path, "--in", workdir, "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert (verified["kind"], len(verified["compared"])) == ("receipt", 5)
    assert command(["verify", path, "--in", str(job / "base")]) == 0


def test_a_plan_that_was_made_since_is_not_stated_as_that_of_the_run(job):
    """`up --until plan`, or a run that was declined, leaves plan.json of another recipe."""
    note, signer = job / "runs/tiny/run.json", make_signing_keys(job / "bob.key")
    told = json.loads(note.read_text())
    note.write_text(json.dumps(told | {"plan": "b" * 64}))
    write_receipt(str(job / "runs/tiny"), signer, job / "one.json")
    note.write_text(json.dumps(told | {"plan": "c" * 64}))
    with pytest.raises(WrongUse) as caught:
        write_receipt(str(job / "runs/tiny"), signer, job / "two.json")
    assert caught.value.code == "receipt.planned_since" and not (job / "two.json").exists()
