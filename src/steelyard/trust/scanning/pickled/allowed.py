"""Which names a pickle may use, and how: all else is unsafe. After torch's own loader of weights alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..limits import Bad

ELEMENT_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8,
    "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
    "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QInt8Storage": 1, "QUInt8Storage": 1,
    "QInt32Storage": 4, "UntypedStorage": 1,
}  # fmt: skip
STORAGES = {f"torch.{name}": size for name, size in ELEMENT_BYTES.items()} | {
    f"torch.cuda.{name}": size for name, size in ELEMENT_BYTES.items()
} | {"torch.storage.UntypedStorage": 1}  # fmt: skip
DTYPE_NAMES = (
    "float64 double float32 float float16 half bfloat16 int64 long int32 int int16 short int8 uint8 bool "
    "uint16 uint32 uint64 complex32 complex64 complex128 cfloat cdouble qint8 quint8 qint32 quint4x2 "
    "quint2x4 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 "
    "strided sparse_coo sparse_csr per_tensor_affine per_channel_affine preserve_format contiguous_format"
)
DTYPES = {f"torch.{name}" for name in DTYPE_NAMES.split()}
# May be named as an argument, never called.
NAMED = set(STORAGES) | DTYPES | {
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "numpy.ndarray",
    "torch.storage.TypedStorage",
}  # fmt: skip
ALIASES = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray",
           "numpy._core.numeric": "numpy.core.numeric"}  # fmt: skip
WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
DTYPE_TEXT = re.compile(r"[<>|=]?[?bBhHiIlLqQefdgFDGOSUVmMpPca]\d{0,6}(\[\w+\])?")


@dataclass(frozen=True, slots=True)
class Named:
    """An allowed name, not yet called."""

    name: str


@dataclass(slots=True)
class Made:
    """What calling an allowed name gave."""

    name: str
    args: tuple[Any, ...] = ()


@dataclass(slots=True)
class Box:
    """A list, dict or set. Items are remembered as far as a rule asks for them."""

    kind: str
    items: Any = None
    odd_keys: bool = False  # a key that is no text, or begins with two underscores


@dataclass(frozen=True, slots=True)
class Storage:
    """A tensor's bytes, which lie elsewhere in the file."""

    key: str
    count: int
    element_bytes: int


@dataclass(slots=True)
class Storages:
    """What persistent ids named: key to storage."""

    by_key: dict[str, Storage] = field(default_factory=dict)

    def add(self, pid: Any) -> Storage:
        """`("storage", type, key, location, count[, view])`, as torch writes it. Raises Bad for any other."""
        match pid:
            case ("storage", Named(name), str(key), str(), int(count), *view) if (
                name in STORAGES and count >= 0 and view in ([], [None])
            ):
                new = Storage(key, count, STORAGES[name])
            case _:
                raise Bad("pickle_persistent_id")
        old = self.by_key.setdefault(key, new)
        if old.count * old.element_bytes != count * new.element_bytes:
            raise Bad("torch_storage_size")
        return new


class Opaque:
    """A value that no rule looks at: long text, bytes, a float."""


OPAQUE = Opaque()


def allow(module: Any, name: Any) -> Named:
    """Raises Bad unless that name is on the list."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise Bad("pickle_computed_name")
    full = f"{ALIASES.get(module, module)}.{name}"
    if full in NAMED or full in CALLS:
        return Named(full)
    shown = "".join(c if c.isprintable() and c.isascii() else "?" for c in full)
    raise Bad(f"pickle_global {shown[:80]}")


def call(name: str, args: Any) -> Made:
    """Raises Bad where that name may not be called, or not so."""
    rule = CALLS.get(name)
    if rule is None or not isinstance(args, tuple):
        raise Bad("pickle_call")
    try:
        fits = rule(args)
    except (TypeError, ValueError, IndexError, AttributeError) as e:
        raise Bad(f"pickle_arguments {name}") from e
    if not fits:
        raise Bad(f"pickle_arguments {name}")
    return Made(name, args)


def check_build(made: Any, state: Any) -> None:
    """May `state` be put into what was made? Raises Bad."""
    name = made.name if isinstance(made, Made) else ""
    if name in ("numpy.dtype", "numpy.core.multiarray._reconstruct") and isinstance(state, tuple):
        return
    dicts = ("collections.OrderedDict", "collections.Counter", WRAPPER)
    if name in dicts and isinstance(state, Box) and state.kind == "dict" and not state.odd_keys:
        return
    raise Bad("pickle_build")


# ------------------------------------------------------------------ rules of a call: fits or not


def _anything(args: tuple[Any, ...]) -> bool:
    return True


def _no_size(args: tuple[Any, ...]) -> bool:
    """`bytearray(10**12)` would take the memory: content only."""
    return not any(isinstance(a, int) for a in args)


def _latin1(args: tuple[Any, ...]) -> bool:
    """Any other codec is a module that would be imported."""
    return len(args) == 2 and isinstance(args[0], str | Opaque) and args[1] in ("latin1", "latin-1")


def _dtype(args: tuple[Any, ...]) -> bool:
    flags = all(isinstance(a, int | bool) for a in args[1:])
    return isinstance(args[0], str) and DTYPE_TEXT.fullmatch(args[0]) is not None and flags


def _reconstruct(args: tuple[Any, ...]) -> bool:
    kind, shape, _ = args
    return kind == Named("numpy.ndarray") and shape in ((0,), ())


def _scalar(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], Made) and args[0].name == "numpy.dtype"


def _frombuffer(args: tuple[Any, ...]) -> bool:
    return len(args) == 4 and isinstance(args[1], Made)


def _tensor(args: tuple[Any, ...]) -> bool:
    """The view lies within its storage: torch has trusted this (CVE-2026-24747)."""
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage) or len(size) != len(stride) or len(size) > 64:
        return False
    if min((offset, *size, *stride)) < 0:
        return False
    if 0 in size:
        return True
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    return last < storage.count


def _typed_tensor(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], Storage)


def _parameter(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], Made) and args[0].name.startswith("torch.")


def _from_type(args: tuple[Any, ...]) -> bool:
    """Calls its first argument: so its rule holds."""
    maker, kind, inner = args[:3]
    call(maker.name, inner)
    return isinstance(kind, Named) and kind.name in ("torch.Tensor", "torch.nn.parameter.Parameter")


def _layout(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], str)


def _device(args: tuple[Any, ...]) -> bool:
    return all(isinstance(a, str | int) for a in args)


CALLS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "collections.OrderedDict": _anything,
    "collections.Counter": _anything,
    "builtins.set": _no_size,
    "builtins.frozenset": _no_size,
    "builtins.bytearray": _no_size,
    "builtins.bytes": _no_size,
    "builtins.complex": _anything,
    "_codecs.encode": _latin1,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "torch.Size": _anything,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_sparse_tensor": _anything,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    WRAPPER: lambda args: args == (),
}
