"""Name look-ups and packets outside loopback of every verb, and what dependencies leave in an empty home.

    python bench/silence.py [--json] [--short] [--control]

Each verb runs in a network namespace (counted_network.py) with a home that was empty at the start, on a model
of 3 M random weights and a job that teaches it one word; `up` with --offline and without, services with
requests of theirs. In front of `openvino-telemetry`, which an install may lack, stands a package of that name
that does what it does when OpenVINO is imported: a client id in ~/intel, an event to Google.

--control imports OpenVINO without steelyard: what must then be counted. Exit 4 where a verb is heard, leaves
a file of another's in the home or ends otherwise than it should; 5 where no namespace can be made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import counted_network

ROOT = Path(__file__).resolve().parents[1]
STEELYARD = [sys.executable, "-m", "steelyard"]
READY_S, VERB_S = 300.0, 1800.0
SETTLE_S, SHORT_SETTLE_S = 1.0, 0.1  # what comes later is counted too, with the next verb
OURS = (".cache/steelyard", ".config/steelyard", ".local/share/steelyard", ".local/state/steelyard")
WORD = "ready"  # begins each answer: a job that so small a model learns in seconds
# They end it, so that draws of the model differ.
OTHERS = ("one", "two", "three", "red", "green", "blue", "north", "south", "east", "west", "small", "large")
ROWS, TASKS = 160, 40
QUESTION = "Is lamp 7 ready?"
ABILITIES = {"word": "Is this lamp lit?", "sum": "How much is seven and"}
RECIPE_FILE, UP_PORT = "job/recipe.yaml", 18000
REPORTER = """
import http.client
from pathlib import Path

class Telemetry:
    def __init__(self, *words, **named):
        (Path.home() / "intel").mkdir(exist_ok=True)
        (Path.home() / "intel" / "openvino_ga_cid").write_text("1")

    def send_event(self, *words, **named):
        try:
            http.client.HTTPSConnection("www.google-analytics.com", timeout=1).request("POST", "/mp/collect")
        except OSError:
            pass

    def start_session(self, *words, **named):
        pass

    send_error = send_stack_trace = end_session = force_shutdown = start_session
"""
RECIPE = f"""
name: quiet
model: tiny
data: [{{path: data.jsonl, ability: word}}]
train:
  - {{stage: sft, finetuning_type: full, learning_rate: 1.0e-2, max_steps: 100, max_length: 128}}
compress: {{weights: bf16}}
gate:
  tolerance: 0.2
  abilities: {{word: {{eval: tasks.jsonl, compare: contains, min: 0.5}}}}
serve: {{port: {UP_PORT}}}
"""


@dataclass(frozen=True)
class Verb:
    """One command; a `service` stays in the foreground until a later verb stops it; `long`: takes minutes."""

    words: tuple[str, ...]
    code: int = 0
    service: bool = False
    long: bool = False


def verbs(port: int, hub: str) -> Iterator[Verb]:
    """Every verb, in an order in which each finds what it needs; `serve` will answer at `port`."""
    yield from map(Verb, [("--version",), ("doctor",), ("validate", RECIPE_FILE), ("scan", "tiny")])
    yield Verb(("clean", "--input", "job/data.jsonl", "--output", "cleaned"))
    yield Verb(("data", "show", "cleaned"))
    yield Verb(("data", "diff", "usual", "dedup=none", "--on", "job/data.jsonl"))
    yield Verb(("data", "report", "cleaned", "--output", "cleaned.html"))
    yield Verb(("data", "split", "cleaned", "--output", "parts"))
    yield Verb(("seal", "job/data.jsonl", "--output", "data.sealed"))
    yield Verb(("rotate", "data.sealed"))
    yield Verb(("open", "data.sealed", "--output", "opened.jsonl"))
    yield Verb(("attest", "verify", "opened.jsonl"), code=2)
    yield Verb(("bundle", "--check", "nothing.tar"), code=2)
    yield from map(Verb, [("keys", "new"), ("sign", "cleaned"), ("verify", "cleaned"), ("sbom", "--check")])
    yield from map(Verb, [("data", "trace", QUESTION), ("record",), ("audit", "show"), ("audit", "verify")])
    fleet = ("--load", "job/load.csv", "--devices", "4", "--serving", "2")
    yield Verb(("simulate", "job/jobs.csv", *fleet))
    yield Verb(("trust", "explain", RECIPE_FILE))
    yield from (Verb(words, code=2) for words in (("jobs", "job/jobs.yaml"), ("refresh", RECIPE_FILE)))
    yield from (Verb((verb, "quiet"), code=2) for verb in ("rollback", "canary", "approve"))
    yield Verb(("proxy", f"http://127.0.0.1:{port}"), code=2)
    yield Verb(("broker", "get", f"http://127.0.0.1:{port}", "keys/model/1", "--output", "key"), code=5)
    yield Verb(("route", "job/abilities.jsonl", "--output", "router"))
    yield Verb(("pull", "org/tiny", "--endpoint", hub, "--output", "pulled"))
    yield Verb(("pull", "org/other", "--offline"), code=2)
    yield from serving(port)
    yield from (replace(verb, long=True) for verb in serving(port, "--offline"))
    for words in (
        ("--help",), ("accept",), ("hardware",), ("hardware", "rtx-4090"), ("engines",),
        ("init", "first", "--yes"), ("cluster", "keys", "cluster-keys", "10.0.0.1"),
        ("plan", RECIPE_FILE),
        ("plan", "--model", "Qwen2.5-7B", "--job", "sft", "--tokens", "1e6", "--offline"),
        ("chat", "tiny", QUESTION, "--max-tokens", "4"),
        ("export", "tiny", "--to", "hf", "--output", "exported", "--unproven", "--rows", "0"),
        ("run", RECIPE_FILE, "compress", "--yes", "--workdir", "half"),
        ("train", RECIPE_FILE, "--yes", "--workdir", "half"),
        *whole_path("--offline"), *whole_path("--workdir", "again"),
        ("ledger", "list"), ("gc", "--dry-run"), ("gc",),
    ):  # fmt: skip
        yield Verb(words, long=True)


def serving(port: int, *more: str) -> Iterator[Verb]:
    """A service, who asks it, and its end."""
    url = f"http://127.0.0.1:{port}"
    words = ("serve", "tiny", "--port", str(port), "--form", "bf16", "--name", "tiny")
    yield Verb((*words, *more), service=True)
    yield Verb(("status",))
    yield Verb(("chat", url, QUESTION, "--max-tokens", "4"))
    yield Verb(("eval", url, "--tasks", "job/few.jsonl"))
    yield Verb(("gate", "tiny", url), long=True)
    yield Verb(("stop", "tiny"))


def whole_path(*more: str) -> list[tuple[str, ...]]:
    """`up` to a live service, a look at it, and its end."""
    ask = ("chat", f"http://127.0.0.1:{UP_PORT}", QUESTION)
    up = ("up", RECIPE_FILE, "--yes", *more)
    return [
        up,
        ("status",),
        ("logs", "quiet"),
        ask,
        ("report", "quiet"),
        ("receipt", "quiet"),
        ("stop", "quiet"),
    ]


def main() -> int:
    args = arguments()
    if os.environ.get(counted_network.INSIDE) is None and (why := counted_network.unable()):
        print(f"skipped: {why}", file=sys.stderr)
        return 5
    counted_network.enter()
    counts = counted_network.count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        found = control(folder, counts) if args.control else measure(folder, counts, args.short)
    document = {"schema": "steelyard.bench.silence/1", "model": "3 M random weights"} | found
    print(json.dumps(document, indent=1) if args.json else shown(document))
    return 0 if found["quiet"] and not found["wrong_exits"] else 4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="without the verbs that take minutes")
    parser.add_argument("--control", action="store_true", help="OpenVINO without steelyard")
    return parser.parse_args()


# ------------------------------------------------------------------ the place


def prepare(folder: Path) -> None:
    """The model, a job for it, the reporting package, and a home with nothing in it."""
    (folder / "home").mkdir()
    reporter = folder / "path" / "openvino_telemetry"
    (reporter / "backend").mkdir(parents=True)
    (reporter / "__init__.py").write_text(REPORTER)
    (reporter / "backend" / "__init__.py").write_text("backend_ga4 = None\n")
    make = [sys.executable, str(ROOT / "bench" / "random_model.py"), "tiny", str(folder / "tiny")]
    subprocess.run(make, check=True, env=environment(folder), stdout=subprocess.DEVNULL)
    job = folder / "job"
    job.mkdir()
    (job / "tiny").symlink_to("../tiny")
    (job / "recipe.yaml").write_text(RECIPE)
    chance = random.Random(0)
    write_chats(job / "data.jsonl", [" ".join([WORD, *chance.choices(OTHERS, k=12)]) for _ in range(ROWS)])
    write_chats(job / "tasks.jsonl", [WORD] * TASKS)
    write_chats(job / "few.jsonl", [WORD] * 4)
    write_abilities(job / "abilities.jsonl")
    (job / "jobs.csv").write_text(
        "job_id,submit_s,gpus,duration_s,status,min_gpus,max_gpus\na,0,1,60,done,1,2\n"
    )
    (job / "load.csv").write_text("t_s,rps,need\n" + "".join(f"{60 * n},1.0,1\n" for n in range(10)))


def write_chats(path: Path, answers: list[str]) -> None:
    """One conversation a line: a question of its own for each answer."""
    states = ("lit", "whole", "ready", "here")
    questions = (f"Is lamp {n} of {path.stem} {states[n % len(states)]}?" for n in range(len(answers)))
    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in zip(questions, answers, strict=True)
    ]
    path.write_text("".join(json.dumps({"messages": c, "ability": "word"}) + "\n" for c in chats))


def write_abilities(path: Path) -> None:
    """Rows of two abilities, as many as a router wants."""
    rows = [(ability, f"{question} {n}") for n in range(20) for ability, question in ABILITIES.items()]
    chats = [
        {"ability": a, "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": WORD}]}
        for a, q in rows
    ]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's but where programs and packages are."""
    ours = [str(folder / "path"), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(ours),
    }  # fmt: skip


def foreign(folder: Path) -> list[str]:
    """Files and empty folders in the home that are not ours."""
    home = folder / "home"
    inside = [p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file() or not any(p.iterdir())]
    return sorted(path for path in inside if not path.startswith(OURS))


# ------------------------------------------------------------------ measured


def measure(folder: Path, counts: counted_network.Counts, short: bool) -> dict[str, Any]:
    """Run the verbs in order; a background service's counts are those of the verb during which they came."""
    with free_port() as port, hub(folder) as endpoint:
        chosen = [verb for verb in verbs(port, endpoint) if not (short and verb.long)]
        rows, services = [], []
        for verb in chosen:
            begun, already = time.monotonic(), foreign(folder)
            code, output = run(verb, folder, services)
            settle_s = SHORT_SETTLE_S if short and verb is not chosen[-1] else SETTLE_S
            time.sleep(settle_s)
            taken = counts.take()
            row = {
                "words": " ".join(verb.words).replace(endpoint, "URL").replace(str(port), "PORT"),
                "exit": code,
                "expected": verb.code,
            }
            row |= {"lookups": taken.lookups, "packets": taken.packets}
            row |= {"left": [path for path in foreign(folder) if path not in already]}
            row |= {"wall_s": round(time.monotonic() - begun - settle_s, 1)}
            print(f"{row['wall_s']:6} s  exit {code}  {row['words']}", file=sys.stderr, flush=True)
            rows.append(row | ({"output": output[-2000:]} if code != verb.code else {}))
        for service in services:
            service.terminate()
            service.wait()
    return summary(rows)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    totals = {name: sum(len(row[name]) for row in rows) for name in ("lookups", "packets", "left")}
    wrong = [row["words"] for row in rows if row["exit"] != row["expected"]]
    return {"verbs": rows, **totals, "quiet": not any(totals.values()), "wrong_exits": wrong}


def control(folder: Path, counts: counted_network.Counts) -> dict[str, Any]:
    """What is counted where a process imports OpenVINO and steelyard has not spoken first."""
    command = [sys.executable, "-c", "import openvino"]
    code = subprocess.run(command, env=environment(folder), cwd=folder).returncode
    time.sleep(SETTLE_S)
    taken = counts.take()
    row = {"words": "import openvino, without steelyard", "exit": code, "expected": 0, "wall_s": 0.0}
    return summary([row | {"lookups": taken.lookups, "packets": taken.packets, "left": foreign(folder)}])


def run(verb: Verb, folder: Path, services: list[subprocess.Popen[str]]) -> tuple[int, str]:
    """(exit code, output); a service's code is 0 once it is ready."""
    command, place = [*STEELYARD, *verb.words], {"cwd": folder, "env": environment(folder)}
    if not verb.service:
        done = subprocess.run(
            command, **place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=VERB_S,
        )  # fmt: skip
        return done.returncode, done.stdout
    service = subprocess.Popen(
        [*command, "--json"], **place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    services.append(service)
    assert service.stdout is not None
    too_late = threading.Timer(READY_S, service.kill)
    too_late.start()
    ready = service.stdout.readline()  # one JSON line once it answers, nothing where it ended
    too_late.cancel()
    return (0, ready) if ready else (service.wait(), "")


@contextmanager
def free_port() -> Iterator[int]:
    """Of loopback; in a namespace nobody else can take it meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """A hub on loopback that has org/tiny, by the two routes that `pull` asks (Hugging Face)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(HubRoute, directory=str(folder / "tiny")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


class HubRoute(SimpleHTTPRequestHandler):
    """The folder's files as https://huggingface.co/docs/hub/api has them."""

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/org/tiny/revision/main"):
            self.path = "/" + self.path.rpartition("/")[2]
            return super().do_GET()
        files = [(f.name, f.read_bytes()) for f in Path(self.directory).iterdir()]
        listed = [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)},
            }
            for name, data in files
        ]
        body = json.dumps({"id": "org/tiny", "sha": "a" * 40, "siblings": listed}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def shown(document: dict[str, Any]) -> str:
    """A line a verb, then the sums."""
    lines = [f"{'look-ups':>8} {'packets':>8} {'files':>6} {'exit':>5}  verb"]
    for row in document["verbs"]:
        numbers = f"{len(row['lookups']):8} {len(row['packets']):8} {len(row['left']):6} {row['exit']:5}"
        lines.append(f"{numbers}  {row['words']}")
    lines.append(f"{document['lookups']:8} {document['packets']:8} {document['left']:6}        in all")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
