"""What a scheduler is told of a job: its hosts, its devices, its files, its limit. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

DIGEST = re.compile(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}")
LIMIT_OF_EXPECTED = 2.0  # a job that takes twice the expected time is ended
LEAST_LIMIT_S = 3600.0
HOST_CORES, HOST_BYTES = 8, 16 * 2**30  # of a host, for each device: what feeds it, and loads its weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training or a service in the files of its stack."""

    kind: str  # "train" or "serve"
    plan: str  # of which it is a part
    place: str  # its folder in the plan's: "train", "train-2", "serve"
    beside: bool = False  # whether the plan has other parts, of which one reads what another wrote
    model: str
    device: str  # its id in the catalogue
    platform: str
    hosts: int
    per_host: int  # devices of one host
    files: Mapping[str, str]  # of its folder; run.sh or serve.sh among them
    folder: str  # where they lie here
    user: str
    expected_s: float = 0.0  # 0: it has no end
    device_bytes: float = 0.0  # memory of one device
    cores: int | None = None  # of a CPU
    engine: str | None = None  # of a service
    source: str | None = None  # what it loads; None: the model
    engine_args: Mapping[str, Any] = field(default_factory=dict)  # of vLLM, as keywords
    replicas: int = 1
    starts: int = 1  # of the script on a host: REPLICA says which
    image: str | None = None  # with its digest
    variables: Mapping[str, str] = field(default_factory=dict)  # that the script must be told -> what each is
    queue: str = "steelyard"
    ray: str = "2.60.0"

    @property
    def script(self) -> str:
        """What starts it on a host."""
        return "run.sh" if self.kind == "train" else "serve.sh"

    @property
    def name(self) -> str:
        """A label of DNS: letters, digits and hyphens, 40 at most."""
        return f"{self.disk[: 39 - len(self.place)].rstrip('-')}-{self.place}"

    @property
    def disk(self) -> str:
        """What all parts of the plan share, in the same letters."""
        plan = re.sub(r"[^a-z0-9]+", "-", self.plan.rsplit("/", 1)[-1].lower()).strip("-")
        own = "" if self.plan.isascii() else f"-{sha256(self.plan.encode()).hexdigest()[:8]}"
        return f"plan{own}-{plan}"[:40].strip("-")

    @property
    def is_cpu(self) -> bool:
        """No accelerator takes part."""
        return self.platform == "cpu"

    @property
    def limit_s(self) -> int | None:
        """Seconds after which it is ended, in whole minutes; None of a service."""
        if not self.expected_s:
            return None
        return 60 * math.ceil(max(LIMIT_OF_EXPECTED * self.expected_s, LEAST_LIMIT_S) / 60)

    @property
    def host_cores(self) -> int:
        """Cores of a host that it takes."""
        return (self.cores or HOST_CORES) * self.per_host

    @property
    def host_bytes(self) -> int:
        """Memory of a host that it takes: the weights of its devices pass through it."""
        own = 0 if self.is_cpu else HOST_BYTES
        return int(self.device_bytes) * self.per_host + own


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A scheduler's files; none, and `why`, where it cannot be told this job."""

    scheduler: str
    files: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    why: str | None = None
