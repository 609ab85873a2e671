"""What the core is told (events), and what it answers (decisions). Times are seconds of the caller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at `t_s`; time never goes back. By itself: time has passed."""

    t_s: float


@dataclass(frozen=True, slots=True)
class Submit(Event):
    """A job asks for `gpus` devices and can run on `least` to `most` of them; a filler takes what is left.

    `team`, `priority` and `deadline_s` (a time of the events) count where the policy shares.
    """

    job: str
    gpus: int
    least: int
    most: int
    filler: bool = False
    team: str = ""
    priority: int = 0
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Terms(Event):
    """What the teams may use: of each name, share and budget; and of all together. Device seconds; None: no
    bound."""

    teams: tuple[tuple[str, float, float | None], ...] = ()
    budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class Due(Event):
    """A job has another deadline now, a time of the events; None: none."""

    job: str
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outlook(Event):
    """A running job needs about so many more seconds, by its own steps."""

    job: str
    left_s: float


@dataclass(frozen=True, slots=True)
class Load(Event):
    """Devices that serving needed in the minute that ended at `t_s`."""

    need: int


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """A minute has begun: the only moment at which devices are lent and jobs grow."""


@dataclass(frozen=True, slots=True)
class Exited(Event):
    """A job's processes have ended: with 0 it is done, else it failed; `signature` are its last words.

    `ranks`: how many showed the same, 0 where nobody knows. `device`: that of the rank which failed first,
    -1 where nobody knows.
    """

    job: str
    code: int = 0
    signature: str = ""
    at_step: int = -1
    ranks: int = 1
    device: int = -1


@dataclass(frozen=True, slots=True)
class Cancel(Event):
    """The user wants the job no more."""

    job: str


@dataclass(frozen=True, slots=True)
class DeviceLost(Event):
    """A device does not work any more; two sources agree (one alone is a `Signal`)."""

    device: int


@dataclass(frozen=True, slots=True)
class DeviceBack(Event):
    """A lost device works again."""

    device: int


@dataclass(frozen=True, slots=True)
class Signal(Event):
    """One source (heartbeat, kernel log, step times, ...) says that a device is not well."""

    device: int
    source: str
    what: str = ""


@dataclass(frozen=True, slots=True)
class Stalled(Event):
    """A job's processes live, and do nothing: `stopped` by a signal, or silent for far longer than a step.

    `at_step`: how far it had come.
    """

    job: str
    stopped: bool = False
    at_step: int = -1


@dataclass(frozen=True, slots=True)
class ClockJumped(Event):
    """The clock of the drivers' machine was set by so many seconds; `t_s` does not follow it."""

    by_s: float


@dataclass(frozen=True, slots=True)
class ProbeResult(Event):
    """What the probes of a device said."""

    device: int
    passed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that a driver shall do. Of an older epoch than the driver's own it is refused.

    `kind`: start, resize, preempt, finish, stop, wake, lend, reclaim, isolate, probe, readmit, repair,
    retire, warn. `wake`: let a job's processes go on that something else has stopped.
    `devices`: of a job its whole new set; of any other kind those that are meant.
    `lost`: a preempted job cannot be asked to save first: a device of it is gone, or it has failed or hangs.
    """

    kind: str
    seq: int
    epoch: int
    job: str = ""
    devices: tuple[int, ...] = ()
    every_s: float = 0.0  # start, resize: seconds between two checkpoints
    deadline_s: float = 0.0  # preempt: seconds to save before it is ended
    lost: bool = False
    reason: str = ""
