"""Which ability a prompt asks for: fitted on rows, kept in a folder, unsure where it should be."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from steelyard.errors import WrongUse
from steelyard.router import asked_of, fit_router, milliseconds, read_router, write_router

CHINESE = "今天的天气很好我们去公园散步然后吃饭书店里有许多新书价格也不贵服务态度差下次不会再来"


def rows_of(count: int, seed: int) -> list[dict]:
    """Three abilities: SQL, log lines, Chinese reviews."""
    chance = random.Random(seed)

    def sql() -> str:
        table, column = chance.choice(["users", "orders", "items"]), chance.choice(["id", "price", "name"])
        return f"Rewrite this SQL: SELECT {column} FROM {table} WHERE x > {chance.randrange(9999)}"

    def log() -> str:
        stamp = f"2026-0{chance.randrange(1, 9)}-11T10:2{chance.randrange(9)}:00Z"
        return f"Turn this log line into JSON: {stamp} ERROR elm-{chance.randrange(99)}: evict"

    def review() -> str:
        return "评价：" + "".join(chance.sample(CHINESE, 12))

    makers = {"sql": sql, "log": log, "review": review}
    return [
        {
            "ability": name,
            "messages": [{"role": "user", "content": make()}, {"role": "assistant", "content": "x"}],
        }
        for _ in range(count)
        for name, make in makers.items()
    ]


@pytest.fixture(scope="module")
def router():
    return fit_router(rows_of(120, 0), rows_of(100, 1))


def test_prompts_go_to_their_ability(router):
    for own in router.accuracy.values():
        assert own.rows > 50 and own.right / own.rows >= 0.97 and own.wrong == 0


def test_what_no_rows_look_like_goes_to_the_base(router):
    foreign = ["Who wrote Faust?", "Explique la photosynthèse en deux phrases.", "Как дела?", "", "🙂🙂🙂"]
    assert [router.route(text).ability for text in foreign] == [None] * len(foreign)


def test_it_is_read_as_it_was_written(router, tmp_path):
    write_router(router, tmp_path / "router")
    again = read_router(tmp_path / "router")
    texts = [asked_of(row["messages"][:-1]) for row in rows_of(20, 2)]
    assert [again.route(t) for t in texts] == [router.route(t) for t in texts]
    assert again.accuracy == router.accuracy


def test_equal_rows_give_equal_weights():
    first, second = (fit_router(rows_of(30, 0)) for _ in range(2))
    assert np.array_equal(first.weights, second.weights)


def test_a_long_prompt_takes_no_longer(router):
    assert np.median(milliseconds(router, ["long " * 200_000] * 5)) < 50  # of a machine under any load


def test_the_system_and_the_last_user_are_read():
    chat = [
        {"role": "system", "content": "S"}, {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "last"}]},
    ]  # fmt: skip
    assert asked_of(chat) == "S\nlast"


FEW = {
    "ability": "few",
    "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
}


@pytest.mark.parametrize(
    ("rows", "code"),
    [(rows_of(30, 0)[::3], "route.abilities"), ([*rows_of(30, 0), FEW], "route.few_rows")],
)
def test_too_few_rows_are_refused(rows, code):
    with pytest.raises(WrongUse) as error:
        fit_router(rows)
    assert error.value.code == code


@pytest.mark.parametrize("damage", ["none", "config", "weights", "version"])
def test_what_is_no_router_is_refused(router, tmp_path, damage):
    folder = tmp_path / "router"
    if damage == "none":
        folder.mkdir()
    else:
        write_router(router, folder)
    if damage == "config":
        (folder / "router.json").write_text("{}")
    if damage == "weights":
        np.save(folder / "weights.npy", np.zeros((2, 5), np.float16))
    if damage == "version":
        document = json.loads((folder / "router.json").read_text()) | {"bits": 12}
        (folder / "router.json").write_text(json.dumps(document))
    with pytest.raises(WrongUse) as error:
        read_router(folder)
    assert error.value.code == "route.unreadable"
