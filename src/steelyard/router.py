"""Which ability a prompt asks for: logistic regression over hashed runs of 1 to 4 characters, in numpy.

No words and no language: characters alone, so that English, Chinese and code are one matter. It is fitted on
the abilities' own rows; how sure it is of rows held out of the fit says how sure it must be of a prompt, else
the base answers. A folder: router.json, weights.npy.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .asked import Route, asked_of
from .errors import Where, WrongUse

BITS = 18  # of the table that runs are hashed into: 2 MB an ability
RUNS = (1, 2, 3, 4)  # characters
MIX, SPREAD = np.uint32(0x01000193), np.uint32(2654435761)  # FNV-1a's prime; Knuth's
HEAD, TAIL = 1500, 500  # characters of a prompt that are read: what is asked stands at its ends
ROWS = 2000  # of an ability, to fit on; more add little and cost seconds
HELD_OUT = 0.1  # of the rows, for the borders and the accuracy
FEWEST = 20  # rows of an ability, to fit and to hold out
EPOCHS, RATE = 4, 0.5  # AdaGrad
SURE = 0.5  # the least probability, whatever the held-out rows say
# How far below the mean of an ability's held-out rows a prompt may be, in log-odds: so many standard
# deviations, and at least to this share of the mean (a narrow task has hardly any deviation).
DEVIATIONS, SHARE = 5.0, 0.5
DIGITS = re.compile(r"\d+")
CONFIG, WEIGHTS = "router.json", "weights.npy"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of one ability's held-out rows: sent to it, to another one, to the base."""

    right: int = 0
    wrong: int = 0
    unsure: int = 0

    @property
    def rows(self) -> int:
        return self.right + self.wrong + self.unsure


@dataclass(frozen=True, slots=True)
class Router:
    """`weights` [C, D + 1] f32, the last column the bias; `least`: probability that each ability asks for."""

    abilities: tuple[str, ...]
    weights: np.ndarray
    least: tuple[float, ...]
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)

    def route(self, text: str) -> Route:
        """A fifth of a millisecond, whatever the length. No text is kept."""
        p = _softmax(_logits(self.weights, runs_of(text)))
        best = int(p.argmax())
        name = self.abilities[best]
        return Route(name if p[best] >= self.least[best] else None, name, float(p[best]))

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": "steelyard.router/1",
            "abilities": list(self.abilities),
            "bits": BITS,
            "runs": list(RUNS),
            "least": list(self.least),
            "accuracy": {name: asdict(own) for name, own in self.accuracy.items()},
        }


def runs_of(text: str) -> np.ndarray:
    """Places of a text's runs in the table, each once; all numbers count alike."""
    cut = text if len(text) <= HEAD + TAIL else text[:HEAD] + text[-TAIL:]
    plain = DIGITS.sub("0", cut.casefold()).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(plain, np.uint32)
    held = np.zeros(1 << BITS, bool)
    hashes = np.zeros(len(codes), np.uint32)
    for length in RUNS:
        if len(codes) < length:
            break
        hashes = (hashes[: len(codes) - length + 1] ^ codes[length - 1 :]) * MIX + np.uint32(length)
        held[(hashes * SPREAD) >> np.uint32(32 - BITS)] = True
    return np.flatnonzero(held)


def _logits(weights: np.ndarray, runs: np.ndarray) -> np.ndarray:
    return weights[:, runs].sum(1) / max(len(runs), 1) ** 0.5 + weights[:, -1]


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


# ------------------------------------------------------------------ fitted


def fit_router(rows: Iterable[Row], test: Iterable[Row] | None = None, seed: int = 0) -> Router:
    """A router of the rows' abilities, its accuracy on `test`, or on rows held out of the fit.

    Equal rows give equal weights. Raises WrongUse for fewer than two abilities, or too few rows of one.
    """
    texts = _by_ability(rows)
    _check(texts)
    chance = np.random.default_rng(seed)
    held_out: dict[str, list[str]] = {}
    taught: dict[str, list[str]] = {}
    for name, own in texts.items():
        order = [own[i] for i in chance.permutation(len(own))[:ROWS]]
        cut = max(int(len(order) * HELD_OUT), FEWEST // 2)
        held_out[name], taught[name] = order[:cut], order[cut:]
    weights, names = _fitted(taught, chance), tuple(texts)
    for_borders = {name: own if test else own[::2] for name, own in held_out.items()}
    router = Router(names, weights, _borders(Router(names, weights, (0.0,) * len(names)), for_borders))
    asked = _by_ability(test) if test else {name: own[1::2] for name, own in held_out.items()}
    return replace(router, accuracy=accuracy_of(router, asked))


def _by_ability(rows: Iterable[Row] | None) -> dict[str, list[str]]:
    """What each row asks, once, by ability in order of name."""
    texts: dict[str, dict[str, None]] = {}
    for row in rows or ():
        messages = row.get("messages") or ()
        if asked := asked_of(messages[:-1]):
            texts.setdefault(str(row.get("ability") or "default"), {})[asked] = None
    return {name: list(own) for name, own in sorted(texts.items())}


def _check(texts: Mapping[str, Sequence[str]]) -> None:
    if len(texts) < 2:
        raise WrongUse(
            "route.abilities", f"routing needs two abilities, the rows have {len(texts)}",
            hint="name each row's in its field `ability`",
        )  # fmt: skip
    few = next((name for name, own in texts.items() if len(own) < FEWEST), None)
    if few is not None:
        raise WrongUse(
            "route.few_rows", f"the ability {few} has {len(texts[few])} different prompts",
            why=f"{FEWEST} are the least to fit a router and to know how often it errs",
            hint="add rows of it, or leave it out",
        )  # fmt: skip


def _fitted(taught: Mapping[str, Sequence[str]], chance: np.random.Generator) -> np.ndarray:
    """AdaGrad, row by row, the abilities in equal shares."""
    most = max(map(len, taught.values()))
    runs = [[runs_of(text) for text in own] for own in taught.values()]
    turns = np.array([(a, i % len(own)) for a, own in enumerate(runs) for i in range(most)])
    weights = np.zeros((len(runs), (1 << BITS) + 1), np.float32)
    seen = np.full_like(weights, 1e-2)
    for _ in range(EPOCHS):
        for ability, row in turns[chance.permutation(len(turns))]:
            _step(weights, seen, runs[ability][row], ability)
    return weights.astype(np.float16).astype(np.float32)  # as they are kept


def _step(weights: np.ndarray, seen: np.ndarray, runs: np.ndarray, ability: int) -> None:
    error = _softmax(_logits(weights, runs))
    error[ability] -= 1
    slope = (error / max(len(runs), 1) ** 0.5)[:, None]
    places = np.append(runs, weights.shape[1] - 1)
    sums = seen[:, places] + slope**2
    seen[:, places] = sums
    weights[:, places] -= RATE * slope / np.sqrt(sums)


def _borders(open_router: Router, held_out: Mapping[str, Sequence[str]]) -> tuple[float, ...]:
    """The least probability of each ability, by its own held-out rows that come out right."""
    borders = []
    for name in open_router.abilities:
        routes = [open_router.route(text) for text in held_out[name]]
        odds = [_log_odds(r.probability) for r in routes if r.ability == name] or [0.0]
        mean, deviation = float(np.mean(odds)), float(np.std(odds))
        least = min(mean - DEVIATIONS * deviation, SHARE * mean)
        borders.append(max(SURE, 1 / (1 + float(np.exp(-least)))))
    return tuple(borders)


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1e-9), 1 - 1e-9)
    return float(np.log(p / (1 - p)))


def accuracy_of(router: Router, texts: Mapping[str, Sequence[str]]) -> dict[str, Accuracy]:
    counts = {}
    for name, own in texts.items():
        routes = [router.route(text).ability for text in own]
        right, unsure = routes.count(name), routes.count(None)
        counts[name] = Accuracy(right=right, unsure=unsure, wrong=len(routes) - right - unsure)
    return counts


def milliseconds(router: Router, texts: Sequence[str]) -> list[float]:
    """What each takes, for a figure."""
    taken = []
    for text in texts:
        began = time.perf_counter()
        router.route(text)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


# ------------------------------------------------------------------ kept


def write_router(router: Router, folder: Path) -> None:
    """router.json last: a folder without it is no router."""
    folder.mkdir(parents=True)
    np.save(folder / WEIGHTS, router.weights.astype(np.float16))
    (folder / CONFIG).write_text(json.dumps(router.as_json(), indent=2) + "\n", encoding="utf-8")


def read_router(folder: Path) -> Router:
    """Raises WrongUse for a folder that is no router of this kind, or a damaged one."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        weights = np.load(folder / WEIGHTS).astype(np.float32)
        abilities = tuple(map(str, config["abilities"]))
        if (config["bits"], config["runs"], weights.shape[1]) != (BITS, list(RUNS), (1 << BITS) + 1):
            raise ValueError("it was made by another version")
        if len({len(abilities), len(weights), len(config["least"])}) != 1:
            raise ValueError("its parts do not belong together")
        accuracy = {name: Accuracy(**own) for name, own in config["accuracy"].items()}
        return Router(abilities, weights, tuple(map(float, config["least"])), accuracy)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WrongUse(
            "route.unreadable", f"{folder} is no router", where=Where(str(folder)),
            why=f"{CONFIG} is not there" if isinstance(error, OSError) else str(error)[:200],
            hint="steelyard route ROWS.jsonl --output DIR makes one",
        ) from error  # fmt: skip
