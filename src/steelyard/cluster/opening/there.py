"""What is done on a host: one file of the standard library, sent to its Python on standard input.

The order comes with the text, never on a command line: it holds the host's key. The last line printed is the
answer, as JSON. Lines before it say that the work goes on: where nobody reads them any more, the work is
undone. What is started carries NODE in its environment, so that it is found again, and nothing else is ended.
Jobs that were begun through a node carry it too, and outlive its Ray: whether that lives, its own process
says.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

NODE = "STEELYARD_CLUSTER_NODE"
REPORT = "STEELYARD_REPORT"  # in the environment of a job: its keeper, its worker, what that starts
STARTED = "Ray runtime started"
ANSWER = "steelyard.there "
STOP_S, BUSY_S = 10.0, 30.0
ASK = """
import json, platform
from importlib.metadata import version
from steelyard.model import trl_package, trl_versions
from steelyard.trust import keys_folder
print(json.dumps({"steelyard": version("steelyard"), "python": platform.python_version(),
                  "ray": trl_package("ray"), "packages": trl_versions(), "keys": str(keys_folder())}))
"""
PINNED = "from steelyard.training.engines.trl.install import pinned; print(*pinned(True))"
KEYS = ("ca.crt", "node.crt", "node.key", "token")


class Failed(Exception):
    """What went wrong (ssh.py has a text for each word), and a name or the last word of whoever said it."""


def main(order):
    """Carry the order out; the answer, or {"failed": [word, detail]}."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        os.makedirs(data_folder(), exist_ok=True)
        with open(os.path.join(data_folder(), "cluster.lock"), "w") as lock:
            hold(lock, order["do"])
            answer = DO[order["do"]](order)
    except Failed as failed:
        answer = {"failed": list(failed.args)}
    except OSError as error:
        answer = {"failed": ["disk", str(error)]}
    print(ANSWER + json.dumps(answer), flush=True)


def hold(lock, what):
    """One order at a time; looking disturbs nobody, and an end waits for a start that is being given up."""
    until = time.monotonic() + (BUSY_S if what == "stop" else 0)
    while what not in ("look", "state"):
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                raise Failed("busy", "") from None
        time.sleep(0.2)


def data_folder():
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.environ.get("STEELYARD_DATA") or os.path.join(home, "steelyard")


def cache_folder():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("STEELYARD_CACHE") or os.path.join(home, "steelyard")


def environments():
    """Of what is installed there: a folder for each, and `now`, a link to the one that is used."""
    return os.path.join(data_folder(), "nodes")


def own_folder():
    """Of the environment that is used there, by its own name: what was started from it stays with it."""
    now = os.path.join(environments(), "now")
    before = os.path.join(data_folder(), "node")  # where an earlier release has it
    return os.path.realpath(now) if os.path.islink(now) else before


def python_of(folder):
    return os.path.join(folder, "bin", "python")


def alive_word():
    """One line for whoever waits; raises OSError where nobody does."""
    print(".", flush=True)


# ------------------------------------------------------------------ look, install


def look(order):
    """Which Python there has steelyard, of which versions; {"steelyard": None} where none has."""
    own = python_of(own_folder())
    for python in (sys.executable, own):
        if python and os.path.exists(python):
            ran = subprocess.run([python, "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if ran.returncode == 0:
                found = json.loads(ran.stdout.decode().splitlines()[-1])
                return dict(found, interpreter=python, ours=python == own, node=state(order)["node"])
    wheels = order.get("wheels")
    there = bool(wheels) and os.path.exists(os.path.join(wheels_folder(wheels), "whole"))
    return {"steelyard": None, "wheels": there, "python": ".".join(map(str, sys.version_info[:3]))}


def wheels_folder(name):
    return os.path.join(cache_folder(), "wheels", name)


def receive(order):
    """A tar of wheels on standard input, after the program; each is compared with its SHA-256."""
    import hashlib
    import tarfile

    folder = wheels_folder(order["wheels"])
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                wanted = order["files"].get(member.name)
                if wanted is None or not member.isfile() or "/" in member.name:
                    raise Failed("sent", member.name)
                digest, source = hashlib.sha256(), archive.extractfile(member)
                assert source is not None
                with open(os.path.join(folder, member.name), "wb") as file:
                    while piece := source.read(2**20):
                        digest.update(piece)
                        file.write(piece)
                if digest.hexdigest() != wanted:
                    raise Failed("sent", member.name)
        if lacking := sorted(set(order["files"]) - set(os.listdir(folder))):
            raise Failed("sent", lacking[0])
        open(os.path.join(folder, "whole"), "w").close()
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, (tarfile.TarError, EOFError)):
            raise Failed("sent", str(error)) from None
        raise
    return {}


def install(order):
    """A new environment from those wheels alone, beside the one that is there: no index is asked. It is used
    once it is whole. Where a step fails nothing of it is left, and nothing else has changed."""
    folder = os.path.join(environments(), order["version"] + "-" + secrets.token_hex(4))
    offline = dict(
        os.environ, PIP_NO_INDEX="1", PIP_FIND_LINKS=wheels_folder(order["wheels"]),
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )  # fmt: skip
    offline.pop("PIP_INDEX_URL", None)
    remove_unused()
    try:
        run([sys.executable, "-m", "venv", folder], offline)
        words = ["-m", "pip", "install", "--quiet", "--no-input", "steelyard==" + order["version"]]
        run([python_of(folder), *words], offline)
        if "STEELYARD_TRL_PYTHON" not in os.environ:
            spare_engine(python_of(folder))
            run([python_of(folder), "-m", "steelyard", "engines", "install", "trl", "--ray"], offline)
        use(folder)
    except BaseException:
        if own_folder() != os.path.realpath(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.rmdir(environments())  # where it is the first one
        raise
    remove_unused()
    return look(order)


def use(folder):
    """By a link: the scripts in an environment name its folder, so that it cannot be renamed."""
    draft = os.path.join(environments(), "now.draft")
    if os.path.islink(draft):
        os.unlink(draft)
    os.symlink(os.path.basename(folder), draft)
    os.replace(draft, os.path.join(environments(), "now"))


def spare_engine(python):
    """TRL and Ray have an environment that all releases share. Raises Failed where this one would put other
    versions there, and something runs from it."""
    engine = os.path.join(data_folder(), "engines", "trl")
    if not is_in_use(engine):
        return
    ran = subprocess.run([python, "-c", PINNED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    have = dict(map(named, glob.glob(os.path.join(engine, "lib/python3*/site-packages/*.dist-info"))))
    for wanted in ran.stdout.decode().split():
        name, _, version = wanted.partition("==")
        found = have.get(normal(name), version)
        if found.partition("+")[0] != version:
            raise Failed("in_use", f"{name} {found}, this release wants {version}")


def named(path):
    """(package, version) by the folder of its metadata."""
    name, _, version = os.path.basename(path)[: -len(".dist-info")].rpartition("-")
    return normal(name), version


def normal(name):
    return name.lower().replace("_", "-").replace(".", "-")


def remove_unused():
    """Environments that are no longer used, and those of calls that were killed; not what runs from them."""
    names = os.listdir(environments()) if os.path.isdir(environments()) else []
    folders = [os.path.join(environments(), name) for name in names]
    for folder in [*folders, os.path.join(data_folder(), "node")]:
        kept = os.path.islink(folder) or os.path.realpath(folder) == os.path.realpath(own_folder())
        if os.path.isdir(folder) and not kept and not is_in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_in_use(folder):
    """Whether a process of this user runs a program or a library from there."""
    wanted = {(path + "/").encode() for path in (folder, os.path.realpath(folder))}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "maps"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                held = file.read()
                if any(path in held for path in wanted):
                    return True
    return False


def run(words, environment):
    """A child to its end, with a word to whoever waits every second."""
    child = subprocess.Popen(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    said: list[str] = []
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    try:
        while child.poll() is None:
            alive_word()
            time.sleep(0.3)
            said = (said + (child.stdout.read() or b"").decode("utf-8", "replace").splitlines())[-20:]
        said += (child.stdout.read() or b"").decode("utf-8", "replace").splitlines()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode:
        errors = [line for line in said if "error" in line.lower()]
        last = (errors or [line for line in said if line.strip()] or [f"exit {child.returncode}"])[-1]
        raise Failed("install", last.strip())


# ------------------------------------------------------------------ a node


def journal_file():
    return os.path.join(data_folder(), "cluster-node.json")


def journal():
    """What was started there; None where nothing was."""
    try:
        with open(journal_file()) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_journal(entry):
    draft = journal_file() + ".draft"
    with open(draft, "w") as file:
        json.dump(entry, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, journal_file())


def state(order):
    """{"node": the journal with "alive"}, or {"node": None}."""
    entry = journal()
    return {"node": dict(entry, alive=bool(entry.get("up") and lives(entry))) if entry else None}


def lives(entry):
    """Whether the process that `cluster start` became is there: it ends where a part of its Ray does."""
    if "pid" not in entry:  # an earlier release wrote it
        return bool(marked(entry["id"]))
    return entry["pid"] in marked(entry["id"], jobs=False) and started_at(entry["pid"]) == entry["started"]


def start(order):
    """Become a node in the background, and wait until Ray says that it is one. `anew`: the head is another
    than this node has joined, though at the same address."""
    held = state(order)["node"]
    ours = held and all(held[name] == order[name] for name in ("cluster", "address", "head"))
    if held and held["alive"]:
        if held["cluster"] != order["cluster"]:
            raise Failed("taken", held["cluster"])
        if ours and not order["anew"]:
            return {"already": True}
    before = held if ours and marked(held["id"]) != marked(held["id"], jobs=False) else None
    if before:  # its jobs go on
        kill(before["id"], jobs=False)
    elif held:
        end(held)
    entry = {name: order[name] for name in ("cluster", "address", "head", "keys", "call")}
    entry = dict(entry, id=before["id"] if before else secrets.token_hex(16), up=False)
    entry = dict(entry, wrote_keys=bool(before and before["wrote_keys"]), before=before and without(before))
    write_journal(entry)
    try:
        entry["wrote_keys"] = write_keys(order["keys"], order["secrets"], entry) or entry["wrote_keys"]
        entry["log"] = os.path.join(data_folder(), "cluster-node.log")
        pid = become(order, entry)
    except BaseException:
        undo(entry)
        raise
    write_journal(dict(entry, up=True, pid=pid, started=started_at(pid)))
    return {"already": False}


def without(entry):
    """A journal as it was, without what was before it."""
    return {name: value for name, value in entry.items() if name not in ("before", "alive")}


def write_keys(folder, contents, entry):
    """Where this host looks for its keys; True where they were not there before."""
    if os.path.exists(os.path.join(folder, "token")):
        for name in KEYS:
            with open(os.path.join(folder, name)) as file:
                if name in ("token", "ca.crt") and file.read() != contents[name]:
                    raise Failed("keys", folder)
        return False
    write_journal(dict(entry, wrote_keys=True))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name in (*KEYS[:-1], "token"):  # the token last: with it the set is whole
        path = os.path.join(folder, name)
        if os.path.exists(path):
            os.unlink(path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(contents[name])
    return True


def become(order, entry):
    """The pid of what is a node now."""
    head = ["--head", order["head"]] if order["head"] else []
    cpus = ["--num-cpus", str(order["cpus"])] if order["cpus"] is not None else []
    words = [order["interpreter"], "-m", "steelyard", "cluster", "start", order["node"], *head, *cpus]
    marked_environment = dict(os.environ, STEELYARD_CLUSTER_KEYS=order["keys"], **{NODE: entry["id"]})
    marked_environment.pop(REPORT, None)  # a node is no job, even where one opens it
    why = ""
    for _ in range(order["tries"]):  # on busy cores Ray gives up after 30 s
        with open(entry["log"], "w") as log:
            child = subprocess.Popen(
                words, env=marked_environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        why = wait_for(child, entry["log"], time.monotonic() + order["wait_s"])
        if not why:
            return child.pid
        kill(entry["id"], jobs=False)
        child.wait()
        if "within" in why:
            break
    raise Failed("start", why)


def wait_for(child, log, until):
    """ "" once it is a node; else why it is none."""
    while time.monotonic() < until:
        alive_word()
        with open(log, errors="replace") as file:
            said = file.read()
        if STARTED in said:
            return ""
        if child.poll() is not None:
            return last_word(said) or f"exit {child.returncode}"
        time.sleep(0.2)
    return "not within the time that it was given"


def last_word(said):
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "ailed" in line or "mismatch" in line.lower()]
    return (telling or lines or [""])[-1][:300]


def stop(order):
    """End what the journal says was started for this cluster; {"stopped": False} where nothing was. With
    `call`: only what that call has started, and jobs that ran before it go on ("left": there are some)."""
    held = journal()
    if held is None or order.get("call") not in (None, held.get("call")):
        return {"stopped": False, "left": held is not None}
    if held["cluster"] != order["cluster"]:
        raise Failed("taken", held["cluster"])
    if order.get("call"):
        undo(held)
    else:
        end(held)
    return {"stopped": True, "left": journal() is not None}


def undo(entry):
    """End what this start has begun; jobs that ran there before it go on."""
    if not entry.get("before"):
        return end(entry)
    kill(entry["id"], jobs=False)
    write_journal(entry["before"])


def end(entry):
    """Its processes, its keys where they were written for it, its journal."""
    kill(entry["id"])
    if (journal() or entry).get("wrote_keys"):
        for name in KEYS:
            path = os.path.join(entry["keys"], name)
            if os.path.exists(path):
                os.unlink(path)
        if os.path.isdir(entry["keys"]) and not os.listdir(entry["keys"]):
            os.rmdir(entry["keys"])
    if os.path.exists(journal_file()):
        os.unlink(journal_file())


def kill(name, jobs=True):
    """Ask, wait, then end whatever carries this name; without `jobs` all but those."""
    for pid in marked(name, jobs):
        send(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while marked(name, jobs) and time.monotonic() < until:
        time.sleep(0.1)
    while left := marked(name, jobs):  # one that has just been forked may have been missed
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.05)


def send(pid, what):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def marked(name, jobs=True):
    """Processes of this user that were started with that name in their environment, zombies left out; without
    `jobs` those that no job has started."""
    wanted, job, found = f"{NODE}={name}".encode(), f"{REPORT}=".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if wanted in words and (jobs or not any(word.startswith(job) for word in words)):
            found.append(int(pid))
    return found


def started_at(pid):
    """In ticks since the machine's start, as proc(5) has it; empty where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


DO = {"look": look, "receive": receive, "install": install, "start": start, "state": state, "stop": stop}
