"""An alignment LoRA as data: factors by diffusers module, a widened input projection, and what it wants of a prompt.

Names and shapes only; files are in `io.checkpoints`, patched models in the hosts. HunyuanVideo's native modules stack
several diffusers ones (q, k, v): their factors are stacked along the diagonal and taken apart again.

r rank; a module's weight W (out, in) changes by scale * up @ down, scale = alpha / r. With magnitudes m (out,) (DoRA,
Liu et al., arXiv 2402.09353, as peft has it) it becomes m * V / ||V||, V = W + scale * up @ down, norms by row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from . import REGISTRY, BackboneSpec
from .weight_names import FAMILIES, diffusers_names, native_name
from .weight_rules import SPELLINGS

__all__ = [
    "AlignmentLoRA",
    "Factors",
    "Info",
    "Style",
    "find_style",
    "from_native",
    "from_underscores",
    "head_by_head",
    "native_projection",
    "respelt",
    "swap_halves",
    "to_native",
]

Style = Literal["diffusers", "native"]

_MLP_RATIO = 4  # of HunyuanVideo's single blocks, needed where a file trains q, k, v of `linear1` alone


@dataclass(frozen=True)
class Factors:
    """down (r, in, ...) and up (out, r, ...); trailing dimensions belong to convolutions. `alpha` None: not stored.
    `magnitude` (out,): of a DoRA."""

    down: Tensor
    up: Tensor
    alpha: float | None = None
    magnitude: Tensor | None = None

    def __post_init__(self) -> None:
        if self.down.ndim < 2 or self.up.ndim < 2 or not self.down.shape[0] or self.up.shape[1] != self.down.shape[0]:
            raise ValueError(
                f"a LoRA's factors are (rank, in) and (out, rank); got {tuple(self.down.shape)} and "
                f"{tuple(self.up.shape)}"
            )
        if self.magnitude is not None and tuple(self.magnitude.shape) != (self.up.shape[0],):
            raise ValueError(
                f"a DoRA has one magnitude for each of its {self.up.shape[0]} outputs; got "
                f"{tuple(self.magnitude.shape)}"
            )

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def scale(self, missing: float = 1.0) -> float:
        """alpha / rank, or `missing` where no alpha is stored."""
        return missing if self.alpha is None else self.alpha / self.rank

    @property
    def parts(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        magnitude = {} if self.magnitude is None else {"magnitude": self.magnitude}
        return {"down": self.down, "up": self.up, **magnitude}

    def product(self, device: torch.device | None = None) -> Tensor:
        """scale * up @ down, (out, in) float32, made on a device."""
        up, down = (part.flatten(1).to(device, torch.float32) for part in (self.up, self.down))
        return up @ down * self.scale()

    def gain(self, weight: Tensor) -> Tensor:
        """m / ||V|| (out,) float32 of a DoRA on a weight (out, in, ...); V is the weight with the product."""
        assert self.magnitude is not None
        moved = weight.flatten(1).float() + self.product(weight.device)
        smallest = torch.finfo(torch.float32).tiny
        return self.magnitude.to(moved) / moved.norm(dim=1).clamp_min(smallest)

    def change(self, weight: Tensor) -> Tensor:
        """What it adds to a weight (out, in, ...), (out, in) float32."""
        product = self.product(weight.device)
        if self.magnitude is None:
            return product
        flat = weight.flatten(1).float()
        return self.gain(weight)[:, None] * (flat + product) - flat


@dataclass(frozen=True)
class Info:
    """What a LoRA file says about itself.

    Args:
        condition: "id_map", "target_mask" or "" (unknown, or none).
        base_channels: input channels of the model before it was widened; 0 where unknown.
        layers: {"v2t": [...], "v2v": [...]} that carried the losses.
        palette: colours of the ID map, in the order of the instances.
        trigger: word or phrase that the prompt needs; prompt_form: how a prompt is written.
        notes: for people.
        image_attention: "off" where it was trained without the model's cross-attention to the picture (Wan 2.1 I2V),
            and has to run so; "": as the model has it.
    """

    condition: str = ""
    base_channels: int = 0
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    palette: tuple[tuple[int, int, int], ...] = ()
    trigger: str = ""
    prompt_form: str = ""
    notes: tuple[str, ...] = ()
    image_attention: Literal["", "off"] = ""


@dataclass(frozen=True)
class AlignmentLoRA:
    """A LoRA of one family.

    Args:
        factors: by diffusers module path.
        projection: {"weight": ..., "bias": ...} of the whole trained input projection, or {}.
        extra: tensors that were trained along and are not used at inference (a mask decoder).
        source: the file format it came from.
        notes: what was decided when it was read, for people; not stored.
    """

    family: str
    factors: Mapping[str, Factors]
    projection: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    info: Info = field(default_factory=Info)
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"families are {', '.join(FAMILIES)}; got {self.family!r}")
        if unknown := [name for name in self.factors if native_name(FAMILIES[self.family], name) is None]:
            raise ValueError(f"{len(unknown)} modules are not of {self.family}, first {sorted(unknown)[0]}")
        weight, bias = self.projection.get("weight"), self.projection.get("bias")
        if self.projection and (weight is None or weight.ndim not in (2, 4, 5)):
            raise ValueError("the input projection has a weight (out, channels, ...) and may have a bias (out)")
        if weight is not None and bias is not None and tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(f"the projection's bias {tuple(bias.shape)} does not fit its weight {tuple(weight.shape)}")

    @property
    def blocks(self) -> tuple[str, ...]:
        """Block names that it changes, in order."""
        found = {m[0] for name in self.factors if (m := re.match(r"\w+\.\d+", name))}
        return tuple(sorted(found, key=lambda name: (name.split(".")[0], int(name.split(".")[1]))))

    @property
    def stored_scale(self) -> bool:
        """Whether the file says how strong every factor is."""
        return all(factors.alpha is not None for factors in self.factors.values())

    def scales(self, missing: float = 1.0) -> tuple[float, ...]:
        """The distinct scales of its factors, ascending."""
        return tuple(sorted({factors.scale(missing) for factors in self.factors.values()}))

    @property
    def tensors(self) -> int:
        """How many tensors serve at inference."""
        return sum(len(one.parts) for one in self.factors.values()) + len(self.projection)

    @property
    def dora(self) -> tuple[str, ...]:
        """Modules whose factors have magnitudes."""
        return tuple(name for name, one in self.factors.items() if one.magnitude is not None)

    @property
    def digest(self) -> str:
        """What tells its weights from another's: a SHA-256, shortened."""
        state = hashlib.sha256()
        for name, one in sorted(self.factors.items()):
            state.update(f"{name} {one.scale()}".encode() + _bytes(one.down) + _bytes(one.up))
            state.update(b"" if one.magnitude is None else _bytes(one.magnitude))
        for name, value in sorted(self.projection.items()):
            state.update(name.encode() + _bytes(value))
        return state.hexdigest()[:16]

    def with_scale(self, scale: float) -> AlignmentLoRA:
        """With `scale` written into every factor that stores none."""
        fixed = {
            name: f if f.alpha is not None else replace(f, alpha=scale * f.rank) for name, f in self.factors.items()
        }
        return replace(self, factors=fixed)


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().float().cpu().contiguous().numpy().data)


def native_projection(family: str) -> str:
    """Native module of the input projection."""
    found = native_name(FAMILIES[family], REGISTRY[family].input_projection)
    assert found is not None
    return found.key


def find_style(
    modules: Iterable[str], family: str | None = None, columns: Mapping[str, int] | None = None
) -> tuple[str, Style]:
    """(family, naming) that knows all module paths.

    Args:
        family: the family that is expected; it settles what several families could own.
        columns: of what modules read. Where several families have these names, those whose published models are as
            wide (and deep, where its spec says) come first, and those that are known to be otherwise do not count.

    Raises:
        ValueError: names that no family knows, of another family than expected, or of several families.
    """
    names = sorted(set(modules))
    known: dict[tuple[str, Style], int] = {}
    for each, rules in FAMILIES.items():
        known[each, "diffusers"] = sum(native_name(rules, name) is not None for name in names)
        known[each, "native"] = sum(bool(diffusers_names(rules, name)) for name in names)
    whole = [key for key, count in known.items() if names and count == len(names)]
    if not whole:
        (best, style), count = max(known.items(), key=lambda item: item[1])
        rules = FAMILIES[best]
        odd = [n for n in names if not (native_name(rules, n) if style == "diffusers" else diffusers_names(rules, n))]
        nearest = f" ({count} of {len(names)} modules are of {best})" if count else ""
        raise ValueError(
            f"no known model has {odd[0] if odd else 'modules like these'}{nearest}: another model's LoRA?"
        )
    fits = [key for key in whole if key[0] == family] if family is not None else _by_width(whole, columns or {})
    if not fits:
        raise ValueError(f"this is a LoRA of {' or '.join(sorted({k[0] for k in whole}))}, and the model is {family}")
    if len({key[0] for key in fits}) > 1:
        raise ValueError(f"{names[0]} is in {' and '.join(sorted({k[0] for k in fits}))}: say which family it is of")
    return fits[0]


def _by_width(found: list[tuple[str, Style]], columns: Mapping[str, int]) -> list[tuple[str, Style]]:
    """What is left of several families' names once it is known how wide the model is."""
    read = set(columns.values())
    last = max((int(n) for name in columns for n in re.findall(r"(?<=blocks\.)\d+", name)), default=-1)

    def claims(key: tuple[str, Style]) -> bool:
        spec = REGISTRY[key[0]]
        words = {width for name, width in columns.items() if _reads_words(spec, name)}
        own = words <= ({spec.text_width} if spec.text_width else set(spec.widths))
        return own and any(width in read for width in spec.widths) and (not spec.depths or last + 1 in spec.depths)

    claimed = [key for key in found if claims(key)]
    return claimed or [key for key in found if not REGISTRY[key[0]].widths] or found


def _reads_words(spec: BackboneSpec, name: str) -> bool:
    """Whether a diffusers module is what makes keys or values of the text in cross-attention."""
    paths = (stack.path for group in spec.diffusers.stacks for stack in group if stack.kind == "cross")
    block, _, last = name.rpartition(".")
    own = any(re.fullmatch(re.escape(path).replace(r"\{\}", r"\d+"), block) for path in paths)
    return own and last in spec.qkvo[1:3]


def from_underscores(stem: str, family: str | None = None) -> str | None:
    """Module path of a name whose dots were replaced (`blocks_0_self_attn_q`), native or, where no family has it
    natively, diffusers'; None where no rule knows it."""
    for side in ("native", "diffusers"):
        for each, rules in FAMILIES.items():
            if family not in (None, each):
                continue
            for rule in rules:
                path = getattr(rule, side)
                pattern = re.escape(path.replace(".", "_")).replace(r"\{i\}", r"(?P<i>\d+)")
                if found := re.fullmatch(pattern.replace(r"\{j\}", r"(?P<j>\d+)"), stem):
                    for letter, number in found.groupdict().items():
                        path = path.replace(f"{{{letter}}}", number)
                    return str(path)
    return None


def respelt(stem: str) -> str:
    """A native module path that is spelt as in the code of the model's authors (`SPELLINGS`), as ComfyUI spells it."""
    for block, pairs in SPELLINGS:
        if re.match(block, stem):
            for theirs, ours in pairs:
                stem = re.sub(theirs, ours, stem)
    return stem


# -- native names -----------------------------------------------------------------------------------------------------

Parts = list[list[Any]]
"""[rank, what its rows were multiplied by] of each stacked part, rank 0 for a part that is not there."""


def to_native(lora: AlignmentLoRA) -> tuple[dict[str, Factors], dict[str, Parts]]:
    """Factors by native module, and for stacked ones what is needed to take them apart again."""
    rules = FAMILIES[lora.family]
    groups: dict[str, dict[int, Factors]] = {}
    counts, swapped = {}, set()
    for name, factors in lora.factors.items():
        target = native_name(rules, name)
        assert target is not None
        groups.setdefault(target.key, {})[target.part] = factors
        counts[target.key] = target.parts
        if target.op == "swap":
            swapped.add(target.key)
    out: dict[str, Factors] = {}
    stacked: dict[str, Parts] = {}
    for key, parts in groups.items():
        if counts[key] > 1:
            out[key], layout = _stack(parts, counts[key], key)
            if layout is not None:
                stacked[key] = layout
        else:
            (only,) = parts.values()
            out[key] = swap_halves(only) if key in swapped else only
    return out, stacked


def from_native(
    native: Mapping[str, Factors], family: str, stacked: Mapping[str, Parts] | None = None
) -> dict[str, Factors]:
    """The way back. A stacked factor without a layout whose blocks are not diagonal gives parts that share `down`.

    Raises ValueError for a layout that does not fit its factors."""
    rules, out = FAMILIES[family], {}
    for key, factors in native.items():
        names = diffusers_names(rules, key, (int(factors.up.shape[0]), int(factors.down.shape[1])))
        if len(names) > 1:
            parts = _unstack(factors, len(names), (stacked or {}).get(key), key)
            out.update({name: part for name, part in zip(names, parts) if part is not None})
            continue
        target = native_name(rules, names[0])
        swap = target is not None and target.op == "swap"
        out[names[0]] = swap_halves(factors) if swap else factors
    return out


def head_by_head(native: Mapping[str, Factors], family: str, back: bool = False) -> dict[str, Factors]:
    """Factors by native module with the rows of stacked q, k and v sorted as DiffSynth has them, q, k and v of one head
    and then of the next, where its files of this family are so (`heads_interleaved`); `back`: from there.

    Raises ValueError for rows that do not divide into heads."""
    spec, out = REGISTRY[family], dict(native)
    for key, factors in native.items() if spec.heads_interleaved else ():
        if len(names := diffusers_names(FAMILIES[family], key)) == 1:
            continue
        rows, size = int(factors.up.shape[0]), spec.head_size
        if rows % (len(names) * size):
            raise ValueError(f"{key} has {rows} rows, which are not {len(names)} times some heads of {size}")
        order = torch.arange(rows).unflatten(0, (-1, len(names), size) if back else (len(names), -1, size))
        up = factors.up[order.transpose(0, 1).flatten()]
        out[key] = replace(factors, up=up)
    return out


def swap_halves(factors: Factors) -> Factors:
    """Of a weight whose upper half of rows is natively the lower one."""
    magnitude = None if factors.magnitude is None else torch.cat(factors.magnitude.chunk(2)[::-1])
    return replace(factors, up=torch.cat(factors.up.chunk(2)[::-1]), magnitude=magnitude)


def _magnitude(parts: Sequence[Factors | None], key: str) -> Tensor | None:
    """Of a stacked weight, from those of its parts: norms are by row, so parts do not meet."""
    found = [part.magnitude for part in parts if part is not None and part.magnitude is not None]
    if not found:
        return None
    if len(found) < len(parts):
        raise ValueError(
            f"{key} is one weight natively, and {len(found)} of its {len(parts)} parts are a DoRA: such a LoRA has no "
            "native form; use the format matrix or diffusers"
        )
    return torch.cat(found)


def _stack(parts: Mapping[int, Factors], count: int, key: str) -> tuple[Factors, Parts | None]:
    every = [parts.get(i) for i in range(count)]
    given = [part for part in every if part is not None]
    first, magnitude = given[0], _magnitude(every, key)
    shared = all(p.down.shape == first.down.shape and torch.equal(p.down, first.down) for p in given)
    if len(given) == count and shared and len({p.alpha for p in given}) == 1:
        return Factors(first.down, torch.cat([p.up for p in given]), first.alpha, magnitude), None
    rows = _rows(first, parts, count)
    # one scale for all: how much stronger a part is goes into its rows
    layout: Parts = [[p.rank, p.scale() / first.scale()] if p is not None else [0, 1.0] for p in every]
    up = first.up.new_zeros(sum(rows), sum(rank for rank, _ in layout))
    row = column = 0
    for part, height, (rank, ratio) in zip(every, rows, layout):
        if part is not None:
            up[row : row + height, column : column + rank] = part.up if ratio == 1.0 else part.up * ratio
        row, column = row + height, column + rank
    alpha = None if all(part.alpha is None for part in given) else first.scale() * up.shape[1]
    return Factors(torch.cat([part.down for part in given]), up, alpha, magnitude), layout


def _rows(first: Factors, parts: Mapping[int, Factors], count: int) -> list[int]:
    """Rows of each part: equal ones, but for the last of four, the perceptron of a single block."""
    if count < 4:
        return [int(first.up.shape[0])] * count
    hidden = int(first.down.shape[1])
    last = parts.get(count - 1)
    return [hidden] * (count - 1) + [int(last.up.shape[0]) if last is not None else hidden * _MLP_RATIO]


def _unstack(factors: Factors, count: int, layout: Parts | None, key: str) -> list[Factors | None]:
    total, rank = int(factors.up.shape[0]), factors.rank
    hidden = int(factors.down.shape[1]) if count == 4 else total // count
    rows = [hidden] * (count - 1) + [total - hidden * (count - 1)]
    if min(rows) < 1:
        raise ValueError(f"{key} has {total} rows, too few for the {count} weights that it stacks")
    ups = factors.up.split(rows)
    magnitudes = [None] * count if factors.magnitude is None else list(factors.magnitude.split(rows))
    if layout is None:
        guess: Parts = [[rank // count, 1.0]] * count
        layout = guess if rank % count == 0 and _diagonal(ups, [rank // count] * count) else None
    if layout is None:
        return [Factors(factors.down, up.contiguous(), factors.alpha, m) for up, m in zip(ups, magnitudes)]
    ranks = [int(part[0]) for part in layout]
    if len(ranks) != count or sum(ranks) != rank or min(ranks) < 0 or not _diagonal(ups, ranks):
        raise ValueError(f"{key}: the layout {layout} in the header does not fit its factors of rank {rank}")
    out: list[Factors | None] = []
    column = 0
    for up, magnitude, (part_rank, ratio) in zip(ups, magnitudes, layout):
        if part_rank:
            block = up[:, column : column + part_rank].contiguous()
            alpha = None if factors.alpha is None else factors.scale() * ratio * part_rank
            down = factors.down[column : column + part_rank].contiguous()
            out.append(Factors(down, block if ratio == 1.0 else block / ratio, alpha, magnitude))
        else:
            out.append(None)
        column += part_rank
    return out


def _diagonal(ups: Iterable[Tensor], ranks: list[int]) -> bool:
    """Whether each part's rows are zero outside of its own columns."""
    column = 0
    for up, rank in zip(ups, ranks):
        if bool(up[:, :column].any()) or bool(up[:, column + rank :].any()):
            return False
        column += rank
    return True
