"""Well-known runs, predicted from what was asked of them, beside what was published.

python bench/known_runs.py [--json]    # seconds

Each request names model, job, tokens and hardware as the source does; every split is the planner's own
choice. None of these runs is a row of a fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Plan, Request, named_shape, plan


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """A run: what is asked, how its figure is read off a plan, what was published, how far off it may be."""

    name: str
    model: str
    asked: dict[str, Any]
    figure: Callable[[Plan], float]
    unit: str
    published: float
    goal: float  # of the published figure, either way; where `most`, the highest value instead
    source: str
    most: bool = False


def device_hours(p: Plan) -> float:
    """Hours of one device, start, checkpoints and restarts included."""
    assert p.time_s
    return p.time_s.value / 3600 * p.devices


def timed_minutes(p: Plan) -> float:
    """Minutes without the start and the end, which MLPerf does not time."""
    assert p.time_s
    return (p.time_s.value - p.parts.get("start", 0.0)) / 60


DEEPSEEK_V3 = {
    "job": "pretrain",
    "tokens": 14.8e12,
    "seq_len": 4096,
    "global_batch": 15360,
    "precisions": ("fp8",),
    "max_devices": 2048,
}
RUNS = (
    KnownRun(
        name="Llama 3.1 405B, pre-training in BF16 on 16,384 H100",
        model="llama3-405b",
        asked={
            "job": "pretrain",
            "tokens": 15.6e12,
            "seq_len": 8192,
            "global_batch": 2048,
            "devices": ("h100-sxm",),
            "precisions": ("bf16",),
        },
        figure=device_hours,
        unit="GPU-hours",
        published=30.84e6,
        goal=0.10,
        source="Llama 3.1 model card (Meta, 2024-07): 30.84 M GPU-hours; arXiv 2407.21783, tables 3 and 4",
    ),
    KnownRun(
        name="DeepSeek-V3, pre-training in FP8 on 2,048 H800",
        model="deepseek-v3",
        asked=DEEPSEEK_V3 | {"devices": ("h800-sxm",)},
        figure=device_hours,
        unit="GPU-hours",
        published=2.664e6,
        goal=0.15,
        source="DeepSeek-AI 2024, arXiv 2412.19437, table 1 (pre-training alone) and section 4.2",
    ),
    KnownRun(
        name="The same, as if on H100",
        model="deepseek-v3",
        asked=DEEPSEEK_V3 | {"devices": ("h100-sxm",)},
        figure=device_hours,
        unit="GPU-hours",
        published=2.664e6,
        goal=0.15,
        source="as above; its half as wide NVLink is all that sets an H800 apart",
    ),
    KnownRun(
        name="Llama 2 70B, LoRA in FP8 on 8 H100",
        model="llama2-70b",
        asked={
            "tokens": 25.2e6,
            "seq_len": 8192,
            "finetuning_type": "lora",
            "precisions": ("fp8",),
            "devices": ("h100-sxm",),
            "max_devices": 8,
        },
        figure=timed_minutes,
        unit="minutes",
        published=29.1,
        goal=0.15,
        source="MLPerf Training 4.0, llama2_70b_lora, SMC: 29.10 min, 3,072 sequences of 8,192",
    ),
    KnownRun(
        name="DeepSeek-R1 for 4,000 users, 4,000 tokens in and 1,000 out",
        model="deepseek-r1",
        asked={
            "job": "serve",
            "users": 4000,
            "prompt_tokens": 4000,
            "output_tokens": 1000,
            "devices": ("h100-sxm",),
        },
        figure=lambda p: float(p.devices),
        unit="H100",
        published=60,
        goal=120,
        most=True,
        source="from SGLang's rates on a node of 8 H100, 52.3k tokens/s in and 22.3k out (LMSYS, 2025-05)",
    ),
)


def predicted(run: KnownRun, constants: Constants) -> dict[str, Any]:
    """The run's plan, its figure beside the published one, and whether the goal is met."""
    request = Request(shape=named_shape(run.model, named_models()), name=run.model, **run.asked)
    (best,) = plan(request, catalogue(), constants).plans
    value = run.figure(best)
    off = value / run.published - 1
    return {
        "name": run.name,
        "predicted": value,
        "published": run.published,
        "unit": run.unit,
        "off": off,
        "goal": run.goal,
        "met": best.fits and (value <= run.goal if run.most else abs(off) <= run.goal),
        "devices": best.devices,
        "settings": {k: v for k, v in best.settings.items() if isinstance(v, int | float | str)},
        "source": run.source,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    constants = Constants.from_json(published_constants())
    runs = [predicted(run, constants) for run in RUNS]
    if asked.json:
        print(json.dumps({"runs": runs}, indent=1))
    else:
        for run in runs:
            figures = f"{run['predicted']:12,.4g} {run['unit']}, published {run['published']:,.4g}"
            print(f"{run['name']:62} {figures} ({run['off']:+.1%}); {run['source']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
