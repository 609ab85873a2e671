"""The rules that a fleet is run by. `tide` is ours; the others are what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

HOUR_S = 3_600.0
# Device hours used so far that part the levels of the queue. Job lengths are heavy-tailed: what has run long
# will run long. So a job of a lower level may take the place of one of a higher one (least attained service).
LEVELS_H = (0.5, 2.0, 8.0, 32.0, 128.0)
FILLER_LEVEL = len(LEVELS_H) + 1
LEVELS = FILLER_LEVEL + 1


@dataclass(frozen=True, slots=True)
class Policy:
    """`hold_s`: a gang that has waited so long gets the next free devices; None: others always pass it."""

    name: str = "tide"
    lends: bool = True  # serving's idle devices train
    elastic: bool = True  # jobs run between their least and most devices
    displaces: bool = True  # a job that has used little takes the place of one that has used much
    hold_s: float | None = None
    in_order: bool = False  # nothing passes a job that does not fit
    lend_hours: tuple[int, int] | None = None  # of the day: from, until; None: always
    stint_s: float = 600.0  # a started job keeps its devices this long: 30 times what a restart takes
    grow_every_s: float = 600.0  # a job grows at most this often
    reclaim_s: float = 60.0  # from the call to a device that serves
    notice_s: float = 15.0  # a job that is called back may save this long
    tells: bool = False  # says which jobs wait for more devices than are well; journals from before do not
    shares: bool = False  # teams, priorities, budgets and deadlines count (sharing.py), levels do not

    def level(self, service_s: float) -> int:
        """The level of a job that has used so many device seconds."""
        hours = service_s / HOUR_S
        return sum(hours >= bound for bound in LEVELS_H)

    def lends_at(self, t_s: float) -> bool:
        if not self.lends or self.lend_hours is None:
            return self.lends
        start, end = self.lend_hours
        hour = t_s / HOUR_S % 24
        return start <= hour < end if start <= end else hour >= start or hour < end


POLICIES = {
    "tide": Policy(),
    "fixed": Policy("fixed", lends=False, elastic=False, displaces=False),
    "backfill": Policy("backfill", lends=False, elastic=False, displaces=False, hold_s=1_800.0),
    "shared": Policy("shared", elastic=False, displaces=False, hold_s=1_800.0, shares=True),
    "fifo": Policy("fifo", lends=False, elastic=False, displaces=False, in_order=True),
}
