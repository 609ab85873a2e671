"""`steelyard cluster up` over real ssh: three machines in namespaces of their own, opened by one command.

    sudo python bench/cluster_up.py [--runs 3] [--cases up train faults install demo] [--wheels DIR]
                                    [--keep] [--steps N] [--out bench/results/cluster_up.json]

Each machine is a network namespace with an sshd of its own, its own home and its own /tmp; the command runs
beside them, as on a laptop. They have Python, steelyard and Ray; nothing of a cluster.

up       seconds of `cluster up`, of a second `up` (nothing to do), of `down`; what is left afterwards
train    one recipe with `steelyard run`, on one machine, then unchanged with --ray on all three: SHA-256
faults   a fourth host that does not answer, a fifth that takes no key: an error each, three are up
demo     the demo's recipe with `steelyard up --until gate`, on one machine, then on all three: the hash of
         each artefact, the gate's verdict. Trained by trl in f32, three sequences a step (what three machines
         can share out), two epochs; with --steps so many steps, and no gate
install  machines without steelyard: from the wheels of --wheels, with no index (only where it is named)

`short` in the document names the cases that missed their goal; exit code 4 where there is one.

Linux with `ip` and sshd, as root, and Ray in the environment of trl (steelyard engines install trl --ray).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import namespaces
from tables import record, write

SOURCE = Path(__file__).resolve().parents[1]
NAMES = ("steelup1", "steelup2", "steelup3", "steelup4", "steelup5")
BRIDGE, HERE = "steelupbr", "10.77.13.254"
ADDRESSES = tuple(f"10.77.13.{number}" for number in range(1, 6))
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
LEAST_S = 60.0
RECIPE = """\
model: base
data: [{{path: rows.jsonl, ability: echo}}]
train:
  - {{stage: sft, engine: trl, finetuning_type: full, learning_rate: 0.001, num_train_epochs: 4,
     max_length: 64, mixed_precision: "no", per_device_train_batch_size: 1, gradient_accumulation_steps: 3}}
gate: {{abilities: {{echo: {{eval: test.jsonl}}}}}}
"""


def main() -> int:
    args = arguments()
    root = Path(tempfile.mkdtemp(prefix="su", dir="/var/tmp"))
    try:
        keys(root)
        with network(), machines(root):
            found = measured(args, root)
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    found["short"] = short(found)
    print(json.dumps(found, indent=1))
    if args.out:
        title = "A cluster opened over ssh (three machines in namespaces, real sshd)"
        note = "All on these cores: three machines share them. TLS and token on."
        made = record(title, "sudo python bench/cluster_up.py", table(found), note)
        write(args.out, made | {"found": found})
    return 4 if found["short"] else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = ["up", "train", "faults", "install", "demo"]
    parser.add_argument("--cases", nargs="+", default=cases[:3], choices=cases)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of the demo's training")
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """As docs/figures.md shows it."""
    rows = []
    if runs := found.get("up"):
        for name, what in (("up_s", "cluster up, 3 hosts"), ("again_s", "again: nothing to do"),
                           ("down_s", "cluster down")):  # fmt: skip
            values = sorted(run[name] for run in runs)
            rows.append([what, f"{values[len(values) // 2]:.1f} s ({values[0]:.1f} to {values[-1]:.1f})"])
        rows.append(["processes, keys, journals left after down", str(max(run["left"] for run in runs))])
    if train := found.get("train"):
        same = "equal" if train["equal"] else "NOT equal"
        rows.append(["SHA-256 of the weights, three machines and one", same])
    if demo := found.get("demo"):
        equal = ", ".join(step for step, same in demo["equal"].items() if same)
        rows.append(["the demo's recipe on three machines and on one: equal hashes", equal or "none"])
        for name in ("one", "three"):
            verdict = "passed" if demo[name]["gate"] else "not passed"
            rows.append([f"its gate on {name}, its time", f"{verdict}, {demo[name]['seconds']:.0f} s"])
    if faults := found.get("faults"):
        rows.append(["up beside a silent host and one that takes no key", ", ".join(faults["states"])])
    if install := found.get("install"):
        rows.append(["cluster up with steelyard and Ray installed from wheels", f"{install['up_s']:.0f} s"])
    return ["what", "measured"], rows


def short(found: dict[str, Any]) -> list[str]:
    """The cases that missed their goal."""
    return [name for name, is_met in GOALS.items() if name in found and not is_met(found[name])]


# ------------------------------------------------------------------ machines


def keys(root: Path) -> None:
    for name in ("host", "mine", "other"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)]
        subprocess.run(words, check=True)
    host = " ".join((root / "host.pub").read_text().split()[:2])
    (root / "known").write_text("".join(f"{address} {host}\n" for address in ADDRESSES))
    config = f"""Host *
  User root
  IdentityFile {root}/mine
  IdentitiesOnly yes
  UserKnownHostsFile {root}/known
  GlobalKnownHostsFile /dev/null
"""
    (root / "ssh_config").write_text(config)
    (root / "bin").mkdir()
    (root / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {root}/ssh_config "$@"\n')
    (root / "bin/ssh").chmod(0o755)


def network() -> AbstractContextManager[None]:
    return namespaces.network(BRIDGE, "suv", dict(zip(NAMES, ADDRESSES, strict=True)), HERE)


def pids(number: int) -> list[int]:
    """All processes in one machine's namespace."""
    done = subprocess.run(["ip", "netns", "pids", NAMES[number]], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


@contextmanager
def machines(root: Path) -> Iterator[None]:
    """An sshd on each but the fourth, which is silent; the fifth knows another key."""
    from steelyard.model import trl_python

    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    environment = f"PYTHONPATH={SOURCE / 'src'}"
    trl = "" if "install" in sys.argv else f" STEELYARD_TRL_PYTHON={trl_python()}"
    for number in (0, 1, 2, 4):
        home = root / f"home{number}"
        home.mkdir(mode=0o700)
        known = "other" if number == 4 else "mine"
        (root / f"sshd{number}").write_text(f"""Port 22
ListenAddress {ADDRESSES[number]}
HostKey {root}/host
AuthorizedKeysFile {root}/{known}.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
{"" if "install" in sys.argv else f"SetEnv {environment}{trl}"}
""")
        base = Path(sys.base_prefix)  # Python itself may lie in the home that is hidden
        seen = home / base.relative_to("/root") if base.is_relative_to("/root") else None
        own = f"mount --bind {base} {seen} && " if seen else ""
        if seen:
            seen.mkdir(parents=True)
        own += f"mount --rbind {home} /root && mount -t tmpfs tmpfs /tmp"
        words = ["ip", "netns", "exec", NAMES[number], "unshare", "-m", "sh", "-c"]
        log = (root / f"sshd{number}.log").open("wb")
        serve = f"{own} && exec {SSHD} -D -e -f {root}/sshd{number}"
        subprocess.Popen([*words, serve], stderr=log, start_new_session=True)
    time.sleep(1)
    try:
        yield
    finally:
        for number in range(len(NAMES)):
            for pid in pids(number):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------ what is measured


def steelyard(root: Path, *words: str) -> dict[str, Any]:
    own = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "STEELYARD_DATA": str(root / "data")}
    own |= {"STEELYARD_AUDIT": "off", "XDG_STATE_HOME": str(root / "state"), "STEELYARD_LANG": "en"}
    command = [sys.executable, "-m", "steelyard", *words, "--json"]
    begun = time.monotonic()
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    say(f"{' '.join(words)}: exit {done.returncode}, {time.monotonic() - begun:.1f} s")
    document = json.loads(done.stdout or "{}")
    if "hosts" not in document:
        raise SystemExit(done.stdout + done.stderr)
    return document | {"exit": done.returncode, "seconds": time.monotonic() - begun}


def hosts_file(root: Path, count: int, python: str = sys.executable, **more: str) -> str:
    rows = "".join(f"  - {{address: {a}, python: {python}, cpus: 1}}\n" for a in ADDRESSES[:count])
    path = root / f"hosts{count}.yaml"
    top = "".join(f"{name}: {value}\n" for name, value in more.items())
    path.write_text(f"name: bench\n{top}hosts:\n{rows}")
    return str(path)


def measured(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "up" in args.cases:
        found["up"] = [round_of(root) for _ in range(args.runs)]
    if "train" in args.cases:
        found["train"] = trained(root)
    if "demo" in args.cases:
        found["demo"] = demonstrated(root, args.steps)
    if "faults" in args.cases:
        path = hosts_file(root, 5)
        up = steelyard(root, "cluster", "up", path)
        errors = {h["host"]: h["error"]["code"] for h in up["hosts"] if "error" in h}
        found["faults"] = {"exit": up["exit"], "errors": errors, "up_s": up["seconds"]}
        found["faults"]["states"] = [h["state"] for h in up["hosts"]]
        steelyard(root, "cluster", "down", path)
    if "install" in args.cases and args.wheels:
        path = hosts_file(root, 3, "python3", wheels=str(args.wheels.resolve()))
        up = steelyard(root, "cluster", "up", path)
        found["install"] = {"exit": up["exit"], "up_s": up["seconds"], "hosts": up["hosts"]}
        steelyard(root, "cluster", "down", path)
    return found


def round_of(root: Path) -> dict[str, Any]:
    path = hosts_file(root, 3)
    up, again = (steelyard(root, "cluster", "up", path) for _ in range(2))
    status, down = (steelyard(root, "cluster", word, path) for word in ("status", "down"))
    return {
        "up_s": up["seconds"], "states": [h["state"] for h in up["hosts"]], "again_s": again["seconds"],
        "again": [h["state"] for h in again["hosts"]],
        "status": [h["state"] for h in status["hosts"]], "down_s": down["seconds"], "left": left(root),
        "within": up["seconds"] <= LEAST_S and up["exit"] == 0,
        "errors": [h["error"] for h in up["hosts"] if "error" in h],
    }  # fmt: skip


def left(root: Path) -> int:
    """Processes beside sshd's own, keys and journals, over the three machines."""
    count = 0
    for number in range(3):
        paths = [Path(f"/proc/{pid}/cmdline") for pid in pids(number)]
        commands = [path.read_bytes() for path in paths if path.exists()]  # empty: it has ended
        count += sum(b"sshd" not in command for command in commands if command)
        data = root / f"home{number}/.local/share/steelyard"
        count += sum(path.name not in ("cluster.lock", "cluster-node.log") for path in data.rglob("*"))
    return count


def trained(root: Path) -> dict[str, Any]:
    """The same recipe on the first machine alone, then on all three, by ssh as a user would."""
    material(root / "home0" / "job")
    path = hosts_file(root, 3)
    steelyard(root, "cluster", "up", path)
    rows = {}
    for name, more in (("one", ""), ("three", f"--ray {ADDRESSES[0]}")):
        order = (
            f"cd job && {sys.executable} -m steelyard run recipe.yaml train --yes --workdir ../{name} {more}"
        )
        command = [str(root / "bin/ssh"), ADDRESSES[0], f"STEELYARD_CACHE=/root/cache-{name} {order}"]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        say(f"{name}: exit {done.returncode}, {time.monotonic() - begun:.1f} s")
        if done.returncode:
            say(done.stdout[-2000:] + done.stderr[-2000:])
        (weights,) = [p for p in (root / f"home0/{name}").rglob("model.safetensors") if "base" not in str(p)]
        rows[name] = {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "exit": done.returncode}
        rows[name]["hosts"] = done.stderr.count("train.hosts")
    steelyard(root, "cluster", "down", path)
    return rows | {"equal": rows["one"]["sha256"] == rows["three"]["sha256"]}


def demonstrated(root: Path, steps: int | None) -> dict[str, Any]:
    """The demo's recipe on the first machine alone, then on all three, as a user would."""
    demo_material(root / "home0" / "demo", steps)
    path = hosts_file(root, 3)
    steelyard(root, "cluster", "up", path)
    rows: dict[str, Any] = {}
    until = "compress" if steps else "gate"  # what is trained so shortly passes no gate
    for name, more in (("one", ""), ("three", f"--ray {ADDRESSES[0]}")):
        order = f"cd demo && {sys.executable} -m steelyard up recipe.yaml --yes --json --until {until} {more}"
        own = f"STEELYARD_CACHE=/root/cache-{name}"
        command = [str(root / "bin/ssh"), ADDRESSES[0], f"export {own}; {order} --workdir ../demo-{name}"]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        say(f"{name}: exit {done.returncode}, {time.monotonic() - begun:.1f} s")
        document = json.loads(done.stdout or "{}")
        if "steps" not in document:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        rows[name] = {
            "exit": done.returncode, "seconds": time.monotonic() - begun, "scores": document.get("scores"),
            "gate": (document.get("gate") or {}).get("verdict") == "passed",
            # `up` keeps that line to its log.
            "hosts": (root / "home0" / f"demo-{name}" / "log.jsonl").read_text().count('"train.hosts"'),
            "hashes": {step["step"]: step["hash"] for step in document["steps"] if step.get("hash")},
        }  # fmt: skip
    steelyard(root, "cluster", "down", path)
    one, three = rows["one"]["hashes"], rows["three"]["hashes"]
    return rows | {"steps": steps, "equal": {step: one[step] == three.get(step) for step in one}}


def demo_material(folder: Path, steps: int | None) -> None:
    """Recipe and data of demo/, the training as three machines can share it out."""
    words = [sys.executable, str(SOURCE / "demo" / "make_data.py"), str(folder)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    recipe = (SOURCE / "demo" / "recipe.yaml").read_text()
    lora = "    finetuning_type: lora\n"
    changes = {
        lora: f'    engine: trl\n    mixed_precision: "no"\n{lora}',
        "gradient_accumulation_steps: 1": "gradient_accumulation_steps: 3",
        "num_train_epochs: 1": f"max_steps: {steps}" if steps else "num_train_epochs: 2",
    }
    for old, new in changes.items():
        if old not in recipe:
            raise SystemExit(f"demo/recipe.yaml has no {old!r} any more")
        recipe = recipe.replace(old, new)
    (folder / "recipe.yaml").write_text(recipe)


def material(folder: Path) -> None:
    """A tiny random Llama, its rows, and the recipe."""
    sys.path.insert(0, str(SOURCE / "tests" / "training"))
    import tiny

    folder.mkdir(parents=True)
    tiny.model(folder / "base")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {n}"},
                {"role": "assistant", "content": f"{n} {n * n}"},
            ]
        }
        for n in range(90)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    (folder / "recipe.yaml").write_text(RECIPE.format())


# ------------------------------------------------------------------ goals


def came_up(runs: list[dict[str, Any]]) -> bool:
    """In time, the second call without work, all of it gone afterwards."""
    return all(
        run["within"] and set(run["states"]) == {"up"} and set(run["again"]) == {"already"}
        and set(run["status"]) == {"up"} and not run["left"]
        for run in runs
    )  # fmt: skip


def kept_apart(found: dict[str, Any]) -> bool:
    """Three are up; of the silent one and the one that takes no key an error each."""
    fit = found["states"] == ["up"] * 3 + ["failed"] * 2
    return fit and found["exit"] == 5 and set(found["errors"]) == set(ADDRESSES[3:])


def made_alike(rows: dict[str, Any]) -> bool:
    """By one machine and by three: equal bytes of the trained model, and three did take part."""
    ended = all(rows[name]["exit"] == 0 for name in ("one", "three"))
    return ended and rows["equal"] and rows["three"]["hosts"] > 0


def demo_alike(rows: dict[str, Any]) -> bool:
    """Each artefact but the gate's verdict, which has to be "passed", unless the training was cut short."""
    ended = all(rows[name]["gate"] or rows["steps"] for name in ("one", "three"))
    equal = [same for step, same in rows["equal"].items() if step != "gate"]
    return ended and bool(equal) and all(equal) and rows["three"]["hosts"] > 0


GOALS: dict[str, Callable[[Any], bool]] = {
    "up": came_up,
    "faults": kept_apart,
    "train": made_alike,
    "demo": demo_alike,
    "install": lambda found: found["exit"] == 0 and {h["state"] for h in found["hosts"]} == {"up"},
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
