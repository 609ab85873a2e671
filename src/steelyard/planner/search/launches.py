"""The settings of vLLM or SGLang for a planned service on its device, each with its origin.

From the candidate that the search chose: splits, replicas, forms, batch. Not here: how the engine spells them
(launch), who starts it (serving). Gaudi, AMD, Intel and NVIDIA differ in words alone; none was run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from steelyard.hardware import Device, Devices
from steelyard.launch import LAUNCHED, Service, Wanted, launch_of, platform_of, shown

from ..job.plans import Plan
from ..job.request import Request
from ..physics.inference import ServeSetup, serve_memory_parts
from ..physics.sizes import USABLE_MEMORY, Sizes, in_host
from .search import HERE
from .serve_search import BITS, WEIGHT_ONLY

SEQUENCES = (16, 1024)  # in flight in one engine, at least and at most: graphs are captured up to here
STEP_TOKENS = (2048, 8192)  # of prefill in one step: below, products are small; above, streams wait
DTYPES = {"f32": "float32", "fp16": "float16"}
IN_CHECKPOINT = {"int4": "a checkpoint quantised to 4 bits (AWQ, GPTQ)"}
# vLLM's plugin for Gaudi 0.21 rounds no weights while it loads (its pages on quantization).
ON_GAUDI = IN_CHECKPOINT | {
    "int8": "a checkpoint quantised to 8 bits (W8A8, llm-compressor)",
    "fp8": "QUANT_CONFIG: the file of a calibration by Intel Neural Compressor",
}
ONLINE = ("fp8", "int8", "fp4")  # that an engine makes of a 16-bit checkpoint while it loads it
MODEL_BLOCK = 256  # a context is a multiple of it
TESTED: tuple[str, ...] = ()  # platforms on which such a launch was run; CPUs are not planned so


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A planned service that an engine with a server of its own can be started for."""

    engine: str
    platform: str
    device: str
    hosts: int  # each of which starts the same command
    values: Mapping[str, tuple[Any, str]]
    needs: str | None = None  # what the command takes for granted


def launch_document(planned: Planned, model: str, args: tuple[str, ...] = ()) -> dict[str, Any]:
    """{"engine", "device", "hosts", "command", "env", "origins", "needs", "tested"}."""
    wanted = Wanted(
        engine=planned.engine, platform=planned.platform, model=model, values=planned.values, args=args
    )
    launch = launch_of(wanted)
    return {
        "engine": planned.engine,
        "device": planned.device,
        "hosts": planned.hosts,
        "command": shown(launch),
        "env": dict(launch.env),
        "origins": dict(launch.origins),
        "needs": planned.needs,
        "tested": planned.platform in TESTED,
    }


def planned_service(
    p: Plan, request: Request, devices: Devices, engine: str = "auto", max_model_len: int | None = None
) -> Planned | None:
    """How the plan's service is started; None where it serves nothing, or neither engine runs its device."""
    device_id, setup = service_setup(p)
    if setup is None or not p.fits:
        return None
    device = devices.find(device_id)
    platform = platform_of(device.vendor, device.kind)
    if platform in (None, "cpu") or engine not in ("auto", *LAUNCHED):
        return None
    each = max([o.each for o in request.own if devices.find(o.device).id == device.id] or [in_host(device)])
    split = setup["tp"] * setup["pp"]
    if split > each:
        return None  # one engine over several hosts is not started by steelyard
    engines = setup["replicas"] + setup["prefill_replicas"]
    here = min(engines, each // split)
    if setup["ep"] > setup["tp"] * here:
        return None  # nor are experts that engines of several hosts share
    named = engine if engine in LAUNCHED else LAUNCHED[0]
    return Planned(
        engine=named,
        platform=str(platform),
        device=device.id,
        hosts=ceil(engines / here),
        values=_values(named, setup, here, device, request, max_model_len),
        needs=(ON_GAUDI if platform == "gaudi" else IN_CHECKPOINT).get(setup["weights"]),
    )


def exported_service(
    p: Plan,
    request: Request,
    devices: Devices,
    engine: str = "auto",
    max_model_len: int | None = None,
    args: tuple[str, ...] = (),
) -> Service | None:
    """The plan's service for a person to start; None where it serves nothing, or no engine here runs it."""
    device_id, setup = service_setup(p)
    if setup is None or not p.fits or device_id == HERE:
        return None
    device = devices.find(device_id)
    if device.kind == "cpu":
        return _on_sockets(setup, device, request)
    planned = planned_service(p, request, devices, engine, max_model_len)
    if planned is None:
        return None
    each = planned.values["tp"][0] * planned.values["pp"][0] * planned.values["dp"][0]
    return Service(
        model=request.name,
        engine=planned.engine,
        platform=planned.platform,
        device=f"{each} x {device.id} a host, {planned.hosts} hosts" if planned.hosts > 1 else device.id,
        hosts=planned.hosts,
        here=planned.values["dp"][0],
        settings=setup,
        values=planned.values,
        args=args,
        needs=(planned.needs,) if planned.needs else (),
    )


def _on_sockets(setup: Mapping[str, Any], device: Device, request: Request) -> Service:
    """OpenVINO Model Server on a CPU's sockets, a server for each replica."""
    each = max(in_host(device) // max(1, setup["tp"]), 1)
    _, room = _room(device, request)
    here = min(setup["replicas"], each)
    return Service(
        model=request.name,
        engine="ovms",
        platform="cpu",
        device=device.id,
        hosts=ceil(setup["replicas"] / here),
        here=here,
        settings=setup,
        sequences=min(max(2 * setup["batch"], SEQUENCES[0]), SEQUENCES[1]),
        step_tokens=min(max(_up(request.prompt_tokens), STEP_TOKENS[0]), STEP_TOKENS[1]),
        cache_bytes=_cache_bytes(setup, request, room),
    )


def service_setup(p: Plan) -> tuple[str, Mapping[str, Any] | None]:
    """The device and the settings of a plan's service: its last step's, or its own."""
    if p.steps and p.steps[-1]["step"] == "serve":
        step = p.steps[-1]
        return step["device"], step.get("setup")
    return p.device, p.settings if "kv_bits" in p.settings else None


def _values(
    engine: str,
    setup: Mapping[str, Any],
    engines: int,
    device: Device,
    request: Request,
    max_model_len: int | None,
) -> dict[str, tuple[Any, str]]:
    candidate = "plan: the candidate chosen"
    weights, batch = setup["weights"], setup["batch"]
    share, room = _room(device, request)
    tokens, pool_share = _cache(setup, device, request, room)
    sequences = min(max(2 * batch, SEQUENCES[0]), SEQUENCES[1])
    step = min(max(_up(request.prompt_tokens), STEP_TOKENS[0]), STEP_TOKENS[1])
    values: dict[str, tuple[Any, str]] = {
        "device": (DEVICE_WORDS[str(platform_of(device.vendor, device.kind))], "plan: the device"),
        "dtype": (_dtype(weights, device), candidate),
        "kv_dtype": ("fp8" if setup["kv_bits"] == 8 else "auto", candidate),
        "tp": (setup["tp"], candidate),
        "pp": (setup["pp"], candidate),
        "dp": (engines, "plan: replicas of the candidate chosen, on one host"),
        "max_model_len": _length(request, tokens, max_model_len),
        "max_num_seqs": (sequences, f"plan: twice the batch of {batch} that the load fills"),
        "max_num_batched_tokens": (max(step, sequences), "plan: a prompt of the load in one step"),
        "memory_share": (pool_share if engine == "sglang" else share, _why_room(request)),
    }
    values |= _quantization(engine, weights, device)
    if setup["ep"] > 1:
        values |= {"expert_parallel": (True, candidate), "ep": (setup["ep"], candidate)}
    return values | _draft(setup, request)


def _quantization(engine: str, weights: str, device: Device) -> dict[str, tuple[Any, str]]:
    """How the engine makes the form of the weights while it loads them, where it does."""
    if weights in ONLINE and platform_of(device.vendor, device.kind) != "gaudi":
        return {"quantization": (weights, "plan: the candidate chosen")}
    if weights == "fp8" and engine == "vllm":
        return {"quantization": ("inc", "plan: the candidate chosen")}
    return {}


def _draft(setup: Mapping[str, Any], request: Request) -> dict[str, tuple[Any, str]]:
    """What guesses tokens ahead, where the candidate does so.

    SGLang verifies a chain of guesses, one branch wide, and one token more; a look-up's are counted alone.
    """
    tokens, why = setup.get("draft_tokens", 0), "plan: it pays at the share that was told"
    if not tokens:
        return {}
    method = "mtp" if request.mtp else "model" if request.draft else "lookup"
    chain = {"draft_steps": tokens, "draft_branches": 1, "verified": tokens + 1}
    values = {"draft_method": method, "draft_tokens": tokens} | (
        {"verified": tokens} if method == "lookup" else chain
    )
    named = {"draft": request.draft_name} if method == "model" else {}
    return {name: (value, why) for name, value in (values | named).items()}


DEVICE_WORDS = {"cuda": "cuda", "rocm": "cuda", "gaudi": "hpu", "xpu": "xpu"}  # SGLang's and PyTorch's


def _dtype(weights: str, device: Device) -> str:
    """BF16 where the device multiplies it; FP16 on those before it."""
    return DTYPES.get(weights) or ("bfloat16" if "bf16" in device.formats else "float16")


def _room(device: Device, request: Request) -> tuple[float, float]:
    """The share of a device's memory that an engine may take, and its bytes."""
    share = min(USABLE_MEMORY, (request.memory_limit_bytes or device.memory_bytes) / device.memory_bytes)
    share = floor(share * 100) / 100
    return share, share * device.memory_bytes


def _why_room(request: Request) -> str:
    limited = request.memory_limit_bytes is not None
    return "recipe: resources.memory" if limited else "plan: what drivers and fragments leave of the memory"


def _cache(setup: Mapping[str, Any], device: Device, request: Request, room: float) -> tuple[int, float]:
    """Tokens that one engine's cache holds, and the share of the memory that weights and cache take."""
    parts = _parts(setup, request)
    batch, length = setup["batch"], request.prompt_tokens + request.output_tokens
    cache = _cache_bytes(setup, request, room)
    share = floor((parts["weights"] + cache) / device.memory_bytes * 100) / 100
    return int(cache / parts["kv"] * batch * length) if parts["kv"] else 0, share


def _cache_bytes(setup: Mapping[str, Any], request: Request, room: float) -> float:
    """What the rest leaves of the room, at least what the load needs."""
    parts = _parts(setup, request)
    return max(room - sum(parts.values()) + parts["kv"], parts["kv"])


def _parts(setup: Mapping[str, Any], request: Request) -> dict[str, float]:
    """Bytes of one device by part."""
    sizes = Sizes.of(request.shape, request.prompt_tokens)
    serve = ServeSetup(
        t=setup["tp"], p=setup["pp"], e=setup["ep"], batch=setup["batch"], prompt=request.prompt_tokens,
        output=request.output_tokens, weight_bits=BITS[setup["weights"]], kv_bits=setup["kv_bits"],
        weight_only=float(setup["weights"] in WEIGHT_ONLY),
    )  # fmt: skip
    return {k: float(v) for k, v in serve_memory_parts(sizes, serve).items()}


def _length(request: Request, tokens: int, wanted: int | None) -> tuple[int, str]:
    """The longest context: the recipe's, else the model's own as far as the cache holds one of it."""
    if wanted:
        return wanted, "recipe"
    own = request.shape.max_position or STEP_TOKENS[1]
    least = _up(request.prompt_tokens + request.output_tokens)
    if not tokens or tokens >= own:
        return own, "plan: the model's own"
    return max(tokens // MODEL_BLOCK * MODEL_BLOCK, least), "plan: what the cache holds of one request"


def _up(tokens: int) -> int:
    return -(-tokens // MODEL_BLOCK) * MODEL_BLOCK
