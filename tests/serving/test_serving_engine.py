"""The OpenVINO engine itself, in this process: what it is asked comes out, or is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from steelyard import serving
from steelyard.errors import WrongUse
from steelyard.serving.engines import ENGINES, Engine, EngineSettings, Event, GenRequest

END = (2,)
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2, 3]}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
PERSON = list(range(40, 140))  # 100 tokens: three whole blocks of the cache


@pytest.fixture(scope="module")
def make(tiny_ir) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def load(folder: Path = tiny_ir, **settings: Any) -> Engine:
        made.append(ENGINES["openvino"]()(EngineSettings(folder=str(folder), mode="exact", **settings)))
        return made[-1]

    yield load
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def engine(make) -> Engine:
    return make()


def request(number: int, **asked: Any) -> GenRequest:
    return GenRequest(**{"request_id": number, "ids": PERSON, "max_tokens": 24, **asked})


def answer(engine: Engine, *requests: GenRequest) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {r.request_id: [] for r in requests}
    entering = [entered for one in requests if (entered := engine.add(one))]
    while engine.busy() or not all(entered.done() for entered in entering):
        for event in engine.step():
            found[event.request_id].append(event)
    for entered in entering:
        entered.result()
    return found


def ids(events: list[Event]) -> list[int]:
    return [n for event in events for n in event.ids]


def told(events: list[Event]) -> list[float]:
    return [value for event in events for value in event.logprobs or ()]


def text(folder: Path, events: list[Event]) -> str:
    from steelyard.model import Tokenizer

    return Tokenizer(folder).decode(ids(events))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("logprobs", [False, True])
def test_an_answer_keeps_to_its_schema(engine, tiny_ir, temperature, logprobs):
    asked = {"grammar": ("json_schema", json.dumps(SCHEMA)), "max_tokens": 200, "seed": 3}
    told = answer(engine, request(10, temperature=temperature, logprobs=logprobs, stop_ids=END, **asked))[10]
    assert told[-1].finish in ("stop", "length")
    if told[-1].finish == "stop":  # a random network may write blanks for ever
        found = json.loads(text(tiny_ir, told))
        assert isinstance(found["ok"], bool) and found["n"] in (1, 2, 3)


def test_regex_and_ebnf_bind_the_answer(engine, tiny_ir):
    told = answer(
        engine,
        request(20, grammar=("regex", "(yes|no)[0-9]{3}"), stop_ids=END),
        request(21, grammar=("ebnf", 'root ::= "ab" | "cd"'), stop_ids=END),
    )
    assert re.fullmatch("(yes|no)[0-9]{3}", text(tiny_ir, told[20]))
    assert text(tiny_ir, told[21]) in ("ab", "cd")
    assert told[20][-1].finish == told[21][-1].finish == "stop"


@pytest.mark.parametrize(
    "grammar",
    [
        ("json_schema", "{"), ("json_schema", '{"type": "nonsense"}'), ("json_schema", '{"not": {}}'),
        ("regex", "(("), ("ebnf", "root ::= "), ("lark", "start: x"),
    ],
)  # fmt: skip
def test_a_grammar_that_cannot_be_followed_is_refused_and_harms_nobody(engine, grammar):
    with pytest.raises(ValueError):
        answer(engine, request(30, grammar=grammar, stop_ids=END))
    assert ids(answer(engine, request(31, max_tokens=4))[31])


def test_streams_go_on_while_a_grammar_compiles_and_who_comes_behind_it_waits(make, monkeypatch):
    engine = make()
    assert answer(engine, request(60, grammar=("regex", "ab"), stop_ids=END))[60]
    go, check = threading.Event(), engine.beside.grammars.check
    monkeypatch.setattr(engine.beside.grammars, "check", lambda grammar: go.wait() and check(grammar))
    engine.add(request(61, max_tokens=400))
    new = engine.add(request(62, grammar=("regex", "cd"), stop_ids=END))
    behind = engine.add(request(63, grammar=("regex", "ab"), stop_ids=END))
    left = engine.add(request(64, grammar=("regex", "ef"), stop_ids=END))
    events = [event for _ in range(40) for event in engine.step()]
    assert {event.request_id for event in events} == {61} and len(events) > 20
    assert engine.cancel(64) and not engine.holds(64) and not engine.cancel(61)
    go.set()
    while engine.busy() or not behind.done():
        events += engine.step()
    assert new.done() and not left.done()
    assert {event.request_id for event in events if event.finish == "stop"} == {62, 63}


def test_compiled_grammars_can_be_forgotten(make):
    engine = make()
    asked = {"grammar": ("regex", "ab"), "stop_ids": END}
    assert answer(engine, request(65, **asked))[65]
    running = engine.add(request(66, **asked))
    engine.forget_grammars()
    assert running is None and engine.beside.forgetting  # one of them begins just now
    engine.cancel(66)
    assert ids(answer(engine, request(67, **asked))[67])
    assert not engine.beside.forgetting and engine.beside.grammars.good == {("regex", "ab")}


def test_a_property_may_bear_the_name_of_a_keyword(engine):
    schema = {"type": "object", "properties": {"not": {"const": "if"}}, "required": ["not"]}
    assert answer(engine, request(32, grammar=("json_schema", json.dumps(schema)), stop_ids=END))[32]


def test_a_folder_without_a_vocabulary_follows_grammars_too(make, tiny_ir, tmp_path):
    for file in tiny_ir.iterdir():
        if "detokenizer" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    told = answer(make(tmp_path), request(40, grammar=("regex", "a{5}"), stop_ids=END))
    assert text(tmp_path, told[40]) == "aaaaa"


def test_the_least_number_of_tokens_is_kept(engine):
    free = ids(answer(engine, request(50, max_tokens=30))[50])
    end = (free[1],)
    assert len(ids(answer(engine, request(51, stop_ids=end))[51])) == 2
    held = answer(engine, request(52, stop_ids=end, min_tokens=10))[52]
    assert len(ids(held)) >= 10


def test_tokens_found_in_the_prefix_cache_are_counted(make):
    engine = make()
    first = answer(engine, request(1))[1]
    again = answer(engine, request(2))[2]
    longer = answer(engine, request(3, ids=[*PERSON, *range(200, 240)]))[3]
    assert [e[0].cached for e in (first, again, longer)] == [0, 96, 96]
    assert engine.metrics()["prefix_hits"] == 192
    assert engine.metrics()["prefix_queries"] == 340
    assert ids(first) == ids(again)


def test_of_prompts_that_come_together_the_shared_beginning_is_computed_once(make):
    engine = make()
    shared = [3 + n % 200 for n in range(192)]
    asked = [request(n, ids=[*shared, *range(210 + n, 220 + n)]) for n in range(1, 5)]
    together = answer(engine, *asked)
    assert [together[n][0].cached for n in range(1, 5)] == [0, 192, 192, 192]
    apart = make(prefix_cache=False)
    assert [ids(together[n]) for n in range(1, 5)] == [ids(answer(apart, r)[r.request_id]) for r in asked]


def test_who_waits_for_a_beginning_goes_on_when_its_leader_leaves(make):
    engine = make(max_num_batched_tokens=32)
    shared = [3 + n % 200 for n in range(192)]
    for n in (1, 2, 3):
        engine.add(request(n, ids=[*shared, 210 + n]))
    engine.step()
    engine.cancel(1)
    engine.cancel(3)
    told = [event for _ in iter(engine.busy, False) for event in engine.step()]
    assert {event.request_id for event in told} == {2}
    assert len(ids(told)) == 24


def test_who_leaves_in_the_middle_of_a_prompt_leaves_no_unfinished_block_to_be_found(make):
    """The third block is half computed when its reader leaves; who begins alike must not find it whole."""
    prompt = [3 + n * 7 % 230 for n in range(90)]
    right = answer(make(prefix_cache=False), request(1, ids=prompt))[1]
    for steps in (1, 2):
        engine = make(max_num_batched_tokens=40)
        engine.add(request(1, ids=prompt))
        for _ in range(steps):
            assert not [event for event in engine.step() if event.request_id == 2]
        engine.cancel(1)
        found = answer(engine, request(2, ids=prompt), request(3, ids=prompt))
        assert ids(found[2]) == ids(right) and ids(found[3]) == ids(right)
        assert not engine.busy()


def test_two_that_go_on_from_one_half_full_block_do_not_write_into_each_other(make):
    """Two different second turns of one conversation, asked together."""
    first = [3 + n * 11 % 230 for n in range(200)]
    engine, apart = make(max_model_len=512), make(max_model_len=512, prefix_cache=False)
    said = ids(answer(engine, request(1, ids=first, max_tokens=20))[1])
    turns = [request(n, ids=[*first, *said, *range(n, n + 30)], logprobs=True) for n in (10, 60)]
    together = answer(engine, *turns)
    for turn in turns:
        alone = answer(apart, turn)[turn.request_id]
        assert ids(together[turn.request_id]) == ids(alone)
        assert told(together[turn.request_id]) == pytest.approx(told(alone), abs=1e-3)


def test_without_a_prefix_cache_nothing_is_counted(make):
    engine = make(prefix_cache=False)
    told = [answer(engine, request(n))[n][0].cached for n in (1, 2)]
    assert told == [None, None]


def test_the_count_follows_what_really_is_computed_when_room_is_short(make):
    """Prefill in pieces of 32 tokens: the steps before the first token say what was computed."""
    engine = make(max_num_batched_tokens=32, cache_bytes=1, max_model_len=256)
    for number, start in enumerate((3, 40, 77, 3, 114, 3, 77, 40, 3), 1):
        prompt = [start + n % 30 for n in range(160)]
        engine.add(request(number, ids=prompt, max_tokens=1))
        steps, told = 0, []
        while not told:
            told, steps = engine.step(), steps + 1
        assert steps == -(-(160 - told[0].cached) // 32), (number, told[0].cached)


@pytest.fixture(scope="module")
def small(tiny_form) -> Path:
    """Of the same tokens as the model; guesses nearly as it would go on."""
    return tiny_form("int8")


@pytest.fixture(scope="module")
def drafting(make, small) -> Callable[[str], Engine]:
    return cache(lambda kind: make(speculative=kind, draft=str(small) if kind == "draft" else None))


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_drafted_tokens_leave_greedy_answers_unchanged(drafting, engine, kind):
    drafting = drafting(kind)
    prompts = [[5 + n, 6, 7, 8] * 20 for n in range(4)]
    asked = [request(100 + n, ids=p, max_tokens=40, logprobs=True) for n, p in enumerate(prompts)]
    plain, drafted = answer(engine, *asked), answer(drafting, *asked)
    for number in plain:
        assert ids(plain[number]) == ids(drafted[number])
        told = [[p for e in found[number] for p in e.logprobs or []] for found in (plain, drafted)]
        assert told[0] == pytest.approx(told[1], abs=1e-3)
    assert max(len(e.ids) for e in drafted[100]) > 1


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_drafts_go_with_sampling_grammars_and_cancel(drafting, tiny_ir, kind):
    engine = drafting(kind)
    engine.add(request(1, max_tokens=400))
    engine.step()
    engine.cancel(1)
    told = answer(
        engine,
        request(2, grammar=("regex", "(ab){6}"), stop_ids=END),
        request(3, temperature=1.0, max_tokens=30),
        request(4, max_tokens=1),
    )
    assert text(tiny_ir, told[2]) == "ab" * 6
    assert (len(ids(told[3])), len(ids(told[4]))) == (30, 1)


def test_a_draft_model_keeps_up_with_many_and_full_length_answers(drafting, engine):
    """Its cache holds as many tokens as the model's own."""
    prompts = [[3 + n % 90] * 60 + PERSON[: n + 1] for n in range(24)]
    asked = [request(200 + n, ids=p, max_tokens=80) for n, p in enumerate(prompts)]
    plain, drafted = answer(engine, *asked), answer(drafting("draft"), *asked)
    assert {n: ids(e) for n, e in plain.items()} == {n: ids(e) for n, e in drafted.items()}


def test_a_draft_models_folder_keeps_its_own_tokenizer(make, small, tmp_path):
    """As another exporter leaves it: with a tokenizer of GenAI's."""
    folder = shutil.copytree(small, tmp_path / "theirs")
    for kind in ("xml", "bin"):
        (folder / f"openvino_tokenizer.{kind}").write_text("theirs")
    assert len(ids(answer(make(speculative="draft", draft=str(folder)), request(1))[1])) == 24
    assert {(folder / f"openvino_tokenizer.{kind}").read_text() for kind in ("xml", "bin")} == {"theirs"}


def test_a_draft_without_a_model_is_refused(tiny_ir):
    with pytest.raises(WrongUse, match="needs a model"):
        serving.start(tiny_ir, serving.ServeSettings(speculative="draft"))


def test_a_draft_model_of_other_tokens_is_refused(tiny_ir, tiny_models, tmp_path):
    other = shutil.copytree(tiny_models("llama"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[:2]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WrongUse, match="another tokenizer"):
        serving.start(tiny_ir, serving.ServeSettings(speculative="draft", draft=str(other)))


def test_what_a_decoder_cannot_do_it_refuses(engine):
    with pytest.raises(NotImplementedError):
        engine.embed([[1, 2]])


# ------------------------------------------------------------------ adapters

LINEARS = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64),
    "mlp.down_proj": (64, 128),
}  # fmt: skip


def lora(
    folder: Path,
    seed: int,
    linears: dict[str, tuple[int, int]] = LINEARS,
    ranks: tuple[int, ...] = (4,),
    **described: Any,
) -> Path:
    """A LoRA of random numbers for the tiny model, as PEFT stores it; its matrices have `ranks` in turn."""
    import numpy as np
    from safetensors.numpy import save_file

    chance, tensors = np.random.default_rng(seed), {}
    for layer in range(2):
        for (name, (rows, columns)), rank in zip(linears.items(), cycle(ranks), strict=False):
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = chance.normal(0, 0.2, (rank, columns)).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = chance.normal(0, 0.2, (rows, rank)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **described}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def merged(base: Path, adapter: Path, out: Path) -> Path:
    """The IR of W + 2 B A, in f32."""
    import shutil

    from steelyard.compression import export_form
    from steelyard.model import Weights, write

    weights, factors = Weights(base), Weights(adapter / "adapter_model.safetensors")
    tensors = {}
    for name in weights:
        value, key = weights.f32(name), f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in set(factors):
            value = value + 2 * factors.f32(f"{key}.lora_B.weight") @ factors.f32(f"{key}.lora_A.weight")
        tensors[name] = ("F32", value)
    shutil.copytree(base, out / "hf", ignore=shutil.ignore_patterns("*.safetensors*"))
    write(tensors, out / "hf" / "model.safetensors")
    export_form(out / "hf", out / "ir", "f32")
    return out / "ir"


def logprobs(events: list[Event]) -> list[float]:
    return [value for event in events for value in event.logprobs or []]


def test_an_adapter_equals_its_merged_model_and_leaves_the_others_alone(make, tiny_models, tmp_path):
    adapters = [lora(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    engine = make(adapters={"one": str(adapters[0])})
    alone = answer(engine, request(1, logprobs=True))[1]
    started = engine.load_adapter("two", str(adapters[1]))
    on_the_way = answer(engine, request(2, max_tokens=200))[2]  # answers go on while it loads
    assert len(ids(on_the_way)) == 200
    started.result()
    asked = [request(3 + n, adapter=name, logprobs=True) for n, name in enumerate((None, "one", "two"))]
    told = answer(engine, *asked)
    assert ids(told[3]) == ids(alone)
    # The base has read this prompt twice; its keys and values are none of the adapters'.
    assert [told[n][0].cached for n in (3, 4, 5)] == [96, 0, 0]
    for n, adapter in enumerate(adapters):
        whole = make(merged(tiny_models("llama"), adapter, tmp_path / f"merged-{n}"))
        wanted = answer(whole, request(1, logprobs=True))[1]
        assert ids(told[4 + n]) == ids(wanted) != ids(alone)
        assert logprobs(told[4 + n]) == pytest.approx(logprobs(wanted), abs=1e-3)
        whole.close()


def test_a_draft_model_guesses_for_adapters_too(make, small, tmp_path):
    """It knows nothing of the adapter: fewer of its guesses are right, the answers are the adapter's."""
    adapter = str(lora(tmp_path / "a", 0))
    plain = make(adapters={"one": adapter})
    drafting = make(adapters={"one": adapter}, speculative="draft", draft=str(small))
    asked = [request(1 + n, adapter=name) for n, name in enumerate((None, "one"))]
    told = [{n: ids(e) for n, e in answer(engine, *asked).items()} for engine in (plain, drafting)]
    assert told[0] == told[1] and told[0][1] != told[0][2]


SOME = {
    "k alone": ("self_attn.k_proj",),
    "q and v": ("self_attn.q_proj", "self_attn.v_proj"),
    "up and down": ("mlp.up_proj", "mlp.down_proj"),
    "all": tuple(LINEARS),
}


@pytest.mark.parametrize("form", ["bf16", "int8", "int4_rtn"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_adapter_of_some_matrices_and_of_unlike_ranks(make, tiny_models, tmp_path, family, form):
    """Matrices stand joined in the graph: a part that the adapter leaves alone has to stay as it was."""
    from steelyard.compression import export_form

    base = tiny_models(family)
    export_form(base, tmp_path / "ir", form)
    wide = widened(base, tmp_path / "ir", tmp_path / "hf")
    for seed, (title, names) in enumerate(SOME.items()):
        adapter = lora(tmp_path / title, seed, {n: LINEARS[n] for n in names}, ranks=(4, 1, 6))
        whole = make(merged(wide, adapter, tmp_path / f"merged {title}"))
        wanted = answer(whole, request(1, logprobs=True, max_tokens=8))[1]
        whole.close()
        engine = make(tmp_path / "ir", adapters={"mine": str(adapter)})
        told = answer(engine, request(1, logprobs=True, max_tokens=8, adapter="mine"))[1]
        plain = answer(engine, request(2, logprobs=True, max_tokens=8))[2]
        engine.close()
        assert ids(told) == ids(wanted), title
        assert logprobs(told) == pytest.approx(logprobs(wanted), abs=1e-3), title
        assert logprobs(told) != pytest.approx(logprobs(plain), abs=1e-2), title


def widened(base: Path, ir: Path, out: Path) -> Path:
    """The checkpoint with the matrices that the IR holds, in f32."""
    import shutil

    from steelyard.model import Weights, served_weights, write

    held, stored = dict(served_weights(ir)), Weights(base)
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    write({name: ("F32", held.get(name, stored.f32(name))) for name in stored}, out / "model.safetensors")
    return out


def rest_of(engine: Engine) -> dict[int, list[int]]:
    """Ids of each request until none is left."""
    found: dict[int, list[int]] = {}
    while engine.busy():
        for event in engine.step():
            found.setdefault(event.request_id, []).extend(event.ids)
    return found


def test_an_adapter_comes_and_goes_under_way(make, tmp_path):
    engine = make(adapters={"mine": str(lora(tmp_path / "a", 0))})
    wanted = ids(answer(engine, request(1, adapter="mine"))[1])
    engine.add(request(2, adapter="mine"))
    first = ids(engine.step())
    engine.load_adapter("mine", str(lora(tmp_path / "b", 1))).result()
    engine.add(request(3, adapter="mine"))
    told = rest_of(engine)
    other = told[3]
    assert first + told[2] == wanted != other  # what began with the adapter of before ends with it
    engine.add(request(4, adapter="mine"))
    engine.drop_adapter("mine")
    assert rest_of(engine)[4] == other
    assert engine.metrics()["prefix_queries"] == 400
    with pytest.raises(ValueError, match="no adapter 'mine'"):
        engine.add(request(5, adapter="mine"))
    with pytest.raises(ValueError, match="no adapter 'mine'"):
        engine.drop_adapter("mine")


def test_halves_of_an_adapter_that_do_not_belong_together_are_refused(engine, tmp_path):
    from steelyard.model import Weights, write

    adapter = lora(tmp_path / "a", 0, {"self_attn.k_proj": (32, 64)})
    file = adapter / "adapter_model.safetensors"
    weights = Weights(file)
    kept = {name: ("F32", weights.f32(name).copy()) for name in weights}
    for change in ("without", "other rank"):
        name = next(n for n in kept if "lora_A" in n)
        changed = {n: (d, v[:2] if n == name else v) for n, (d, v) in kept.items()}
        if change == "without":
            del changed[name]
        write(changed, file)
        with pytest.raises(ValueError, match="do not belong together"):
            engine.load_adapter("mine", str(adapter)).result()


@pytest.mark.parametrize(
    ("linears", "described", "why"),
    [
        ({"self_attn.q_proj": (64, 32)}, {}, "made for another"),
        ({"self_attn.other": (64, 64)}, {}, "which this model has not"),
        (LINEARS, {"use_dora": True}, "use_dora"),
        (LINEARS, {"peft_type": "IA3"}, "IA3"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(engine, tmp_path, linears, described, why):
    with pytest.raises(ValueError, match=why):
        engine.load_adapter("mine", str(lora(tmp_path / "a", 0, linears, **described))).result()
    assert ids(answer(engine, request(1))[1])


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize("form", ["int8", "int4_rtn"])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_exact_mode_is_exact_over_stored_weights(make, tiny_models, tmp_path, form, adapted):
    """Against the stored weights widened to f32: no activation is rounded on the way."""
    from steelyard.compression import export_form

    base = tiny_models("llama")
    export_form(base, tmp_path / "ir", form)
    widened(base, tmp_path / "ir", tmp_path / "hf")
    adapter = lora(tmp_path / "a", 0)
    if adapted:
        whole = make(merged(tmp_path / "hf", adapter, tmp_path / "merged"))
    else:
        export_form(tmp_path / "hf", tmp_path / "wide", "f32")
        whole = make(tmp_path / "wide")
    engine = make(tmp_path / "ir", adapters={"mine": str(adapter)} if adapted else {})
    asked = request(1, logprobs=True, max_tokens=12)
    wanted = answer(whole, asked)[1]
    told = answer(engine, request(1, logprobs=True, max_tokens=12, adapter="mine" if adapted else None))[1]
    assert ids(told) == ids(wanted)
    assert logprobs(told) == pytest.approx(logprobs(wanted), abs=1e-3)
    if not adapted:
        assert engine.score(PERSON, 0).logprobs == pytest.approx(whole.score(PERSON, 0).logprobs, abs=1e-3)
