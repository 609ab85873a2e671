"""Which engine serves a model where nobody named one, and whether the one named is there at all."""

from __future__ import annotations

from pathlib import Path

from ...errors import Lacking, WrongUse
from ...model import encoder_folder, resolve
from ..engines import CAPABILITIES, ENGINES
from ..engines.vllm.python import capability as vllm_capability
from .folders import is_demo, place_of

INSTALL = {
    "openvino": "in the steelyard checkout: pip install -c constraints.txt '.[serve]'",
    "encoder": "in the steelyard checkout: pip install -c constraints.txt '.[serve]'",
    "llamacpp": "in the steelyard checkout: pip install -c constraints.txt '.[llamacpp,serve]'",
    "vllm": "see docs/how-to/choose-an-engine.md: vLLM stands in an environment of its own",
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
    gguf = resolve(str(source), root).kind == "gguf"
    return ["openvino", *(["llamacpp"] if gguf else []), "vllm"]


def check_engine(name: str, python: str | None = None) -> None:
    """Raises WrongUse for a name that no engine has, Lacking where its packages are not installed."""
    if name not in ENGINES:
        names = ", ".join(ENGINES)
        raise WrongUse("serve.engine_unknown", f"no engine {name!r}", hint=f"one of {names}")
    why = vllm_capability(python).unusable if name == "vllm" else CAPABILITIES[name]().unusable
    if why:
        raise Lacking("serve.engine_missing", f"the engine {name} is not there", why=why, hint=INSTALL[name])
