"""The llama.cpp engine by itself: its numbers against transformers and PEFT, its scheduler under pressure."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from steelyard.model import Tokenizer
from steelyard.serving import prepare
from steelyard.serving.engines import EngineSettings, GenRequest

pytest.importorskip("xllamacpp", reason="llama.cpp is an extra")


def gguf_of(folder: Path, file: Path, family: str):
    """`make_gguf` of the model room's tests."""
    place = Path(__file__).parents[1] / "model" / "test_model_gguf.py"
    spec = importlib.util.spec_from_file_location("gguf_tests", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_gguf(folder, file, family, {"llama": "llama-bpe"}.get(family, "qwen2"))


@pytest.fixture(scope="module")
def served(tiny_models, tmp_path_factory):
    """The served folder of a tiny f32 GGUF of each family, and the Hugging Face folder it was made from."""
    made = {}
    place = tmp_path_factory.mktemp("gguf")

    def make(family: str):
        if family not in made:
            # llama.cpp wants as many tokens as the embedding has rows
            folder = tiny_models(family, vocab_size=Tokenizer(tiny_models(family)).vocab_size)
            gguf_of(folder, place / f"{family}.gguf", family)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("STEELYARD_CACHE", str(place / "cache"))
                made[family] = prepare(place / f"{family}.gguf", engine="llamacpp").folder, folder
        return made[family]

    return make


def engine_of(folder, **more):
    from steelyard.serving.engines.llamacpp.engine import LlamaCppEngine

    settings = {"max_model_len": 256, "max_num_seqs": 4, "cache_bytes": 0, "mode": "exact", **more}
    return LlamaCppEngine(EngineSettings(folder=str(folder), engine="llamacpp", threads=1, **settings))


def drain(engine) -> dict[int, list]:
    found: dict[int, list] = {}
    while engine.busy():
        for event in engine.step():
            found.setdefault(event.request_id, []).append(event)
    return found


def ids_of(events) -> list[int]:
    return [n for event in events for n in event.ids]


def request(number: int, ids: list[int], max_tokens: int = 8, **more) -> GenRequest:
    return GenRequest(request_id=number, ids=ids, max_tokens=max_tokens, **more)


def reference(folder, ids: list[int], adapter: Path | None = None) -> np.ndarray:
    """Log-probabilities of ids[1:] by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_scores_are_those_of_transformers(served, family):
    folder, hf = served(family)
    engine = engine_of(folder)
    ids = [3 + (7 * n) % 280 for n in range(150)]
    scores = engine.score(ids, 2)
    # Its f32 products round inputs to 16 bits in places: 0.01 is far from any other weight or position.
    assert np.abs(np.array(scores.logprobs) - reference(hf, ids)).max() < 0.03
    assert all(a >= b for a, b in scores.top_logprobs)
    engine.add(request(1, ids[:40], 6, logprobs=True))
    events = drain(engine)[1]
    whole = ids[:40] + ids_of(events)
    again = engine.score(whole, 0).logprobs[39:]
    assert [event.logprobs[0] for event in events] == pytest.approx(again, abs=0.02)
    engine.close()


def test_more_answers_than_slots_and_room(served):
    engine = engine_of(served("llama")[0], max_num_batched_tokens=32)
    prompts = {n: [3 + (n * k) % 200 for k in range(1, 60)] for n in range(1, 13)}
    alone = {}
    for n, ids in prompts.items():
        engine.add(request(n, ids))
        alone |= {number: ids_of(events) for number, events in drain(engine).items()}
    for n, ids in prompts.items():
        engine.add(request(n, ids))
    together = drain(engine)
    assert {n: ids_of(events) for n, events in together.items()} == alone
    assert all(events[-1].finish == "length" for events in together.values())
    assert not engine.running and not engine.waiting
    assert sum(len(kept.tokens) for kept in engine.cached_sequences) <= engine.cells
    engine.close()


def test_answers_longer_than_the_cache_wait_and_go_on(served):
    """Four may each take 200 tokens; 512 fit: some are sent back, read again, and end as they would alone."""
    engine = engine_of(served("llama")[0], max_model_len=300)
    prompts = {n: [3 + (n * k) % 200 for k in range(1, 60)] for n in range(1, 5)}
    for n, ids in prompts.items():
        engine.add(request(n, ids, 200))
    waited = 0
    found: dict[int, list[int]] = {n: [] for n in prompts}
    while engine.busy():
        for event in engine.step():
            found[event.request_id] += event.ids
        waited += any(sequence.generated for sequence in engine.waiting)
    assert waited
    for n, ids in prompts.items():
        assert len(found[n]) == 200
        scores = engine.score([*ids, *found[n]], 1)
        lost = np.array(scores.top_logprobs)[:, 0] - np.array(scores.logprobs)
        assert lost[len(ids) - 1 :].max() < 0.1  # each was the likeliest, or next to it by rounding
    engine.close()


def test_a_prompt_known_in_part_is_not_read_again(served):
    folder, _ = served("llama")
    engine, plain = engine_of(folder), engine_of(folder, prefix_cache=False)
    first = list(range(3, 120))
    for n, ids in enumerate([first, [*first, 7, 8, 9], [*first[:60], 200, 201], first[:30]]):
        engine.add(request(n, ids))
        plain.add(request(n, ids))
        events, cold = drain(engine)[n], drain(plain)[n]
        assert ids_of(events) == ids_of(cold)
        assert (events[0].cached, cold[0].cached) == ([0, 117, 60, 29][n], 0)
    assert engine.metrics()["prefix_cache_hits"] == 206
    engine.close()


def test_cancelled_answers_leave_nothing(served):
    engine = engine_of(served("llama")[0])
    for n in range(8):
        engine.add(request(n, list(range(3, 40)), 100))
    for _ in range(3):
        engine.step()
    for n in range(8):
        engine.cancel(n)
    assert not engine.busy() and engine.step() == []
    engine.cancel(99)
    engine.close()


def test_what_can_never_fit_is_an_error(served):
    engine = engine_of(served("llama")[0])
    engine.add(request(1, [5] * 500, 100))
    engine.add(request(2, [5] * 10, 3))
    found = drain(engine)
    assert found[1][0].finish == "error" and found[2][-1].finish == "length"
    engine.close()


def test_grammars_are_read_or_refused(served):
    engine = engine_of(served("llama")[0])
    engine.add(request(1, [5, 6], 30, stop_ids=(2,), grammar=("ebnf", 'root ::= "a" "b"')))
    assert drain(engine)[1][-1].finish in ("stop", "length")
    for kind, text in [("ebnf", "root ="), ("regex", "[a"), ("json_schema", '{"type": "odd"}')]:
        with pytest.raises(ValueError, match="cannot read"):
            engine.add(request(2, [5, 6], grammar=(kind, text)))
    assert not engine.busy()
    engine.close()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_adapters_come_and_go_while_it_runs(served, tmp_path, family):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder, hf = served(family)
    torch.manual_seed(1)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(hf), LoraConfig(r=4, lora_alpha=16, target_modules=linear)
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(tmp_path / "adapter")
    engine = engine_of(folder)
    ids = [3 + (5 * n) % 280 for n in range(60)]
    with pytest.raises(ValueError, match="no adapter"):
        engine.add(request(1, ids, adapter="mine"))
    engine.load_adapter("mine", str(tmp_path / "adapter"))
    for n, name in enumerate([None, "mine", None, "mine"]):  # in one go: each pass serves one of them
        engine.add(request(n, ids, 6, logprobs=True, adapter=name))
    found = drain(engine)
    for n, adapter in enumerate([None, tmp_path / "adapter"] * 2):
        whole = ids + ids_of(found[n])
        wanted = reference(hf, whole, adapter)[len(ids) - 1 :]
        assert [e.logprobs[0] for e in found[n]] == pytest.approx(wanted.tolist(), abs=0.05)
    engine.drop_adapter("mine")
    with pytest.raises(ValueError, match="no adapter"):
        engine.add(request(9, ids, adapter="mine"))
    engine.close()


def test_another_models_tokenizer_is_refused(served, tmp_path):
    folder, _ = served("llama")
    other = tmp_path / "other"
    shutil.copytree(folder, other, symlinks=True)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.get)[40:42]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="token 40 is"):
        engine_of(other)


def test_a_foreign_layout_is_refused():
    from steelyard.serving.engines.llamacpp.native import Params, _params

    with pytest.raises(ValueError, match="this release"):
        _params(Params(), n_ctx=512)
