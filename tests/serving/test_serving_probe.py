"""The engine measures itself for the planner: a real child on small random models."""

from __future__ import annotations

from steelyard import serving


def test_the_probe_measures_every_part_of_a_service() -> None:
    rows = serving.probe(limit_s=5.0)
    by_op = {op: [r for r in rows if r["op"] == op] for op in ("load", "prefill", "decode")}
    assert all(by_op.values()) and len(rows) == sum(map(len, by_op.values()))
    assert all(r["s"] > 0 and r["layers"] and r["form"] in ("bf16", "int8") for r in by_op["prefill"])
    assert {r["tokens"] for r in by_op["prefill"]} == {32, 128, 512}
