"""A grammar is tried in a child within limits: what exceeds them is a 400, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from faked import FakeEngine, client_of, served_app

from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.limits import DEPTH
from steelyard.serving.engines import CAPABILITIES
from steelyard.serving.host.job import ANY_OBJECT
from steelyard.serving.turn.grammars import check as host
from steelyard.serving.turn.grammars.check import Grammars, digest
from steelyard.serving.turn.grammars.plain import is_plain

CHILD = """
import ctypes, os, signal, time
from pathlib import Path
from steelyard.serving.engines import TRIALS
from steelyard.serving.turn.grammars import child

def trial(grammar, folder):
    text = grammar[1]
    with open(folder / "tried", "a") as file:
        file.write(text + "\\n")
    while text == "spin":
        pass
    held = []
    while text == "bomb":
        held.append(bytearray(2**24))
    if text == "crash":
        ctypes.string_at(0)
    while text == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "large":
        held_for_ever.append(bytearray(2**20))
    while text.startswith("wait") and not (folder / "go").exists():
        time.sleep(0.01)
    if text == "wrong":
        raise ValueError("it is wrong" + "!" * 100_000)

held_for_ever = []
TRIALS["stub"] = lambda: lambda folder: lambda grammar: trial(grammar, folder)
child.main()
"""


@asynccontextmanager
async def stubbed(folder: Path, cpu_s: float = 1.0, **more):
    """Grammars whose child does as the text of a grammar says."""
    (folder / "child.py").write_text(CHILD)
    command = (sys.executable, str(folder / "child.py"))
    grammars = Grammars("stub", str(folder), cpu_s=cpu_s, memory_bytes=2**26, command=command, **more)
    try:
        yield grammars
    finally:
        await grammars.close()


def tried(folder: Path) -> list[str]:
    lines = (folder / "tried").read_text().splitlines()
    return [line for line in lines if line != ANY_OBJECT[1]]


async def refusal(grammars: Grammars, text: str, owner: str = "a") -> str:
    """What is said of a grammar, its code first; empty where it can be followed."""
    try:
        await grammars.check(("regex", text), owner)
    except ApiError as e:
        assert e.status == 400
        return f"{e.code}: {e.message}"
    return ""


HARMFUL = {"spin": "1.0 s of computing", "bomb": "64 MiB of memory", "crash": "too deeply"}


@pytest.mark.parametrize("text", HARMFUL)
def test_what_exceeds_a_limit_is_refused_by_its_name_and_the_next_is_served(tmp_path, text):
    async def run():
        async with stubbed(tmp_path) as grammars:
            said = await refusal(grammars, text)
            assert said.startswith("grammar_too_large: ") and HARMFUL[text] in said
            assert await refusal(grammars, "fine") == ""
            assert await refusal(grammars, text) == said
            assert grammars.starts == 2  # another child for the next, none for what is remembered

    asyncio.run(run())
    assert tried(tmp_path) == [text, "fine"]


def test_each_is_tried_once_and_what_is_wrong_with_it_harms_no_child(tmp_path):
    async def run():
        async with stubbed(tmp_path) as grammars:
            for _ in range(2):
                assert await refusal(grammars, "fine") == ""
                assert "it is wrong" in await refusal(grammars, "wrong")
            assert await refusal(grammars, "fine", owner="b") == ""
            assert grammars.starts == 1

    asyncio.run(run())
    assert tried(tmp_path) == ["fine", "wrong"]


def test_any_object_needs_no_child(tmp_path):
    async def run():
        async with stubbed(tmp_path) as grammars:
            await grammars.check(ANY_OBJECT, "a")
            assert grammars.starts == 0

    asyncio.run(run())


LOOKUP = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALLS = {
    "type": "array", "minItems": 1, "maxItems": 8, "items": {"$ref": "#/$defs/f"}, "$defs": {"f": LOOKUP},
}  # fmt: skip
PLAIN = [LOOKUP, CALLS, {"anyOf": [CALLS, {"enum": ["a", 1]}]}, {**LOOKUP, "additionalProperties": False}]
NOT_PLAIN = [
    {"type": "string", "pattern": "a"}, {"type": "string", "maxLength": 9}, {"allOf": [{}]},
    {"properties": []}, {"anyOf": {}}, {"items": 1}, [], {"enum": ["a" * 5000]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
    {"type": "object", "properties": {f"p{n}": {} for n in range(40)}},
    {"items": {"properties": {"a": {"patternProperties": {}}}}},
]  # fmt: skip


def test_small_schemas_of_plain_words_need_no_trial():
    assert all(is_plain(("json_schema", json.dumps(schema))) for schema in PLAIN)
    assert not any(is_plain(("json_schema", json.dumps(schema))) for schema in NOT_PLAIN)
    assert not is_plain(("regex", "a")) and not is_plain(("ebnf", '{"type": "object"}'))


def test_many_plain_schemas_are_forgotten_too(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "CACHE_BYTES", 3 * host.PLAIN_BYTES)
    forgotten = []

    async def forget():
        forgotten.append(True)

    async def run():
        async with stubbed(tmp_path, forget=forget) as grammars:
            for n in range(9):
                await grammars.check(("json_schema", json.dumps({"const": n})), "a")
            assert len(forgotten) == 3 and len(grammars.verdicts) <= 4 and not grammars.starts

    asyncio.run(run())


def test_a_key_with_many_grammars_holds_up_another_by_one(tmp_path):
    async def run():
        async with stubbed(tmp_path) as grammars:
            many = [asyncio.create_task(refusal(grammars, f"wait {n}")) for n in range(8)]
            while not (tmp_path / "tried").exists() or not tried(tmp_path):
                await asyncio.sleep(0.01)
            other = asyncio.create_task(refusal(grammars, "mine", "b"))
            await asyncio.sleep(0)
            (tmp_path / "go").touch()
            assert await other == "" and set(await asyncio.gather(*many)) == {""}

    asyncio.run(run())
    assert tried(tmp_path)[:2] == ["wait 0", "mine"] and len(tried(tmp_path)) == 9


def test_who_leaves_has_no_second_one_under_way(tmp_path):
    async def run():
        async with stubbed(tmp_path) as grammars:
            first = asyncio.create_task(refusal(grammars, "wait"))
            while not (tmp_path / "tried").exists() or not tried(tmp_path):
                await asyncio.sleep(0.01)
            first.cancel()
            leavers = [asyncio.create_task(refusal(grammars, f"left {n}")) for n in range(5)]
            await asyncio.sleep(0.05)
            for leaver in leavers:
                leaver.cancel()
            await asyncio.gather(first, *leavers, return_exceptions=True)
            (tmp_path / "go").touch()
            assert await refusal(grammars, "wait") == "" and await refusal(grammars, "next") == ""

    asyncio.run(run())
    assert tried(tmp_path) == ["wait", "next"]


def test_what_is_remembered_is_bounded_and_the_engine_forgets_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "CACHE_BYTES", 2**20)
    forgotten = []

    async def forget():
        forgotten.append(True)

    async def run():
        async with stubbed(tmp_path, forget=forget) as grammars:
            assert await refusal(grammars, "fine") == "" and not forgotten
            assert await refusal(grammars, "large") == "" and forgotten
            assert set(grammars.verdicts) == {digest(ANY_OBJECT)}
            assert await refusal(grammars, "fine") == "" and grammars.starts == 2

    asyncio.run(run())


def test_a_child_that_is_ended_from_outside_says_nothing_of_the_grammar(tmp_path):
    async def run():
        async with stubbed(tmp_path) as grammars:
            with pytest.raises(ApiError) as e:
                await grammars.check(("regex", "killed"), "a")
            assert e.value.status == 503 and digest(("regex", "killed")) not in grammars.verdicts
            assert await refusal(grammars, "fine") == ""

    asyncio.run(run())


def test_a_child_that_cannot_start_is_a_503(tmp_path):
    async def run():
        grammars = Grammars("stub", str(tmp_path), command=(sys.executable, "-c", "pass"))
        with pytest.raises(ApiError) as e:
            await grammars.check(("regex", "a"), "a")
        assert e.value.status == 503 and e.value.retry_after_s

    asyncio.run(run())


ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_while_one_is_tried_everybody_else_is_served(tokenizer_folder, tmp_path, path, stream):
    async def run():
        application, served = served_app(tokenizer_folder, FakeEngine())
        async with stubbed(tmp_path) as served.grammars, client_of(application) as client:
            body = {**ROUTES[path], "stream": stream}
            held = asyncio.create_task(client.post(path, json={**body, "guided_regex": "wait"}))
            while not (tmp_path / "tried").exists() or not tried(tmp_path):
                await asyncio.sleep(0.01)
            assert served.admission.inside == 0
            assert (await client.get("/live")).status_code == 200
            assert (await client.post(path, json=body)).status_code == 200
            assert not held.done()
            (tmp_path / "go").touch()
            assert (await held).status_code == 200
            bad = await client.post(path, json={**body, "guided_regex": "wrong"})
            assert bad.status_code == 400 and bad.json()["error"]["code"] == "engine_refused"

    asyncio.run(run())


# ------------------------------------------------------------------ the real compiler

needs_grammar = pytest.mark.skipif(
    "json_schema" not in CAPABILITIES["openvino"]().grammar, reason="this engine holds no answer to a schema"
)


def schema(**fields) -> tuple[str, str]:
    return "json_schema", json.dumps(fields)


def referring(start: str, **parts) -> tuple[str, str]:
    return "json_schema", json.dumps({"$ref": start, "$defs": parts})


DOUBLING = "".join(f"r{n} ::= r{n + 1} r{n + 1}\n" for n in range(60))


def within(depth: int) -> dict:
    return {"type": "object", "properties": {"a": within(depth - 1)}} if depth else {"type": "string"}


HOSTILE = {
    "an exponential regex": ("regex", "(a?){50}a{50}"),
    "repeats of repeats": ("regex", "((((a{1,30}){1,30}){1,30}){1,30}){1,30}"),
    "many alternatives": ("regex", "(" + "|".join(f"a{{{n}}}b" for n in range(1, 300)) + ")*"),
    "brackets": ("regex", "(" * 30_000 + ")" * 30_000),
    "10,000 properties": schema(type="object", properties={f"p{n}": {} for n in range(10_000)}),
    "a reference to itself": schema(**{"$ref": "#"}),
    "a loop": referring("#/$defs/a", a={"$ref": "#/$defs/b"}, b={"$ref": "#/$defs/a"}),
    "a tree without end": schema(type="array", items={"$ref": "#"}, minItems=3),
    "references that double": referring(
        "#/$defs/d0", **{f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}, d40={}
    ),
    "a huge enum": schema(enum=[f"value {n}" for n in range(5_000)]),
    "maxLength": schema(type="string", maxLength=10**9),
    "minLength": schema(type="string", minLength=10**9),
    "minItems": schema(type="array", items={"type": "string"}, minItems=10**9),
    "patternProperties": schema(type="object", patternProperties={f"^(a|b){{{n}}}$": {} for n in range(50)}),
    "deep": schema(**within(DEPTH // 2 - 2)),
    "rules without end": ("ebnf", "root ::= root root | root"),
    "rules in a row": ("ebnf", f'root ::= r0\n{DOUBLING}r60 ::= "a"'),
}  # fmt: skip


@needs_grammar
@pytest.mark.timeout(1500)  # up to 1 s of computing each, at low priority
def test_hostile_grammars_end_no_more_than_their_child(tiny_ir):
    """Each is a 400 or works, within the limits, and the next one is served."""

    async def run():
        grammars = Grammars("openvino", str(tiny_ir), cpu_s=1.0)
        try:
            for kind, text in HOSTILE.values():
                await attempt(grammars, (kind, text))
                await grammars.check(("regex", "yes|no"), "b")
        finally:
            await grammars.close()

    async def attempt(grammars, grammar):
        try:
            await grammars.check(grammar, "a")
        except ApiError as e:
            assert e.status == 400 and e.message

    asyncio.run(run())
