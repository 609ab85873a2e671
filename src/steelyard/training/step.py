"""The training step: the rows in order, an engine that learns them, a tuned model and its account out.

Which engine is a setting; what it is given (ids, masks, order) is the same for all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from steelyard.artefact import Draft, Figures, Inputs, Settings, Watch
from steelyard.errors import Resumable, WrongUse
from steelyard.model import Tokenizer
from steelyard.shape import read_json

from .abilities.lift import lifted
from .abilities.near import near
from .abilities.objectives import alike
from .abilities.picking import picked
from .abilities.steered import check_rows, finished, first_mix, steered_job
from .engines import TrainEngine, TrainJob, engine_of
from .engines.trackers import trackers
from .faults import Diverged, OutOfMemory, mended
from .mends import Mends, read_mends, was_killed, write_mends
from .packing import Schedule, prompts_of, schedule, writes
from .rows import COMPARED, Rows, TrainingExample, read_rows
from .steering.mix import LIFT_ROWS, LIFT_SHARE, hold_out_each
from .steering.questions import questions_of
from .steering.validation import hold_out
from .teacher import with_teacher

TAUGHT = "taught.json"
TAUGHT_STEPS = "steps.jsonl"
ATTENTION_TOKENS = 1024


def train(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Tune the artefact `base` on the artefact `dataset`; write the tuned model into `out`.

    Raises WrongUse where no row can be taught, CheckFailed where the loss or its gradient is no number again
    and again, Stopped after a checkpoint when `watch.stop` is set, Resumable where a step got no memory
    and the next attempt has smaller ones, Lacking where the engine is not here or a row alone gets no memory.
    """
    engine = engine_of(settings.get("engine", "own"))
    base = inputs.artefacts["base"].path()
    tokenizer = Tokenizer(base)
    rows = read_rows(inputs.artefacts["dataset"].path("train.jsonl"), tokenizer, settings)
    settings = held_out_from(rows, settings)
    questions = questions_of(inputs.artefacts["dataset"].path("train.jsonl"), base, rows, settings)
    rows = alike(rows, settings)
    examples = rows.examples
    lengths = [max(len(each.ids) for each in row.sequences) for row in examples]
    weights = [row.weight for row in examples]
    plan = schedule(lengths, prompts_of(settings), [row.ability for row in examples], weights)
    if not plan.steps:
        raise no_rows(rows, settings)
    account = rows.account(plan, settings.get("rows", "all"))
    longest = longest_step(examples, plan)
    ends = read_mends(out.scratch).end(len(plan.steps))
    watch.log("train.planned", steps=len(plan.steps), ends_after=ends, longest_step=longest, **account)
    if "teacher" in settings and not writes(settings):
        place = None if out.scratch.keys else out.scratch.folder
        asked = {**settings, "vocab": vocabulary_of(base)}
        rows = with_teacher(rows, Path(settings["teacher"]), asked, place, watch, engine.ask)
    learnt = rows
    if stays_near(settings):
        place = None if out.scratch.keys else out.scratch.folder
        learnt = near(rows, base, vocabulary_of(base), settings, place, watch, engine.ask)
    held_out = held_out_of(inputs, base, settings)
    tell, end = trackers(settings.get("report_to") or (), tracking_folder(out), out.key[:12])
    try:
        job = TrainJob(base, learnt, plan, settings, held_out, questions, tell)
        figures, plan = taught(engine, job, tokenizer, out, watch)
    finally:
        end()
    reached = figures.get("best_step", len(plan.steps) - figures.get("steps_left_out", 0))
    if reached < len(plan.steps):
        plan = replace(plan, steps=plan.steps[: int(reached)])
    write_accounts(rows, plan, settings, out, read_mends(out.scratch).skipped)
    return figures


def pick(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write the way `settings["way"]` of a lift that the artefact `tried` has kept; settings, `base` and
    `dataset` are those of its training."""
    base = inputs.artefacts["base"].path()
    rows = read_rows(inputs.artefacts["dataset"].path("train.jsonl"), Tokenizer(base), settings)
    job = TrainJob(base, rows, Schedule((), 0, 0, 0), held_out_from(rows, settings))
    with watch.progress("pick", total=1, unit="model") as bar:
        figures, plan = picked(job, inputs.artefacts["tried"].path(), out, watch)
        bar.advance(1)
    write_accounts(rows, plan, settings, out)
    return figures


def write_accounts(
    rows: Rows, plan: Schedule, settings: Settings, out: Draft, skipped: Collection[int] = ()
) -> None:
    """taught.json, counts alone; steps.jsonl, each row that was taught and when."""
    taught_of = tuple(() if step in skipped else batches for step, batches in enumerate(plan.steps))
    account = rows.account(replace(plan, steps=taught_of), settings.get("rows", "all"))
    (out.folder / TAUGHT).write_text(json.dumps(account, indent=1, sort_keys=True) + "\n", "utf-8")
    with (out.folder / TAUGHT_STEPS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in rows.steps(plan, skipped))


def taught(
    engine: TrainEngine, job: TrainJob, tokenizer: Tokenizer, out: Draft, watch: Watch
) -> tuple[Figures, Schedule]:
    """What came of it, and the schedule that was trained: of some only known at the end."""
    if "lift" in job.settings:
        return lifted(job, tokenizer, out, watch)
    if "steer" not in job.settings:
        return carried_out(engine, job, out, watch), job.plan
    job, probed = steered_job(job, tokenizer, out, watch)
    figures = carried_out(engine, job, out, watch)
    return figures, finished(job, probed, out.folder)


def held_out_from(rows: Rows, settings: Settings) -> Settings:
    """Moves rows for looks out of the taught ones; the settings, with the first mix where it is steered.

    Raises WrongUse for an ability without rows.
    """
    if "lift" in settings:
        check_rows(rows, [settings["lift"]["ability"], *settings["lift"]["keep"]])
        hold_out_each(rows, settings["seed"], LIFT_ROWS, LIFT_SHARE)
        return settings
    if "steer" not in settings:
        hold_out(rows, settings)
        return settings
    check_rows(rows, settings["steer"]["aims"])
    hold_out_each(rows, settings["seed"])
    return {**settings, "mix": first_mix(rows, settings)}


def stays_near(settings: Settings) -> bool:
    """Whether tokens of its prompts are held at what the base says of them; a lift has a way that does."""
    beta = (settings.get("method") or {}).get("beta")
    return settings["stage"] == "sft" and bool(beta) and "lift" not in settings


def vocabulary_of(base: Path) -> int:
    """Rows of a model's embedding."""
    config = read_json(base / "config.json")
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def longest_step(examples: Sequence[TrainingExample], plan: Schedule) -> float:
    """How many times the work of the median step the largest step is: one that takes long is no hang.

    A sequence of n tokens counts as n (1 + n / 1,024): of the narrowest models (hidden 576) attention is half
    of the work at about 3,500 tokens, at a third of the matrices' speed.
    """

    def work(tokens: int) -> float:
        return tokens * (1 + tokens / ATTENTION_TOKENS)

    steps = [
        sum(work(len(each.ids)) for batch in step for row in batch for each in examples[row].sequences)
        for step in plan.steps
    ]
    return round(max(steps) / median(steps), 2)


def held_out_of(inputs: Inputs, base: Path, settings: Settings) -> Rows | None:
    """Answers to compare that were held out; None where the stage compares none."""
    path = inputs.artefacts["dataset"].path("test.jsonl")
    if settings.get("rows") not in COMPARED or not path.exists():
        return None
    return read_rows(path, Tokenizer(base), settings)


def carried_out(engine: TrainEngine, job: TrainJob, out: Draft, watch: Watch) -> Figures:
    """Run the engine, again from its last checkpoint after each fault that can be mended (faults.py).

    Raises Resumable where a step got no memory: what a process has freed lies in pieces, and may not even
    hold what the next attempt begins with.
    """
    mends = read_mends(out.scratch)
    if was_killed(out.scratch):
        mends = note(mended(mends, killed(job), job.plan, job.rows, job.settings), out, watch)
    while True:
        try:
            return engine.run(replace(job, mends=mends), out, watch) | mends.figures(len(job.plan.steps))
        except (OutOfMemory, Diverged) as problem:
            rows = {"rows": problem.rows} if isinstance(problem, Diverged) else {}
            watch.log("train.fault", step=problem.step + 1, what=problem.message, **rows)
            mends = mended(mends, problem, job.plan, job.rows, job.settings)
            note(mends, out, watch)
            clear(out.folder)
            if isinstance(problem, OutOfMemory):
                raise smaller_steps_next(problem) from problem


def killed(job: TrainJob) -> OutOfMemory:
    """The system says of no step that it was the one: taken is the one with the largest micro-batch."""
    lengths = [len(row.ids) for row in job.rows.examples]
    sizes = [max(sum(lengths[row] for row in batch) for batch in step) for step in job.plan.steps]
    return OutOfMemory(sizes.index(max(sizes)))


def smaller_steps_next(problem: OutOfMemory) -> Resumable:
    hint = "run the same command again: it goes on from the last checkpoint with smaller micro-batches"
    return Resumable(problem.code, problem.message, hint=hint)


def note(mends: Mends, out: Draft, watch: Watch) -> Mends:
    skipped = [step + 1 for step in mends.skipped]
    watch.log("train.mended", micro_batch_parts=mends.parts, skipped_steps=skipped)
    return write_mends(out.scratch, mends)


def clear(folder: Path) -> None:
    """What a failed attempt has written into the draft."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def tracking_folder(out: Draft) -> Path:
    """Beside the store: trackers' files carry times, an artefact's do not."""
    return out.scratch.folder.parent.parent / "tracking"


def no_rows(rows: Rows, settings: Settings) -> WrongUse:
    """Why nothing is left to teach, and what to do about the commonest reason."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in rows.dropped.most_common())
    commonest = next(iter(rows.dropped.most_common(1)), ("", 0))[0]
    hint = {
        "too_long": "raise train.max_length, or set overlong: split",
        "not_in_texts": "stage: pt teaches texts; these rows are chats: write stage: sft",
        "not_in_chats": "texts are taught by stage: pt, pairs by stage: dpo; give chats for stage: sft",
        "not_in_pairs": "give rows with chosen and rejected answers, or leave this stage out",
        "not_in_labels": "give rows with a label or kto_tag, or leave this stage out",
        "no_answer": "give chats that end with an answer: it is what the model's own are compared with",
        "no_reward": "compare: text, json, label, contains, number or chrf; or leave this stage out",
    }.get(commonest, "mend the rows, or give more data")
    message = f"none of {len(rows.names)} rows can be taught at max_length {settings['max_length']}"
    return WrongUse("data.no_rows", f"{message}: {reasons}" if reasons else message, hint=hint)
