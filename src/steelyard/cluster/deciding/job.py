"""One job as the core knows it: what it asked for, what it holds, how much device time it has used."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(slots=True, eq=False)
class Job:
    """`order` counts submissions. How long the job will run is not known here, by design."""

    id: str
    order: int
    submit_s: float
    gpus: int
    least: int
    most: int
    filler: bool = False
    training: list[int] = field(default_factory=list)  # devices of training's own
    lent: list[int] = field(default_factory=list)  # devices of serving's
    service_s: float = 0.0  # device seconds used until `since_s`
    since_s: float = 0.0
    stint_s: float = 0.0  # when it was started last
    changed_s: float = 0.0  # when its devices changed last
    level: int = 0
    stamp: int = 0  # of its last change: timers of older ones are void
    mature: bool = False
    spare: int = 0  # devices above its least, as counted in the fleet
    failures: int = 0  # in a row
    repeats: int = 0  # of the last failure, at its place
    place: tuple[int, str] = (-1, "")  # step and signature
    rest_s: float = 0.0  # the last rest after a failure
    rests: bool = False  # after a failure, until its timer
    team: str = ""
    priority: int = 0
    deadline_s: float | None = None
    left_s: float = 0.0  # that it still needed at `left_at_s`, by its own steps; 0: it has not said
    left_at_s: float = 0.0
    woken: int = -2  # the step at which it was let go on after something had stopped it

    @property
    def size(self) -> int:
        return len(self.training) + len(self.lent)

    @property
    def devices(self) -> tuple[int, ...]:
        return (*self.training, *self.lent)

    def used_s(self, now_s: float) -> float:
        """Device seconds used until now."""
        return self.service_s + (now_s - self.since_s) * self.size

    def copy(self) -> Job:
        return replace(self, training=self.training.copy(), lent=self.lent.copy())
