"""The cause by counts of prompt tokens alone: requests are changed as a proxy would, and counted."""

from __future__ import annotations

import html
import unicodedata
from dataclasses import replace

import drifts
import pytest

from steelyard.gate.base.endpoint import Answer
from steelyard.gate.parity import cause as cause_module
from steelyard.gate.parity.cause import Evidence, _by_pattern
from steelyard.gate.parity.checks import Observation, counted
from steelyard.gate.parity.counts import by_counts, by_kind
from steelyard.gate.parity.probes import counted_probes, parts_of, probes, rungs
from steelyard.gate.parity.prompts import suspects
from steelyard.model import Tokenizer

COUNTED = ("context", "history", "unicode", "whitespace", "template")
MORE = {
    "lower case": ("unicode", drifts.texts(str.lower, "user")),
    "accents dropped": (
        "unicode",
        drifts.texts(
            lambda t: "".join(c for c in unicodedata.normalize("NFD", t) if not unicodedata.combining(c))
        ),
    ),
    "Hebrew dropped": (
        "unicode",
        drifts.texts(lambda t: "".join(c for c in t if not "\u0590" <= c <= "\u05ff")),
    ),
    "escaped for HTML": ("template", drifts.texts(html.escape, "user")),
    "runs of spaces joined": (
        "whitespace",
        drifts.texts(lambda t: " ".join(t.split(" ")).replace("  ", " "), "user"),
    ),
    "system dropped": ("system", drifts.of_messages(lambda m: [x for x in m if x["role"] != "system"])),
    "assistant turns dropped": (
        "history",
        drifts.of_messages(lambda m: [x for x in m if x["role"] != "assistant"]),
    ),
    "last 11 messages": ("history", drifts.last_messages(11)),
    "first 800 characters": ("context", drifts.texts(lambda t: t[:800])),
    "first 256 characters": ("context", drifts.texts(lambda t: t[:256], "user")),
}
CHANGES = MORE | {
    name: (cause, between.request)
    for name, (cause, between) in (drifts.WHOLE | drifts.PROXIES).items()
    if cause in COUNTED
}


def samples_of(tokenizer, asked, change):
    """What a server would count if `change` were made to every request."""

    def used(probe):
        return len(
            tokenizer.chat_ids(change({"messages": list(probe.messages), "max_tokens": 1})["messages"])
        )

    observations = [Observation(probe=p, answer=Answer(text="", prompt_tokens=used(p))) for p in asked]
    return counted(observations, tokenizer)


def cause_of(tokenizer, change, depth="quick"):
    asked = [*probes(0), *counted_probes(tokenizer, 0, depth), *rungs(tokenizer, 0, depth, 8192)]
    asked = [p for p in asked if p.kind != "tools"]
    samples = samples_of(tokenizer, asked, change)
    off = [s for s in samples if s.miscounted]
    if off and all(s.observed.probe.kind in ("rung", "words") for s in off):
        samples += samples_of(tokenizer, [p for s in off for p in parts_of(s.observed.probe)], change)
    if not off:
        return None, []
    found = by_counts(suspects(tokenizer), samples) or by_kind(samples) or _by_pattern(samples)
    return found, [s.observed.probe.name for s in off]


@pytest.mark.parametrize("name", CHANGES)
def test_counts_alone_name_the_cause(smol, name):
    cause, change = CHANGES[name]
    found, off = cause_of(Tokenizer(smol), change)
    assert found and found[0] == cause, (found, off)


def test_what_changes_nothing_counts_nothing(smol):
    assert cause_of(Tokenizer(smol), lambda body: body) == (None, [])


@pytest.mark.parametrize(("own", "best", "cause"), [(0.10, 0.09, "whitespace"), (0.05, 0.09, "usage")])
def test_counts_that_a_suspect_makes_are_no_error_of_counting(smol, monkeypatch, own, best, cause):
    """Beside INT8's noise spaces for a tab are hardly nearer than the tab: the counts decide. Where the own
    prompt is nearer only the counting is wrong."""
    tokenizer = Tokenizer(smol)
    change = drifts.WHOLE["tabs to spaces"][1].request
    samples = [replace(s, answer=(1,)) for s in samples_of(tokenizer, probes(0), change)]
    monkeypatch.setattr(cause_module, "_distance", lambda evidence, picked, render: best if render else own)
    monkeypatch.setattr(cause_module, "_mean_distance", lambda samples: own)
    evidence = Evidence(
        samples=samples, checks={}, tokenizer=tokenizer, reference=None, base=None, mode="int8"
    )
    found = cause_module._of_counts(evidence, samples, [s for s in samples if s.miscounted])
    assert found and found[0] == cause
