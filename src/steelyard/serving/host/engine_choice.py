"""Which engine serves a model where nobody named one, and whether the one named is there at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import Lacking, WrongUse
from ...launch import LAUNCHED, check_args
from ...model import encoder_folder, family_of, resolve
from ..engines import CAPABILITIES, ENGINES
from ..engines.launched.interpreter import capability
from .folders import is_demo, place_of

INSTALL = {
    "openvino": "in the steelyard checkout: pip install -c constraints.txt '.[serve]'",
    "encoder": "in the steelyard checkout: pip install -c constraints.txt '.[serve]'",
    "llamacpp": "in the steelyard checkout: pip install -c constraints.txt '.[llamacpp,serve]'",
    "transformers": "steelyard engines install trl",
    "vllm": "see docs/how-to/choose-an-engine.md: vLLM stands in an environment of its own",
    "sglang": "see docs/how-to/choose-an-engine.md: SGLang stands in an environment of its own",
}


def engine_for(source: str | Path, root: Path | str = ".") -> str:
    """OpenVINO; where it is not installed, what is and can read `source`. Lacking where nothing can."""
    unusable = {name: CAPABILITIES[name]().unusable for name in _able(source, root)}
    usable = next((name for name, why in unusable.items() if why is None), None)
    if usable is None:
        raise Lacking(
            "serve.no_engine", "no engine for this model is installed",
            why="; ".join(f"{name}: {why}" for name, why in unusable.items()), hint=INSTALL["openvino"],
        )  # fmt: skip
    return usable


def _able(source: str | Path, root: Path | str) -> list[str]:
    """The engines that read `source`, the fastest first."""
    place = place_of(source, root)
    if (place / "model.gguf").exists():
        return ["llamacpp"]
    if (place / "openvino_model.xml").exists():
        return ["openvino"]
    if not is_demo(source) and encoder_folder(str(source), root):
        return ["openvino"]
    model = resolve(str(source), root)
    if model.kind == "gguf":
        return ["openvino", "llamacpp", "vllm"]
    return ["transformers" if family_of(model.path).foreign else "openvino", "vllm"]


def check_args_of(name: str, args: Sequence[str]) -> None:
    """Raises WrongUse for words that the engine's own command line has not, or that steelyard must own."""
    if name in LAUNCHED:
        check_args(name, args)
    elif args:
        names = " and ".join(LAUNCHED)
        raise WrongUse("serve.args", f"{name} has no command line of its own", hint=f"they go with {names}")


def check_engine(name: str, python: str | None = None) -> None:
    """Raises WrongUse for a name that no engine has, Lacking where its packages are not installed."""
    if name not in ENGINES:
        names = ", ".join(ENGINES)
        raise WrongUse("serve.engine_unknown", f"no engine {name!r}", hint=f"one of {names}")
    able = capability(name, python) if name in LAUNCHED else CAPABILITIES[name]()
    if able.unusable:
        text, hint = f"the engine {name} is not there", INSTALL[name]
        raise Lacking("serve.engine_missing", text, why=able.unusable, hint=hint)
