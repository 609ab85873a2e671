"""What training takes on this machine: each stage, what a lift writes anew, pruning with its healing, and
rounding while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.hardware import Calibration
from steelyard.shape import Shape

from ..job.facts import DataFacts, Fill
from ..job.forms import WORK
from ..job.pruned import score_kept
from .abilities import looking_s, tried
from .engines import engine_of
from .local_serve import batch_wall_s, engine_row, serve_rates
from .local_train import (
    Packed,
    memory_terms,
    of_kind,
    optimiser_terms,
    packed,
    sizes_of,
    stays_near,
    step_terms,
    train_rates,
    trained_params,
    writing,
)
from .pruning import forward_s, prune_parts, prune_peak_bytes, routing_parts, routing_peak_bytes
from .step import TOKENIZER_BYTES, TORCH_BYTES, UP_BYTES, WORKER_S, Step

PICKED_BYTES = 6.0  # a parameter: the network in bf16, a change of its largest matrices in f32
ROUND_S = 3e-9  # a weight: divided, rounded, held in bounds, multiplied, in passes over memory
ROUNDING_TOKENS = 15.5  # the loop fills micro-batches up to multiples of 32
ROWS_PER_S = 5000.0  # of tokenising short rows
SAMPLES = {"max_num_batched_tokens": 2048, "max_num_seqs": 1024}  # transformers takes all sequences at once
SAMPLED_SLOWER = 4.0  # transformers' generation against the engine's
LOOKS, SCORED, SCORED_AT_ONCE = 10, 64, 16  # of a stage that scores answers, where eval_steps says nothing


def training_step(found: Sequence[Step]) -> Step:
    """All stages together; steps, step_s and tokens are the last one's."""
    if not found:
        return Step.of({}, 0.0)
    parts: dict[str, float] = {}
    for stage in found:
        for name, seconds in stage.parts.items():
            parts[name] = parts.get(name, 0.0) + seconds
    last = found[-1].figures
    more = {name: last[name] for name in ("steps", "step_s", "tokens")}
    return Step.of(parts, max(s.figures["peak_rss_bytes"] for s in found), **more)


def stage_step(settings: Mapping[str, Any], shape: Shape, calibration: Calibration, facts: DataFacts) -> Step:
    rates = train_rates(calibration, settings["finetuning_type"], settings["dtype"])
    engine = engine_of(settings)
    run = tried(packed(facts, settings), settings, facts)
    row = sizes_of(shape, settings, run, run.micro_tokens + ROUNDING_TOKENS)
    micro = {name: s * engine.time for name, s in rates.step.cost(step_terms(row)).items()}
    optimiser_s = rates.optimiser.total(optimiser_terms(row)) * engine.time
    step_s = run.micro_steps * sum(micro.values()) + optimiser_s
    trained = run.tokens / max(1.0, run.micro_tokens)  # micro-batches in all, the last step's fewer too
    parts = {name: seconds * trained for name, seconds in micro.items()}
    parts["optimiser"] = optimiser_s * run.steps
    parts |= _sampling(settings, shape, calibration, facts, run)
    parts |= looking_s(settings, facts, run, step_s, sum(micro.values()))
    parts |= _teacher(settings, shape, facts, run, sum(micro.values()))
    parts |= _scores(settings, shape, calibration, facts, run)
    busy_s = sum(parts.values())
    saves = busy_s / max(
        20.0, 20.0 * rates.checkpoint.total({"start": 1.0, "each": 12 * trained_params(row)})
    )
    parts |= {
        "checkpoints": int(saves) * rates.checkpoint.total({"start": 1.0, "each": 12 * trained_params(row)}),
        "process": WORKER_S + rates.start_s + engine.start_s,
        "tokenise": 0.3 + facts.rows / ROWS_PER_S,
        "load": rates.load.total({"start": 1.0, "each": float(shape.params)}),
        "write": rates.write.total({"start": 1.0, "each": float(shape.params)}),
    }
    fullest = sizes_of(shape, settings, run, run.most_tokens)
    held = UP_BYTES + TOKENIZER_BYTES + rates.memory.total(memory_terms(fullest)) * engine.memory
    held = _with_teacher(settings, held)
    return Step.of(parts, held, steps=float(run.steps), step_s=step_s, tokens=_tokens(run))


def _sampling(
    settings: Mapping[str, Any], shape: Shape, calibration: Calibration, facts: DataFacts, run: Packed
) -> dict[str, float]:
    """Of the answers that the model writes those of each step, at once, as long as those of the rows; {} of
    stages without."""
    if not writing(settings):
        return {}
    rates, row = serve_rates(calibration, "bf16").step, engine_row(shape, "bf16")
    each = settings["micro_batch"] * settings["grad_accum"]
    answer = max(1, round(facts.mean_length * facts.answer_share))
    prompt = max(1, round(facts.mean_length) - answer)
    step_s = batch_wall_s(rates, row, each, prompt, answer, each, SAMPLES)
    return {"sampling": run.steps * step_s * SAMPLED_SLOWER}


def picking_steps(filled: Fill, shape: Shape, calibration: Calibration, facts: DataFacts) -> dict[str, Step]:
    """Of a lift of several ways: another one's model is written, where the gate refuses the first."""
    stage = next((s for s in filled.settings["train"] if len(s.get("lift", {}).get("routes", ())) > 1), None)
    if stage is None:
        return {}
    rates = train_rates(calibration, stage["finetuning_type"], stage["dtype"])
    each = {"start": 1.0, "each": float(shape.params)}
    parts = {
        "process": WORKER_S + rates.start_s,
        "tokenise": 0.3 + facts.rows / ROWS_PER_S,
        "load": rates.load.total(each),
        "write": rates.write.total(each),
    }
    held = UP_BYTES + TOKENIZER_BYTES + TORCH_BYTES + PICKED_BYTES * shape.params
    return {"pick": Step.of(parts, held)}


def pruning_steps(
    filled: Fill, shape: Shape, left: Shape, calibration: Calibration, facts: DataFacts
) -> dict[str, Step]:
    """prune: passes over a few rows; heal: what the whole model says of all rows, and a stage of training."""
    if "prune" not in filled.settings:
        return {}
    prune, heal = filled.settings["prune"], filled.settings.get("heal")
    rates = train_rates(calibration, "full", prune["dtype"])
    load_s = rates.load.total({"start": 1.0, "each": float(shape.params)})
    routed = "experts" in prune
    parts = (
        routing_parts(shape, left, rates, facts.tokens, prune["dtype"])
        if routed
        else prune_parts(shape, left, rates, prune["dtype"])
    )
    parts |= {"process": WORKER_S + rates.start_s, "load": load_s}
    own = routing_peak_bytes if routed else prune_peak_bytes
    step = {"prune": Step.of(parts, UP_BYTES + TOKENIZER_BYTES + TORCH_BYTES + own(shape, prune["dtype"]))}
    if heal is None:
        return step
    kept = {"score_kept": score_kept(prune["share"])}
    healed = _taught(heal, shape, left, calibration, facts)
    return step | {"heal": Step(healed.parts, {**healed.figures, **kept})}


def _taught(
    settings: Mapping[str, Any], shape: Shape, left: Shape, calibration: Calibration, facts: DataFacts
) -> Step:
    """A stage that trains `left` on what the whole model says of its rows, each asked once."""
    rates = train_rates(calibration, "full", settings["dtype"])
    trained, run = stage_step(settings, left, calibration, facts), packed(facts, settings)
    once = run.tokens / max(1.0, float(settings["num_train_epochs"]))
    teacher_s = rates.load.total({"start": 1.0, "each": float(shape.params)})
    teacher_s += forward_s(shape, rates, once, settings["dtype"])
    more = {name: trained.figures[name] for name in ("steps", "step_s", "tokens")}
    return Step.of({**trained.parts, "teacher": teacher_s}, trained.figures["peak_rss_bytes"], **more)


def qat_steps(
    filled: Fill, shape: Shape, left: Shape, calibration: Calibration, facts: DataFacts
) -> dict[str, Step]:
    """The calibration of int4, and a stage of training in which each step rounds every matrix anew."""
    if "qat" not in filled.settings:
        return {}
    trained = _taught(filled.settings["qat"], shape, left, calibration, facts)
    steps = trained.figures["steps"]
    parts = {"calibrate": left.params * WORK["int4"].export_s, "round": steps * left.params * ROUND_S}
    more = {name: trained.figures[name] for name in ("steps", "tokens")}
    step_s = trained.figures["step_s"] + left.params * ROUND_S
    peak = trained.figures["peak_rss_bytes"] + 6.0 * left.params
    return {"qat": Step.of({**trained.parts, **parts}, peak, step_s=step_s, **more)}


def _scores(
    settings: Mapping[str, Any], shape: Shape, calibration: Calibration, facts: DataFacts, run: Packed
) -> dict[str, float]:
    """Of a stage that scores answers at its looks those answers, as long as the rows' own; {} of others."""
    if settings.get("metric_for_best_model") != "score":
        return {}
    rates, row = serve_rates(calibration, "bf16").step, engine_row(shape, "bf16")
    questions = max(1, min(SCORED, round(settings["val_size"] * facts.rows)))
    answer = max(1, round(facts.mean_length * facts.answer_share))
    prompt = max(1, round(facts.mean_length) - answer)
    looks = run.steps // (settings.get("eval_steps") or max(1, run.steps // LOOKS)) + 1
    look_s = batch_wall_s(rates, row, questions, prompt, answer, SCORED_AT_ONCE, SAMPLES)
    return {"scores": looks * look_s * SAMPLED_SLOWER}


def _teacher(
    settings: Mapping[str, Any], shape: Shape, facts: DataFacts, run: Packed, micro_s: float
) -> dict[str, float]:
    """A teacher's forward passes: of each row once, or of all that is taught where it stands beside the
    student. A pass takes its share of the student's own, by the weights."""
    params = shape.params if stays_near(settings) else settings.get("teacher_params")
    if not params:
        return {}
    passes = 2.0 if settings["finetuning_type"] == "lora" else 3.0
    token_s = micro_s / max(1.0, run.micro_tokens) / passes * params / shape.params
    tokens = run.tokens if writing(settings) else of_kind(facts, settings)[0].tokens
    return {"teacher": token_s * tokens}


def _with_teacher(settings: Mapping[str, Any], held: float) -> float:
    """Bytes of the process: of the teacher's weights too, where it stands beside the student; else the larger
    of both."""
    teacher = settings.get("teacher_params", 0) * (2.0 if settings["dtype"] == "bf16" else 4.0)
    if not teacher:
        return held
    return held + teacher if writing(settings) else max(held, UP_BYTES + TORCH_BYTES + teacher)


def _tokens(run: Packed) -> float:
    return float(round(run.tokens))
