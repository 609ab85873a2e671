#!/usr/bin/env python3
"""Install this bundle: python3 install.py [FOLDER]. No network is used.

The standard library alone, and words that older Pythons read too, so that they get an error they understand.

    FOLDER/venv     steelyard with all that it needs
    FOLDER/model    the model
    FOLDER/recipe   the recipe, where the bundle has one
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMA = "steelyard.bundle/1"
ABOUT_BYTES_MAX = 64 << 20  # of bundle.json, some 500,000 files
UNFINISHED, MARK = (
    ".unfinished",
    b"steelyard bundle\n",
)  # a file of this name and word: an install is not done
MADE = ("venv", "model", "recipe")  # all that an install makes in its folder
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
    hint = "copy the archive again, compare its SHA-256"
    try:
        with open(os.path.join(HERE, "bundle.json"), "rb") as file:
            bundle, fault = read_about(file)
    except OSError:
        text = "bundle.json is missing or damaged: the archive is not whole"
        raise Failed(DAMAGED, text, hint) from None
    if fault == "schema":
        raise Failed(LACKING, "the bundle is of another version", "use the install.py that lies in it")
    if fault:
        raise Failed(DAMAGED, "bundle.json is missing or damaged: its " + fault + " is not right", hint)
    return bundle


def read_about(file):
    """What a file of bundle.json says, and which field of it is not as it was written; None where all are."""
    data = file.read(ABOUT_BYTES_MAX + 1)
    if len(data) > ABOUT_BYTES_MAX:
        return None, "size"
    try:
        bundle = json.loads(data.decode("utf-8"))
    except (ValueError, RuntimeError):  # RuntimeError: nested without end
        return None, "JSON"
    if not isinstance(bundle, dict):
        return None, "JSON"
    if bundle.get("schema") != SCHEMA:
        return bundle, "schema"
    faults = [name for name, is_right in FIELDS.items() if name not in bundle or not is_right(bundle[name])]
    return bundle, faults[0] if faults else None


def is_text(value):
    return isinstance(value, str) and value != ""


def is_text_or_none(value):
    return value is None or is_text(value)


def is_plain(name):
    """A place below the bundle, written with slashes: no part leads out of it."""
    return is_text(name) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def is_place(top):
    return lambda parts: (
        isinstance(parts, list) and all(map(is_text, parts)) and is_plain("/".join(parts)) and parts[0] == top
    )


def are_files(files):
    """Each by its SHA-256; what the install itself uses is among them."""
    return (
        isinstance(files, dict)
        and all(is_plain(name) and is_text(digest) for name, digest in files.items())
        and "requirements.txt" in files
        and len(pips(files)) == 1
    )


def pips(files):
    return [name for name in files if name.startswith("wheels/pip-") and name.endswith(".whl")]


FIELDS = {
    "steelyard": is_text, "python": is_text, "system": is_text, "machine": is_text, "glibc": is_text_or_none,
    "model": is_place("model"), "recipe": lambda parts: parts is None or is_place("recipe")(parts),
    "files": are_files,
}  # fmt: skip


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
        if os.path.islink(path) or not os.path.isfile(path):
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
    with claimed(folder) as mark:
        try:
            empty(folder)  # of what a call that was killed has left
            environment(bundle, folder, mark)
            for name in sorted(bundle["files"]):
                place(name, os.path.join(folder, *name.split("/")))
        except BaseException:
            empty(folder)
            os.unlink(mark.name)
            with contextlib.suppress(OSError):
                os.rmdir(folder)
            raise
        os.unlink(mark.name)


@contextlib.contextmanager
def claimed(folder):
    """The folder's mark, locked for this install: the folder is new, empty, or of one that was killed."""
    import fcntl  # check_machine has refused a system without it

    path = os.path.join(folder, UNFINISHED)
    taken = Failed(WRONG_USE, folder + " is there already", "name a folder that is not there yet")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise taken
    os.makedirs(folder, exist_ok=True)
    inside = set(os.listdir(folder))
    is_marked = os.path.isfile(path) and not os.path.islink(path)
    if inside - {UNFINISHED, *MADE} or (inside and not is_marked):
        raise taken
    with open(path, "a+b") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = "another install is under way in " + folder
            raise Failed(WRONG_USE, text, "wait until it is done, or name another folder") from None
        mark.seek(0)
        word = mark.read(len(MARK) + 1)
        if word != MARK and (word or inside - {UNFINISHED}):
            raise taken
        if not os.path.exists(path) or not os.path.samestat(os.fstat(mark.fileno()), os.stat(path)):
            raise taken  # another install was done at this moment
        mark.write(b"" if word else MARK)
        mark.flush()
        yield mark


def empty(folder):
    """Without what an install makes; a link that somebody put there goes, not what it leads to."""
    for name in MADE:
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def environment(bundle, folder, mark):
    """A virtual environment of the bundle's wheels: pip comes out of its own wheel, no index is asked."""
    wheels, home = os.path.join(HERE, "wheels"), os.path.join(folder, "venv")
    python = os.path.join(home, "bin", "python")
    run([sys.executable, "-m", "venv", "--without-pip", home], mark)
    pip = os.path.join(HERE, *pips(bundle["files"])[0].split("/"), "pip")
    words = ["install", "--quiet", "--no-index", "--no-deps", "--require-hashes", "--find-links", wheels]
    run([python, pip, *words, "--requirement", os.path.join(HERE, "requirements.txt")], mark)


def run(words, mark):
    """It holds the mark too: of an install that was killed no child goes on beside the next one."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    # Not in our group: an interrupt reaches us, and we end it.
    child = subprocess.Popen(
        words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, pass_fds=(mark.fileno(),),
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


def place(name, target):
    """Of the model a second name for the same bytes where the disk is one; a recipe is there to be edited."""
    source, top = os.path.join(HERE, *name.split("/")), name.split("/")[0]
    if top not in ("model", "recipe"):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        if top == "model":
            return os.link(source, target)
    except OSError:
        pass
    shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
