"""The stand-alone gate on a real model behind a real socket: clean runs pass, each drift gets its cause."""

from __future__ import annotations

import drifts
import numpy as np
import pytest

from steelyard.compression import export_form
from steelyard.errors import Lacking, WrongUse
from steelyard.gate import check, exact_reference
from steelyard.model import Tokenizer


@pytest.fixture(scope="module")
def base(tiny_models):
    """Every id has a text: a random model would say the ids that have none."""
    return tiny_models("llama", vocab_size=Tokenizer(tiny_models("llama")).vocab_size)


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """The base with a small, seeded change of every matrix: what training leaves."""
    draw = np.random.default_rng(0)

    def change(name, w):
        return w + 0.04 * w.std() * draw.standard_normal(w.shape).astype(np.float32) if w.ndim == 2 else w

    return drifts.with_tensors(base, tmp_path_factory.mktemp("tuned") / "model", change)


@pytest.fixture(scope="module")
def references(base, tuned):
    return exact_reference(tuned), exact_reference(base)


def verdict(tuned, url, references, **more):
    return check(tuned, url, mode="exact", reference=references[0], base_reference=references[1], **more)


def failed(found):
    return [c.name for c in found.checks if c.passed is False]


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_service_passes(tuned, serve, references, seed):
    found = verdict(tuned, serve(tuned), references, seed=seed)
    assert (found.verdict, found.cause, failed(found)) == ("passed", None, [])
    assert {"prompt_tokens", "logprob_mean", "answers"} <= {c.name for c in found.checks}


@pytest.mark.parametrize("name", sorted(set(drifts.PROXIES) - {"stop word added"}))
def test_a_proxy_between_is_found_with_its_cause(tuned, serve, references, name):
    cause, between = drifts.PROXIES[name]
    with drifts.proxy(serve(tuned), between) as url:
        found = verdict(tuned, url, references)
    assert (found.verdict, found.cause) == ("failed", cause), (found.why, failed(found))


def test_a_stop_word_is_found(tuned, serve, references):
    """A random model says no English; cut at a letter that it does say."""
    between = drifts.Between(request=lambda body: {**body, "stop": ["a"]})
    with drifts.proxy(serve(tuned), between) as url:
        found = verdict(tuned, url, references)
    assert (found.verdict, found.cause) == ("failed", "stop"), (found.why, failed(found))


def test_a_stop_word_is_found_where_the_tokens_of_what_was_cut_are_told(tuned, serve, references):
    def cut(choice):
        text = choice["message"]["content"]
        return {**choice, "message": {**choice["message"], "content": text[:3]}, "finish_reason": "stop"}

    between = drifts.Between(answer=lambda d: {**d, "choices": [cut(c) for c in d["choices"]]})
    with drifts.proxy(serve(tuned), between) as url:
        found = verdict(tuned, url, references)
    assert "text" in failed(found)
    assert (found.verdict, found.cause) == ("failed", "stop"), (found.why, failed(found))


FOLDERS = {
    "zephyr's template": (
        "template",
        lambda tuned, base, out: drifts.with_template(tuned, out, drifts.ZEPHYR),
    ),
    "llama 3's template": (
        "template",
        lambda tuned, base, out: drifts.with_template(tuned, out, drifts.LLAMA3),
    ),
    "BOS in front": ("bos", lambda tuned, base, out: drifts.with_bos(tuned, out)),
    "base for tuned": ("base", lambda tuned, base, out: drifts.copied(base, out)),
    "stale adapter": ("adapter", drifts.stale_adapter),
    "half the merges": ("tokenizer", lambda tuned, base, out: drifts.swapped_tokenizer(tuned, out, keep=0.0)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_altered_folder_is_found_with_its_cause(tuned, base, serve, references, tmp_path, name):
    cause, alter = FOLDERS[name]
    folder = alter(tuned, base, tmp_path / "altered")
    found = verdict(tuned, serve(folder), references)
    assert (found.verdict, found.cause) == ("failed", cause), (found.why, failed(found))


def test_altered_weights_fail_whatever_the_cause(tuned, serve, references, tmp_path):
    folder = drifts.scaled_layer(tuned, tmp_path / "altered", layer=1)
    found = verdict(tuned, serve(folder), references)
    assert found.verdict == "failed"
    assert found.cause in ("weights", "precision")


def test_a_server_without_log_probabilities_is_judged_by_its_tokens(tuned, serve, references):
    bare = drifts.Between(request=lambda body: {k: v for k, v in body.items() if k != "logprobs"})
    with drifts.proxy(serve(tuned), bare) as url:
        assert failed(verdict(tuned, url, references)) == []  # few of its odd texts re-encode: may be open


def test_tasks_are_scored_through_the_endpoint(tuned, serve, references):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "no such answer"}]
    found = verdict(tuned, serve(tuned), references, tasks=[{"messages": messages, "ability": "x"}])
    assert found.as_json()["scores"] == {"served": {"x": 0.0}}


def test_no_server_is_lacking_and_no_mode_is_wrong_use(tuned, references):
    with pytest.raises(Lacking, match="nothing answers"):
        verdict(tuned, "http://127.0.0.1:9", references)
    with pytest.raises(WrongUse, match="mode"):
        check(tuned, "http://127.0.0.1:9", mode="slow", reference=references[0])


@pytest.mark.parametrize("form", ["int8", "int4_rtn"])
def test_what_rounding_changed_in_a_model_is_added_to_its_base(tuned, base, references, tmp_path, form):
    export_form(tuned, tmp_path, form)
    rounded = exact_reference(tuned, served=tmp_path), exact_reference(base, served=tmp_path, of=tuned)
    stored = [{n: t.clone() for n, t in r.network.tensors()} for r in references]
    found = [dict(r.network.tensors()) for r in rounded]
    changed = 0
    for name in stored[0]:
        apart = found[0][name] - found[1][name]
        assert np.allclose(apart, stored[0][name] - stored[1][name], atol=1e-6), name
        changed += not np.array_equal(found[1][name], stored[1][name])
    assert changed >= 14
