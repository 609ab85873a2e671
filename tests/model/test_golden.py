"""The bytes that a family and a form give, against those that were written down.

`GOLDEN=write pytest tests/model/test_golden.py` writes them anew: only where other bytes are meant.
Graphs (*.xml) carry OpenVINO's version, and training follows the processor's instructions: those are compared
byte for byte where both are the same as when they were written, else by their values.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeded

from steelyard.compression import export_form
from steelyard.model import load, save

GOLDEN = Path(__file__).with_name("golden.json")
FORMS = ("f32", "bf16", "f16", "int8", "int4_rtn")
SETTINGS = {
    "stage": "sft", "lora_rank": 4, "lora_alpha": 8, "learning_rate": 1e-2, "num_train_epochs": 1,
    "max_steps": 3, "max_length": 128, "packing": True, "micro_batch": 1, "grad_accum": 1,
    "warmup_ratio": 0.0, "weight_decay": 0.0, "seed": 0, "threads": 1, "mix": {},
}  # fmt: skip


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def expect(key: str, found: dict[str, Any]) -> dict[str, Any]:
    """What stands under `key` in golden.json; written there first where that is asked for."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("GOLDEN") == "write":
        golden[key] = found
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    return golden[key]


def engine() -> str:
    import openvino

    return openvino.__version__


def processor() -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {name}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", seeded.CASES)
def test_an_export_has_the_bytes_that_were_written_down(case, form, tmp_path):
    export_form(seeded.model(tmp_path / "base", case), tmp_path / "ir", form)
    found = {name: digest(tmp_path / "ir" / name) for name in ("openvino_model.bin", "form.json")}
    found |= {"openvino_model.xml": digest(tmp_path / "ir" / "openvino_model.xml"), "openvino": engine()}
    wanted = expect(f"export/{case}/{form}", found)
    if wanted["openvino"] != engine():
        wanted = {**wanted, "openvino": engine(), "openvino_model.xml": found["openvino_model.xml"]}
    assert found == wanted


@pytest.mark.parametrize("case", seeded.CASES)
def test_a_saved_network_has_the_bytes_that_were_written_down(case, tmp_path):
    base = seeded.model(tmp_path / "base", case)
    save(load(base, "bfloat16"), tmp_path / "again", base)
    found = {p.name: digest(p) for p in sorted((tmp_path / "again").iterdir())}
    assert found == expect(f"saved/{case}", found)


@pytest.mark.parametrize(("kind", "dtype"), [("lora", "bf16"), ("lora", "f32"), ("full", "f32")])
@pytest.mark.parametrize("case", seeded.CASES)
def test_a_trained_model_has_the_bytes_that_were_written_down(case, kind, dtype, tmp_path):
    from steelyard.artefact import Inputs, Store, Watch, adopt
    from steelyard.training import train

    base = seeded.model(tmp_path / "base", case)
    rows = [
        [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": str(n)}] for n in range(9)
    ]
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"id": str(n), "ability": "a", "messages": row}) for n, row in enumerate(rows)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines) + "\n")
    settings = {**SETTINGS, "finetuning_type": kind, "dtype": dtype}
    inputs = Inputs({"base": adopt(base), "dataset": adopt(tmp_path / "data", "dataset")})
    draft = Store(tmp_path / "store").draft("checkpoint", "k" * 64, "train", settings, inputs.artefacts)
    train(inputs, settings, draft, Watch())
    files = ("model.safetensors", "config.json", "curve.jsonl")
    curve = [json.loads(line) for line in (draft.folder / "curve.jsonl").read_text().splitlines()]
    found = {name: digest(draft.folder / name) for name in files if (draft.folder / name).exists()}
    found |= {"loss": [round(p["loss"], 6) for p in curve], "processor": processor()}
    wanted = expect(f"trained/{case}/{kind}/{dtype}", found)
    assert np.allclose(found["loss"], wanted["loss"], rtol=0.02)
    if wanted["processor"] == processor():
        assert found == wanted
