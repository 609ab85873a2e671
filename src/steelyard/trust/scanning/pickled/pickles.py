"""A pickle's opcodes, walked on a stack of stand-ins: nothing is imported, called or built.

The opcodes and their arguments are those of `pickletools`; what each does to the stack is here, because a
name may reach a call through the memo, and only a stack shows which.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from ..limits import Bad, Limits
from ..view import Cut, Reader, View
from .allowed import OPAQUE, WRAPPER, Box, Made, Named, Storages, allow, call, check_build
from .joblib_arrays import skip_array

OPCODES = {ord(info.code): info for info in pickletools.opcodes}
FIXED = {"uint1": "<B", "uint2": "<H", "int4": "<i", "uint4": "<I", "uint8": "<Q", "float8": ">d"}
LENGTHS = {-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}  # pickletools' ways to say how long an argument is
KEPT_BYTES = 256  # longer text is no name and no key
MEMO_MAX = 10_000_000  # an index beyond makes the real unpickler take gigabytes
ITEMS_KEPT = 100_000
PROTOCOL_MAX = 5
CHECK_EVERY = 8192
MARK = object()
DICTS = {"collections.OrderedDict", "collections.Counter"}


class Broken(Bad):
    """Not a whole pickle."""


class Walk:
    """The walk over one view. `at` moves on from stream to stream."""

    def __init__(self, view: View, limits: Limits, at: int = 0, arrays: bool = True) -> None:
        self.reader, self.limits = Reader(view, at), limits
        self.storages = Storages()
        self.tensors = False  # may persistent ids stand for storages?
        self.arrays = arrays  # do joblib's raw arrays follow their wrappers?
        self.wrapped = False
        self.nested = 0
        self.names = 0
        self.patient = False  # a forbidden name is held against it only when something is called
        self.forbidden: Bad | None = None
        self.called = False  # was anything called, or would it have been?
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    @property
    def at(self) -> int:
        return self.reader.at

    def stream(self) -> Any:
        """Walk one pickle to its STOP; what it would give. Raises Bad, Broken, TooMuch."""
        self.stack, self.memo = [], {}
        try:
            return self._run()
        except (Cut, IndexError, struct.error) as e:
            raise Broken("pickle_cut") from e
        except (ValueError, TypeError, KeyError) as e:
            raise Broken("pickle_broken") from e

    def _run(self) -> Any:
        for count in range(1 << 62):
            if count % CHECK_EVERY == 0:
                self.limits.check_time()
            info = OPCODES.get(self.reader.take(1)[0])
            if info is None:
                raise Broken("pickle_opcode")
            argument = self._argument(info.arg)
            if info.name == "STOP":
                return self.stack.pop()
            STEPS[info.name](self, argument)
        raise AssertionError

    def _argument(self, kind: Any) -> Any:
        if kind is None:
            return None
        if kind.name in FIXED:
            return struct.unpack(FIXED[kind.name], self.reader.take(kind.n))[0]
        if kind.n == pickletools.UP_TO_NEWLINE:
            return self._lines(kind)
        form = LENGTHS[kind.n]
        length = struct.unpack(form, self.reader.take(struct.calcsize(form)))[0]
        if length < 0:
            raise Broken("pickle_length")
        if length > KEPT_BYTES:
            self.reader.skip(length)
            return OPAQUE
        return _decode(kind.name, self.reader.take(length))

    def _lines(self, kind: Any) -> Any:
        text = self.reader.line() + b"\n"
        if kind.name == "stringnl_noescape_pair":
            text += self.reader.line() + b"\n"
        value = kind.reader(io.BytesIO(text))
        return value if not isinstance(value, str) or len(value) <= 2 * KEPT_BYTES else OPAQUE

    # ------------------------------------------------------------------ the stack

    def pop(self) -> Any:
        if self.stack[-1] is MARK:
            raise Broken("pickle_broken")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise Broken("pickle_mark")

    def put(self, index: int) -> None:
        if index < 0 or index > MEMO_MAX:
            raise Bad("pickle_memo")
        if self.stack[-1] is MARK:
            raise Broken("pickle_broken")
        self.memo[index] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        self.names += 1
        try:
            named = allow(module, name)
        except Bad as e:
            if not self.patient:
                raise
            self.forbidden, named = e, None
        self.stack.append(named)

    def call(self, function: Any, args: Any) -> None:
        self.called = True
        if not isinstance(function, Named):
            raise self.forbidden or Bad("pickle_call")
        self.stack.append(call(function.name, args))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        box = isinstance(target, Box) and target.kind == "dict"
        if (not box and not (isinstance(target, Made) and target.name in DICTS)) or len(items) % 2:
            raise Bad("pickle_target")  # a loader that trusts this writes where it should not
        if box:
            _fill(target, items)

    def add_items(self, kind: str, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Box) or target.kind != kind:
            raise Bad("pickle_target")
        if kind == "list" and len(target.items) < ITEMS_KEPT:
            target.items += [item for item in items if isinstance(item, str)]

    def build(self) -> None:
        state = self.pop()
        made = self.stack[-1]
        check_build(made, state)
        if made.name == WRAPPER:
            self.wrapped = True
            if self.arrays:
                skip_array(self, state)


def _decode(kind: str, raw: bytes) -> Any:
    if kind.startswith("unicodestring"):
        return raw.decode("utf-8", "surrogatepass")
    if kind.startswith("string"):
        return raw.decode("latin-1")
    if kind.startswith("long"):
        return int.from_bytes(raw, "little", signed=True)
    return OPAQUE


def _fill(box: Box, items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str) or key.startswith("__"):
            box.odd_keys = True
        elif len(box.items) < KEPT_BYTES:
            box.items[key] = value


def _new(kind: str, items: list[Any]) -> Box:
    if kind == "dict":
        box = Box("dict", {})
        _fill(box, items)
        return box
    return Box(kind, [item for item in items[:ITEMS_KEPT] if isinstance(item, str)])


def _refuse(reason: str) -> Callable[[Walk, Any], None]:
    def step(walk: Walk, argument: Any) -> None:
        raise Bad(reason)

    return step


def _push(walk: Walk, argument: Any) -> None:
    walk.stack.append(argument)


def _constant(value: Any) -> Callable[[Walk, Any], None]:
    return lambda walk, argument: walk.stack.append(value)


def _last(count: int) -> Callable[[Walk, Any], None]:
    """The last `count` values as a tuple."""

    def step(walk: Walk, argument: Any) -> None:
        items = [walk.pop() for _ in range(count)]
        walk.stack.append(tuple(reversed(items)))

    return step


def _protocol(walk: Walk, argument: Any) -> None:
    if argument > PROTOCOL_MAX:
        raise Bad("pickle_protocol")


def _frame(walk: Walk, argument: Any) -> None:
    if argument > walk.reader.left:
        raise Broken("pickle_cut")


def _discard(walk: Walk, argument: Any) -> None:
    walk.stack.pop()  # a mark too, as the real one does


def _to_mark(walk: Walk, argument: Any) -> None:
    walk.to_mark()


def _stack_name(walk: Walk, argument: Any) -> None:
    name, module = walk.pop(), walk.pop()
    walk.name(module, name)


def _line_name(walk: Walk, argument: Any) -> None:
    walk.name(*_two(argument))


def _two(argument: Any) -> tuple[Any, Any]:
    """Module and name of GLOBAL and INST, which pickletools joins by a blank."""
    module, _, name = argument.partition(" ") if isinstance(argument, str) else (None, None, None)
    return module, name


def _inst(walk: Walk, argument: Any) -> None:
    args = tuple(walk.to_mark())
    walk.name(*_two(argument))
    walk.call(walk.pop(), args)


def _obj(walk: Walk, argument: Any) -> None:
    function, *args = walk.to_mark()
    walk.call(function, tuple(args))


def _reduce(walk: Walk, argument: Any) -> None:
    args, function = walk.pop(), walk.pop()
    walk.call(function, args)


def _new_extended(walk: Walk, argument: Any) -> None:
    words, args, function = walk.pop(), walk.pop(), walk.pop()
    if not isinstance(words, Box) or words.items or words.odd_keys:
        raise Bad("pickle_call")
    walk.call(function, args)


def _persistent(walk: Walk, argument: Any) -> None:
    pid = walk.pop()
    if not walk.tensors:
        raise Bad("pickle_persistent_id")
    walk.stack.append(walk.storages.add(pid))


def _set_item(walk: Walk, argument: Any) -> None:
    value, key = walk.pop(), walk.pop()
    walk.set_items([key, value])


def _get(walk: Walk, argument: Any) -> None:
    walk.stack.append(walk.memo[argument])


def _frozen(walk: Walk, argument: Any) -> None:
    walk.to_mark()
    walk.stack.append(OPAQUE)


STEPS: dict[str, Callable[[Walk, Any], None]] = {
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
         "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _push),
    **dict.fromkeys(
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "FLOAT", "BINFLOAT"), _constant(OPAQUE)),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_LIST": lambda w, _: w.stack.append(Box("list", [])),
    "EMPTY_DICT": lambda w, _: w.stack.append(Box("dict", {})),
    "EMPTY_SET": lambda w, _: w.stack.append(Box("set", [])),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "TUPLE": lambda w, _: w.stack.append(tuple(w.to_mark())),
    "LIST": lambda w, _: w.stack.append(_new("list", w.to_mark())),
    "DICT": lambda w, _: w.stack.append(_new("dict", w.to_mark())),
    "FROZENSET": _frozen,
    "APPEND": lambda w, _: w.add_items("list", [w.pop()]),
    "APPENDS": lambda w, _: w.add_items("list", w.to_mark()),
    "ADDITEMS": lambda w, _: w.add_items("set", w.to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda w, _: w.set_items(w.to_mark()),
    "MARK": lambda w, _: w.stack.append(MARK),
    "POP": _discard,
    "POP_MARK": _to_mark,
    "DUP": lambda w, _: w.stack.append(w.stack[-1]),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda w, index: w.put(index)),
    "MEMOIZE": lambda w, _: w.put(len(w.memo)),
    "GLOBAL": _line_name,
    "STACK_GLOBAL": _stack_name,
    "INST": _inst,
    "OBJ": _obj,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_extended,
    "BUILD": lambda w, _: w.build(),
    "BINPERSID": _persistent,
    "PERSID": _refuse("pickle_persistent_id"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _refuse("pickle_extension")),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _refuse("pickle_buffer")),
    "PROTO": _protocol,
    "FRAME": _frame,
}  # fmt: skip
