"""OpenVINO Model Server: one server a replica, each on its sockets; flags as its manual has them. Pure."""

from __future__ import annotations

from typing import Any

from .services import LOAD, NAME, Service, needs_of, unit_of
from .target import Target, options, script

WEIGHTS = {"int8": "int8", "int4": "int4", "bf16": "fp16", "fp16": "fp16", "f32": "fp32"}
HINT = {"bf16": "bf16", "fp16": "f16", "f32": "f32"}
REASONS = {
    "kv_bits": "OpenVINO Model Server keeps the cache in the model's precision or in 8 bits",
    "pp": "stages over sockets gain nothing on one host",
    "prefill_replicas": "OpenVINO Model Server computes prompts and answers in one place",
    "ep": "OpenVINO keeps all experts of a layer on each socket",
}
REPOSITORY, TUNED = "models", "tuned"
SEVERAL = (
    "one replica started before the others: it converts the weights, which all load",
    "a proxy that shares requests among the ports",
)


def ovms(service: Service) -> Target:
    """serve.sh starts one server, the replica REPLICA of its host; a unit starts each."""
    flags, stated = _flags(service)
    own = options(flags)
    bound = ("numactl", "--cpunodebind", '"$NODES"', "--membind", '"$NODES"')
    words = (*bound, "ovms", *own, "--rest_port", '"$PORT"')
    files = {"serve.sh": script(_lines(service), words)}
    for replica in range(service.here):
        name = f"{NAME}-{replica}.service" if service.here > 1 else f"{NAME}.service"
        env = {"PORT": str(service.port + replica), "NODES": _nodes(service, replica)}
        files[name] = unit_of(service, env, name)
    return Target(
        name="ovms",
        files=files,
        stated={k: f"serve.sh: --{v}" for k, v in stated.items()} | dict.fromkeys(LOAD, "load"),
        given={"ovms": flags | {"rest_port": service.port}},
        argv={"ovms": (*own, "--rest_port", str(service.port))},
        reasons=REASONS,
        needs=(
            *needs_of(service),
            *_converted(service),
            "OpenVINO Model Server with Python (it converts the weights with optimum-cli)",
            "numactl",
            *(SEVERAL if service.here > 1 else ()),
        ),
    )


def _lines(service: Service) -> tuple[str, ...]:
    """Port and NUMA nodes of a replica, where they are not told."""
    first, last = f"$((REPLICA * {service['tp']}))", f"$((REPLICA * {service['tp']} + {service['tp'] - 1}))"
    nodes = "$REPLICA" if service["tp"] == 1 else f"{first}-{last}"
    port = f"$(({service.port} + REPLICA))"
    return (': "${REPLICA:=0}"', f': "${{PORT:={port}}}"', f': "${{NODES:={nodes}}}"')


def _converted(service: Service) -> tuple[str, ...]:
    """It takes a model that lies in its repository as it is; what was trained is put there."""
    if service.weights is None:
        return ()
    form = WEIGHTS.get(service["weights"], "fp16")
    folder = f"{REPOSITORY}/{TUNED}"
    command = f"optimum-cli export openvino --model {service.weights} --weight-format {form} {folder}"
    return (f"{folder}: {command}, in serve/",)


def _nodes(service: Service, replica: int) -> str:
    first = replica * service["tp"]
    return str(first) if service["tp"] == 1 else f"{first}-{first + service['tp'] - 1}"


def _flags(service: Service) -> tuple[dict[str, Any], dict[str, str]]:
    weights = service["weights"]
    hint = HINT.get(weights, "bf16")
    flags: dict[str, Any] = {
        "source_model": TUNED if service.weights else service.model,
        "model_repository_path": REPOSITORY,
        "model_name": service.model,
        "task": "text_generation",
        "target_device": "CPU",
        "rest_bind_address": "127.0.0.1",
        "max_num_seqs": service.sequences,
        "max_num_batched_tokens": service.step_tokens,
        "cache_size": max(1, int(service.cache_bytes / 2**30)),
        "enable_prefix_caching": "true",
        "plugin_config": f'{{"INFERENCE_PRECISION_HINT": "{hint}"}}',
    }
    stated = {"batch": "max_num_seqs", "prompt_tokens": "max_num_batched_tokens", "replicas": "rest_port"}
    stated |= {"dp": "rest_port", "tp": "cpunodebind"}
    if weights in WEIGHTS:
        flags["weight-format"] = WEIGHTS[weights]
        stated["weights"] = "weight-format"
    if service["kv_bits"] == 8:
        flags["kv_cache_precision"] = "u8"
    if service["kv_bits"] in (8, 16):
        stated["kv_bits"] = "kv_cache_precision"
    if service["tp"] > 1:
        flags["model_distribution_policy"] = "TENSOR_PARALLEL"
        stated["tp"] = "model_distribution_policy"
    return flags, stated
