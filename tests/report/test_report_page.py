"""The report from plain data: no run, no network, nothing squeezed, everything explained, both languages."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.report import facts_of, picture, read_document, render
from steelyard.report.checks import CATEGORIES, CHECKS, check_row, split
from steelyard.report.page import FIGURES, REASONS
from steelyard.report.pictures import LEFT, WIDTH, compared, loss_panel
from steelyard.report.words import chinese, four_digits, words

SOURCE = Path(__file__).resolve().parents[2] / "src" / "steelyard"
BANK = json.loads((SOURCE / "gate" / "safety.json").read_text(encoding="utf-8"))
SVG = "{http://www.w3.org/2000/svg}"


def step(
    name: str, predicted: dict[str, float], measured: dict[str, float], state: str = "done"
) -> dict[str, Any]:
    return {"step": name, "state": state, "artefact": None, "hash": None, "predicted": predicted,
            "measured": measured}  # fmt: skip


def document(**more: Any) -> dict[str, Any]:
    """What `up --json` prints of a run that went well, with a plan, two samples and an account."""
    share = {"value": 0.9, "low": 0.85, "high": 0.94}
    return {
        "schema": "steelyard.up/1",
        "run": "20260101-120000-abcd",
        "workdir": "/runs/desk",
        "steps": [
            step("clean", {"wall_s": 1.0}, {"wall_s": 1.1, "peak_rss_bytes": 2e8}),
            step("train", {"wall_s": 100.0, "tokens": 5e4}, {"wall_s": 110.0, "tokens": 5e4}),
            step("serve", {"wall_s": 2.0, "ttft_s": 0.1, "tpot_s": 0.01, "output_tok_s": 90.0},
                 {"wall_s": 2.0, "ttft_s": 0.11, "tpot_s": 0.011, "output_tok_s": 85.0}),
        ],
        "frontier": [],
        "scores": {"base": {"orders": 0.1}, "tuned": {"orders": 0.9}, "served": {"orders": 0.9}},
        "gate": {"verdict": "passed", "cause": None, "checks": [
            {"name": "tuned/logprob_shift", "passed": True, "value": 0.00012616150257155652, "low": -0.0001,
             "high": 0.00030000001, "limit": 0.01, "example": None},
            {"name": "min/orders", "passed": True, "value": 0.9, "low": 0.85, "high": 0.94, "limit": 0.8,
             "example": None},
        ]},
        "details": {"served": {"abilities": {"orders": share}}},
        "service": {"url": "http://127.0.0.1:8000", "pid": 1},
        "report": None,
        "plan": {"name": "desk", "machine": "Zen 4", "hash": "ab" * 32, "steps": {},
                 "settings": {"train": [{"lora_rank": 16, "learning_rate": 8.7e-4}],
                              "compress": {"form": "bf16"}},
                 "origins": {"train.0.lora_rank": "plan: enough for one task",
                             "train.0.learning_rate": "recipe"}},
        "samples": [{"question": "Order 7?", "answer": '{"order": 7}'},
                    {"question": "And <8>?", "answer": "8"}],
        "rows": {"read": 199, "kept": 185, "dropped": {"duplicate": 10, "empty": 4, "too_long": 1},
                 "held_out": 18, "taught": 166, "split": 0, "truncated": 2, "tokens_taught": 5120},
    } | more  # fmt: skip


def text_of(page: str) -> str:
    """What a reader sees: no styles, no tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", page)))


def test_a_report_is_made_without_a_run() -> None:
    page = text_of(render(document()))
    for piece in ("Live at http://127.0.0.1:8000", "Order 7?", "And &lt;8&gt;?", "duplicate", "too long",
                  "166", "enough for one task", "0.00087"):  # fmt: skip
        assert piece in page, piece


def test_values_have_four_digits_and_checks_have_words() -> None:
    page = text_of(render(document()))
    assert "0.0001262" in page and "0.00012616150257155652" not in page
    assert "tuned/logprob_shift" not in page and "logprob" not in page
    assert CHECKS["logprob_shift"][0] in page and "90.0 %" in page


def test_the_sum_of_all_steps_is_predicted_beside_measured() -> None:
    first = compared(document())[0]
    assert (first.name, first.predicted, first.measured) == ("time of all steps", 103.0, pytest.approx(113.1))
    assert "1 min 43 s" in render(document()) and "1 min 53 s" in render(document())


def test_the_page_needs_no_network() -> None:
    page = render(document(service=None))
    assert not re.search(r"(?:src|href|url)\s*[=(]", page) and "http" not in text_of(page)


@pytest.mark.parametrize(
    "missing", ["plan", "samples", "rows", "details", "gate", "service", "scores", "frontier"]
)
def test_what_is_missing_leaves_the_rest(missing: str) -> None:
    whole = document()
    page = render({k: v for k, v in whole.items() if k != missing})
    assert "</html>" in page
    assert picture({k: v for k, v in whole.items() if k != missing}).startswith("<svg")


# ------------------------------------------------------------------ the picture


def texts(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}text"))


@given(
    st.lists(
        st.sampled_from(["orders", "客服", "a very long name of an ability", "x"]), min_size=1, max_size=12
    )
)
def test_each_name_stands_under_its_own_bars(names: list[str]) -> None:
    abilities = [f"{name}{i}" for i, name in enumerate(names)]
    scores = {role: dict.fromkeys(abilities, value) for role, value in (("base", 0.2), ("served", 0.8))}
    svg = picture(document(scores=scores, steps=[], details={}))
    group = ElementTree.fromstring(svg).find(f"{SVG}g")
    bars = [r for r in group.iter(f"{SVG}rect") if r.get("height") != "12"]
    labels = [t for t in group.iter(f"{SVG}text") if t.find(f"{SVG}title") is not None]
    assert [label.find(f"{SVG}title").text for label in labels] == abilities and len(bars) == 2 * len(
        abilities
    )
    for i, label in enumerate(labels):
        spans = list(label.iter(f"{SVG}tspan"))
        left = float(bars[2 * i].get("x"))
        right = float(bars[2 * i + 1].get("x")) + float(bars[2 * i + 1].get("width"))
        foot = float(bars[2 * i].get("y")) + float(bars[2 * i].get("height"))
        assert 1 <= len(spans) <= 2
        for span in spans:
            assert left < float(span.get("x")) < right and float(span.get("y")) > foot
            assert LEFT < float(span.get("x")) < WIDTH


def test_a_score_shows_its_interval() -> None:
    svg = picture(document())
    group = ElementTree.fromstring(svg).find(f"{SVG}g")
    interval = [line for line in group.iter(f"{SVG}line") if line.get("class") == "interval"]
    bar = next(r for r in group.iter(f"{SVG}rect") if r.get("class") == "served" and r.get("height") != "12")
    assert len(interval) == 1
    assert float(interval[0].get("y2")) < float(bar.get("y")) < float(interval[0].get("y1"))


def test_what_was_asked_for_harm_is_told_by_category() -> None:
    caught = {"fraud/en": {"count": 2, "of": 3}, "fraud/zh": {"count": 3, "of": 3}}
    refused = {"fraud/zh": {"count": 1, "of": 2}, "other/en": {"count": 0, "of": 2}}
    tables = {"caught": caught, "falsely_refused": refused}
    page = text_of(render(document(details={"safety": tables})))
    assert "fraud 2 / 3 3 / 3 1 / 2 other 0 / 2" in page
    assert "诈骗" in render(document(details={"safety": tables}), "zh")
    assert "Asked for harm" not in text_of(render(document()))
    asked = {name for kind in ("harm", "harmless", "leaks") for name in BANK[kind]}
    assert asked == set(CATEGORIES), "the page has words for each category of the bank"


def test_the_picture_is_a_file_of_its_own() -> None:
    for language in ("en", "zh"):
        root = ElementTree.fromstring(picture(document(), language))
        assert root.tag == f"{SVG}svg" and root.get("viewBox")
        assert root.find(f"{SVG}style") is not None


# ------------------------------------------------------------------ words


def literals() -> set[str]:
    """Every text that the room asks its words for."""
    texts = (
        {text for pair in CHECKS.values() for text in pair} | set(FIGURES.values()) | set(REASONS.values())
    )
    texts |= {c.name for c in compared(document())} | {"most memory"} | set(CATEGORIES.values())
    for file in (SOURCE / "report").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say":
                texts |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    template = (SOURCE / "report" / "page.html.jinja").read_text(encoding="utf-8")
    texts |= set(re.findall(r'\bt\("([^"]+)"', template))
    return texts


def test_every_text_of_the_page_has_a_chinese_one() -> None:
    assert len(literals()) > 60 and sorted(literals() - set(chinese())) == []


def test_a_chinese_page_has_no_english_heading() -> None:
    page = render(document(), "zh")
    heads = re.findall(r"<h2>(.*?)</h2>|<th[^>]*>(.*?)</th>", page)
    english = [a or b for a, b in heads if re.search(r"[A-Za-z]{3,}", a or b)]
    assert 'lang="zh-CN"' in page and english == []


def test_texts_keep_their_fields() -> None:
    wrong = [
        t for t, zh in chinese().items() if set(re.findall(r"{\w+}", t)) != set(re.findall(r"{\w+}", zh))
    ]
    assert wrong == []


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_more_than_four_digits(value: float) -> None:
    digits = re.sub(r"e.*|[^0-9]", "", four_digits(value)).lstrip("0")
    assert len(digits) <= 4 or abs(value) >= 1000


def test_names_of_checks_are_parted() -> None:
    assert split("served/logprob_mean") == ("logprob_mean", "served")
    assert split("min/客服") == ("min", "客服") and split("usage") == ("usage", "")
    unknown = check_row({"name": "tuned/some_new_check", "passed": None}, words())
    assert unknown["title"] == "some new check" and unknown["state"] == "undecided"


# ------------------------------------------------------------------ reading


def test_a_document_is_read_with_what_lies_beside_it(tmp_path: Path) -> None:
    plan = {"name": "desk", "machine": "Zen", "hash": "aa", "plans": None}
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    made = {k: v for k, v in document(workdir=str(tmp_path)).items() if k != "plan"}
    (tmp_path / "up.json").write_text(json.dumps(made), encoding="utf-8")
    assert read_document(tmp_path / "up.json")["plan"]["machine"] == "Zen"
    assert facts_of(made)["lineage"] == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"steps": 3}'])
def test_what_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text, encoding="utf-8")
    with pytest.raises(WrongUse) as error:
        read_document(tmp_path / "up.json")
    assert error.value.code == "report.no_run" and "up RECIPE --json" in error.value.hint


def test_looks_at_held_out_rows_are_a_second_line_of_the_curve() -> None:
    curve = [{"step": n, "loss": 2.0 / n} | ({"eval_loss": 1.0} if n % 2 == 0 else {}) for n in range(1, 9)]
    body = loss_panel(curve, words("zh")).body
    assert body.count("<polyline") == 2 and 'class="line looks"' in body and "虚线：留出行" in body
    plain = loss_panel([{"step": p["step"], "loss": p["loss"]} for p in curve], words("zh")).body
    assert plain.count("<polyline") == 1 and "looks" not in plain
