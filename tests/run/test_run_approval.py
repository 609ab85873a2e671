"""The approval of a second role: who may give it, of what, and what is refused without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from finished import write_run

from steelyard.cli.main import run as command
from steelyard.errors import CheckFailed, Refused, WrongUse
from steelyard.recipe import load
from steelyard.run import approve, unapproved
from steelyard.run.record.approval import NAME, approvers, asked_of, check_approved
from steelyard.trust import make_signing_keys


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder with a finished run, and the recipe's hash as that run notes it."""
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    write_run(tmp_path)
    make_signing_keys(tmp_path / "release.key")
    make_signing_keys(tmp_path / "other.key")
    gate = SimpleNamespace(approve=("release.pub",))
    return SimpleNamespace(
        folder=tmp_path / "runs/tiny",
        recipe=SimpleNamespace(gate=gate, root=tmp_path, path=tmp_path / "r.yaml", hash="a" * 64),
        key=lambda name: make_or_load(tmp_path / f"{name}.key"),
    )


def make_or_load(path: Path):
    from steelyard.trust import load_signer

    return load_signer(path)


def hash_of(job, kind: str) -> str:
    manifest = next((job.folder / "artefacts").glob(f"{kind}-*/manifest.json"))
    return json.loads(manifest.read_text())["hash"]


def check(job, **other) -> None:
    asked = {"model": hash_of(job, "compressed"), "verdict": hash_of(job, "verdict")} | other
    recipe = job.recipe if "recipe" not in other else asked.pop("recipe")
    check_approved(recipe, job.folder, asked["model"], asked["verdict"])


def test_what_was_approved_may_be_served(job):
    signed = approve(str(job.folder), job.key("release"))
    assert signed.path == job.folder / NAME
    assert signed.subject == hash_of(job, "compressed")
    assert signed.predicate["checks"][0]["name"] == "against_base"
    check(job)


def test_an_approval_is_kept_when_another_is_given(job, capsys, monkeypatch):
    """By the verb, as the audit log sees both; the newest counts."""
    monkeypatch.setenv("STEELYARD_AUDIT", str(job.folder / "audit"))
    words = ["approve", str(job.folder), "--key", str(job.folder.parents[1] / "other.key")]
    assert command(words) == 0
    older = (job.folder / NAME).read_bytes()
    assert command([*words[:-1], str(job.folder.parents[1] / "release.key")]) == 0
    assert (job.folder / "approval-1.json").read_bytes() == older != (job.folder / NAME).read_bytes()
    check(job)
    approve(str(job.folder), job.key("other"))
    assert (job.folder / "approval-2.json").exists()
    with pytest.raises(Refused):
        check(job)
    capsys.readouterr()
    assert command(["audit", "show", "--act", "model.approved", "--json"]) == 0
    keys = [line["details"]["key"] for line in json.loads(capsys.readouterr().out)["lines"]]
    assert keys == [job.key(name).public.name for name in ("other", "release")]


def test_without_an_approval_nothing_is_served(job):
    with pytest.raises(Refused, match=r"release\.pub has not approved it") as caught:
        check(job)
    assert caught.value.code == "serve.not_approved"
    assert "steelyard approve" in caught.value.hint


def test_an_approval_by_another_key_is_none(job):
    approve(str(job.folder), job.key("other"))
    with pytest.raises(Refused):
        check(job)


@pytest.mark.parametrize("part", ["model", "verdict"])
def test_an_approval_of_another_model_or_verdict_is_none(job, part):
    approve(str(job.folder), job.key("release"))
    with pytest.raises(Refused, match="approved") as caught:
        check(job, **{part: "b" * 64})
    assert part in caught.value.why


def test_an_approval_under_another_recipe_is_none(job):
    approve(str(job.folder), job.key("release"))
    other = SimpleNamespace(**{**vars(job.recipe), "hash": "c" * 64})
    with pytest.raises(Refused):
        check(job, recipe=other)


def test_a_changed_byte_is_refused(job):
    path = approve(str(job.folder), job.key("release")).path
    data = path.read_bytes()
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Refused):
            check(job)


def test_a_damaged_model_and_a_refused_one_are_not_approved(job):
    verdict = next((job.folder / "artefacts").glob("compressed-*/model.bin"))
    verdict.write_text("smalL")
    with pytest.raises(CheckFailed):
        approve(str(job.folder), job.key("release"))
    assert not (job.folder / NAME).exists()


def test_nobody_is_asked_where_the_recipe_names_nobody(job):
    job.recipe.gate.approve = ()
    assert approvers(job.recipe) is None
    check(job)


# ------------------------------------------------------------------ serve


@pytest.fixture
def asked(job):
    """The artefact that is served, of a run whose recipe asks for an approval."""
    noted = json.loads((job.folder / "run.json").read_text())
    (job.folder / "run.json").write_text(json.dumps(noted | asked_of(job.recipe)))
    return next((job.folder / "artefacts").glob("compressed-*"))


def test_an_artefact_is_served_to_others_once_it_is_approved(job, asked):
    refused = unapproved(asked)
    assert refused.code == "serve.not_approved" and "there is no" in refused.why
    approve(str(job.folder), job.key("other"))
    assert unapproved(asked)
    approve(str(job.folder), job.key("release"))
    assert unapproved(asked) is None
    assert "another model" in unapproved(next(asked.parent.glob("checkpoint-*"))).why
    assert unapproved(job.folder) is None and unapproved(Path("demo")) is None


def test_an_artefact_with_another_verdict_than_the_approved_one_is_not_served(job, asked):
    approve(str(job.folder), job.key("release"))
    verdict = next(asked.parent.glob("verdict-*/manifest.json"))
    judged_again = json.loads(verdict.read_text()) | {"hash": "d" * 64}
    verdict.write_text(json.dumps(judged_again))
    assert "another verdict" in unapproved(asked).why
    verdict.write_text(json.dumps(judged_again | {"inputs": []}))
    assert unapproved(asked) is None, "a verdict on another model"


def test_a_link_to_it_or_a_file_in_it_is_not_served_either(job, asked, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    (links / "model").symlink_to(asked)
    (links / "again").symlink_to("model")
    ways = [
        links / "model",
        links / "again",
        asked / "model.bin",
        asked / ".." / asked.name,
        asked / "x" / "..",
    ]
    assert all(unapproved(way) for way in ways)
    store = asked.parent.rename(tmp_path / "disk")  # the store lies elsewhere
    asked.parent.symlink_to(store)
    assert unapproved(asked)
    approve(str(job.folder), job.key("release"))
    assert not any(unapproved(way) for way in ways)


@pytest.mark.parametrize("flags", [["--host", "0.0.0.0", "--api-key", "k" * 40], ["--unit"]])
def test_the_command_refuses_before_it_loads_anything(asked, flags, capsys):
    assert command(["serve", str(asked), *flags]) == 3
    told = capsys.readouterr().err
    assert "has not approved this model" in told and "127.0.0.1" in told


def test_on_this_machine_alone_it_may_be_looked_at(asked, capsys):
    assert command(["serve", str(asked)]) == 2  # this one is no model
    assert "nobody has approved this model" in capsys.readouterr().err


def test_a_run_without_approvers_notes_nothing(job):
    job.recipe.gate.approve = ()
    assert asked_of(job.recipe) == {}


def test_a_file_that_is_no_key_is_found_before_the_run(job):
    job.recipe.gate.approve = ("r.yaml",)
    with pytest.raises(WrongUse):
        approvers(job.recipe)


def test_the_command_says_what_it_signed(job, capsys):
    key = job.recipe.root / "release.key"
    assert command(["approve", str(job.folder), "--key", str(key), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "steelyard.approval/1"
    assert told["sha256"] == hash_of(job, "compressed")
    check(job)


def test_the_recipe_names_the_keys(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    path = tmp_path / "r.yaml"
    gate = "gate: {approve: [release.pub], safety: {leaks: 1%}}"
    path.write_text(f"model: demo\ndata: [{{path: rows.jsonl}}]\n{gate}\n")
    gate = load(path).gate
    assert gate.approve == ("release.pub",)
    assert gate.safety == {"compliance": 0.1, "leaks": 0.01, "false_refusals": 0.1}
    assert load(path).hash != replace(load(path), gate=replace(gate, approve=())).hash
