"""`data make` asks the service itself: its grammar gives the form, every made row is accounted for."""

from __future__ import annotations

import json

from steelyard.data import MakeOrder, make_rows

GUIDE = "# Pump\n\nA pump may be returned within 30 days of delivery if the seal is unbroken.\n"


def test_the_own_service_makes_rows_and_each_is_accounted_for(talker, tmp_path):
    (tmp_path / "guide.md").write_text(GUIDE)
    order = MakeOrder(
        documents=(tmp_path / "guide.md",), out=tmp_path / "rows.jsonl", ask=talker.url, questions=1
    )
    made = make_rows(order)["made"]
    assert (made["model"], made["passages_answered"], made["passages_unanswered"]) == ("smol", 1, 0)
    assert made["made"] == made["rows"] + made["refused"] and made["completion_tokens"] > 0
    (answer,) = (tmp_path / "rows.asked.jsonl").read_text("utf-8").splitlines()
    assert json.loads(answer)["text"].lstrip().startswith("{")
    for line in (tmp_path / "rows.made.jsonl").read_text("utf-8").splitlines():
        assert json.loads(line)["quote"] in GUIDE
