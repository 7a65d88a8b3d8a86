"""Reads the tensors of a PyTorch file (`torch.save`, 1.6 and later) without unpickling it.

Such a file is a zip archive: a pickle that says which tensors there are, and an entry for each storage. PyTorch
believes what the pickle says of sizes. Here a small machine understands the few instructions that dicts of tensors are
made of, runs nothing, and holds every number against the archive before anything is allocated: a storage is as large as
its entry, and a tensor has no more numbers than its storage.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_torch_file"]

_LONGEST_PICKLE, _MOST_ENTRIES = 1 << 24, 20_100
_TYPES = {
    f"{name}Storage": getattr(torch, kind)
    for name, kind in {
        "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
        "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    }.items()
}  # fmt: skip


class _RefusedError(ValueError):
    """Understood, and not taken; other errors are those of a damaged file."""


def read_torch_file(path: Path) -> Any:
    """What was saved: dicts, lists, tuples, numbers and texts, and tensors that own their memory.

    Raises ValueError for anything else: another kind of file, one of PyTorch before 1.6, objects other than tensors,
    and sizes that the file does not have.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            return _Machine(*_opened(archive, size)).result()
    except _RefusedError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        old = "" if _is_zip(path) else "; files of PyTorch before 1.6 are saved anew by today's torch.save"
        raise ValueError(f"it is no whole PyTorch file ({str(error)[:200]}{old})") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error, OverflowError):
        raise ValueError("it is a damaged PyTorch file: its list of tensors cannot be read") from None


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _opened(archive: zipfile.ZipFile, size: int) -> tuple[bytes, dict[str, int], Callable[[str], bytes]]:
    """The pickle, the sizes of the storages, and how to read one. Entries lie in the file as they are, each once."""
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise _RefusedError(f"it has {len(entries)} entries, and {_MOST_ENTRIES} are the most")
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise _RefusedError("its archive claims more than the file holds, which torch.save never writes")
    pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise _RefusedError("it is a zip archive, but none of torch.save: it has no data.pkl")
    if pickles[0].file_size > _LONGEST_PICKLE:
        raise _RefusedError(f"its list of tensors has {pickles[0].file_size} bytes, and {_LONGEST_PICKLE} are the most")
    root = pickles[0].filename.removesuffix("data.pkl")
    order = next((archive.read(e) for e in entries if e.filename == f"{root}byteorder" and e.file_size < 10), b"little")
    if order != b"little":
        raise _RefusedError("its numbers are big-endian: save it anew on a usual machine")
    place = f"{root}data/"
    sizes = {e.filename.removeprefix(place): e.file_size for e in entries if e.filename.startswith(place)}
    return archive.read(pickles[0]), sizes, lambda key: archive.read(place + key)


class _Named:
    """A class or function that the pickle names. It is known by its name and never looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Machine:
    """Understands a pickle of tensors. Instructions are PyTorch's (protocol 2, one byte each)."""

    def __init__(self, data: bytes, sizes: Mapping[str, int], read: Callable[[str], bytes]) -> None:
        self.data, self.at, self.sizes, self.read = data, 0, sizes, read
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}
        self.claimed = 0

    def result(self) -> Any:
        while (code := self.take(1)) != b".":
            step = _STEPS.get(code)
            if step is None:
                raise _RefusedError(f"it holds more than tensors (instruction {code!r}), and is not opened")
            step(self)
        return self.stack.pop()

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if count < 0 or len(found) < count:
            raise EOFError("its list of tensors ends early")
        self.at += count
        return found

    def line(self) -> str:
        end = self.data.index(b"\n", self.at, self.at + 200)
        return self.take(end + 1 - self.at)[:-1].decode()

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def fold(self, count: int) -> None:
        """The last values as one tuple."""
        items = [self.stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            if not all(isinstance(key, str | int) for key in items[::2]):
                raise _RefusedError("it has entries whose names are no texts")
            target.update(zip(items[::2], items[1::2], strict=True))
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise TypeError(type(target))

    def call(self) -> None:
        given, what = self.stack.pop(), self.stack.pop()
        maker = _CALLS.get(what.name)
        if maker is None:
            raise _RefusedError(f"it holds more than tensors ({what.name[:80]}), and is not opened")
        self.push(maker(self, *given))

    def build(self) -> None:
        """Attributes of what was made last: a dict of weights carries versions there, which nobody needs."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise _RefusedError("it holds more than tensors (an object with attributes), and is not opened")

    # -- tensors --------------------------------------------------------------------------------------------------
    def storage(self) -> None:
        word, kind, key, _, count = self.stack.pop()
        dtype = _TYPES.get(kind.name.rpartition(".")[2])
        if word != "storage" or dtype is None or not isinstance(count, int):
            raise _RefusedError(f"it has numbers of a kind that is not read ({kind.name[:80]})")
        if self.sizes.get(key) != count * dtype.itemsize:
            raise _RefusedError(f"storage {str(key)[:20]!r} is said to be of another size than the file has for it")
        if key not in self.storages:
            raw = bytearray(self.read(key))
            self.storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        self.push(self.storages[key])

    def tensor(self, storage: Tensor, first: int, shape: tuple[int, ...], steps: tuple[int, ...], *_: Any) -> Tensor:
        numbers = (first, *shape, *steps)
        if len(shape) != len(steps) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise _RefusedError(f"a tensor has shape {str(shape)[:80]} and strides {str(steps)[:80]}")
        count = math.prod(shape)
        last = first + sum((n - 1) * step for n, step in zip(shape, steps)) if count else first
        if count > len(storage) or last > len(storage) - (count > 0):
            raise _RefusedError(
                f"a tensor of shape {str(shape)[:80]} has {count if count < 2**62 else 'too many'} numbers, and the "
                f"file holds {len(storage)} for it: save it as tensor.contiguous()"
            )
        self.claimed += count * storage.element_size()
        if self.claimed > 2 * sum(self.sizes.values()) + 1024:
            raise _RefusedError("its tensors share what is stored many times over, which weights never do")
        return torch.as_strided(storage, shape, steps, first).clone(memory_format=torch.contiguous_format)


def _long(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(min(machine.number("<B"), 16)), "little", signed=True))


def _text(machine: _Machine, form: str) -> None:
    machine.push(machine.take(machine.number(form)).decode("utf-8", "surrogatepass"))


def _memoise(machine: _Machine, form: str) -> None:
    machine.memo[machine.number(form)] = machine.stack[-1]


def _tuple(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.push(tuple(items))


def _name(machine: _Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.push(_Named(f"{module}.{name}"))


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_parameter": lambda _, tensor, *rest: tensor,
    "collections.OrderedDict": lambda _, *pairs: dict(*pairs),
}
_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: m.number("<B") and None,
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"(": _Machine.mark,
    b"t": _tuple,
    b"\x85": lambda m: m.fold(1),
    b"\x86": lambda m: m.fold(2),
    b"\x87": lambda m: m.fold(3),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": _long,
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: _text(m, "<I"),
    b"\x8c": lambda m: _text(m, "<B"),
    b"q": lambda m: _memoise(m, "<B"),
    b"r": lambda m: _memoise(m, "<I"),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": _name,
    b"R": _Machine.call,
    b"b": _Machine.build,
    b"Q": _Machine.storage,
    b"s": lambda m: m.fill([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.fill(m.since_mark()),
    b"a": lambda m: m.fill([m.stack.pop()]),
    b"e": lambda m: m.fill(m.since_mark()),
}
"""What each instruction does."""
