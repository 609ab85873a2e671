"""A run for a team: each with a key of their own, and one who no longer opens it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard import run
from steelyard.artefact import Store
from steelyard.errors import Lacking, Refused, WrongUse
from steelyard.recipe import load
from steelyard.run.record.workdir import keys_of, locked, opened, trust_of
from steelyard.trust import append_log, load_keys, read_log

HEADER_BYTES = 4096


@pytest.fixture
def team(home) -> Path:
    """A folder with the public keys of ann, bob and eve; `recipe(who, ...)` is that of one of them."""
    for who in ("ann", "bob", "eve"):
        (home / f"{who}.pub").write_text(load_keys("guarded", f"{who}.key", home).public)
    return home


def recipe(team: Path, who: str, *recipients: str):
    trust = {"level": "guarded", "key_file": f"{who}.key", "recipients": list(recipients)}
    path = team / f"{who}.yaml"
    path.write_text(json.dumps({"name": "r", "model": "demo", "train": [], "trust": trust}))
    return load(path)


def with_cipher(path: Path, cipher: str):
    document = json.loads(path.read_text())
    document["trust"]["cipher"] = cipher
    path.write_text(json.dumps(document))
    return load(path)


def publish(store: Store, text: bytes = b"weights" * 99_999):
    draft = store.draft("checkpoint", "key-of-the-step", "train", {}, {})
    (draft.folder / "model").write_bytes(text)
    draft.scratch.write("point", text[:99])
    return store.publish(draft, {}, {})


def test_a_run_sealed_with_sm4_makes_its_steps_anew_and_a_team_member_finds_them(team):
    ann, bob = (opened(recipe(team, who, "ann.pub", "bob.pub"), None) for who in ("ann", "bob"))
    before = publish(ann.store)
    sm4 = {who: opened(with_cipher(team / f"{who}.yaml", "sm4-gcm"), None) for who in ("ann", "bob")}
    assert all(place.store.find("checkpoint", "key-of-the-step") is None for place in sm4.values())
    made = publish(sm4["ann"].store)
    append_log(sm4["ann"].log, "one", sm4["ann"].keys)
    kinds = {path.name: path.read_bytes()[7] for path in (*made.folder.iterdir(), sm4["ann"].log)}
    assert kinds == {"model.sealed": 3, "manifest.json.sealed": 3, "log.jsonl": 4}
    assert made.manifest["seal"] == "SYSEAL1 SM4-GCM HPKE-MLKEM768-X25519" and made.hash == before.hash
    assert sm4["bob"].store.find("checkpoint", "key-of-the-step").folder == made.folder
    assert bob.store.find("checkpoint", "key-of-the-step").folder == before.folder
    assert list(read_log(ann.log, ann.keys)) == ["one"], "a reader takes the cipher from the file"


def test_each_of_a_team_opens_what_the_others_made_and_nobody_else_does(team):
    everybody = ("ann.pub", "bob.pub")  # one list for all: one's own key in it counts once
    ann, bob = (opened(recipe(team, who, *everybody), None) for who in ("ann", "bob"))
    made = publish(ann.store)
    found = bob.store.find("checkpoint", "key-of-the-step")  # reused, though bob's names are other ones
    assert found and found.folder == made.folder and found.path("model").read_bytes() == b"weights" * 99_999
    append_log(ann.log, "of ann", ann.keys)
    append_log(bob.log, "of bob", bob.keys)
    assert list(read_log(ann.log, ann.keys)) == list(read_log(bob.log, bob.keys)) == ["of ann", "of bob"]
    eve = opened(recipe(team, "eve"), None)
    assert eve.store.all() == [] and eve.store.find("checkpoint", "key-of-the-step") is None
    with pytest.raises(Refused):
        eve.store.open(made.folder)
    with pytest.raises(Refused):
        list(read_log(eve.log, eve.keys))
    assert made.folder.is_dir()  # not set aside by somebody who cannot open it


def test_a_child_and_a_run_noted_before_get_the_same_keys(team):
    words = json.loads(json.dumps(trust_of(recipe(team, "ann", "bob.pub"))))
    assert len(keys_of(words).recipients) == 2 and len(keys_of(words[:3]).recipients) == 1


def test_who_is_revoked_opens_nothing_and_no_payload_is_written_anew(team):
    both = opened(recipe(team, "ann", "bob.pub"), None)
    folder = publish(both.store).folder
    append_log(both.log, "a line", both.keys)
    files = [*folder.rglob("*.sealed"), both.log]
    payloads = [path.read_bytes()[HEADER_BYTES:] for path in files]
    done = run.rewrap_run(recipe(team, "ann"))
    assert sorted(done.files) == sorted(files) and done.closed == () and len(done.keys) == 1
    assert [path.read_bytes()[HEADER_BYTES:] for path in files] == payloads
    bob = opened(recipe(team, "bob"), None)
    with pytest.raises(Refused):
        bob.store.open(folder)
    with pytest.raises(Refused):
        list(read_log(bob.log, bob.keys))
    ann = opened(recipe(team, "ann"), None)
    assert ann.store.find("checkpoint", "key-of-the-step") and list(read_log(ann.log, ann.keys)) == ["a line"]
    told = run.rewrap_run(recipe(team, "bob", "eve.pub"))  # who is out lets nobody in
    assert told.files == () and sorted(told.closed) == sorted(files)
    run.rewrap_run(recipe(team, "ann", "eve.pub"))
    assert opened(recipe(team, "eve"), None).store.open(folder).hash


def test_a_run_under_way_is_not_rewrapped(team):
    with locked(opened(recipe(team, "ann"), None)), pytest.raises(Lacking) as caught:
        run.rewrap_run(recipe(team, "ann", "bob.pub"))
    assert caught.value.code == "run.locked"


@pytest.mark.parametrize(
    ("recipients", "code"),
    [
        (["gone.pub"], "trust.no_recipient"),
        (["."], "trust.no_recipient"),
        (["ann.key"], "trust.public_key"),
        (["steelyard-public-1:AAAA"], "trust.public_key"),
        (["ann.pub", "bob.pub", "eve.pub"], "trust.recipients"),
        (["ann.pub", "ann.pub"], "trust.recipients"),
    ],
)
def test_a_recipient_that_is_not_there_is_said_before_anything_runs(team, recipients, code):
    asked = recipe(team, "new", *recipients)
    with pytest.raises(WrongUse) as caught:
        run.up(asked)
    assert caught.value.code == code and caught.value.where.field == "trust.recipients"
    assert not (team / "runs").exists()
    if code != "trust.recipients":
        assert not (team / "new.key").exists()
        with pytest.raises(WrongUse):
            run.settle(asked)


def test_open_has_no_recipients(team):
    (team / "o.yaml").write_text("name: o\nmodel: demo\ntrain: []\ntrust: {recipients: [bob.pub]}\n")
    with pytest.raises(WrongUse) as caught:
        load(team / "o.yaml")
    assert caught.value.where.field == "trust.recipients"
