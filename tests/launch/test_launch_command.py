"""The command line of vLLM and SGLang: golden launches, the user's words, and the engines' own parsers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.errors import WrongUse
from steelyard.launch import (
    Door,
    Wanted,
    check_args,
    flags_of,
    launch_of,
    opened,
    platform_of,
    shown,
    version_of,
)
from steelyard.launch.flags import OWNED

PLAN = "plan: the candidate chosen"
VALUES = {
    "dtype": ("bfloat16", PLAN),
    "kv_dtype": ("auto", PLAN),
    "tp": (4, PLAN),
    "pp": (1, PLAN),
    "dp": (2, PLAN),
    "max_model_len": (131072, "plan: the model's own"),
    "max_num_seqs": (128, "plan: twice the batch"),
    "max_num_batched_tokens": (8192, "plan: a prompt"),
    "memory_share": (0.92, "plan: memory"),
}
CPU = {
    "device": ("cpu", "this machine"),
    "dtype": ("float32", "mode: exact"),
    "eager": (True, "mode: exact"),
    "max_model_len": (2048, "asked for"),
    "max_num_seqs": (64, "--max-num-seqs"),
    "max_num_batched_tokens": (2048, "one step"),
    "kv_bytes": (536870912, "16,384 tokens"),
    "prefix_cache": (True, "default"),
}


def wanted(engine="vllm", platform="cuda", values=VALUES, **more) -> Wanted:
    return Wanted(engine=engine, platform=platform, model="/models/llama", values=values, **more)


FP8 = VALUES | {"kv_dtype": ("fp8", PLAN), "quantization": ("fp8", PLAN)}
MOE = VALUES | {"expert_parallel": (True, PLAN), "ep": (4, PLAN), "quantization": ("fp4", PLAN)}
LORA = {"adapters": {"a": "/lora/a", "b": "/lora/b"}, "lora_rank": 16}
CASES = {
    "vllm h100": wanted(),
    "vllm h100 fp8": wanted(values=FP8),
    "vllm moe fp4": wanted(values=MOE),
    "vllm mi300x fp8": wanted(platform="rocm", values=FP8),
    "vllm gaudi2 fp8": wanted(platform="gaudi", values=FP8),
    "vllm arc int8": wanted(platform="xpu", values=VALUES | {"quantization": ("int8", PLAN)}),
    "vllm cpu exact": wanted(platform="cpu", values=CPU),
    "vllm adapters": wanted(**LORA),
    "vllm args": wanted(args=("--max-num-seqs", "32", "--enforce-eager")),
    "sglang h100": wanted("sglang", values=VALUES | {"device": ("cuda", PLAN)}),
    "sglang moe fp4": wanted("sglang", values=MOE | {"device": ("cuda", PLAN)}),
    "sglang gaudi2 fp8": wanted("sglang", "gaudi", FP8 | {"device": ("hpu", PLAN)}),
    "sglang cpu exact": wanted("sglang", "cpu", CPU),
    "sglang adapters": wanted("sglang", **LORA),
}
GOLDEN = Path(__file__).parent / "golden_launches.json"


def test_golden_launches():
    """`python tests/launch/test_launch_command.py` writes them anew."""
    golden = json.loads(GOLDEN.read_text())
    assert {name: shown(launch_of(case)) for name, case in CASES.items()} == golden


@pytest.mark.parametrize("name", list(CASES))
def test_every_word_is_one_that_the_engine_has(name):
    """By the facts of the released package: flags, number of values, types, choices."""
    launch = launch_of(CASES[name])
    table = flags_of(launch.engine)
    for flag, *values in launch.options:
        fact = table[flag]
        kind = "switch" if flag == fact.off else fact.kind
        assert {"switch": not values, "value": len(values) == 1, "list": bool(values)}.get(kind, True), flag
        for value in values:
            assert not fact.choices or value in fact.choices, (flag, value)
            assert {"int": int, "float": float}.get(fact.type, str)(value) is not None
    assert set(launch.origins) == {flag for flag, *_ in launch.options}  # none without an origin


# ------------------------------------------------------------------ the user's words


def test_args_stand_in_place_of_the_plan():
    launch = launch_of(wanted(args=("-tp", "8", "--max_num_seqs=32", "--no-enable-prefix-caching")))
    words = [word for option in launch.options for word in option]
    assert "--tensor-parallel-size" not in words and words.count("--max-num-seqs") == 1
    assert launch.origins["--max-num-seqs"] == "serve.args"
    assert ("--max-num-seqs", "32") in launch.options and ("-tp", "8") in launch.options


def test_a_switch_that_is_on_is_replaced_by_the_one_that_is_off():
    values = VALUES | {"prefix_cache": (True, PLAN)}
    launch = launch_of(wanted(values=values, args=("--no-enable-prefix-caching",)))
    assert [o for o in launch.options if "prefix" in o[0]] == [("--no-enable-prefix-caching",)]


@pytest.mark.parametrize("engine", list(OWNED))
def test_what_steelyard_owns_is_refused(engine):
    """Each by all its names, also the one that switches it off."""
    table = flags_of(engine)
    assert not [flag for flag in OWNED[engine] if flag not in table], "not a flag of this release"
    for name, fact in table.items():
        if fact.name not in OWNED[engine]:
            continue
        values = [] if fact.kind == "switch" or name == fact.off else ["x"]
        with pytest.raises(WrongUse) as caught:
            check_args(engine, [name, *values])
        assert caught.value.code == "serve.args_owned" and caught.value.why, name


WRONG = [
    ("vllm", ["--max-num-seq", "4"], "has no --max-num-seq", "did you mean --max-num-seqs?"),
    ("sglang", ["--context-len", "4"], "has no --context-len", "--context-length"),
    ("vllm", ["--trust-remote", "true"], "has no --trust-remote", ""),  # argparse would complete it
    ("vllm", ["--max-num-seqs", "many"], "a whole number is wanted", ""),
    ("vllm", ["--kv-cache-dtype", "fp9"], "fp9", "fp8"),
    ("vllm", ["--max-num-seqs"], "takes one value", ""),
    ("vllm", ["--enforce-eager", "yes"], "takes no value", ""),
    ("vllm", ["--max-num-seqs 4"], "is one word", "[--max-num-seqs, 4]"),
    ("vllm", ["4"], "belongs to no flag", ""),
    ("vllm", ["--seed", "1", "--seed", "2"], "stands twice", "keep one"),
    ("vllm", ["--compilation-config", "{mode"], "JSON is wanted", ""),
]


@pytest.mark.parametrize(("engine", "args", "message", "hint"), WRONG, ids=[" ".join(w[1]) for w in WRONG])
def test_one_clear_error(engine, args, message, hint):
    with pytest.raises(WrongUse) as caught:
        check_args(engine, args)
    assert message in caught.value.message and hint in (caught.value.hint or "")
    assert caught.value.code == "serve.args"


def test_values_that_look_like_flags_are_values():
    assert check_args("vllm", ["--seed", "-1"])[0].words == ("--seed", "-1")
    assert check_args("vllm", ["--compilation-config.mode", "3"])[0].words == (
        "--compilation-config.mode",
        "3",
    )


# ------------------------------------------------------------------ address, key, environment


def test_the_key_stands_in_no_command_line_and_nothing_listens_beyond_this_machine():
    door = Door(folder="/private", key="secret", port=4000)
    words, env, files = opened(launch_of(wanted()), door)
    assert "secret" not in " ".join(words) and env["VLLM_API_KEY"] == "secret" and not files
    assert words[-2:] == ("--uds", "/private/engine.sock")
    words, env, files = opened(launch_of(wanted("sglang")), door)
    assert "secret" not in " ".join(words) and "secret" not in env.values()
    assert json.loads(files[door.config]) == {"api-key": "secret"}
    assert words[words.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_nothing_is_reported_fetched_or_run_from_elsewhere(engine):
    launch = launch_of(wanted(engine))
    off = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    assert off.items() <= launch.env.items()
    assert launch.env.get("VLLM_NO_USAGE_STATS") == ("1" if engine == "vllm" else None)
    assert "--trust-remote-code" not in [option[0] for option in launch.options]


def test_a_step_of_vllm_on_a_cpu_takes_the_longest_prompt_whole():
    """Planned or usual settings alike; a step shorter than the longest prompt would not start there."""

    def step(engine="vllm", platform="cpu", **more):
        values = CPU | {"max_model_len": (8192, PLAN)}
        words = {
            option[0]: option[-1] for option in launch_of(wanted(engine, platform, values, **more)).options
        }
        return words.get("--max-num-batched-tokens") or words["--chunked-prefill-size"], words

    length, words = step()
    assert length == "8192" and "--no-enable-chunked-prefill" in words
    assert step(args=("--max-model-len", "16384"))[0] == "16384"
    assert step(args=("--max-num-batched-tokens", "9000"))[0] == "9000"
    for other in (step("sglang"), step(platform="cuda"), step(alone=True)):
        assert other[0] == "2048" and "--no-enable-chunked-prefill" not in other[1]


def test_platforms():
    pairs = [("NVIDIA", "gpu"), ("AMD", "gpu"), ("Intel", "gpu"), ("Intel", "accelerator"), ("Intel", "cpu")]
    assert [platform_of(*pair) for pair in pairs] == ["cuda", "rocm", "xpu", "gaudi", "cpu"]
    assert platform_of("Google", "accelerator") is platform_of("Apple", "gpu") is None


# ------------------------------------------------------------------ vLLM's own parser

READ = """
import argparse, json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
names = ("tensor_parallel_size", "max_num_seqs", "max_model_len", "uds", "trust_remote_code")
lines = [vars(parser.parse_args(words)) for words in json.load(sys.stdin)]
told = [{name: line[name] for name in names} for line in lines]
def kind(action):
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return "switch"
    return {None: "value", "?": "optional"}.get(action.nargs, "list")
flags = {name: [kind(a), sorted(str(c) for c in a.choices or () if c is not None)]
         for a in parser._actions if a.dest != "help" for name in a.option_strings}
print(json.dumps({"told": told, "flags": flags}))
"""


@pytest.fixture(scope="module")
def parsed():
    """What vLLM's own parser makes of our launches, and the flags that it has."""
    if not (python := os.environ.get("STEELYARD_VLLM_PYTHON")):
        pytest.skip("STEELYARD_VLLM_PYTHON names no Python with vLLM")
    door = Door(folder="/private", key="secret")
    lines = [opened(launch_of(case), door)[0][2:] for case in OF_VLLM]  # behind `-m MODULE`
    lines = [words[words[0] == "serve" :] for words in lines]
    command = [python, "-c", READ]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


OF_VLLM = [case for case in CASES.values() if case.engine == "vllm"]


@pytest.mark.timeout(1800)
def test_vllms_own_parser_takes_every_launch(parsed):
    for case, told in zip(OF_VLLM, parsed["told"], strict=True):
        assert told["uds"] == "/private/engine.sock" and told["trust_remote_code"] is False
        assert told["tensor_parallel_size"] == case.values.get("tp", (1,))[0]
        assert told["max_model_len"] == case.values["max_model_len"][0]


@pytest.mark.timeout(1800)
def test_what_vllms_own_parser_takes_the_facts_let_through(parsed):
    """The same flags and kinds; a list of choices is as long at least, or left out."""
    table = flags_of("vllm")
    kinds = {name: "switch" if name == flag.off else flag.kind for name, flag in table.items()}
    assert kinds == {name: kind for name, (kind, _) in parsed["flags"].items()}
    for name, (_, choices) in parsed["flags"].items():
        assert not table[name].choices or set(choices) <= set(table[name].choices), name


def test_the_facts_name_their_release():
    assert version_of("vllm") == "0.32.0" and version_of("sglang") == "0.5.23"
    assert replace(flags_of("vllm")["-tp"], aliases=()).name == "--tensor-parallel-size"


if __name__ == "__main__":
    document = {name: shown(launch_of(case)) for name, case in CASES.items()}
    GOLDEN.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(0)
