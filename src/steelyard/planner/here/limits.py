"""Whether a job fits this machine, its budget and its deadline; if not, what would."""

from __future__ import annotations

from steelyard.errors import Lacking, Refused, Where
from steelyard.hardware import Machine
from steelyard.recipe import Recipe
from steelyard.units import show_bytes, show_s

from ..job.facts import Fill
from ..job.plans import Plans, broken_limits, most_usd
from .local import Local


def check_limits(recipe: Recipe, filled: Fill, local: Local, plans: Plans, machine: Machine) -> None:
    """Refuse a job that cannot meet its budget or deadline here; raise Lacking where the memory is too small.

    The hint names the nearest plan that fits.
    """
    where = Where(str(recipe.path))
    peak, free = local.peak_bytes, machine.memory_free_bytes
    ends = f"{show_bytes(peak.value)}, at most {show_bytes(peak.high)}"
    if peak.high > free:
        raise Lacking(
            "memory.too_small",
            f"{show_bytes(peak.high)} are needed, {show_bytes(free)} are free",
            where=where,
            why=f"{_why_memory(filled, local)}: {ends}",
            hint=_memory_hint(filled, plans),
        )
    goal, time_s = recipe.goal, local.time_s
    budget_usd = goal.budget.usd if goal.budget else None
    short = broken_limits(time_s, local.cost_usd, budget_usd, goal.deadline_s)
    if not short:
        return
    name, factor = max(short.items(), key=lambda kv: kv[1])
    usd, allowed_s = most_usd(time_s, local.cost_usd), show_s(goal.deadline_s or 0)
    words = {
        "deadline": f"the job takes up to {show_s(time_s.high)}, the deadline is {allowed_s}",
        "budget": f"the job costs up to $ {usd:.4f}, the budget is {goal.budget}",
    }
    raise Refused(
        f"plan.{name}",
        words[name],
        where=Where(str(recipe.path), field=f"goal.{name}"),
        why=f"{factor:.1f} times what the tightest limit, the {name}, allows on this machine",
        hint=_limit_hint(filled, local, plans, factor),
    )


def _why_memory(filled: Fill, local: Local) -> str:
    step = max(local.steps, key=lambda s: local.steps[s]["peak_rss_bytes"].value)
    stages = filled.settings["train"]
    if step != "train" or not stages:
        return f"the step {step} holds the most"
    s = stages[0]
    batch = f"micro-batch {s['micro_batch']} x {s['max_length']}"
    return f"{s['finetuning_type']} fine-tuning in {s['dtype']} at {batch}"


def _memory_hint(filled: Fill, plans: Plans) -> str:
    stages = filled.settings["train"]
    if stages and stages[0]["finetuning_type"] == "full":
        return "--set train.0.finetuning_type=lora needs a fraction of it"
    if stages and stages[0]["micro_batch"] > 1:
        return "--set train.0.per_device_train_batch_size=1, or a shorter max_length"
    return _elsewhere(plans) or "a shorter max_length, or a smaller model"


def _limit_hint(filled: Fill, local: Local, plans: Plans, factor: float) -> str:
    train = local.steps["train"]
    stages = filled.settings["train"]
    rest = local.wall_s - train["wall_s"].value if stages else local.wall_s
    allowed = local.wall_s / factor - rest
    if len(stages) == 1 and allowed > 0.1 * train["wall_s"].value:
        steps = int(train["steps"].value * allowed / train["wall_s"].value * 0.9)
        if steps >= 1:
            return (
                f"the nearest that fits here: --set train.0.max_steps={steps} (of {train['steps'].value:.0f})"
            )
    return _elsewhere(plans) or f"raise the limit to {factor:.1f} times, or give less data"


def _elsewhere(plans: Plans) -> str | None:
    if plans.best is None:
        return None
    p = plans.plans[plans.best]
    assert p.time_s
    cost = f", $ {p.cost_usd.value:.2f}" if p.cost_usd else ""
    return f"the nearest that fits: {p.devices} x {p.device} ({show_s(p.time_s.value)}{cost})"
