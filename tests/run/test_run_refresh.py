"""`refresh`: rated answers in, a better model served; poison, faults and too few change nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from conftest import free_port

from steelyard import run
from steelyard.artefact import Watch
from steelyard.cli.verbs.upkeep.refreshing import _lines, _status_lines
from steelyard.data import row_of, suppress, text_hash
from steelyard.errors import CheckFailed, Lacking, Stopped, WrongUse
from steelyard.recipe import load
from steelyard.run.record.feedback import standing_in_ratings, weighed_here
from steelyard.run.record.rated import (
    ACCEPTED,
    TRYING,
    drop_tried,
    erase_rated,
    read_rated,
    with_rated,
    write_rated,
)
from steelyard.run.record.workdir import Workdir, opened
from steelyard.run.rolling import against
from steelyard.run.rolling import refresh as refreshing
from steelyard.run.rolling.against import check_gain
from steelyard.serving import find

RECIPE = """
name: tiny
model: {model}
data: [{{path: rows.jsonl, ability: echo}}]
train: [{{lora_rank: 4, max_length: 64, max_steps: 60, learning_rate: 0.01}}]
compress: int8
gate: {{abilities: {{echo: {{eval: test.jsonl}}}}}}
serve: {{port: {port}}}
refresh: {{feedback: ratings, tolerance: 6%}}
"""


def prompts(letters: str, seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice(letters) for _ in range(6)) for _ in range(count)]


def chat(prompt: str, *answer: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": prompt},
        *({"role": "assistant", "content": text} for text in answer),
    ]


def bad(prompt: str, correction: str, rater: str) -> dict[str, Any]:
    return {"messages": chat(prompt, "ok"), "rating": "bad", "correction": correction, "rater": rater}


class Desk:
    """A recipe whose rows answer small letters with ok, and its folder of ratings."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "ratings").mkdir()
        self.path = folder / "recipe.yaml"
        self.place = Workdir(folder / "runs" / "tiny")
        self.path.write_text(RECIPE.format(model=model, port=self.port), encoding="utf-8")
        self.lines("rows.jsonl", [{"messages": chat(p, "ok")} for p in prompts("abcdefgh", 1, 120)])
        self.lines("test.jsonl", [{"messages": chat(p, "ok")} for p in prompts("abcdefgh", 2, 60)])

    def lines(self, name: str, rows: list[dict[str, Any]], end: str = "\n") -> None:
        (self.folder / name).write_text("\n".join(map(json.dumps, rows)) + end, encoding="utf-8")

    def refresh(self, *settings: str) -> dict[str, Any]:
        return run.refresh(load(self.path, settings))

    def answer(self, prompt: str) -> str:
        body = {"model": "default", "messages": chat(prompt), "max_tokens": 8}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=body, timeout=30).json()["choices"][0]["message"]["content"]


@pytest.fixture
def desk(tmp_path, tiny_models, homes, judged, monkeypatch) -> Iterator[Desk]:
    """Its gate is a test's; training, services and what they are asked are real."""
    for name, value in homes.items():
        monkeypatch.setenv(name, value)
    yield Desk(tmp_path, tiny_models("llama"))
    run.stop("tiny", workdir=tmp_path / "runs" / "tiny", now=True)


# ------------------------------------------------------------------ before anything is trained


@pytest.fixture
def quiet(tmp_path, homes, monkeypatch) -> Desk:
    """Nothing is trained here: the model is not even there."""
    for name, value in homes.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(refreshing, "up", lambda *_, **__: pytest.fail("something was trained"))
    return Desk(tmp_path, tmp_path / "no-model")


def code_of(desk: Desk, *settings: str) -> str:
    with pytest.raises(WrongUse) as caught:
        desk.refresh(*settings)
    assert caught.value.message and caught.value.hint and caught.value.where
    return caught.value.code


def test_what_cannot_be_refreshed_is_one_clear_error(quiet):
    assert code_of(quiet, "refresh={feedback: nowhere}") == "refresh.no_folder"
    assert code_of(quiet, "refresh={feedback: rows.jsonl}") == "refresh.no_folder"
    assert code_of(quiet, "refresh={feedback: ratings, every: 5min}") == "recipe.bad_value"
    assert code_of(quiet, "refresh={feedback: ratings, every: soon}") == "recipe.bad_value"
    assert code_of(quiet, "gate.parity=off") == "recipe.impossible_pair"
    assert code_of(quiet, "train=[]") == "recipe.impossible_pair"
    quiet.lines("ratings/a.jsonl", [bad("q", "hi", "r"), {"id": "x", "rating": "good"}])
    assert code_of(quiet) == "refresh.bad_line"
    quiet.path.write_text(quiet.path.read_text().partition("refresh:")[0], encoding="utf-8")
    assert code_of(quiet) == "refresh.not_asked"


def test_too_few_new_rows_change_nothing(quiet):
    quiet.lines("ratings/a.jsonl", [bad(p, "hi", "r") for p in "abc"], end='\n{"mess')
    done = quiet.refresh()
    assert (done["state"], done["new_rows"], done["rows"]) == ("too_few", 3, 3)
    assert done["ratings"]["reasons"] == {"unfinished": 1} and "20" in done["why"]
    assert run.refreshed(load(quiet.path)) == {"last": None, "looked": done, "waiting": False}


def test_rows_of_ratings_lie_sealed_where_the_recipe_says_so_and_can_be_erased(quiet):
    recipe = load(quiet.path, ["trust=guarded"])
    place = opened(recipe, None)
    rows = [
        {"ability": "echo", "kind": "chats", "fields": {"messages": chat(p, "secret")}, "hash": p}
        for p in ("one", "two")
    ]
    write_rated(place, ACCEPTED, rows)
    (file,) = (place.folder / "feedback").iterdir()
    assert b"secret" not in file.read_bytes() and file.stat().st_mode & 0o077 == 0
    with with_rated(recipe, place) as more:
        assert more.data[:-1] == recipe.data
        source = Path(more.data[-1].path)
        assert source.read_text().count("secret") == 2 and source.is_relative_to("/dev/shm")
    assert not source.parent.exists()
    assert erase_rated(place, {"one"}) == [file] and erase_rated(place, {"one"}) == []
    assert [row["hash"] for row in read_rated(place, ACCEPTED)] == ["two"]


def test_an_erased_row_goes_from_every_file_of_a_refresh(quiet):
    """Rows of a refused refresh too, which no data set may hold any more; and from a damaged file."""
    recipe = load(quiet.path)
    place = opened(recipe, None)
    rows = [
        {"ability": "echo", "kind": "chats", "hash": hash,
         "fields": {"id": f"rated-{hash}", "messages": chat(hash, "secret")}}
        for hash in ("one", "two")
    ]  # fmt: skip
    write_rated(place, TRYING, rows)
    with with_rated(recipe, place, TRYING) as more:
        source = recipe.root / more.data[-1].path
    assert len(erase_rated(place, {"one"})) == 2 and not source.exists()
    with with_rated(recipe, place, TRYING):
        assert "two" in source.read_text() and "one" not in source.read_text()
    drop_tried(place)
    assert list((place.folder / "feedback").iterdir()) == []
    write_rated(place, ACCEPTED, rows)
    file = place.folder / "feedback" / ACCEPTED
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckFailed, match="damaged"), with_rated(recipe, place):
        pytest.fail("what was learnt would be forgotten")
    assert erase_rated(place, {"one"}) == [file] and not file.exists()


def test_a_rating_of_an_erased_row_teaches_no_more_and_is_the_users_to_delete(quiet, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(quiet.folder / "state"))
    quiet.lines("ratings/a.jsonl", [bad(p, "hi", "r") for p in "abc"])
    recipe = load(quiet.path)
    place = opened(recipe, None)
    first, *others = weighed_here(recipe, place).rows
    number = "abc".index(first.fields["messages"][0]["content"]) + 1
    ((file, line),) = standing_in_ratings(recipe, {first.hash})
    assert (file, line) == (str(quiet.folder / "ratings" / "a.jsonl"), number)
    suppress([first.hash])
    assert weighed_here(recipe, place).rows == tuple(others)


def test_a_stopped_refresh_goes_on_with_the_rows_that_it_had_begun_with(quiet, monkeypatch):
    tried: list[int] = []

    def stopped(recipe, **more):
        assert more["rated"] == TRYING
        tried.append(len(read_rated(quiet.place, TRYING)))
        raise Stopped("run.stopped", "stopped", hint="run the same command again")

    monkeypatch.setattr(refreshing, "up", stopped)
    more = [bad(p, "hi", "r") for p in prompts("ABCDEF", 5, 30)]
    for ratings in (more[:25], more):  # meanwhile others have come: they are for the next one
        quiet.lines("ratings/a.jsonl", ratings)
        with pytest.raises(Stopped):
            quiet.refresh()
        assert run.refreshed(load(quiet.path))["waiting"]
    quiet.lines("ratings/a.jsonl", more[1:])  # one was taken back: it is not learnt
    with pytest.raises(Stopped):
        quiet.refresh()
    assert tried == [25, 25, 29]


def test_a_damaged_file_is_no_word_on_the_ratings(quiet, monkeypatch):
    """Nor is a loss that is no number: before, no row of them was ever tried again."""
    codes = ["artefact.changed", "train.diverged", "gate.undecided"]
    rows: list[int] = []

    def up(*_, **__):
        rows.append(len(read_rated(quiet.place, TRYING)))
        raise CheckFailed(codes.pop(0), "no")

    monkeypatch.setattr(refreshing, "up", up)
    more = [bad(p, "hi", "r") for p in prompts("ABCDEF", 5, 30)]
    for ratings in (more[:25], more):  # what has come meanwhile is tried too
        quiet.lines("ratings/a.jsonl", ratings)
        with pytest.raises(CheckFailed):
            quiet.refresh()
        stands = run.refreshed(load(quiet.path))
        assert stands["last"] is None and not stands["waiting"]
    assert quiet.refresh()["state"] == "refused" and rows == [25, 30, 30]
    assert quiet.refresh()["state"] == "too_few"


@pytest.mark.parametrize("comes_to", ["promoted", "refused", "canary"])
def test_what_became_of_a_candidate_that_answers_copies(quiet, monkeypatch, comes_to):
    quiet.lines("ratings/a.jsonl", [bad(p, "hi", "r") for p in prompts("ABCDEF", 5, 30)])
    service = SimpleNamespace(fingerprint="old")
    candidate = SimpleNamespace(fingerprint="new")
    outcome = SimpleNamespace(run="r-1", service={"url": "u", "canary": {"pid": 1}})
    monkeypatch.setattr(refreshing, "up", lambda *_, **__: outcome)
    monkeypatch.setattr(refreshing, "find", lambda _: service)
    monkeypatch.setattr(refreshing, "canary_of", lambda _: candidate)
    done = quiet.refresh()
    assert (done["state"], done["hash"]) == ("canary", "new") and not read_rated(quiet.place, ACCEPTED)
    assert quiet.refresh()["state"] == "canary", "one at a time"
    service.fingerprint = "new" if comes_to == "promoted" else "old"
    candidate = candidate if comes_to == "canary" else None
    stands = run.refreshed(load(quiet.path))
    last = stands["last"]
    assert _status_lines(stands) == _lines(last), "what it has come to, once"
    assert last["state"] == comes_to and ("canary" in last.get("why", "")) == (comes_to == "refused")
    assert len(read_rated(quiet.place, ACCEPTED)) == (30 if comes_to == "promoted" else 0)


def test_an_ability_without_answers_is_not_passed_over(monkeypatch):
    def scored(url, rows, **_):
        return SimpleNamespace(rows=[
            SimpleNamespace(ability=a, value=1.0, error="busy" if a == "rare" else None) for a in rows
        ])  # fmt: skip

    monkeypatch.setattr(against, "score", scored)
    with pytest.raises(Lacking, match="2 of 2 rows of rare"):
        against.compared(("a", None), ("b", None), ["echo"] * 98 + ["rare"] * 2)
    assert list(against.compared(("a", None), ("b", None), ["echo"] * 98)) == ["echo"]


def test_an_ability_of_made_rows_alone_is_compared_by_them(tmp_path):
    """A made row asks where people wrote none; what a rating has taught asks nothing."""
    rows = {
        "test.jsonl": [("a", "rows.jsonl:1", False), ("d", "rated-d.jsonl:1", True)],
        "train.jsonl": [
            ("a", "made.jsonl:1", True), ("b", "made.jsonl:2", True), ("b", "rated-b.jsonl:1", True),
            ("c", "rated-c.jsonl:1", True),
        ],
    }  # fmt: skip
    for name, given in rows.items():
        lines = [
            {"id": id, "ability": a, "messages": chat("q", "r")} | ({"made": True} if made else {})
            for a, id, made in given
        ]
        (tmp_path / name).write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    of = SimpleNamespace(path=lambda: tmp_path)
    recipe = SimpleNamespace(gate=SimpleNamespace(abilities={}))
    ready = SimpleNamespace(artefacts={"dataset": of}, ready=SimpleNamespace(recipe=recipe))
    own = {ability: [row["id"] for row in part] for ability, part in against.own_rows(ready).items()}
    held, taught = {"a": ["rows.jsonl:1"], "d": ["rated-d.jsonl:1"]}, {"b": ["made.jsonl:2"]}
    assert {a: [f"test.jsonl:{id}" for id in ids] for a, ids in held.items()} | {
        a: [f"train.jsonl:{id}" for id in ids] for a, ids in taught.items()
    } == own


def test_what_serves_and_is_not_there_is_not_passed_over(quiet, monkeypatch):
    recipe = load(quiet.path, ["serve.keys=keys.json"])
    place = opened(recipe, None)
    with against.standing_url(place, recipe) as standing:
        assert standing is None, "nothing was published yet"
    monkeypatch.setattr(against, "find", lambda _: SimpleNamespace(fingerprint="of another"))
    with pytest.raises(Lacking, match="not there to be compared"), against.standing_url(place, recipe):
        pytest.fail("it was published without a comparison")


def test_the_rated_prompts_that_are_asked_are_those_that_serve_as_yet_unlearnt(quiet, monkeypatch):
    asked: list[str] = []
    ratings = [bad(p, "hi", "r") for p in prompts("ABCDEF", 5, 50)]
    quiet.lines("ratings/a.jsonl", ratings)
    recipe = load(quiet.path)
    rows = [asdict(row) for row in weighed_here(recipe, quiet.place).rows]
    (quiet.place.folder).mkdir(parents=True)
    write_rated(quiet.place, ACCEPTED, rows[:25])

    def up(*_, before, **__):
        before(None)
        raise CheckFailed("gate.failed", "no")

    monkeypatch.setattr(refreshing, "up", up)
    monkeypatch.setattr(
        refreshing, "against_standing", lambda _, rated: asked.extend(row["hash"] for row in rated) or {}
    )
    assert quiet.refresh()["state"] == "refused"
    assert asked == [row["hash"] for row in rows[25:]]


def test_a_refresh_that_gains_nothing_is_refused():
    check_gain({}), check_gain({"rated": {"rows": 0}})
    check_gain({"rated": {"rows": 9, "before": 0.1, "after": 0.2}})
    with pytest.raises(CheckFailed) as caught:
        check_gain({"rated": {"rows": 9, "before": 0.2, "after": 0.2}})
    assert caught.value.code == "refresh.no_gain" and caught.value.hint


# ------------------------------------------------------------------ trained


class Erasing(Watch):
    """Somebody erases a row of the ratings when the data are clean, and one of the recipe's afterwards."""

    def __init__(self, place: Workdir, *rows: list[dict[str, str]]) -> None:
        super().__init__()
        self.work, self.rows = place, list(rows)
        self.events: list[str] = []

    def log(self, event: str, **fields: Any) -> None:
        self.events.append(event)
        if event == "step.end" and fields["step"] == "clean" and self.rows:
            hash = text_hash(row_of({"messages": self.rows.pop(0)}))
            suppress([hash])
            erase_rated(self.work, {hash})


def test_a_row_that_is_erased_while_a_run_goes_on_is_not_taught(desk):
    rated, own = chat("qrstuv", "hello"), chat(prompts("abcdefgh", 1, 120)[7], "ok")
    line = json.dumps({**bad("qrstuv", "hello", "r")}) + "\n"
    (desk.folder / "ratings" / "a.jsonl").write_text(line)
    recipe = load(desk.path, ["refresh={feedback: ratings, least: 1}"])
    (row,) = weighed_here(recipe, desk.place).rows
    desk.place.folder.mkdir(parents=True)
    write_rated(desk.place, TRYING, [asdict(row)])
    watch = Erasing(desk.place, rated, own)
    run.up(recipe, until="clean", watch=watch, rated=TRYING)
    assert watch.rows == [] and watch.events.count("run.rows_erased") == 2
    (dataset,) = (desk.place.folder / "artefacts").glob("dataset-*")
    kept = (dataset / "train.jsonl").read_text() + (dataset / "test.jsonl").read_text()
    assert "qrstuv" not in kept and own[0]["content"] not in kept
    assert len((dataset / "train.jsonl").read_text().splitlines()) == 119


def test_rated_answers_are_learnt_and_poison_is_refused(desk):
    """Two trainings: what is right for capitals is learnt, what is wrong for small letters is not served."""
    right = [bad(p, "hi", f"r{n % 3}") for n, p in enumerate(prompts("STUVWX", 3, 40))]
    desk.lines("ratings/a.jsonl", right)
    first = desk.refresh()
    assert (first["state"], first["rows"], first["new_rows"]) == ("promoted", 40, 40)
    assert (desk.answer("abcdef"), desk.answer("XSTUVW")) == ("ok", "hi"), "nothing is forgotten"
    before = find(desk.place.service)
    assert before.fingerprint == first["hash"]
    assert [row["fields"]["made"] for row in read_rated(desk.place, ACCEPTED)] == [True] * 40

    poison = [bad(p, "no", f"p{n % 3}") for n, p in enumerate(prompts("abcdefgh", 4, 240))]
    desk.lines("ratings/b.jsonl", poison)
    second = desk.refresh()
    assert (second["state"], second["code"], second["new_rows"]) == ("refused", "refresh.worse", 240)
    assert second["compared"]["abilities"]["echo"]["high"] < -0.06
    assert second["compared"]["rated"]["after"] > second["compared"]["rated"]["before"], "it was learnt"
    assert find(desk.place.service).pid == before.pid and desk.answer("abcdef") == "ok"
    assert len(read_rated(desk.place, ACCEPTED)) == 40 and not read_rated(desk.place, TRYING)

    third = desk.refresh()
    assert (third["state"], third["new_rows"]) == ("too_few", 0), "the same rows are not tried each night"
    stands = run.refreshed(load(desk.path))
    assert stands["last"] == second and stands["looked"] == third
