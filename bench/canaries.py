"""A run and its service with canaries in data, prompts, answers and weights: where do they lie in plain?

    python bench/canaries.py [--level guarded] [--steps 60] [--cache FOLDER] [--json]

A recipe of its own is walked by `steelyard up` on a random Llama of 0.1 M parameters, in a home of its
own (HOME, TMPDIR, state, cache, ledger, key); `sealed` by --rehearse, SIMULATED. Its service is asked: chats,
a response, an upload, a batch, a fine-tuning job. Its engine's process is ended by SIGSEGV, with room for a
core dump, and the service is stopped. Searched is every byte of

disk        what is left, by place; what was removed, replaced or cut on the way (each Python process keeps
            what it is about to let go); files without a name (read from /proc while they are open)
memory      /dev/shm as others on the machine see it: ten times a second while `up` and the service run, and
            after their end
said        standard output and standard error of every command
wire        every TCP payload on loopback, put together by connection (a packet socket: root only)

for each canary as UTF-8, UTF-16, hex and base64 at its three offsets, and for its token ids as text and as
integers of 16, 32 and 64 bits; for weights: runs of 32 bytes that only the tuned model has. Not searched:
compressed forms, swap, memory of processes. `--level open` shows that the search finds what there is.
Exit code 1 where something is found that the level promises to protect.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
SHM = Path("/dev/shm")
SHARED = "/dev/shm, run and service"
OUTGOING = 4  # of a packet socket: each packet on loopback is seen twice
RECIPE = """
name: canaries
model: {model}
data: [{{path: rows.jsonl, ability: echo}}]
train:
  - {{stage: sft, finetuning_type: lora, lora_rank: 4, max_length: 128, max_steps: {steps},
     learning_rate: 0.01}}
gate: {{abilities: {{echo: {{eval: test.jsonl}}}}}}
serve: {{port: {port}}}
trust: {trust}
"""
# In every Python process of the run: what is about to be removed, replaced or cut is kept first.
HOOK = """
import os, shutil, sys, threading
KEEP, busy = os.environ["CANARIES_KEEP"], threading.local()
number = iter(range(10**9))
def keep(path, folder=-1, copied=False):
    if not isinstance(path, (str, bytes, os.PathLike)) or getattr(busy, "on", False):
        return
    busy.on = True
    try:
        where = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0:
            where = os.path.join(os.readlink("/proc/self/fd/%d" % folder), where)
        if not where.startswith(("/dev/", "/proc/")) and os.path.isfile(where) and os.path.getsize(where):
            name = "%s/%d-%d-%s" % (KEEP, os.getpid(), next(number), os.path.basename(where)[-80:])
            if not os.path.realpath(where).startswith(KEEP):
                (shutil.copyfile if copied else os.link)(where, name)
    except (OSError, ValueError):
        pass
    finally:
        busy.on = False
def hook(event, args):
    if event == "os.remove":
        keep(args[0], args[1])
    elif event == "os.rename":
        keep(args[1], args[3])
    elif event == "open" and isinstance(args[2], int) and args[2] & os.O_TRUNC:
        keep(args[0], copied=True)
sys.addaudithook(hook)
"""


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        home = Path(name)
        document = measured(home, args)
        if args.keep:
            subprocess.run(["cp", "-a", str(home), str(args.keep)], check=True)
    if args.json:
        json.dump({"protocol": __doc__, **document}, sys.stdout, indent=2)
        print()
    else:
        show(document)
    return 0 if document["met"] else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--level", choices=("open", "guarded", "sealed"), default="guarded")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, help="of the words; else by chance, so that runs never meet")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cache", type=Path, help="a cache whose calibration is taken over")
    parser.add_argument("--keep", type=Path, help="copy the home here afterwards")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measured(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    canaries = Canaries(random.Random(args.seed))
    told("begins")
    env = prepared(home, args, canaries)
    with Wire() as wire, Nameless() as nameless, Shared() as shared:
        outcome, said = up(home, args, env)
        service = outcome["service"]
        told("the run is done")
        asked = ask(service["url"], canaries, env)
        shared.look()
        crash(service["pid"])
        said += steelyard(home, env, "stop", "canaries", "--json")[1]
        time.sleep(0.5)
    after = [p.read_bytes() for p in SHM.rglob("*") if p.is_file()]  # before artefacts are opened here
    told("searching")
    canaries.add_weights(home, args.level, env)
    places = found_in(home, canaries, {
        "what the commands said": [said], "loopback": wire.streams(), "files without a name": nameless.data,
        SHARED: shared.data,
        "/dev/shm, after its end": after,
    })  # fmt: skip
    promised = promises(home, env, args.level)
    met = all(not counts["found"] for place, counts in places.items() if place in promised)
    return {
        "level": args.level, "simulated": args.level == "sealed", "canaries": canaries.counts(),
        "asked": asked, "wire_recorded": wire.records, "places": places,
        "promised": sorted(promised & set(places)), "met": met,
    }  # fmt: skip


def show(document: dict[str, Any]) -> None:
    print(f"level {document['level']}{' (SIMULATED)' if document['simulated'] else ''}; canaries: "
          + ", ".join(f"{n} {kind}" for kind, n in document["canaries"].items()))  # fmt: skip
    width = max(map(len, document["places"]))
    for place, counts in document["places"].items():
        promise = "must be 0" if place in document["promised"] else "not promised"
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts["kinds"].items())
        size = f"{counts['pieces']:5} pieces {counts['bytes'] / 1e6:8.2f} MB"
        print(f"{place:{width}}  {size}  {counts['found']:4} found  ({promise})  {kinds}")
        for example in counts["examples"]:
            print(f"{'':{width}}    {example}")
    print("met" if document["met"] else "NOT MET")


WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "openvino_model.bin")
ON_DISK = {
    "artefacts", "plan, report, log", "service", "state", "cache", "configuration", "temporary files",
    "ledger", "core dumps", "elsewhere at home", "removed or replaced meanwhile", "files without a name",
    "what the commands said", "/dev/shm, after its end",
}  # fmt: skip
# A place, and the row of `trust explain` that speaks of it; the others hold what is sealed elsewhere.
ROWS = {
    "service": "log of the run and of its service", "plan, report, log": "log of the run and of its service",
    "state": "files, batches and their results", "cache": "an engine's own copy", "core dumps": "core dumps",
    "loopback": "loopback: the gate and its services", SHARED: "shared memory",
}  # fmt: skip


def promises(home: Path, env: dict[str, str], level: str) -> set[str]:
    """Places where nothing may be found, as `steelyard trust explain` says of the recipe."""
    more = ("--rehearse",) if level == "sealed" else ()
    _, _, out = steelyard(home, env, "trust", "explain", "recipe.yaml", "--json", *more)
    said = {one["what"]: one["protected"] for one in json.loads(out)["hops"]}
    return {p for p in ON_DISK | {"loopback", SHARED} if said[ROWS.get(p, "payload and manifest")]}


# ------------------------------------------------------------------ canaries


class Canaries:
    """Words that occur nowhere else, by where they are put; and runs of the tuned weights' bytes."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.words: dict[str, list[str]] = defaultdict(list)
        self.patterns: dict[bytes, str] = {}  # bytes to look for -> kind
        self.tokenizer: Any = None
        self._heads: Any = None

    def new(self, kind: str) -> str:
        word = "zq" + "".join(self.chance.choice("bcdfghjkmnpqrstvwxz") for _ in range(18))
        return self.add(kind, word)

    def add(self, kind: str, word: str) -> str:
        self.words[kind].append(word)
        self.patterns |= dict.fromkeys(self.forms(word), kind)
        return word

    def forms(self, word: str) -> Iterator[bytes]:
        raw = word.encode()
        yield from (raw, word.encode("utf-16-le"), raw.hex().encode(), raw.hex().upper().encode())
        for skip in range(3):  # whole groups of three bytes are the same whatever comes before
            piece = raw[skip : skip + (len(raw) - skip) // 3 * 3]
            yield base64.b64encode(piece)
        ids = self.tokenizer.encode(word).ids[1:-1]  # its ends may join with what stands beside it
        yield from (", ".join(map(str, ids)).encode(), ",".join(map(str, ids)).encode())
        yield from (struct.pack(f"<{len(ids)}{size}", *ids) for size in "Hiq")

    def add_weights(self, home: Path, level: str, env: dict[str, str]) -> None:
        """Runs of 32 bytes from the middle of each tensor file that the base has not."""
        from steelyard.artefact import Store
        from steelyard.trust import load_keys

        keys = load_keys("guarded", env["STEELYARD_KEY_FILE"], home) if level != "open" else None
        base = b"".join(p.read_bytes() for p in (home / "model").glob("*.safetensors"))
        for artefact in Store(home / "runs" / "canaries" / "artefacts", keys).all():
            for path in sorted(p for p in artefact.path().rglob("*") if p.name in WEIGHTS):
                data = path.read_bytes()
                for place in range(len(data) // 16, len(data) - 32, max(1, len(data) // 16)):
                    run = data[place : place + 32]
                    if len(set(run)) > 12 and run not in base:
                        self.words["weights"].append(run.hex())
                        self.patterns[run] = "weights"

    def counts(self) -> dict[str, int]:
        return {kind: len(words) for kind, words in self.words.items()}

    def found(self, data: bytes) -> list[str]:
        """The kind of each canary that is in it: places where eight bytes fit are looked at whole."""
        if self._heads is None or len(self._heads[1]) != len(self.patterns):
            by_head: dict[int, list[bytes]] = defaultdict(list)
            for pattern in self.patterns:
                by_head[int.from_bytes(pattern[:8], "little")].append(pattern)
            heads, beginnings = np.array(sorted(by_head), np.uint64), np.zeros(1 << 16, bool)
            beginnings[heads.astype(np.uint16)] = True
            self._heads = heads, dict.fromkeys(self.patterns), by_head, beginnings
        heads, _, by_head, beginnings = self._heads
        hits: set[bytes] = set()
        for skip in range(min(8, len(data))):
            words = np.frombuffer(data, np.uint64, (len(data) - skip) // 8, skip)
            places = np.flatnonzero(beginnings[words.astype(np.uint16)])
            near = np.minimum(np.searchsorted(heads, words[places]), len(heads) - 1)
            for place in places[heads[near] == words[places]]:
                at = skip + 8 * int(place)
                hits.update(p for p in by_head[int(words[place])] if data[at : at + len(p)] == p)
        return [self.patterns[pattern] for pattern in hits]


def prepared(home: Path, args: argparse.Namespace, canaries: Canaries) -> dict[str, str]:
    """The model, the rows, the recipe, the hook; the environment of every command."""
    import conftest
    from tokenizers import Tokenizer

    for part in ("model", "tmp", "kept", "hook", "config"):
        (home / part).mkdir()
    conftest._tiny(home / "model", "llama", tied=True)
    canaries.tokenizer = Tokenizer.from_file(str(home / "model" / "tokenizer.json"))
    (home / "hook" / "sitecustomize.py").write_text(HOOK)
    rows = [chat(word(canaries.chance), "ok") for _ in range(300)]
    rows += [chat(canaries.new("prompts of rows"), "ok") for _ in range(20)]
    rows += [chat(word(canaries.chance), canaries.new("answers of rows")) for _ in range(4)]
    canaries.chance.shuffle(rows)
    tests = [chat(word(canaries.chance), "ok") for _ in range(200)]
    tests += [chat(canaries.new("prompts of the test"), "ok") for _ in range(20)]
    (home / "rows.jsonl").write_text("".join(rows))
    (home / "test.jsonl").write_text("".join(tests))
    from steelyard.artefact import adopt

    pinned = f"{{level: sealed, base_sha256: [{adopt(home / 'model').hash}]}}"
    trust = pinned if args.level == "sealed" else args.level
    text = RECIPE.format(model=home / "model", steps=args.steps, port=free_port(), trust=trust)
    (home / "recipe.yaml").write_text(text)
    if args.cache:
        shutil.copytree(args.cache, home / "cache")
    own = {
        "HOME": home, "TMPDIR": home / "tmp", "CANARIES_KEEP": home / "kept",
        "XDG_CONFIG_HOME": home / "config",
        "STEELYARD_STATE": home / "state", "STEELYARD_CACHE": home / "cache",
        "STEELYARD_LEDGER": home / "ledger.db", "STEELYARD_KEY_FILE": home / "config" / "key",
        "PYTHONPATH": f"{home / 'hook'}:{os.environ.get('PYTHONPATH', '')}",
    }  # fmt: skip
    return os.environ | {name: str(value) for name, value in own.items()}


def chat(user: str, assistant: str) -> str:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return json.dumps({"messages": messages}) + "\n"


def word(chance: random.Random) -> str:
    return "".join(chance.choice("abcdefgh") for _ in range(6))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------ the run and its service


def steelyard(
    place: Path, env: dict[str, str], *words: str, home: Path | None = None
) -> tuple[int, bytes, bytes]:
    """A command to its end, with room for core dumps, in the folder `place`."""

    def roomy() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "steelyard", *words]
    done = subprocess.run(command, env=env, cwd=place, capture_output=True, preexec_fn=roomy)
    return done.returncode, done.stdout + done.stderr, done.stdout


def told(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def up(home: Path, args: argparse.Namespace, env: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    more = ("--rehearse",) if args.level == "sealed" else ()
    code, said, out = steelyard(home, env, "up", "recipe.yaml", "--yes", "--json", *more)
    if code:
        raise SystemExit(f"up ended with {code}: {said.decode(errors='replace')[-3000:]}")
    return json.loads(out), said


def ask(url: str, canaries: Canaries, env: dict[str, str]) -> dict[str, Any]:
    """Everything a user may send; the answers become canaries themselves."""
    import ssl

    context: ssl.SSLContext | bool = True
    if url.startswith("https"):
        context = ssl.create_default_context(cafile=str(Path(env["STEELYARD_STATE"]) / "tls" / "cert.pem"))
    asked: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=context) as client:
        for stream in (False, True, False):
            messages = [{"role": "user", "content": canaries.new("prompts of chats")}]
            body = {"model": "default", "max_tokens": 40, "temperature": 1.5, "seed": 3, "stream": stream,
                    "ignore_eos": True, "messages": messages}  # fmt: skip
            answer = client.post("/v1/chat/completions", json=body)
            if not stream:
                note_answer(answer.json()["choices"][0]["message"]["content"], canaries)
        body = {"model": "default", "input": canaries.new("responses"), "max_output_tokens": 20}
        asked["response"] = client.post("/v1/responses", json=body).status_code
        upload = client.post(
            "/v1/files", data={"purpose": "user_data"},
            files={"file": (canaries.new("names of files"), canaries.new("uploads").encode() * 5000)},
        )  # fmt: skip
        asked["upload"] = upload.status_code
        asked["batch"] = batch(client, canaries)
        rows = chat(canaries.new("tuning rows"), "ok").encode() * 20
        file = client.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", rows)}
        ).json()
        job = client.post("/v1/fine_tuning/jobs", json={"model": "default", "training_file": file["id"]})
        asked["fine-tuning"] = job.status_code
        client.post("/v1/chat/completions", json={"messages": canaries.new("bodies that are refused")})
        client.post("/v1/embeddings", json={"model": "default", "input": canaries.new("embeddings")})
        client.get("/v1/files/" + canaries.new("paths"))
    return asked


def note_answer(text: str, canaries: Canaries) -> None:
    """The longest run of plain signs in an answer, where it is long enough to be nobody else's."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\<>&' else "\0" for c in text)
    if len(longest := max(plain.split("\0"), key=len)) >= 12:
        canaries.add("answers of chats", longest)


def batch(client: httpx.Client, canaries: Canaries) -> str:
    lines = [
        {"custom_id": canaries.new("ids of batches"), "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "default", "max_tokens": 30,
                  "messages": [{"role": "user", "content": canaries.new("batches")}]}}
        for _ in range(3)
    ]  # fmt: skip
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("b.jsonl", data)}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = client.post("/v1/batches", json=asked).json()
    for _ in range(300):
        made = client.get(f"/v1/batches/{made['id']}").json()
        if made["status"] in ("completed", "failed", "expired"):
            break
        time.sleep(0.1)
    client.get(f"/v1/files/{made['output_file_id']}/content")
    return str(made["status"])


def crash(pid: int) -> None:
    """The engine's processes by SIGSEGV, as a fault in a library would end them."""
    import psutil

    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            child.send_signal(signal.SIGSEGV)
    time.sleep(3)


# ------------------------------------------------------------------ what is searched


class Wire(threading.Thread):
    """Records loopback: payloads of each TCP connection, in the order they came."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.flows: dict[bytes, bytearray] = defaultdict(bytearray)
        self.records, self.ends = False, False

    def __enter__(self) -> Wire:
        with suppress(OSError, AttributeError):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
            self.socket.bind(("lo", 0))
            self.socket.settimeout(0.2)
            self.records = True
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends = True
        if self.records:
            self.join()

    def run(self) -> None:
        while not self.ends:
            with suppress(TimeoutError):
                data, address = self.socket.recvfrom(1 << 17)
                if address[2] == OUTGOING:
                    self.take(data[14:])

    def take(self, packet: bytes) -> None:
        six = packet[0] >> 4 == 6
        start, protocol = (40, packet[6]) if six else ((packet[0] & 15) * 4, packet[9])
        if protocol == 6:  # TCP
            segment = packet[start:]
            ends = packet[8:40] if six else packet[12:20]
            self.flows[ends + segment[:4]] += segment[(segment[12] >> 4) * 4 :]

    def streams(self) -> list[bytes]:
        return [bytes(flow) for flow in self.flows.values()]


class Looking(threading.Thread):
    """Looks ten times a second while it is entered; `data`: what it has seen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[Any, bytes] = {}
        self.ends = False

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends = True
        self.join()

    @property
    def data(self) -> list[bytes]:
        return list(self.seen.values())

    def run(self) -> None:
        while not self.ends:
            self.look()
            time.sleep(0.1)

    def look(self) -> None:
        raise NotImplementedError


class Shared(Looking):
    """What lies in this machine's /dev/shm, each state of each file."""

    def look(self) -> None:
        for path in SHM.rglob("*"):
            with suppress(OSError):
                about = path.stat()
                state = path, about.st_mtime_ns, about.st_size
                if path.is_file() and state not in self.seen:
                    self.seen[state] = path.read_bytes()


class Nameless(Looking):
    """Open files on a disk that have no name any more: their bytes, while they are open."""

    def look(self) -> None:
        for link in ours():
            with suppress(OSError):
                if os.readlink(link).endswith("(deleted)") and not in_memory(link):
                    about = os.stat(link)
                    self.seen[about.st_dev, about.st_ino] = Path(link).read_bytes()


def in_memory(link: str) -> bool:
    """Is an open file of no disk? By its mount, as its own process sees it: memfds are in none."""
    process, _, number = link.rpartition("/fd/")
    lines = Path(f"{process}/fdinfo/{number}").read_text().splitlines()
    mount = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    for line in Path(f"{process}/mountinfo").read_text().splitlines():
        if line.split()[0] == mount:
            return line.partition(" - ")[2].split()[0] in ("tmpfs", "ramfs")
    return True


def ours() -> Iterator[str]:
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(OSError):
            folder = f"/proc/{process.pid}/fd"
            yield from (f"{folder}/{name}" for name in os.listdir(folder))


def place_of(path: Path, home: Path) -> str | None:
    """None for what is the user's own: the data files, the base model, this bench's tools."""
    parts = path.relative_to(home).parts
    if parts[0] in ("rows.jsonl", "test.jsonl", "recipe.yaml", "model", "hook"):
        return None
    if parts[-1].split(".")[0] == "core":
        return "core dumps"
    if parts[0] == "runs":
        names = {"artefacts": "artefacts", "service": "service"}
        return names.get(parts[2], "plan, report, log")
    names = {"state": "state", "cache": "cache", "config": "configuration", "tmp": "temporary files",
             "kept": "removed or replaced meanwhile", "ledger.db": "ledger"}  # fmt: skip
    return names.get(parts[0], "elsewhere at home")


def found_in(home: Path, canaries: Canaries, more: dict[str, list[bytes]]) -> dict[str, Any]:
    """By place: pieces and bytes searched, canaries found, by kind."""
    places: dict[str, dict[str, Any]] = {}
    for place in (*sorted(ON_DISK - set(more)), *more):
        places[place] = {"pieces": 0, "bytes": 0, "found": 0, "kinds": defaultdict(int), "examples": []}
    for path in sorted(p for p in home.rglob("*") if p.is_file() and not p.is_symlink()):
        if place := place_of(path, home):
            count(places[place], path.read_bytes(), canaries, str(path.relative_to(home)))
    for place, pieces in more.items():
        for piece in pieces:
            count(places[place], piece, canaries, None)
    return places


def count(place: dict[str, Any], data: bytes, canaries: Canaries, name: str | None) -> None:
    place["pieces"] += 1
    place["bytes"] += len(data)
    hits = canaries.found(data)
    place["found"] += len(hits)
    for kind in hits:
        place["kinds"][kind] += 1
    if hits and name and len(place["examples"]) < 5:
        place["examples"].append(f"{name}: {', '.join(sorted(set(hits)))}")


if __name__ == "__main__":
    sys.exit(main())
