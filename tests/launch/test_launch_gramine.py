"""The manifest of an enclave: as Gramine renders it, TOML that lets nothing of the host in."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import jinja2
import pytest

from steelyard.launch import gramine

VARIABLES = {
    "python_bin": sys.executable,
    "model": "/srv/model",
    "state": "/srv/state",
    "arch_libdir": "/lib/x",
}


class Globals:
    """What Gramine's tools put into the template (graminelibos/gen_jinja_env.py)."""

    @staticmethod
    def runtimedir() -> str:
        return "/usr/lib/gramine/runtime/glibc"

    @staticmethod
    def get_sys_path(interpreter: str) -> list[Path]:
        return [Path("/usr/lib/python3"), Path(__file__)]


def rendered(memory_bytes: float = 20e9) -> dict:
    text = gramine("llama3-8b", "xeon-8592plus", memory_bytes, threads=64)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.globals |= {"gramine": Globals(), "python": Globals()}
    return tomllib.loads(environment.from_string(text).render(**VARIABLES))


def test_nothing_of_the_host_comes_into_the_enclave():
    made = rendered()
    sgx, loader = made["sgx"], made["loader"]
    assert sgx["debug"] is False and sgx["remote_attestation"] == "dcap"
    assert sgx["file_check_policy"] == "strict" and "allowed_files" not in sgx
    assert all(isinstance(value, str) for value in loader["env"].values()), "nothing is passed through"
    assert loader["env"]["STEELYARD_ENV"] == "production"
    assert not [name for part in (loader, sgx, made["sys"]) for name in part if name.startswith("insecure")]
    assert {"--sealed-prompts", "--attest", "sgx"} <= set(loader["argv"])
    kinds = {mount["path"]: mount.get("type", "chroot") for mount in made["fs"]["mounts"]}
    assert kinds["/state"] == "encrypted" and kinds["/tmp"] == kinds["/dev/shm"] == "tmpfs"
    trusted = {uri.removeprefix("file:").rstrip("/") for uri in sgx["trusted_files"]}
    assert {path for path, kind in kinds.items() if kind == "chroot"} - {"/lib"} <= trusted


@pytest.mark.parametrize(("memory", "size"), [(0.0, "8G"), (20e9, "32G"), (200e9, "256G")])
def test_an_enclave_has_room_for_the_plan_and_a_size_of_a_power_of_two(memory, size):
    made = rendered(memory)["sgx"]
    assert made["enclave_size"] == size and made["max_threads"] > 64


def test_gramines_own_schema_takes_it():
    manifest = pytest.importorskip("graminelibos.manifest_check", reason="Gramine is not installed here")
    manifest.GramineManifestSchema(
        rendered() | {"loader": {**rendered()["loader"], "entrypoint": {"uri": "file:/x"}}}
    )
