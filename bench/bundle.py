"""An air-gapped install: bundle here, install in a namespace without a network, ask the service there.

    python bench/bundle.py [--train] [--out bench/results/bundle.json]

Linux, as root (`unshare --net`). The environment there is clean: another home, a short PATH, no words for
pip. `--train`: the demo's recipe with its rows and torch, and `up` in place of `serve`. Then the archive
is cut, a byte changed, a wheel taken out, another Python and another machine claimed: each must
end with one error of two lines and nothing installed. Exit code 4 where one of it does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import record, write

ROOT = Path(__file__).resolve().parents[1]
ASK = """
import json, sys, urllib.request
body = json.dumps({"model": "default", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]})
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", body.encode(),
                                 {"content-type": "application/json"})
print(json.load(urllib.request.urlopen(request, timeout=60))["usage"]["completion_tokens"])
"""
# In the namespace: lo alone. Whether an address outside can be reached is asked too.
INSIDE = """
ip link set lo up
{python} -c 'import socket; socket.create_connection(("1.1.1.1", 443), 2)' 2>/dev/null && exit 9
exec "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, sound = measured(Path(folder), options.train)
    for row in rows:
        print(*row, sep=" | ")
    if options.out:
        title = "A bundle, installed and answering without a network"
        command = "python bench/bundle.py" + (" --train" if options.train else "")
        write(options.out, record(title, command, (["what", "measured"], rows)))
    return 0 if sound else 4


def measured(folder: Path, train: bool) -> tuple[list[list[str]], bool]:
    made, made_s = bundled(folder, train)
    archive = folder / "b.tar"
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    there = folder / "there"
    begun = time.monotonic()
    ran = apart(folder, [*python(), str(folder / "b" / "install.py"), str(there)])
    install_s = time.monotonic() - begun
    assert ran.returncode == 0, ran.stderr
    answer_s, tokens = answered(folder, there, train)
    ends = {name: spoilt(folder, archive, spoil) for name, spoil in SPOILERS.items()}
    wheels = sum(path.stat().st_size for path in (folder / "b" / "wheels").iterdir())
    rows = [
        ["the archive", f"{made['bytes'] / 1e6:.0f} MB, {made['wheels']} wheels of {wheels / 1e6:.0f} MB"],
        ["said before it began", f"at most {made['sizes']['installed_bytes'] / 1e6:.0f} MB of packages, "
         f"a model of {made['sizes']['model_bytes'] / 1e6:.0f} MB"],
        ["made in", f"{made_s:.0f} s"],
        ["installed without a network, another home, a clean environment, in", f"{install_s:.0f} s"],
        [f"`{'up' if train else 'serve'}` there: first answer after", f"{answer_s:.0f} s, {tokens} tokens"],
        *([name, end] for name, end in ends.items()),
    ]  # fmt: skip
    return rows, tokens > 0 and all(end.startswith("exit") for end in ends.values())


def python() -> list[str]:
    return [os.path.realpath(sys.executable)]


def bundled(folder: Path, train: bool) -> tuple[dict[str, Any], float]:
    words = ["demo"]
    if train:
        subprocess.run([sys.executable, "demo/make_data.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        words = ["demo/recipe.yaml", "--with", "train", "--with", "data"]
    asked = [sys.executable, "-m", "steelyard", "bundle", *words, "--output", str(folder / "b.tar"), "--json"]
    begun = time.monotonic()
    ran = subprocess.run(asked, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout), time.monotonic() - begun


def apart(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command in a new namespace, with an environment of its own."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    script = INSIDE.format(python=python()[0])
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", script, "sh", *words],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}, cwd=folder,
        capture_output=True, text=True, timeout=3600,
    )  # fmt: skip


def answered(folder: Path, there: Path, train: bool) -> tuple[float, int]:
    """Seconds from the start of the command to the first answer, and its tokens."""
    steelyard = there / "venv" / "bin" / "steelyard"
    model = str(next(iter((there / "model").glob("*.gguf")), there / "model"))
    port = "8123"
    if train:
        recipe = there / "recipe" / "recipe.yaml"
        words = f"{steelyard} up {recipe} --yes --set model={model} --set serve.port={port}"
        words += f" --workdir {folder}/run"
    else:
        words = f"{steelyard} serve {model} --port {port}"
    (folder / "ask.py").write_text(ASK)
    script = f"""
    {words} > {folder}/log 2>&1 &
    until {python()[0]} {folder}/ask.py http://127.0.0.1:{port} 2>/dev/null; do
        sleep 1; kill -0 $! || test -e {folder}/run || exit 3
    done
    date +%s.%N
    {steelyard} stop {folder}/run 2>/dev/null; kill $! 2>/dev/null; wait
    """
    begun = time.time()
    ran = apart(folder, ["sh", "-c", script])
    lines = ran.stdout.split()
    assert len(lines) >= 2, (ran.stdout, ran.stderr, (folder / "log").read_text()[-2000:])
    return float(lines[1]) - begun, int(lines[0])


# ------------------------------------------------------------------ what must be refused


def cut(folder: Path) -> None:
    (folder / "bundle.json").unlink()  # it comes last


def changed(folder: Path) -> None:
    wheel = max((folder / "wheels").iterdir(), key=lambda path: path.stat().st_size)
    with wheel.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))


def without_a_wheel(folder: Path) -> None:
    next((folder / "wheels").glob("openvino-*.whl")).unlink()


def claiming(name: str, value: str) -> Callable[[Path], None]:
    def claim(folder: Path) -> None:
        file = folder / "bundle.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))

    return claim


SPOILERS: dict[str, Callable[[Path], None]] = {
    "an archive that was cut": cut,
    "a byte of a wheel changed": changed,
    "a wheel taken out": without_a_wheel,
    "made on another Python": claiming("python", "3.14"),
    "made on another machine": claiming("machine", "aarch64"),
    "made for a newer C library": claiming("glibc", "9.9"),
}


def spoilt(folder: Path, archive: Path, spoil: Callable[[Path], None]) -> str:
    """How the install ends: one error, nothing there."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "spoilt", filter="data")
    spoil(folder / "spoilt" / "b")
    ran = apart(folder, [*python(), str(folder / "spoilt" / "b" / "install.py"), str(folder / "no")])
    left = (folder / "no").exists()
    shutil.rmtree(folder / "spoilt")
    error = ran.stderr.splitlines()
    if ran.returncode not in (2, 4, 5) or len(error) != 2 or left:
        return f"NOT refused: {ran.returncode} {error} {'something is left' if left else ''}"
    return f"exit {ran.returncode}: {error[0].removeprefix('error: ')}"


if __name__ == "__main__":
    sys.exit(main())
