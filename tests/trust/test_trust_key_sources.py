"""Key files that are locked: by a passphrase, or by a PKCS#11 token where SoftHSM is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_trust_recipients import VECTOR, run

from steelyard import passphrase
from steelyard.errors import Lacking, Problem, Refused, WrongUse
from steelyard.trust import load_keys, lock_key_file, unlock_key_file
from steelyard.trust.locking import locked

WORDS = "four words nobody joins"
SOFTHSM = [Path(p, "libsofthsm2.so") for p in ("/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm",
           "/usr/lib/aarch64-linux-gnu/softhsm")]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locked, "MEMORY_KIB", 1024)
    for name in ("STEELYARD_UNLOCKED", passphrase.VARIABLE):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what the test sets is gone after it
    passphrase.asked_by(None)


def file_of(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def key(tmp_path):
    """A key file that WORDS open."""
    load_keys("guarded", "key", tmp_path)
    lock_key_file(tmp_path / "key", None, "", file_of(tmp_path / "words", WORDS + "\n"))
    return tmp_path / "key"


def test_locked_opened_changed_and_plain_again(tmp_path, monkeypatch):
    first = load_keys("guarded", "key", tmp_path)
    secret = first.path.read_bytes()
    sealed = first.seal_bytes(b"row")
    words = file_of(tmp_path / "words", WORDS)
    assert lock_key_file(first.path, None, "", words).id == first.id
    assert secret not in first.path.read_bytes() and (first.path.stat().st_mode & 0o777) == 0o600
    monkeypatch.setenv(passphrase.VARIABLE, str(words))
    assert load_keys("guarded", "key", tmp_path).open_bytes(sealed) == b"row"
    lock_key_file(first.path, None, "", file_of(tmp_path / "other", "quite other words"))
    with pytest.raises(Refused):
        load_keys("guarded", "key", tmp_path)
    monkeypatch.setenv(passphrase.VARIABLE, str(tmp_path / "other"))
    assert unlock_key_file(first.path).id == first.id
    assert first.path.read_bytes() == secret


def test_of_a_link_the_file_behind_it_is_locked(tmp_path, monkeypatch):
    first, link = load_keys("guarded", "key", tmp_path), tmp_path / "link"
    link.symlink_to("key")
    secret, words = first.path.read_bytes(), file_of(tmp_path / "words", WORDS)
    assert lock_key_file(link, None, "", words).path == link
    assert link.is_symlink() and secret not in first.path.read_bytes()
    monkeypatch.setenv(passphrase.VARIABLE, str(words))
    assert load_keys("guarded", "link", tmp_path).id == first.id
    assert unlock_key_file(link).id == first.id
    assert link.is_symlink() and first.path.read_bytes() == secret
    first.path.unlink()
    link.unlink()
    link.symlink_to("link")  # in a circle
    with pytest.raises(WrongUse) as caught:
        lock_key_file(link, None, "", words)
    assert caught.value.code == "trust.key_unreadable"


def test_without_anybody_to_ask_it_ends_with_what_to_do(key):
    with pytest.raises(Lacking) as caught:
        load_keys("guarded", "key", key.parent)
    assert caught.value.code == "trust.no_passphrase" and passphrase.VARIABLE in caught.value.hint


def test_a_person_is_asked_once_and_the_children_are_not(key, monkeypatch):
    asked = []
    passphrase.asked_by(lambda what, new: asked.append((what, new)) or WORDS)
    name = load_keys("guarded", "key", key.parent).id
    assert load_keys("guarded", "key", key.parent).id == name and asked == [(str(key), False)]
    assert WORDS not in "".join(os.environ.values()) and WORDS not in Path("/proc/self/cmdline").read_text()
    # A grandchild opens it by the child, also once this process's own copy is closed.
    code = (
        "import os, subprocess, sys; from pathlib import Path; from steelyard.trust import load_keys\n"
        "here = Path(sys.argv[1]); print(load_keys('guarded', 'key', here).id)\n"
        "if len(sys.argv) == 2:\n"
        "  assert f'/proc/{os.getpid()}/' in os.environ['STEELYARD_UNLOCKED']\n"
        "  subprocess.run([sys.executable, '-c', open(0).read(), sys.argv[1], 'x'], input='', check=True)\n"
    ).replace("open(0).read()", "CODE")
    code = f"CODE = {code!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(key.parent)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.split()[:1] == [name], done.stderr


def test_a_place_that_is_no_longer_ours_is_not_read(key, monkeypatch, tmp_path):
    reading, writing = os.pipe()  # would hang whoever reads it
    for place in (
        f"/proc/{os.getpid()}/fd/{reading}",
        "/proc/1/fd/0",
        str(tmp_path / "words"),
        "/proc/self/mem",
    ):
        monkeypatch.setenv("STEELYARD_UNLOCKED", place)
        with pytest.raises(Lacking):
            load_keys("guarded", "key", key.parent)
    os.close(reading), os.close(writing)


def damaged(data: bytes) -> list[bytes]:
    line, _, rest = data.partition(b"\n")
    changes = {b'"passes":3': b'"passes":0', b'"lanes":4': b'"lanes":4e9', b"argon2id": b"pkcs11",
               b'"memory_kib":1024': b'"memory_kib":99999999', b'"by"': b'"bx"'}  # fmt: skip
    heads = [b"[]", b"\xff", b"[" * 100_000, b'{"salt":"AA=="}']
    return [
        *(line, line + b"\n", data[:-9], line + b"\n!!!!\n", data.replace(b'"passes":3', b'"passes":true')),
        *(data.replace(old, new) for old, new in changes.items()),
        *(b"steelyard-key-1 " + head + b"\n" + rest for head in heads),
    ]


def test_what_is_cut_changed_or_newer_is_one_clear_error(key, monkeypatch):
    whole = key.read_bytes()
    monkeypatch.setenv(passphrase.VARIABLE, str(key.parent / "words"))
    for content in damaged(whole):
        key.write_bytes(content)
        with pytest.raises(WrongUse) as caught:
            load_keys("guarded", "key", key.parent)
        assert caught.value.code == "trust.key_locked", content[:60]
    key.write_bytes(whole.replace(b"key-1", b"key-2"))
    with pytest.raises(Lacking, match="does not know"):
        load_keys("guarded", "key", key.parent)
    for place in range(0, len(whole) - 2, 7):  # every flip is refused, wherever it is
        flipped = bytearray(whole)
        flipped[place] ^= 1
        key.write_bytes(flipped)
        with pytest.raises(Problem):
            load_keys("guarded", "key", key.parent)
    key.write_bytes(whole)
    assert load_keys("guarded", "key", key.parent)


@pytest.mark.parametrize(
    ("text", "mode", "code"),
    [("short", 0o600, "trust.passphrase_short"), ("", 0o600, "trust.passphrase_file"),
     (WORDS, 0o644, "trust.passphrase_mode"), (None, 0, "trust.passphrase_file")],
)  # fmt: skip
def test_a_passphrase_that_cannot_be_used_locks_nothing(tmp_path, text, mode, code):
    keys = load_keys("guarded", "key", tmp_path)
    before = keys.path.read_bytes()
    words = tmp_path / "words"
    if text is not None:
        file_of(words, text, mode)
    with pytest.raises(Problem) as caught:
        lock_key_file(keys.path, None, "", words)
    assert caught.value.code == code and keys.path.read_bytes() == before


def test_the_vector_opens(tmp_path, monkeypatch):
    file_of(tmp_path / "key", VECTOR["locked_key_file"])
    words = file_of(tmp_path / "words", VECTOR["passphrase"])
    monkeypatch.setenv(passphrase.VARIABLE, str(words))
    assert load_keys("guarded", "key", tmp_path).id == VECTOR["key_id"]
    assert unlock_key_file(tmp_path / "key").path.read_bytes().hex() == VECTOR["secret"]


@pytest.mark.parametrize(
    "content", ["-----BEGIN PRIVATE KEY-----\nAA\n", "steelyard-public-1:AAAA", "SYSEAL1 and more"]
)
def test_a_key_of_the_wrong_kind_is_named(tmp_path, content):
    file_of(tmp_path / "key", content)
    with pytest.raises(WrongUse) as caught:
        load_keys("guarded", "key", tmp_path)
    assert caught.value.code == "trust.key_size" and caught.value.why.startswith("th")


def test_the_verbs_lock_and_unlock(tmp_path, capsys, monkeypatch):
    keys = load_keys("guarded", "key", tmp_path)
    words = file_of(tmp_path / "words", WORDS)
    assert run(capsys, "keys", "lock", keys.path, "--passphrase-file", words)[0] == 0
    assert run(capsys, "seal", "--public", "--key-file", keys.path)[0] == 5  # nobody to ask
    monkeypatch.setenv(passphrase.VARIABLE, str(words))
    assert run(capsys, "seal", "--public", "--key-file", keys.path)[1].strip() == keys.public
    assert run(capsys, "keys", "unlock", keys.path)[0] == 0
    assert run(capsys, "keys", "lock", tmp_path / "gone", "--passphrase-file", words)[0] == 2
    assert run(capsys, "keys", "hide")[0] == 2


# ------------------------------------------------------------------ a token


@pytest.fixture
def token(tmp_path, monkeypatch):
    """An empty token of SoftHSM, its PIN in a file."""
    named = os.environ.get("STEELYARD_TEST_SOFTHSM")
    module = next((p for p in ([Path(named)] if named else SOFTHSM) if p.is_file()), None)
    tool = shutil.which("softhsm2-util") or (module and str(module.parents[2] / "bin" / "softhsm2-util"))
    if module is None or not tool or importlib.util.find_spec("pkcs11") is None:
        pytest.skip("needs SoftHSM 2 (apt install softhsm2) and python-pkcs11")
    (tmp_path / "tokens").mkdir()
    conf = file_of(tmp_path / "softhsm.conf", f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    monkeypatch.setenv("STEELYARD_PKCS11_MODULE", str(module))
    words = ("--init-token", "--free", "--label", "desk", "--pin", "4321", "--so-pin", "87654321")
    subprocess.run([tool, "--module", str(module), *words], check=True, capture_output=True)
    return file_of(tmp_path / "pin", "4321\n")


def test_a_token_opens_what_it_has_locked(token, tmp_path, capsys, monkeypatch):
    """In processes of their own: a PKCS#11 module is loaded once a process."""
    keys = load_keys("guarded", "key", tmp_path)

    def steelyard(*words, **env) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "steelyard", *map(str, words)]
        return subprocess.run(command, env=os.environ | env, capture_output=True, text=True)

    lock = ("keys", "lock", keys.path, "--token", "desk", "--passphrase-file", token, "--json")
    done = steelyard(*lock)
    assert done.returncode == 0 and '"pkcs11"' in done.stdout, done.stderr
    public = ("seal", "--public", "--key-file", keys.path)
    assert steelyard(*public, STEELYARD_PASSPHRASE_FILE=str(token)).stdout.strip() == keys.public
    wrong = file_of(tmp_path / "wrong", "1111")
    done = steelyard(*public, STEELYARD_PASSPHRASE_FILE=str(wrong))
    assert done.returncode == 3 and "trust.pin" in done.stderr
    done = steelyard(*public, STEELYARD_PASSPHRASE_FILE=str(token), STEELYARD_PKCS11_MODULE="/nowhere.so")
    assert done.returncode == 5 and "trust.token" in done.stderr
    keys.path.write_bytes(keys.path.read_bytes().replace(b"desk", b"lost"))
    done = steelyard(*public, STEELYARD_PASSPHRASE_FILE=str(token))
    assert done.returncode == 5 and "trust.token" in done.stderr
