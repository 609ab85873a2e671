"""`accept`: does this machine check, train and serve as it should? Part by part, each kept as it ends.

    doctor    what the machine has and lacks
    loss      100 steps on a small random model, against the losses that a CPU computes in float32
    parity    the gate's parity on the packaged model, served here
    training  this machine's calibration, and three trainings of the packaged model
    serving   the packaged model under three loads
    amx       matrix products with AMX and without, on a Xeon that has it

A part that cannot run says why, and is not counted as passed. What was measured stands in measured.csv, in
the columns that `validate` reads. Not here: how it is shown (cli), what a part's figures mean (their rooms).
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..artefact import Store, Watch, adopt, code_of, write_durably
from ..doctor import findings
from ..errors import Problem, Where, WrongUse
from ..hardware import UNDISTURBED, Machine, cores_had, cpu_times, probe
from ..model import resolve, to_hf, trl_versions, write_random_model
from ..planner import COLUMNS
from ..recipe import Load
from ..shape import Shape, read
from ..training import check_device
from .child.children import run_step
from .planning.facts import calibrate
from .service.load import measure_load

DEVICES = ("cpu", "cuda", "xpu", "hpu")
LIMIT_S = 1800.0  # for all parts; none begins after it
STEPS = 100
# Of float32 on any CPU, and of a device against it: the engines' own goals (docs/why), tenfold for a device
# that multiplies in TF32.
FIRST, MOST = {"cpu": 1e-5, "": 1e-3}, {"cpu": 2e-3, "": 2e-2}
LOSSES = Path(__file__).with_name("accepted_losses.json")
SMALL = {"layers": 2, "hidden": 128, "ffn": 256, "heads": 4, "kv_heads": 2, "head_dim": 32, "vocab": 49152}
LENGTHS = (256, 512, 1024)  # tokens of a step
LOADS = (1, 4, 8)  # requests in flight
PROMPT, OUTPUT = 128, 32
FASTER = 1.2  # with AMX than without, at least: it multiplies BF16 at 8 times the rate of AVX512
KEPT, MEASURED = "accept.json", "measured.csv"
ROW = (*COLUMNS, "framework", "value")


class NotRun(Exception):
    """Why a part cannot run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`state`: passed, failed or not run."""

    name: str
    state: str
    why: str = ""
    wall_s: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[dict[str, str], ...] = ()


@dataclass(kw_only=True)
class Place:
    """What the parts work with: the device, this machine, a folder that stays, and one that goes."""

    device: str
    folder: Path
    scratch: Path
    watch: Watch
    machine: Machine

    @cached_property
    def base(self) -> Path:
        """The packaged model as a Hugging Face folder."""
        to_hf(resolve("demo"), self.scratch / "base")
        return self.scratch / "base"

    def row(self, name: str, metric: str, unit: str, value: float, **more: Any) -> dict[str, str]:
        """A row of measured.csv: of this machine, as its share of the catalogued device that it resembles."""
        sizes = sizes_of(read(self.base))
        more |= {"id": f"{self.device}-{name}-{metric}", "metric": metric, "unit": unit, "value": value}
        more |= {"model": "smollm2-135m", "device": self.machine.nearest_device, "framework": "steelyard"}
        words = (
            {"devices": round(self.machine.share, 4), "precision": "bf16", "weight_bits": 16} | sizes | more
        )
        return {column: str(words.get(column, "")) for column in ROW}


def sizes_of(shape: Shape) -> dict[str, Any]:
    names = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    return {name: getattr(shape, name) for name in names} | {"params_b": shape.params / 1e9}


def accept(device: str, folder: Path, watch: Watch) -> dict[str, Any]:
    """Each part that has not ended in an earlier attempt on this machine; the document of all.

    Raises WrongUse for a device that is none, Lacking where it is not here or nothing trains on it.
    """
    if device not in DEVICES:
        hint = f"one of {', '.join(DEVICES)}"
        raise WrongUse("accept.device", f"{device!r} is no device", where=Where(field="--device"), hint=hint)
    check_device(device)
    machine, begun = probe(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    parts = kept(folder, device, machine)
    with tempfile.TemporaryDirectory(prefix="steelyard-accept-") as scratch:
        place = Place(device=device, folder=folder, scratch=Path(scratch), watch=watch, machine=machine)
        for name, do in PARTS.items():
            if name not in parts:
                parts[name] = ended(name, do, place, time.monotonic() - begun)
                keep(folder, device, machine, parts)
            watch.log("accept.part", **asdict(parts[name]) | {"rows": len(parts[name].rows)})
    return document(device, machine, folder, parts)


def ended(name: str, do: Callable[[Place], Part], place: Place, spent_s: float) -> Part:
    """One part, its time taken; what it raises is why it failed."""
    begun, before = time.monotonic(), cpu_times()
    try:
        if spent_s > LIMIT_S:
            raise NotRun(f"{LIMIT_S / 60:.0f} minutes were over")
        place.watch.log("accept.begin", part=name)
        part = do(place)
    except NotRun as reason:
        return Part(name=name, state="not run", why=str(reason))
    except Problem as problem:
        if problem.exit_code == 6:  # stopped: the next attempt does it
            raise
        part = Part(name=name, state="failed", why=f"{problem.message}: {problem.why or problem.hint}")
    share = cores_had(before, cpu_times())
    figures = {**part.figures, "share_of_cores": round(share, 3)}
    why = part.why or ("others computed beside it: take it again" if share < UNDISTURBED else "")
    return replace(part, figures=figures, why=why, wall_s=round(time.monotonic() - begun, 1))


def document(device: str, machine: Machine, folder: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    states = [part.state for part in parts.values()]
    return {
        "device": device,
        "machine": {"cpu": machine.cpu_model, "cores": machine.cores, "fingerprint": machine.fingerprint},
        "passed": states.count("passed"),
        "failed": states.count("failed"),
        "not_run": states.count("not run"),
        "wall_s": round(sum(part.wall_s for part in parts.values()), 1),
        "csv": str(folder / MEASURED),
        "parts": [asdict(part) | {"rows": len(part.rows)} for part in parts.values()],
    }


# ------------------------------------------------------------------ kept


def kept(folder: Path, device: str, machine: Machine) -> dict[str, Part]:
    """Parts that passed in an earlier attempt, of this machine, this device and this code."""
    try:
        told = json.loads((folder / KEPT).read_bytes())
    except (OSError, ValueError):
        return {}
    if any(told.get(name) != value for name, value in judged(device, machine).items()):
        return {}
    parts = [Part(**part | {"rows": tuple(part["rows"])}) for part in told["parts"]]
    return {part.name: part for part in parts if part.state == "passed"}


def judged(device: str, machine: Machine) -> dict[str, Any]:
    """What a part that passed has passed on: other code or other libraries pass anew."""
    code = code_of("run:accept", "training:train", "serving:start", "gate:check")
    told = {"device": device, "machine": machine.fingerprint, "code": code}
    return told if device == "cpu" else told | {"trl": trl_versions()}


def keep(folder: Path, device: str, machine: Machine, parts: Mapping[str, Part]) -> None:
    told = judged(device, machine) | {"parts": [asdict(p) for p in parts.values()]}
    write_durably(folder / KEPT, json.dumps(told, indent=1).encode())
    with (folder / MEASURED).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ROW, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for part in parts.values() for row in part.rows)


# ------------------------------------------------------------------ the parts


def doctor(place: Place) -> Part:
    bad = [f.symptom for f in findings(place.folder) if f.level == "bad"]
    return Part(name="doctor", state="failed" if bad else "passed", why="; ".join(bad))


def loss(place: Place) -> Part:
    """On the CPU against the losses kept in the package; on a device against the CPU's of this run."""
    write_random_model(place.scratch / "small", **SMALL)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (place.base / name).exists():
            (place.scratch / "small" / name).write_bytes((place.base / name).read_bytes())
    wanted = trained(place, "small", "cpu", {"dtype": "f32", "max_steps": STEPS, "engine": "own"})[1]
    found, kind = wanted, "cpu"
    if place.device == "cpu":
        wanted = json.loads(LOSSES.read_bytes())
    else:
        more = {"engine": "trl", "device": place.device}
        kind = ""
        found = trained(place, "small", place.device, {"dtype": "f32", "max_steps": STEPS, **more})[1]
    return compared(found, wanted, FIRST[kind], MOST[kind])


def compared(found: Sequence[float], wanted: Sequence[float], first: float, most: float) -> Part:
    """Losses of each step against those wanted; one that is no number is as far off as can be."""
    off = [abs(one - other) for one, other in zip(found, wanted, strict=False)]
    off = [one if math.isfinite(one) else math.inf for one in off] or [math.inf]
    whole = len(found) == len(wanted)
    good = whole and off[0] <= first and max(off) <= most
    figures = {"first": off[0], "most": max(off), "first_limit": first, "most_limit": most}
    why = "" if whole else f"{len(found)} of {len(wanted)} steps were taken: a batch was left out"
    return Part(name="loss", state="passed" if good else "failed", why=why, figures=figures)


def trained(
    place: Place, base: str, name: str, more: Mapping[str, Any]
) -> tuple[dict[str, float], list[float]]:
    """One training by the step of a run: its figures and the loss of each step."""
    data = place.scratch / "data"
    if not data.exists():
        data.mkdir()
        (data / "train.jsonl").write_text("".join(rows()), encoding="utf-8")
    settings = {**SETTINGS, "threads": place.machine.cores, **more}
    inputs = {"base": adopt(place.scratch / base), "dataset": adopt(data, "dataset")}
    store = Store(place.scratch / f"store-{base}-{name}")
    draft = store.draft("checkpoint", "0" * 64, "train", settings, inputs)
    figures = run_step("training:train", inputs, draft, store.folder, None, place.watch, resumes=True)
    curve = (draft.folder / "curve.jsonl").read_text("utf-8").splitlines()
    return figures, [json.loads(line)["loss"] for line in curve]


SETTINGS = {
    "stage": "sft", "finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16, "learning_rate": 1e-3,
    "num_train_epochs": 1, "max_steps": 5, "max_length": 256, "packing": True, "micro_batch": 1,
    "grad_accum": 1, "warmup_ratio": 0.0, "weight_decay": 0.0, "seed": 0, "dtype": "bf16", "mix": {},
}  # fmt: skip


def rows() -> Iterator[str]:
    """Sums and their answers: the same on every machine."""
    for n in range(2000):
        one, other = n * 7919 % 997, n * 104_729 % 991
        chat = [
            ("user", f"What is {one} plus {other}?"),
            ("assistant", f"{one} plus {other} is {one + other}."),
        ]
        messages = [{"role": role, "content": text} for role, text in chat]
        yield json.dumps({"id": str(n), "ability": "sums", "messages": messages}) + "\n"


def parity(place: Place) -> Part:
    from ..gate import check

    with served(place) as url:
        verdict = check(place.base, url).as_json()
    failed = [c["name"] for c in verdict["checks"] if c["passed"] is False]
    state = "passed" if verdict["verdict"] == "passed" else "failed"
    return Part(name="parity", state=state, why=", ".join(failed), figures={"checks": len(verdict["checks"])})


@contextmanager
def served(place: Place) -> Iterator[str]:
    """The packaged model on loopback. Raises NotRun for a device that our own engines do not serve on."""
    if place.device != "cpu":
        raise NotRun(f"steelyard's own engines serve on the CPU; on {place.device} serve with engine: vllm, "
                     "then: steelyard gate MODEL URL")  # fmt: skip
    from ..serving import ServeSettings, prepare, start

    ready = prepare("demo")
    service = start(ready.folder, ServeSettings(fingerprint=ready.fingerprint))
    try:
        yield service.url
    finally:
        service.stop()


def training(place: Place) -> Part:
    """Steps of three lengths; on the CPU the calibration too, which every later plan here reads."""
    engine = {"engine": "own"} if place.device == "cpu" else {"engine": "trl", "device": place.device}
    figures: dict[str, Any] = {}
    if place.device == "cpu":
        figures["calibrated_rows"] = len(calibrate(place.machine, ("lora", "full"), place.watch).rows)
    measured = []
    assert place.base
    for length in LENGTHS:
        told, _ = trained(place, "base", str(length), engine | {"max_length": length})
        rate = told["tokens"] / told["steps"] / told["step_s"]
        figures[f"tokens_per_s_{length}"] = rate
        setup = {"phase": "lora", "micro_batch": 1, "global_batch": 1, "seq_len": length, "dp": 1}
        measured.append(place.row(f"train-{length}", "tokens_per_s", "tokens/s", rate, **setup))
    return Part(name="training", state="passed", figures=figures, rows=tuple(measured))


def serving(place: Place) -> Part:
    measured: list[dict[str, str]] = []
    figures: dict[str, Any] = {}
    with served(place) as url:
        for users in LOADS:
            load = Load(users=users, prompt_tokens=PROMPT, output_tokens=OUTPUT)
            told = measure_load(url, load, None, place.watch)
            if "output_tok_s" not in told:
                return Part(name="serving", state="failed", why=f"nothing was answered at {users} users")
            figures[f"output_tok_s_{users}"] = told["output_tok_s"]
            measured += served_rows(place, users, told)
    return Part(name="serving", state="passed", figures=figures, rows=tuple(measured))


def served_rows(place: Place, users: int, told: Mapping[str, float]) -> list[dict[str, str]]:
    """One load's figures as rows of measured.csv."""
    setup: dict[str, Any] = {"phase": "serve", "prompt_len": PROMPT, "output_len": OUTPUT}
    setup |= {"concurrency": users, "tp": 1}
    metrics = {"output_tok_s": ("output_tokens_per_s", "tokens/s"), "ttft_s": ("ttft_s", "s")}
    metrics |= {"tpot_s": ("tpot_s", "s")}
    return [place.row(f"serve-{users}", *metrics[n], v, **setup) for n, v in told.items() if n in metrics]


PRODUCTS = """
import time, torch
x, w = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
for _ in range(5): torch.nn.functional.linear(x, w)
begun = time.perf_counter()
for _ in range(20): torch.nn.functional.linear(x, w)
print(20 * 2 * 2048**3 / (time.perf_counter() - begun))
"""


def amx(place: Place) -> Part:
    """FLOP/s of BF16 products as the library chooses, and with instructions up to AVX512 alone (oneDNN)."""
    if place.device != "cpu":
        raise NotRun("AMX is the CPU's")
    if "amx_bf16" not in place.machine.isa:
        raise NotRun(f"{place.machine.cpu_model} has no AMX, or this system does not expose it")
    with_amx, without = products({}), products({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"})
    state = "passed" if with_amx >= FASTER * without else "failed"
    figures = {"with_amx_flops": with_amx, "without_flops": without, "times": with_amx / without}
    return Part(name="amx", state=state, figures=figures)


def products(more: Mapping[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotRun(f"the products failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout)


PARTS: dict[str, Callable[[Place], Part]] = {
    "doctor": doctor, "loss": loss, "parity": parity, "training": training, "serving": serving, "amx": amx,
}  # fmt: skip
