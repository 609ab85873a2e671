"""grpo without TRL: its rows, its steps, what a sampled answer is worth, what is refused before the start."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.errors import WrongUse
from steelyard.model import Tokenizer
from steelyard.training import train
from steelyard.training.engines import TrainJob
from steelyard.training.engines.trl.child.stages.prompts import Prompts
from steelyard.training.engines.trl.engine import write_order
from steelyard.training.engines.trl.rewards import Rewards, check_room, prompt_line
from steelyard.training.mends import Mends
from steelyard.training.packing import Schedule, prompts_of, schedule
from steelyard.training.rows import read_rows

SAMPLED = {
    **{"stage": "grpo", "rows": "chats", "packing": False, "max_length": 128, "engine": "trl"},
    "method": {"num_generations": 4, "max_completion_length": 16},
}


def written(folder, *rows):
    folder.mkdir()
    lines = [json.dumps({"id": str(n), "ability": "a", **row}) for n, row in enumerate(rows)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def asked(answer, **more):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]
    return {"messages": chat, **more}


CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_every_row_is_a_prompt_or_has_a_reason(base, tmp_path):
    calls = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [CALL]}]}
    chats = [asked("7"), asked("7", compare="judge"), calls, {"messages": asked("7")["messages"][:1]}]
    data = written(tmp_path / "data", *chats, {"text": "t"})
    found = read_rows(data / "train.jsonl", Tokenizer(base), SAMPLED)
    assert len(found.examples) == 1
    assert found.dropped == {"no_reward": 1, "calls_tools": 1, "no_answer": 1, "not_in_chats": 1}


@pytest.mark.parametrize(
    ("row", "hint"), [(asked("7", compare="judge"), "compare: text"), (asked(""), "end with an answer")]
)
def test_rows_without_a_reward_are_one_clear_error(row, hint, base, tmp_path):
    data = written(tmp_path / "data", row)
    with pytest.raises(WrongUse, match="none of 1 rows can be taught") as caught:
        train(*tiny.step(tmp_path, base, data, **SAMPLED), Watch())
    assert caught.value.code == "data.no_rows" and hint in caught.value.hint


def job_of(base, data, **method):
    settings = {**SAMPLED, "method": {**SAMPLED["method"], **method}}
    rows = read_rows(data / "train.jsonl", Tokenizer(base), settings)
    return TrainJob(base, rows, Schedule((), 0, 0, 0), settings)


def test_an_answer_is_worth_what_the_gate_gives_it(base, tmp_path):
    rows = asked('{"a": 1}', compare="json"), asked("12", compare="number"), asked("yes", accept=["yeah"])
    job, tokenizer = job_of(base, written(tmp_path / "data", *rows)), Tokenizer(base)
    answers = ['{ "a":1}', '{"a": 2}'], ["it is 12.0", "13"], ["yeah", "yes, it is"]
    sampled = [
        (n, [*tokenizer.encode(text), tokenizer.end_id]) for n, own in enumerate(answers) for text in own
    ]
    assert Rewards(job).of(sampled) == [1, 0, 1, 0, 1, 0]


def test_a_prompt_is_what_serving_sends(base, tmp_path):
    job = job_of(base, written(tmp_path / "data", asked("7")))
    wanted = Tokenizer(base).chat_ids([{"role": "user", "content": "q"}], True)
    whole = Tokenizer(base).chat_ids(asked("7")["messages"], False)
    line = {"prompt": wanted, "answer": whole[len(wanted) :], "example": 3}
    assert prompt_line(job.rows.examples[0], 3) == line


def test_an_answer_beyond_the_models_context_is_refused(base, tmp_path):
    data = written(tmp_path / "data", asked("7"))
    check_room(job_of(base, data))
    with pytest.raises(WrongUse, match="more than the model's") as caught:
        check_room(job_of(base, data, max_completion_length=100_000))
    assert caught.value.where.field == "train.max_completion_length"


def test_an_end_that_is_brought_nearer_keeps_the_checkpoints(base, tmp_path):
    job = job_of(base, written(tmp_path / "data", *(asked(str(n)) for n in range(4))))
    settings = {**tiny.SETTINGS, **job.settings}
    job = replace(job, settings=settings, plan=Schedule((((0,),), ((1,),), ((2,),), ((3,),)), 0, 4, 0))
    checkpoint = tmp_path / "out" / "checkpoint-1"
    for mends, there in ((Mends(), False), (Mends(shorter=((1, 3),)), True), (Mends(skipped=(2,)), True)):
        write_order(replace(job, mends=mends), tmp_path, saves=True)
        assert checkpoint.exists() == there
        checkpoint.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line)["example"] for line in (tmp_path / "order.jsonl").read_text().splitlines()]
    assert lines == [0, 1, 3]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 6), st.integers(2, 6))
def test_steps_hold_whole_groups_in_the_order_of_the_plan(rows, micro, prompts, answers):
    """As the plan counts rows, the child counts micro-batches of answers: both make the same steps."""
    accum = answers * prompts
    settings = {**tiny.SETTINGS, **SAMPLED, "micro_batch": micro, "grad_accum": accum}
    settings["method"] = {"num_generations": answers}
    plan = schedule([5] * rows, prompts_of(settings))
    order = [row for step in plan.steps for batch in step for row in batch]
    child = object.__new__(Prompts)
    child.lines, child.answers = [{"example": row} for row in order], answers
    child.micro_batch, child.grad_accum, child.a_step = micro, accum, micro * accum // answers
    steps = [[line["example"] for line in child.step(n)] for n in range(len(plan.steps))]
    wanted = [[row for batch in step for row in batch for _ in range(answers)] for step in plan.steps]
    assert steps == wanted
    sizes = [-(-len(step) // micro) for step in steps]
    assert len(child) == sum(sizes) and all(size == accum for size in sizes[:-1])
