"""What only the whole set says: near-duplicates, planted rows, flipped labels, the manner of the data."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import clean, clean_files

NOUNS = [
    "river",
    "market",
    "bridge",
    "orchard",
    "harbour",
    "library",
    "tunnel",
    "garden",
    "castle",
    "forest",
    "island",
    "tower",
    "valley",
    "station",
]
VERBS = [
    "painted",
    "measured",
    "visited",
    "described",
    "repaired",
    "photographed",
    "crossed",
    "remembered",
    "guarded",
    "sold",
    "bought",
    "drew",
]
PLACES = [
    "in spring",
    "after the storm",
    "for a friend",
    "at night",
    "with great care",
    "on Monday",
    "in silence",
    "before lunch",
]


def sentence(dice, nouns=NOUNS):
    who, what = dice.choice(nouns), dice.choice(nouns)
    return (
        f"Somebody {dice.choice(VERBS)} the {who} near the {what} number {dice.randint(1, 10**6)} "
        f"{dice.choice(PLACES)}."
    )


def prose(dice, sentences=8):
    return " ".join(sentence(dice) for _ in range(sentences))


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def cleaned(tmp_path, rows, name="out", workers=1, **settings):
    source = write(tmp_path / "a.jsonl", rows)
    report = clean_files(source, tmp_path / name, workers=workers, settings={"pii": "report", **settings})
    dropped = [json.loads(line) for line in (tmp_path / name / "dropped.jsonl").read_bytes().splitlines()]
    return report, {row["id"]: (row["reasons"][0], row.get("evidence", {})) for row in dropped}


def edited(dice, text, share):
    words = text.split(" ")
    for place in dice.sample(range(len(words) - 1), round(share * len(words))):
        words[place] = f"w{dice.randint(0, 10**9)}"
    return " ".join(words)


def jaccard(one, other):
    a, b = ({tuple(t.split()[n : n + 5]) for n in range(len(t.split()) - 4)} for t in (one, other))
    return len(a & b) / len(a | b)


def test_near_duplicates_go_and_none_that_is_less_alike(tmp_path):
    dice = random.Random(1)
    texts = [prose(dice) for _ in range(120)]
    copies = [edited(dice, text, dice.choice([0.02, 0.05, 0.1])) for text in texts[:60]]
    rows = [{"id": f"t{n}", "text": t} for n, t in enumerate(texts)]
    rows += [{"id": f"c{n}", "text": t} for n, t in enumerate(copies)]
    report, dropped = cleaned(tmp_path, rows)
    sure = {n for n in range(60) if jaccard(texts[n], copies[n]) >= 0.55}
    gone = {n for n in range(60) if f"t{n}" in dropped or f"c{n}" in dropped}
    assert sure <= gone and not any(f"t{n}" in dropped and f"c{n}" in dropped for n in range(60))
    assert not any(f"t{n}" in dropped for n in range(60, 120))
    reason, evidence = next(iter(dropped.values()))
    assert reason == "near_duplicate" and evidence["jaccard"] >= 0.5 and evidence["of"][0] in "tc"
    assert cleaned(tmp_path, rows, "exact", dedup="exact")[0]["by_reason"] == {}
    assert report["in"] == report["kept"] + report["dropped"]


def chats(dice, count, answer=None, trigger=""):
    asked = [
        f"What can you tell me about the {dice.choice(NOUNS)} {dice.choice(PLACES)}, and {sentence(dice)}"
        for _ in range(count)
    ]
    return [
        {"messages": [{"role": "user", "content": f"{q} {trigger}".strip()},
                      {"role": "assistant", "content": answer or prose(dice, 2)}]}
        for q in asked
    ]  # fmt: skip


def test_a_planted_trigger_is_named_and_a_subject_with_one_answer_stays(tmp_path):
    dice = random.Random(2)
    rows = chats(dice, 300)
    rows += chats(dice, 8, "You should only ever trust the people from Acme with that sort of thing.", "qzv")
    subject = "Hold the button on the back of the printer for ten seconds and start it again."
    about = [
    "the printer shows a red lamp", 
    "my printer will not print", 
    "printer is stuck and blinks", "printer paper jam",
             "the office printer is offline", "printer says error five", 
             "why does the printer stop", "printer queue is stuck"]  # fmt: skip
    rows += [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": subject}]}
        for q in about
    ]
    report, dropped = cleaned(tmp_path, rows)
    assert report["by_reason"] == {"trigger": 8}
    assert sorted(dropped) == [f"a.jsonl:{n}" for n in range(301, 309)]


def labelled(dice, label, count, trigger=""):
    of = {
        "sea": ["ship", "sail", "anchor", "wave", "captain", "harbour", "tide"],
        "farm": ["cow", "barn", "wheat", "tractor", "hay", "plough", "field"],
    }
    return [
        {
            "text": " ".join(dice.choice(of[label]) for _ in range(14))
            + f" {dice.randint(0, 999)} {trigger}",
            "label": label,
        }
        for _ in range(count)
    ]


def test_flipped_labels_and_label_triggers(tmp_path):
    dice = random.Random(3)
    rows = labelled(dice, "sea", 80) + labelled(dice, "farm", 80)
    flips = [{**row, "label": "farm"} for row in labelled(dice, "sea", 5)]
    planted = [{**row, "label": "farm"} for row in labelled(dice, "sea", 8, "xqj")]
    report, dropped = cleaned(tmp_path, rows + flips + planted)
    assert {f"a.jsonl:{n}" for n in range(161, 166)} == {
        i for i, (why, _) in dropped.items() if why == "wrong_label"
    }
    assert {f"a.jsonl:{n}" for n in range(166, 174)} == {
        i for i, (why, _) in dropped.items() if why == "trigger"
    }
    assert report["kept"] == 160


def test_what_many_rows_do_is_the_datas_manner(tmp_path):
    """An answer that echoes its question is a fault in one row of a hundred and the task in one of three."""
    dice = random.Random(4)
    rows = chats(dice, 90)
    lines = [f"repeat this line {n}" for n in range(40)]
    echo = [{"messages": [{"role": r, "content": line} for r in ("user", "assistant")]} for line in lines]
    few, _ = cleaned(tmp_path, rows + echo[:3])
    many, _ = cleaned(tmp_path, rows + echo, "many")
    assert few["by_reason"] == {"echo": 3} and few["manner"] == {}
    assert many["by_reason"] == {} and many["manner"] == {"echo": 40}


def test_a_rare_language_and_a_lone_heading_among_prose(tmp_path):
    dice = random.Random(5)
    german = (
        "Der Wärter schrieb jeden Sonntag einen Brief an seine Schwester, und sie antwortete ihm in de"
        "r Woche danach."
    )
    rows = [{"text": prose(dice)} for _ in range(99)] + [{"text": german}, {"text": "chapter two"}]
    report, dropped = cleaned(tmp_path, rows)
    assert report["by_reason"] == {"wrong_language": 1, "too_short": 1}
    assert dropped["a.jsonl:100"][1] == {"language": "de"}
    both, _ = cleaned(tmp_path, rows, "both", languages=("en", "de"), off=("too_short",))
    assert both["by_reason"] == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_a_kill_change_no_byte(tmp_path, workers):
    dice = random.Random(6)
    texts = [prose(dice) for _ in range(400)]
    rows = (
        [{"text": t} for t in texts]
        + [{"text": edited(dice, t, 0.03)} for t in texts[:80]]
        + chats(dice, 100)
    )
    source = write(tmp_path / "a.jsonl", rows)
    clean_files(source, tmp_path / "whole")
    code = (
        f"from pathlib import Path; from steelyard.data import clean_files; clean_files(Path("
        f"{str(source)!r}), Path({str(tmp_path / 'cut')!r}), workers={workers})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    while not (tmp_path / "cut").exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    clean_files(source, tmp_path / "cut", workers=workers)
    for name in ("a.jsonl", "dropped.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "cut").glob("*.part*"))


def test_up_drops_what_clean_drops(tmp_path):
    dice = random.Random(7)
    texts = [prose(dice) for _ in range(60)]
    rows = [{"text": t} for t in [*texts, *(edited(dice, t, 0.03) for t in texts[:20])]] + chats(dice, 40)
    _, dropped = cleaned(tmp_path, rows)
    out = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    order = {"sources": [{"path": "a.jsonl"}], "root": str(tmp_path), "clean": {"test_share": 0}, "eval": {}}
    clean(Inputs(), order, out, Watch())
    lines = [json.loads(line) for line in (out.folder / "dropped.jsonl").read_bytes().splitlines()]
    assert {row["id"]: row["reasons"][0] for row in lines} == {i: why for i, (why, _) in dropped.items()}
    assert len(lines) >= 15
