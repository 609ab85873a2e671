"""The machines of a Ray cluster, and calls to an actor on each. All that knows Ray stands here."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from ..telling import Failed, Told
from .host import Host

CONNECT_S = 60.0  # Ray itself waits without end where certificates do not match
RESOURCES = {"cuda": "GPU", "xpu": "GPU", "hpu": "HPU"}  # what Ray counts them as


class Lost(Exception):
    """A machine, or its actor, does not answer."""


@dataclass(frozen=True)
class Node:
    id: str
    address: str
    places: int  # processes that it can take
    here: bool = False  # the driver's own


class Link:
    """Calls to the Host of one node."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, name: str, *words: Any) -> Any:
        return getattr(self.actor, name).remote(*words)

    def wait(self, call: Any, most_s: float) -> Any:
        """Its answer. Raises Lost where none comes, whatever the call itself raises."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        try:
            return ray.get(call, timeout=most_s)
        except RayTaskError:
            raise
        except (GetTimeoutError, RayError) as error:
            raise Lost(type(error).__name__) from error

    def close(self) -> None:
        import ray

        ray.kill(self.actor)


class RayNodes:
    """Connected at once. Raises Failed where the cluster cannot be reached."""

    def __init__(self, address: str, device: str, tell: Told) -> None:
        import child  # this package under the name that it runs by
        import ray
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(child)
        self.device = device
        late = threading.Timer(CONNECT_S, _give_up, (address, tell))
        late.daemon = True
        late.start()
        try:
            ray.init(address=address, log_to_driver=True, logging_level="ERROR")
        except Exception as error:
            raise Failed("ray", address=address, why=first_line(error)) from error
        finally:
            late.cancel()
        self.own = ray.get_runtime_context().get_node_id()

    def alive(self) -> list[Node]:
        """Those that train, by address, the driver's own first."""
        import ray

        nodes = [
            Node(n["NodeID"], n["NodeManagerAddress"], self.places(n["Resources"]), n["NodeID"] == self.own)
            for n in ray.nodes()
            if n["Alive"]
        ]
        return sorted((n for n in nodes if n.places), key=lambda n: (not n.here, n.address))

    def places(self, resources: dict[str, float]) -> int:
        """One a device; a CPU is one, and a node without any (`--num-cpus 0`) does not train."""
        if self.device in RESOURCES:
            return int(resources.get(RESOURCES[self.device], 0))
        return int(resources.get("CPU", 0) >= 1)

    def open(self, node: Node, run: str) -> Link:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        needs: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": there}
        kind = RESOURCES.get(self.device)
        needs |= {"num_gpus": node.places} if kind == "GPU" else {}
        needs |= {"resources": {kind: node.places}} if kind == "HPU" else {}
        return Link(ray.remote(Host).options(**needs).remote(node.address, run))

    def share(self, piece: bytes) -> Any:
        """Sent once, whoever asks for it."""
        import ray

        return ray.put(piece)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _give_up(address: str, tell: Told) -> None:
    tell(failed="ray", address=address, why=f"no answer in {CONNECT_S:.0f} s: is it the same token and CA?")
    os._exit(1)
