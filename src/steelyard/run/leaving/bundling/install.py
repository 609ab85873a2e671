#!/usr/bin/env python3
"""Install this bundle: python3 install.py [FOLDER]. No network is used.

The standard library alone, and words that older Pythons read too, so that they get an error they understand.

    FOLDER/venv     steelyard with all that it needs
    FOLDER/model    the model
    FOLDER/recipe   the recipe, where the bundle has one
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
UNFINISHED = ".unfinished"
WRONG_USE, LACKING, DAMAGED, STOPPED = 2, 5, 4, 6


class Failed(Exception):
    """Exit code, what is wrong, what to do."""


def main(words):
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if len(words) > 1 or words[:1] in (["-h"], ["--help"]):
            raise Failed(WRONG_USE, "one folder may be named", "python3 install.py [FOLDER]")
        bundle = read_bundle()
        check_machine(bundle)
        check_files(bundle)
        folder = os.path.abspath(words[0] if words else "steelyard")
        install(bundle, folder)
    except Failed as failed:
        code, text, hint = failed.args
        print("error: " + text + "\n  fix: " + hint, file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print("stopped: nothing is left; the same command begins again", file=sys.stderr)
        return STOPPED
    except OSError as error:
        print("error: " + str(error) + "\n  fix: free space, or name another folder", file=sys.stderr)
        return LACKING
    print("installed in " + folder)
    for line in next_lines(bundle, folder):
        print(line)
    return 0


def next_lines(bundle, folder):
    steelyard, model = (
        os.path.join(folder, "venv", "bin", "steelyard"),
        os.path.join(folder, *bundle["model"]),
    )
    lines = ["next: " + steelyard + " serve " + model]
    if bundle["recipe"]:
        recipe = os.path.join(folder, *bundle["recipe"])
        lines.append("or:   " + steelyard + " up " + recipe + " --set model=" + model)
    return lines


# ------------------------------------------------------------------ checked before anything is written


def read_bundle():
    try:
        with open(os.path.join(HERE, "bundle.json"), encoding="utf-8") as file:
            bundle = json.load(file)
        if bundle["schema"] != "steelyard.bundle/1":
            raise Failed(LACKING, "the bundle is of another version", "use the install.py that lies in it")
        return bundle
    except (OSError, ValueError, KeyError, TypeError):
        text = "bundle.json is missing or damaged: the archive is not whole"
        raise Failed(DAMAGED, text, "copy the archive again, compare its SHA-256") from None


def check_machine(bundle):
    """Wheels are of one Python and one kind of machine."""
    wanted, have = bundle["python"], ".".join(str(part) for part in sys.version_info[:2])
    if have != wanted or platform.python_implementation() != "CPython":
        text = "the bundle is for CPython %s, this is %s %s" % (  # noqa: UP031 (read by old Pythons)
            wanted, platform.python_implementation(), platform.python_version(),
        )  # fmt: skip
        raise Failed(LACKING, text, "python%s install.py, or make a bundle on this Python" % wanted)  # noqa: UP031
    machine = platform.machine()
    if [sys.platform, machine] != [bundle["system"], bundle["machine"]]:
        text = "the bundle is for {} on {}, this is {} on {}".format(
            bundle["system"], bundle["machine"], sys.platform, machine
        )
        raise Failed(LACKING, text, "make a bundle on such a machine")
    library, version = platform.libc_ver()
    if bundle["glibc"] and (library != "glibc" or numbers(version) < numbers(bundle["glibc"])):
        text = "its wheels need glibc {}, this machine has {} {}".format(
            bundle["glibc"], library or "no glibc", version
        )
        raise Failed(LACKING, text, "use a newer release of the operating system")


def numbers(version):
    return [int(part) for part in version.split(".") if part.isdigit()]


def check_files(bundle):
    """Each file by its SHA-256, all before the first is used."""
    for name, digest in sorted(bundle["files"].items()):
        path = os.path.join(HERE, *name.split("/"))
        if not os.path.isfile(path):
            raise Failed(DAMAGED, name + " is missing from the bundle", "copy and unpack the archive again")
        if sha256_of(path) != digest:
            text = name + " is not what was packed: its SHA-256 differs"
            raise Failed(DAMAGED, text, "copy and unpack the archive again")


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


# ------------------------------------------------------------------ written whole, or not at all


def install(bundle, folder):
    if os.path.exists(os.path.join(folder, UNFINISHED)):  # a call that was killed
        shutil.rmtree(folder)
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise Failed(WRONG_USE, folder + " is there already", "name a folder that is not there yet")
    os.makedirs(folder, exist_ok=True)
    mark = os.path.join(folder, UNFINISHED)
    open(mark, "w").close()
    try:
        environment(folder)
        for name in sorted(bundle["files"]):
            if name.split("/")[0] in ("model", "recipe"):
                place(os.path.join(HERE, *name.split("/")), os.path.join(folder, *name.split("/")))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    os.unlink(mark)


def environment(folder):
    """A virtual environment of the bundle's wheels: pip comes out of its own wheel, no index is asked."""
    wheels, home = os.path.join(HERE, "wheels"), os.path.join(folder, "venv")
    python = os.path.join(home, "bin", "python")
    run([sys.executable, "-m", "venv", "--without-pip", home])
    pip = next(os.path.join(wheels, name, "pip") for name in os.listdir(wheels) if name.startswith("pip-"))
    words = ["install", "--quiet", "--no-index", "--no-deps", "--require-hashes", "--find-links", wheels]
    run([python, pip, *words, "--requirement", os.path.join(HERE, "requirements.txt")])


def run(words):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    # Not in our group: an interrupt reaches us, and we end it.
    child = subprocess.Popen(
        words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        said = child.communicate()[0].decode("utf-8", "replace").splitlines()
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if child.returncode:
        telling = [line for line in said if "rror" in line] or [line for line in said if line.strip()]
        text = (telling or ["exit %d" % child.returncode])[-1].strip()  # noqa: UP031
        raise Failed(LACKING, text[:500], "free space, or an own Python: this one cannot make an environment")


def place(source, target):
    """A second name for the same bytes where the disk is one, else a copy."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
