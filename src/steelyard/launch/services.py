"""A planned service in files: vLLM or SGLang as they are started by themselves, and a systemd unit. Pure.

Not here: the command line that steelyard starts for itself (command.py), OpenVINO Model Server (ovms.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .command import Launch, Wanted, launch_of
from .systemd import escaped, quoted
from .target import Target, script, weights_need

NAME = "steelyard-plan"
# Of a candidate what another word says too, or what describes the load alone.
SAID = {
    "batch": "--max-num-seqs",
    "dp": "--data-parallel-size",
    "replicas": "--data-parallel-size and one command a host",
    "weights": "--quantization and --dtype",
    "kv_bits": "--kv-cache-dtype",
    "tp": "--tensor-parallel-size",
    "pp": "--pipeline-parallel-size",
    "ep": "--enable-expert-parallel",
    "prompt_tokens": "--max-num-batched-tokens",
    "draft_tokens": "what guesses, and how many tokens",
}
LOAD = ("output_tokens", "percentile", "prefix_hit")
REASONS = {"prefill_replicas": "prompts and answers on machines of their own need a router between them"}
UNIT = """\
# install:  cp {name} /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now {name}
# Paths and user are those of the export: change them with the folder.
[Unit]
Description={model} on {device}, as planned
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
User={user}
WorkingDirectory={folder}
{env}ExecStart=/bin/sh {script}
Restart=on-failure
RestartSec=10
TimeoutStartSec=1800
TimeoutStopSec=60
KillMode=mixed
LimitNOFILE=65536
NoNewPrivileges=yes
ProtectSystem=full
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A planned service on one kind of device; `here`: replicas on each of `hosts`."""

    model: str
    engine: str  # "vllm", "sglang" or "ovms"
    platform: str
    device: str
    hosts: int
    here: int
    settings: Mapping[str, Any]
    values: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # of an engine's command line
    args: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    weights: str | None = None  # where what was trained lies; None: the model itself
    folder: str = "/srv/plan/serve"  # where serve.sh will lie
    user: str = "root"
    port: int = 8000
    sequences: int = 16
    step_tokens: int = 2048
    cache_bytes: float = 0.0

    @property
    def source(self) -> str:
        """What the engine loads."""
        return self.weights or self.model

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]


def engine(service: Service) -> Target:
    """serve.sh of vLLM or SGLang on every host, and its unit."""
    launch = _launch(service)
    own = [word for option in launch.options for word in option]
    start = ("vllm", "serve") if service.engine == "vllm" else ("python3", "-m", *launch.program)
    address = ("--host", "127.0.0.1", "--port", str(service.port))
    exports = [f"export {name}={value}" for name, value in launch.env.items()]
    own = [*own, *address]
    lost = _unsaid(service)
    return Target(
        name="vllm-gaudi" if (service.engine, service.platform) == ("vllm", "gaudi") else service.engine,
        files={
            "serve.sh": script(exports, (*start, service.source, *own)),
            f"{NAME}.service": unit_of(service, {}),
        },
        stated={k: f"serve.sh: {v}" for k, v in SAID.items() if k not in lost} | dict.fromkeys(LOAD, "load"),
        given={service.engine: _given((*launch.options, address[:2], address[2:]))},
        argv={service.engine: (service.source, *own)},
        reasons=REASONS | lost,
        needs=(*needs_of(service), *_packages(service)),
    )


def keywords(service: Service) -> dict[str, Any]:
    """The engine's settings as keywords of its Python API; {} of an engine that has none."""
    if service.engine != "vllm":
        return {}
    return dict(_keyword(*option) for option in _launch(service).options)


def _launch(service: Service) -> Launch:
    return launch_of(
        Wanted(
            engine=service.engine, platform=service.platform, model=service.source, values=service.values,
            args=service.args, alone=True, named=service.model,
        )
    )  # fmt: skip


def _keyword(flag: str, *values: str) -> tuple[str, Any]:
    """("--max-num-seqs", "16") as ("max_num_seqs", 16); a switch is true, of --no-... false."""
    name = flag.removeprefix("--").replace("-", "_")
    if not values:
        return (name.removeprefix("no_"), False) if name.startswith("no_") else (name, True)
    read = [_read(value) for value in values]
    return name, read if len(read) > 1 else read[0]


def _read(word: str) -> Any:
    """A number or an object of JSON as such; else the word."""
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return value if isinstance(value, int | float | dict) and not isinstance(value, bool) else word


def _unsaid(service: Service) -> dict[str, str]:
    """Settings of the candidate that the engine cannot be told here, and why."""
    settings, lost = service.settings, {}
    if service.engine == "vllm" and settings.get("ep", 1) not in (1, settings["tp"] * service.here):
        lost["ep"] = "vLLM spreads experts over all devices of a host's replicas"
    return lost


def _given(spoken: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    return {words[0]: list(words[1:]) if len(words) > 2 else (words[1:] or (True,))[0] for words in spoken}


def needs_of(service: Service) -> tuple[str, ...]:
    """What an engine needs of the weights."""
    draft, _ = service.values.get("draft", (None, ""))
    names = [name for name in (None if service.weights else service.model, draft) if name]
    return (*service.needs, *(need for name in names for need in weights_need(name, "serve.sh")))


def _packages(service: Service) -> tuple[str, ...]:
    plugin = {"gaudi": "pip install vllm-gaudi (the plugin, and vLLM of its version)"}
    shared = ("a proxy that shares requests among the hosts",) if service.hosts > 1 else ()
    package = "sglang" if service.engine == "sglang" else "vllm"
    return (plugin.get(service.platform, f"pip install {package}"), *shared)


def unit_of(service: Service, env: Mapping[str, str], name: str = f"{NAME}.service") -> str:
    """A systemd unit that starts serve.sh with these variables."""
    lines = "".join(f"Environment={quoted(f'{key}={value}')}\n" for key, value in env.items())
    return UNIT.format(
        name=name,
        model=escaped(service.model),
        device=service.device,
        env=lines,
        folder=escaped(service.folder),  # of one path systemd takes the whole line, spaces and all
        script=quoted(f"{service.folder}/serve.sh", command=True),
        user=service.user,
    )
