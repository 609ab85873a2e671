"""Files whose content is a pickle: plain ones, torch's older layout, and the data of torch's zip."""

from __future__ import annotations

import struct

from ..limits import Bad, Limits
from ..view import View
from .allowed import Box, Storages
from .pickles import Broken, Walk

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


def check_pickle(view: View, limits: Limits) -> Walk:
    """Every stream to the end of the view. Raises Bad, TooMuch."""
    walk = Walk(view, limits)
    if walk.stream() == TORCH_MAGIC:
        check_older_torch(walk, view)
    while walk.at < view.size:
        walk.stream()
    if walk.wrapped:
        _check_without_arrays(view, limits)
    return walk


def _check_without_arrays(view: View, limits: Limits) -> None:
    """A loader other than joblib's reads an array's bytes as opcodes: what would it do before it fails?"""
    walk = Walk(view, limits, arrays=False)
    try:
        while walk.at < view.size:
            walk.stream()
    except Broken:
        return


def check_older_torch(walk: Walk, view: View) -> None:
    """Magic number, protocol, system, object, keys; then the storages, of known size, and nothing more."""
    if walk.stream() != TORCH_PROTOCOL:
        raise Bad("torch_layout")
    walk.stream()
    walk.tensors = True
    walk.stream()
    walk.tensors = False
    keys = walk.stream()
    stored = walk.storages.by_key
    if not isinstance(keys, Box) or keys.kind != "list" or sorted(keys.items) != sorted(stored):
        raise Bad("torch_layout")
    for key in keys.items:
        count = struct.unpack("<q", walk.reader.take(8))[0]
        if count != stored[key].count:
            raise Bad("torch_storage_size")
        walk.reader.skip(count * stored[key].element_bytes)
    if walk.at != view.size:
        raise Bad("pickle_tail")


def check_torch_data(view: View, limits: Limits) -> Storages:
    """`data.pkl` of torch's zip; the storages that it names. Raises Bad, TooMuch."""
    walk = Walk(view, limits)
    walk.tensors = True
    walk.stream()
    if walk.at != view.size:
        raise Bad("pickle_tail")
    return walk.storages


def may_be_pickle(view: View, limits: Limits) -> bool:
    """Does it parse as a pickle, or begin as one that uses a name? Raises Bad where that one would do harm.

    For files whose name promises no pickle: raw weights may begin with any two bytes, and without a head
    "cat\ndog\n" of a word list reads as a name.
    """
    walk = Walk(view, limits)
    walk.patient = view.read_at(0, 1) != b"\x80"
    try:
        while walk.at < view.size:
            walk.stream()
    except Broken as e:
        if walk.patient or not walk.names:
            return False
        raise Bad("pickle_cut") from e
    except Bad:
        if walk.patient and not walk.called:
            return False
        raise
    if walk.forbidden:
        raise walk.forbidden
    return walk.at > 2
