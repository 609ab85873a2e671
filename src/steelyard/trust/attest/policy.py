"""The policy of an appraisal: a YAML file, each key of its type; anything else is `policy_invalid`.

A value is read by what its key asks for, not by what YAML would guess: 96 digits are a measurement, whether
quoted or not. Tags, anchors, aliases and keys that stand twice are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .certificates import ROOT, check_chain, name_of, read_chain
from .intel import INTEL_ROOT_CA
from .snp import AMD_ROOTS, TCB_PARTS, SnpLimits, check_ark
from .tcb import STATUSES
from .verdict import Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

POLICY_BYTES_MAX = 128 << 10
BRACKETS_MAX = 200  # ruamel takes time with the square of their nesting
INVALID = "policy_invalid"
SIMULATED = "SIMULATED"  # in the name of each root of simulated.py
TEES = ("sgx", "tdx", "snp")
BINDINGS = ("none", "raw", "sha256", "sha384", "sha512")
LISTABLE = STATUSES[:-1]  # a revoked platform is never accepted
MEASUREMENTS = {"sgx": ("mr_enclave", "mr_signer"),
                "tdx": ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam", "mr_config_id", "mr_owner",
                        "mr_owner_config"),
                "snp": ("measurement", "host_data", "id_key_digest", "author_key_digest", "family_id",
                        "image_id")}  # fmt: skip
# One of them says which code it is.
NEEDED = {"sgx": {"mr_enclave", "mr_signer"}, "tdx": {"mr_td"}, "snp": {"measurement"}}
DIGITS = {"sgx": 64, "tdx": 96, "snp": 96}
SHORTER = {"host_data": 64, "family_id": 32, "image_id": 32}
VMPLS = 4


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`measurements`: of each TEE, {name: allowed values in lower hex}. None = no limit.

    `root`: Intel's, or the policy's own. A policy for SEV-SNP alone has no TCB status; `snp` is for it alone.
    """

    tee: tuple[str, ...]
    tcb_status: tuple[str, ...] = ()
    out_of_date_grace_days: int | None = None
    reject_advisories: tuple[str, ...] = ()
    min_tcb_eval_data_number: int = 0
    max_collateral_age_days: int | None = None
    refused_flags: frozenset[str] = frozenset()
    root: Certificate
    snp: SnpLimits
    require_measurement: bool = True
    measurements: dict[str, dict[str, tuple[str, ...]]]
    isv_prod_id: int | None = None
    min_isv_svn: int = 0
    binding: str | None = None
    release: dict[str, tuple[str, ...]] = field(default_factory=dict)  # {field of Release: allowed values}


Node = Any  # of ruamel.yaml
Reading = Callable[[Node, str], Any]


def read_policy(data: bytes, folder: Path) -> Policy:
    """Raises Rejected (`policy_invalid`). `folder`: where a relative root_ca lies."""
    fields = table(parsed(data), "the policy", FIELDS)
    missing = [name for name in ("version", "tee") if name not in fields]
    if missing or fields.pop("version") != 1:
        raise invalid(f"the policy has no {missing[0]}" if missing else "the policy is not of version 1")
    check_status(fields)
    platform = fields.pop("platform", {})
    sections = {tee: fields.pop(tee, {}) for tee in TEES}
    sgx = {name: sections["sgx"].pop(name) for name in ENCLAVE if name in sections["sgx"]}
    snp = {name: sections["snp"].pop(name) for name in GUEST if name in sections["snp"]}
    root, arks = root_certificates(fields.pop("root_ca", None), fields["tee"], folder)
    refused = frozenset(name.removeprefix("allow_") for name, allowed in platform.items() if not allowed)
    limits = SnpLimits(
        **snp,
        arks=arks,
        max_list_age_days=fields.get("max_collateral_age_days"),
        allow_smt="smt" not in refused,
    )
    return Policy(**fields, **sgx, snp=limits, root=root, refused_flags=refused, measurements=sections)


def check_status(fields: dict[str, Any]) -> None:
    """Intel gives a platform a status; for AMD's the policy names the lowest TCB itself."""
    snp = "snp" in fields["tee"]
    if fields["tee"] != ("snp",) and "tcb_status" not in fields:
        raise invalid("the policy has no tcb_status")
    if fields["tee"] == ("snp",) and "tcb_status" in fields:
        raise invalid("tcb_status is Intel's; for snp say snp.min_tcb")
    if snp and "min_tcb" not in fields.get("snp", {}):
        raise invalid("the policy has no snp.min_tcb: the lowest TCB that it accepts")


def root_certificates(
    path: str | None, tee: tuple[str, ...], folder: Path
) -> tuple[Certificate, tuple[Certificate, ...]]:
    """Intel's root and AMD's; or the policy's own, of the one maker that it is for."""
    if path is None:
        return intel_root(INTEL_ROOT_CA.encode()), amd_roots() if "snp" in tee else ()
    if "snp" in tee and len(set(tee)) > 1:
        raise invalid("root_ca is of one maker: tee names those of two")
    try:
        with open(folder / path, "rb") as file:
            pem = file.read(POLICY_BYTES_MAX)
    except (OSError, ValueError) as e:
        raise invalid(f"root_ca cannot be read: {e}") from e
    if "snp" not in tee:
        return intel_root(pem), ()
    [ark] = read_chain(pem, 1, INVALID, "root_ca")
    check_ark(ark, INVALID)
    check_simulated(ark)
    return ark, (ark,)


def amd_roots() -> tuple[Certificate, ...]:
    return tuple(root for pem in AMD_ROOTS.values() for root in read_chain(pem, 1, INVALID, "a root"))


def intel_root(pem: bytes) -> Certificate:
    [root] = read_chain(pem, 1, INVALID, "root_ca")
    check_chain([root], [ROOT], root, INVALID)
    check_simulated(root)
    return root


def check_simulated(root: Certificate) -> None:
    if SIMULATED in name_of(root) and os.environ.get("STEELYARD_ENV") == "production":
        raise invalid(f"root_ca is of a {SIMULATED} TEE, which production never accepts")


# ------------------------------------------------------------------ YAML


def parsed(data: bytes) -> Node:
    """The node of the one document. Nothing is made of it yet, so that no tag can."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(data) > POLICY_BYTES_MAX or data.count(b"[") + data.count(b"{") > BRACKETS_MAX:
        raise invalid(f"a policy has at most {POLICY_BYTES_MAX} bytes and {BRACKETS_MAX} brackets")
    try:
        return YAML(typ="safe", pure=True).compose(data.decode("utf-8"))
    except (YAMLError, ValueError, RecursionError) as e:
        raise invalid(f"the policy is no YAML: {' '.join(str(e).split())[:200]}") from e


def table(node: Node, where: str, readings: dict[str, Reading]) -> dict[str, Any]:
    from ruamel.yaml.nodes import MappingNode

    if not isinstance(node, MappingNode) or not plain(node, "map"):
        raise invalid(f"{where} is no table of keys")
    fields: dict[str, Any] = {}
    for key, value in node.value:
        name = scalar(key, where)
        if name not in readings or name in fields:
            raise invalid(f"{where} has {'twice' if name in fields else 'an unknown key'} {name[:60]!r}")
        fields[name] = readings[name](value, name)
    return fields


def plain(node: Node, *kinds: str) -> bool:
    """No tag or anchor was written (an alias is the node that has the anchor): YAML guessed this kind."""
    return node.anchor is None and str(node.tag) in {f"tag:yaml.org,2002:{kind}" for kind in kinds}


def scalar(node: Node, name: str) -> str:
    from ruamel.yaml.nodes import ScalarNode

    guesses = ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
    if not isinstance(node, ScalarNode) or not plain(node, *guesses):
        raise invalid(f"{name} is no single value")
    return str(node.value)


def is_quoted(node: Node) -> bool:
    return node.style is not None


# ------------------------------------------------------------------ types of values


def whole(node: Node, name: str) -> int:
    text = scalar(node, name)
    if is_quoted(node) or not re.fullmatch(r"0|[1-9][0-9]{0,8}", text):
        raise invalid(f"{name} is no whole number")
    return int(text)


def short(node: Node, name: str) -> int:
    number = whole(node, name)
    if number > 0xFFFF:
        raise invalid(f"{name} is above 65535")
    return number


def truth(node: Node, name: str) -> bool:
    text = scalar(node, name)
    if is_quoted(node) or text.lower() not in ("true", "false") or text not in (text.lower(), text.title()):
        raise invalid(f"{name} is neither true nor false")
    return text.lower() == "true"


def optional(reading: Reading) -> Reading:
    def read(node: Node, name: str) -> Any:
        null = scalar(node, name) in ("", "~", "null", "Null", "NULL") and not is_quoted(node)
        return None if null else reading(node, name)

    return read


def one_of(values: tuple[str, ...]) -> Reading:
    def read(node: Node, name: str) -> str:
        text = scalar(node, name)
        if text not in values:
            raise invalid(f"{name} is {text[:60]!r}, not one of {', '.join(values)}")
        return text

    return read


def text_of(node: Node, name: str) -> str:
    text = scalar(node, name)
    guessed = not is_quoted(node) and str(node.tag) != "tag:yaml.org,2002:str"
    if guessed or not text.strip() or not text.isprintable():
        raise invalid(f"{name} is no text")
    return text


def written(node: Node, name: str) -> str:
    """Text as it stands: of 0.2 YAML would make a number."""
    return scalar(node, name)


def hexed(digits: int) -> Reading:
    def read(node: Node, name: str) -> str:
        text = scalar(node, name)
        if not re.fullmatch(f"[0-9A-Fa-f]{{{digits}}}", text):
            raise invalid(f"{name} is not {digits} hex digits")
        return text.lower()

    return read


def several(reading: Reading, least: int = 1) -> Reading:
    def read(node: Node, name: str) -> tuple[Any, ...]:
        from ruamel.yaml.nodes import SequenceNode

        if not isinstance(node, SequenceNode) or not plain(node, "seq") or len(node.value) < least:
            raise invalid(f"{name} is no list, or an empty one")
        return tuple(reading(item, name) for item in node.value)

    return read


def section(readings: dict[str, Reading]) -> Reading:
    return lambda node, name: table(node, name, readings)


def invalid(detail: str) -> Rejected:
    return Rejected(INVALID, detail)


ENCLAVE: dict[str, Reading] = {"isv_prod_id": short, "min_isv_svn": short}


def below(limit: int) -> Reading:
    def read(node: Node, name: str) -> int:
        number = whole(node, name)
        if number >= limit:
            raise invalid(f"{name} is above {limit - 1}")
        return number

    return read


def lowest_tcb(node: Node, name: str) -> dict[str, int]:
    """{part: lowest}; all but `fmc`, which only Turin has, so that none is forgotten."""
    parts = table(node, name, dict.fromkeys(TCB_PARTS, below(256)))
    if missing := [part for part in TCB_PARTS[1:] if part not in parts]:
        raise invalid(f"{name} has no {missing[0]}")
    return parts


LISTS = {
    tee: {name: several(hexed(SHORTER.get(name, DIGITS[tee]))) for name in names}
    for tee, names in MEASUREMENTS.items()
}
GUEST: dict[str, Reading] = {
    "min_tcb": lowest_tcb, "min_guest_svn": whole, "max_vmpl": below(VMPLS), "allow_migration": truth,
    "require_crl": truth,
}  # fmt: skip
FLAGS = ("allow_dynamic_platform", "allow_cached_keys", "allow_smt")
FIELDS: dict[str, Reading] = {
    "version": whole,
    "tee": several(one_of(TEES)),
    "tcb_status": several(one_of(LISTABLE)),
    "out_of_date_grace_days": optional(whole),
    "reject_advisories": several(text_of, least=0),
    "min_tcb_eval_data_number": whole,
    "max_collateral_age_days": optional(whole),
    "platform": section(dict.fromkeys(FLAGS, truth)),
    "root_ca": optional(text_of),
    "require_measurement": truth,
    "sgx": section(LISTS["sgx"] | ENCLAVE),
    "tdx": section(dict(LISTS["tdx"])),
    "snp": section(LISTS["snp"] | GUEST),
    "binding": one_of(BINDINGS),
    "release": section(
        {
            "version": several(written),
            "code_sha256": several(hexed(64)),
            "revision": several(hexed(40)),
            "artefact": several(hexed(64)),
        }
    ),
}
