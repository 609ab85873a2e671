"""The nodes of a cluster and actors on them: all that knows Ray stands here."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

from .place import Place

CONNECT_S = 60.0  # Ray itself waits without end where certificates do not match

Tell = Callable[[bytes, int, bytes], None]


class Failed(Exception):
    """What the parent turns into an error of its own."""

    def __init__(self, kind: str, **fields: Any) -> None:
        super().__init__(kind)
        self.fields = {"kind": kind, **fields}


def differences(asked: dict[str, Any], there: dict[str, Any]) -> str:
    """What of the code is other there, in words; nothing where it is equal."""
    packages, own = there.get("engines", {}), asked["engines"]
    names = sorted(name for name in {*own, *packages} if own.get(name) != packages.get(name))
    words = [f"{name} {packages.get(name)}, here {own.get(name)}" for name in names]
    words += ["its files of steelyard are not these"] if there.get("rooms") != asked["rooms"] else []
    return "; ".join(words)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:300]


class RayNodes:
    """Connected at once. Raises Failed where the cluster cannot be reached."""

    def __init__(self, head: str, tell: Tell) -> None:
        import ray
        import ray_child  # this package under the name that it runs by
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(ray_child)
        late = threading.Timer(CONNECT_S, give_up, (tell,))
        late.daemon = True
        late.start()
        try:
            ray.init(address=head, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise Failed("ray", why=first_line(error)) from error
        finally:
            late.cancel()

    def cores(self) -> dict[tuple[str, str], int]:
        """(id, address) of each node that is alive -> its cores; a node started with none does not work."""
        import ray

        alive = [n for n in ray.nodes() if n["Alive"]]
        found = {(n["NodeID"], n["NodeManagerAddress"]): int(n["Resources"].get("CPU", 0)) for n in alive}
        return {node: cores for node, cores in found.items() if cores}

    def open(self, node: str, call: str, function: Any) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return (
            ray.remote(Place)
            .options(num_cpus=0, max_restarts=0, scheduling_strategy=there)
            .remote(call, function)
        )

    def ask(self, actor: Any, name: str, words: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        getattr(actor, name).remote(*words).future().add_done_callback(then)

    def close(self, actor: Any) -> None:
        import ray

        ray.kill(actor)

    def share(self, body: bytes) -> Any:
        """Sent once to a node, whoever asks for it there."""
        import ray

        return ray.put(body)


def give_up(tell: Tell) -> None:
    why = f"no answer in {CONNECT_S:.0f} s: is it the same token and CA?"
    tell(b"x", 0, json.dumps({"kind": "ray", "why": why}).encode())
    os._exit(1)
