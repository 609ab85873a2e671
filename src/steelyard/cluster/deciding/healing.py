"""What the core remembers of devices: HEALTHY -> SUSPECT -> ISOLATED -> healthy again, REPAIR or LEMON.

One source alone never takes a device away: unknown is not failed. Too many suspects at once are the network's
fault or ours, so nothing is isolated then. What is done about it: mending.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

HEALTHY, SUSPECT, ISOLATED, REPAIR, LEMON = "healthy", "suspect", "isolated", "repair", "lemon"
AGREE_S = 600.0  # two sources that speak within this time agree
MEMORY_S = 30 * 86_400.0
LEMON_AFTER = 3  # isolations within MEMORY_S
FREEZE_S, FREEZE_SHARE = 300.0, 0.2  # suspects of so short a time, of all nodes
NODE = 8


@dataclass(frozen=True, slots=True)
class Record:
    """Of one device: its state, (time, source) of what made it suspect, times at which it was isolated."""

    state: str = HEALTHY
    signals: tuple[tuple[float, str], ...] = ()
    isolations: tuple[float, ...] = ()


@dataclass(slots=True)
class Health:
    """Records of the devices about which there was anything to remember."""

    records: dict[int, Record] = field(default_factory=dict)
    frozen: bool = False

    def copy(self) -> Health:
        return Health(self.records.copy(), self.frozen)

    def of(self, device: int) -> Record:
        return self.records.get(device, Record())

    def suspect(self, device: int, t_s: float, source: str) -> bool:
        """Note a signal; True where two sources agree."""
        record = self.of(device)
        recent = tuple(signal for signal in record.signals if t_s - signal[0] <= AGREE_S)
        signals = (*(signal for signal in recent if signal[1] != source), (t_s, source))
        self.records[device] = replace(record, state=SUSPECT, signals=signals)
        return len(signals) > 1

    def too_many(self, t_s: float, nodes: Sequence[str], devices: int) -> bool:
        """Whether more than a fifth of the nodes, and more than one, became suspect in the last minutes.

        `nodes`: of each device its node; without it NODE devices are one."""
        count = len(dict.fromkeys(nodes)) or -(-devices // NODE)
        suspects = {
            nodes[device] if nodes else device // NODE
            for device, record in self.records.items()
            if record.state == SUSPECT and t_s - record.signals[-1][0] <= FREEZE_S
        }
        return len(suspects) > max(1.0, FREEZE_SHARE * count)

    def isolate(self, device: int, t_s: float) -> str:
        """The device is out; its state from now: isolated, or a lemon."""
        record = self.of(device)
        times = (*(time for time in record.isolations if t_s - time <= MEMORY_S), t_s)
        state = LEMON if len(times) >= LEMON_AFTER else ISOLATED
        self.records[device] = Record(state, (), times)
        return state

    def set(self, device: int, state: str) -> None:
        self.records[device] = replace(self.of(device), state=state, signals=())
