from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steelyard import hardware
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import COLUMNS, Constants, fit, predict_results, score_results
from steelyard.planner.physics import inference, training
from steelyard.planner.published.constants import KNOWN, groups
from steelyard.planner.published.fitting import descend

CONSTANTS = Constants.from_json(published_constants())
MODEL = {"model": "llama3-8b", "params_b": "8.03", "layers": "32", "hidden": "4096", "heads": "32"}
MODEL |= {"kv_heads": "8", "ffn": "14336", "vocab": "128256", "precision": "bf16", "weight_bits": "16"}
TRAIN = {
    "phase": "pretrain",
    "metric": "tokens_per_s_per_device",
    "unit": "tokens/s/device",
    "seq_len": "8192",
}
SERVE = {"phase": "serve", "metric": "output_tokens_per_s", "unit": "tokens/s", "prompt_len": "128"}


def row(id: str, **cells: str) -> dict[str, str]:
    return {"id": id, "source": "s", "framework": "vLLM", "value": "", "note": ""} | MODEL | cells


ROWS = [
    row(
        "t1",
        device="h100-sxm",
        devices="8",
        dp="8",
        micro_batch="2",
        global_batch="16",
        value="5762",
        **TRAIN,
    ),
    row("t2", device="gaudi2", devices="8", global_batch="1024", value="8000", **TRAIN),
    row(
        "s1",
        device="a100-80-sxm",
        devices="1",
        tp="1",
        concurrency="16",
        output_len="128",
        value="900",
        **SERVE,
    ),
    row("s2", device="mi300x", devices="4", tp="4", concurrency="1", output_len="1024", value="150", **SERVE),
]


def predicted(rows, constants=CONSTANTS):
    return predict_results(rows, catalogue(), named_models(), constants)


def test_blind_predictions_equal_filled_ones():
    blind = [r | {"value": "", "note": ""} for r in ROWS]
    assert predicted(blind) == predicted(ROWS)
    assert all(p.low < p.value < p.high and p.reason is None for p in predicted(ROWS))


def test_rows_alone_and_together_are_predicted_alike():
    assert [predicted([r])[0].value for r in ROWS] == pytest.approx([p.value for p in predicted(ROWS)])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"device": "gaudi1"}, "no peak"),
        ({"device": "abacus"}, "no device"),
        ({"metric": "smiles"}, "not known"),
        ({"unit": "tokens"}, "not known"),
        ({"phase": "dream"}, "phase"),
        ({"layers": "-3"}, "layers"),
        ({"hidden": "wide"}, "hidden"),
        ({"tp": "inf"}, "tp"),
        ({"concurrency": "nan"}, "concurrency"),
        ({"prompt_len": "1e300"}, "too large"),
        ({"devices": ""}, "devices"),
        ({"model": "mystery-8x70b", "params_b": "500"}, "experts"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(cells, reason):
    (found,) = predicted([ROWS[2] | cells])
    assert found.value is None and reason in found.reason


def test_scores_by_phase_family_and_source():
    scores = score_results(ROWS, catalogue(), named_models(), CONSTANTS)
    groups = scores.groups
    assert (
        groups["train"]["rows"] == 2
        and groups["train/gaudi"]["rows"] == 1
        and groups["source/s"]["rows"] == 4
    )
    assert set(groups["serve"]) >= {"mape", "median", "within_20", "bias", "coverage", "predicted"}
    assert scores.as_json()["predicted"] == 4


def test_a_slice_of_a_socket_is_predicted_as_a_slice():
    """2 cores of 96 were predicted at the rates of all 96: a training 88 to 150 times too fast."""
    train = {**TRAIN, "phase": "lora", "metric": "tokens_per_s", "unit": "tokens/s", "seq_len": "1024"}
    alike = {"device": "epyc-9654", "micro_batch": "1", "global_batch": "1", "dp": "1", "recompute": "none"}
    serve = {"device": "epyc-9654", "concurrency": "1", "output_len": "128", **SERVE}
    cells = [
        alike | train,
        serve | {"metric": "ttft_s", "unit": "s"},
        serve | {"metric": "tpot_s", "unit": "s"},
    ]
    whole, half, two = (
        [p.value for p in predicted([row("a", devices=share, **c) for c in cells])]
        for share in ("1", "0.5", "0.0208")
    )
    assert two[0] / whole[0] == pytest.approx(0.0208, rel=0.05)  # products bound a training
    assert half[0] / whole[0] == pytest.approx(0.5, rel=0.05)
    assert two[1] / whole[1] == pytest.approx(1 / 0.0208, rel=0.2)  # and a prompt, its launches aside
    assert half[2] / whole[2] == pytest.approx(1, rel=0.01)  # 48 cores draw all of a socket's bandwidth
    assert 5 < two[2] / whole[2] < 1 / 0.0208  # two draw more than their share of it


def test_rows_of_one_id_or_none_are_scored_by_their_place():
    same = [row | {"id": "", "value": v} for row, v in zip(ROWS[2:], ("900", "15000"), strict=True)]
    scores = score_results(same, catalogue(), named_models(), CONSTANTS)
    assert [p.value for p in scores.predictions] == [p.value for p in predicted(ROWS[2:])]
    assert [entry["place"] for entry in scores.worst] == [1, 0]


def test_the_command_tells_of_repeated_ids_and_shows_each_row_as_it_is(tmp_path):
    same = [row | {"id": "r", "value": v} for row, v in zip(ROWS[2:], ("900", "15000"), strict=True)]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*COLUMNS, "value"], restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(same)
    words = [sys.executable, "-m", "steelyard", "validate", "r.csv", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    worst = json.loads(done.stdout)["worst"]
    assert [(w["device"], w["measured"]) for w in worst] == [("mi300x", 15000), ("a100-80-sxm", 900)]
    assert "r.csv:3, id: 'r' is the id of line 2 too" in done.stderr


@pytest.mark.parametrize("value", ["inf", "-3", "nan", "many"])
def test_what_is_no_value_is_not_scored(value):
    scores = score_results([ROWS[2] | {"value": value}], catalogue(), named_models(), CONSTANTS)
    assert scores.predictions[0].value and not scores.groups and not scores.worst


def test_constants_come_and_go_as_json():
    assert Constants.from_json(CONSTANTS.as_json()).as_json() == CONSTANTS.as_json()
    assert Constants.from_json({}).value("train.efficiency") == pytest.approx(0.75)
    assert sum(CONSTANTS.rows.values()) > 2000 and CONSTANTS.provenance == "fitted" and CONSTANTS.source


def test_fitting_moves_predictions_towards_the_rows():
    twice = [str(2 * p.value) for p in predicted(ROWS)]
    truth = [r | {"value": v, "source": f"s{i}"} for i in range(8) for r, v in zip(ROWS, twice, strict=True)]
    fitted = fit(truth, catalogue(), named_models())
    before = score_results(truth, catalogue(), named_models(), CONSTANTS).groups["serve"]["mape"]
    after = score_results(truth, catalogue(), named_models(), fitted).groups["serve"]["mape"]
    assert after < 0.8 * before


def test_an_unseen_stack_on_an_unseen_family_has_a_wider_interval():
    known, unknown = ROWS[2], ROWS[2] | {"framework": "unheard-of", "device": "trainium2"}
    first, second = predicted([known, unknown])
    assert second.high / second.value > first.high / first.value


def test_a_family_that_was_never_seen_is_modelled_not_fitted():
    seen, unseen = groups(catalogue().find("gaudi2")), groups(catalogue().find("trainium2"))
    assert CONSTANTS.provenance_of("train", seen) == "fitted"
    assert CONSTANTS.provenance_of("train", unseen) == "modelled"
    for device in (
        "l4",
        "v100-32",
        "rtx-4090",
        "h20",
        "mi100",
        "tpu-v6e",
    ):  # of known families, without rows
        kin = groups(catalogue().find(device))
        assert CONSTANTS.provenance_of("train", kin) == "modelled", device
        assert CONSTANTS.spread("train", kin) > 1.2 * CONSTANTS.spread(
            "train", groups(catalogue().find("h100-sxm"))
        )


def test_a_family_whose_rows_lie_wider_has_a_wider_interval():
    amd, nvidia = groups(catalogue().find("mi300x"), "vllm"), groups(catalogue().find("h100-sxm"), "vllm")
    assert CONSTANTS.spread("serve", amd) > CONSTANTS.spread("serve", nvidia)


# ------------------------------------------------------------------ the fit


class _Corner:
    """A model with a corner, as a roofline has one: from one side of it full steps lead to the other."""

    groups = ({"source": "s"},)

    def predict(self, constant):
        return np.exp(np.abs(np.log(constant["c"])))


def test_a_fit_comes_to_rest_at_a_corner():
    index = {"c": np.array([[0]])}
    theta = descend(
        _Corner(),
        {"c": np.ones(1)},
        index,
        np.array([0.3]),
        np.array([9.0]),
        np.array([-1.0]),
        np.array([5.0]),
    )
    assert abs(theta[0]) < 0.05


def test_without_what_is_known_of_a_group_it_deviates_by_nothing():
    kin = groups(catalogue().find("max-1550"), "vllm")
    known, unknown = Constants(), Constants(known={})
    assert known.value("serve.hop_s", kin) > 10 * unknown.value("serve.hop_s", kin)
    assert unknown.value("serve.hop_s", kin) == pytest.approx(unknown.value("serve.hop_s"))


def test_what_is_known_of_devices_stands_beside_them_with_its_source():
    """A deviation in code is read by nobody: behaviour.csv has them all, each with where it comes from."""
    assert not hasattr(inference, "KNOWN") and not hasattr(training, "KNOWN")
    with (Path(hardware.__file__).parent / "behaviour.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "." in row["what"]]
    assert len(rows) >= 30 and all(row["source"] and float(row["sd"]) > 0 for row in rows)
    assert set(KNOWN) >= {f"{row['what']}@{row['of']}" for row in rows}
