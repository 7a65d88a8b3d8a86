"""Rows of all sittings: files that `state.State.export` wrote, and the first sitting, which was written before it.

S seeds of a base, P prompts.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix_lib.io.strict_json import parse_json

from .plan import GROUPS

__all__ = ["Row", "Rows", "Sitting", "by_seed", "place", "read_sittings", "short"]

Array = NDArray[np.float64]
_LAYERS = {"weak": "lowest", "wrong clip": "wrong masks"}  # how the first sitting called them
_WEIGHTS = {"x1": "1x", "x10": "10x", "x30": "30x"}


@dataclass(frozen=True)
class Row:
    """One finished job.

    base: preset, seed and hash as one text: rows of equal text are of the very same weights.
    curve: by step, by set, what was found; a single entry 0 where nothing was trained. about: the whole row.
    """

    claim: str
    base: str
    arm: str
    seed: int
    curve: dict[int, dict[str, Any]]
    about: dict[str, Any]

    def values(self, part: str, score: str, step: int = -1) -> Array | None:
        """One number a prompt, or a single mean; None where the row has none. step -1: the last one."""
        at = max(self.curve) if step < 0 else step
        found = self.curve.get(at, {}).get(part, {}).get(score)
        if found is None:
            return None
        if isinstance(found, str):
            return np.array([float(c) for c in found])
        return np.atleast_1d(np.asarray(found, dtype=np.float64))


@dataclass(frozen=True)
class Sitting:
    """manifest: where and with what. bases: what each base was and could before anything."""

    name: str
    manifest: dict[str, Any]
    bases: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]
    pictures: dict[str, str]

    @property
    def look(self) -> str:
        """When its rows were first seen: together with those of all sittings of equal text; "" is alone."""
        return str(self.manifest.get("look") or "")


class Rows:
    """All rows of some sittings."""

    def __init__(self, sittings: Iterable[Sitting]) -> None:
        self.sittings = tuple(sorted(sittings, key=lambda s: (str(s.manifest.get("date", "")), s.name)))
        self.bases = {name: base for sitting in self.sittings for name, base in sitting.bases.items()}
        self.all = [row for sitting in self.sittings for row in sitting.rows]
        self._by: dict[tuple[str, str, str, int], Row] = {(r.claim, r.base, r.arm, r.seed): r for r in self.all}

    def bases_of(self, claim: str) -> list[str]:
        return sorted({row.base for row in self.all if row.claim == claim}, key=place)

    def seeds_of(self, claim: str, base: str, arm: str) -> list[int]:
        return sorted(seed for c, b, a, seed in self._by if (c, b, a) == (claim, base, arm))

    def get(self, claim: str, base: str, arm: str, seed: int) -> Row | None:
        return self._by.get((claim, base, arm, seed))

    def arms_of(self, claim: str) -> list[str]:
        """In the order of the plan."""
        there = {row.arm for row in self.all if row.claim == claim}
        planned = [arm for each in GROUPS[claim].rounds for arm in each.arms]
        return [*dict.fromkeys(arm for arm in planned if arm in there), *sorted(there - set(planned))]

    def tables(
        self, claim: str, arms: Sequence[str], part: str, score: str, step: int = -1
    ) -> dict[str, dict[int, Array]]:
        """{base: {seed: (P,)}} of an arm, or the mean of several where all of those that a base has are there."""
        out: dict[str, dict[int, Array]] = {}
        for base in self.bases_of(claim):
            seeds = sorted({seed for arm in arms for seed in self.seeds_of(claim, base, arm)})
            for seed in seeds:
                rows = [self.get(claim, base, arm, seed) for arm in arms]
                values = [v for v in (row.values(part, score, step) for row in rows if row) if v is not None]
                if values:
                    out.setdefault(base, {})[seed] = np.mean(values, axis=0)
        return out

    def differences(
        self, claim: str, arms: Sequence[str], others: Sequence[str], part: str, score: str, step: int = -1
    ) -> dict[str, Array]:
        """{base: (S, P)}: of the seeds that both have."""
        one, two = (self.tables(claim, names, part, score, step) for names in (arms, others))
        out = {}
        for base in sorted(set(one) & set(two)):
            seeds = sorted(set(one[base]) & set(two[base]))
            if seeds:
                out[base] = np.stack([one[base][seed] - two[base][seed] for seed in seeds])
        return out


def short(base: str) -> str:
    """Preset and seed of a base, without the hash."""
    return base.rpartition(" (")[0] or base


def place(base: str) -> tuple[str, int, str]:
    """Where a base stands among others: by preset, the number of its seed, and hash."""
    preset, _, seed = short(base).rpartition(" ")
    return preset, int(seed), base


def by_seed(tables: Mapping[str, Array]) -> dict[str, Array]:
    """Tables (S, P) of bases as those of their preset and seed: a base that was trained again from the same seed is
    another run of one base, and no further base."""
    joined: dict[str, list[Array]] = {}
    for base in sorted(tables, key=place):
        joined.setdefault(short(base), []).append(tables[base])
    return {name: np.concatenate(parts) for name, parts in joined.items()}


def read_sittings(paths: Sequence[Path]) -> Rows:
    """Files that training.reproduce wrote, packed (.json.gz) or not. Raises ValueError for one that is no sitting."""
    return Rows(_read(path) for path in paths)


def _read(path: Path) -> Sitting:
    try:
        packed = path.read_bytes()
        given = parse_json((gzip.decompress(packed) if path.suffix == ".gz" else packed).decode("utf-8"))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a sitting: {error}") from error
    if isinstance(given, dict) and given.get("format") == 1:
        return _sitting(path, given)
    if isinstance(given, dict) and {"bases", "jobs", "verbs"} <= given.keys():
        return _first(path, given)
    raise ValueError(f"{path} is no file that training.reproduce wrote")


def _key(base: Mapping[str, Any]) -> str:
    return f"{base['preset']} {base['seed']} ({base['hash']})"


def _sitting(path: Path, given: dict[str, Any]) -> Sitting:
    bases, rows = {}, []
    for job in given["jobs"].values():
        base = _key(job["base"])
        if job["kind"] == "base":
            bases[base] = job
            continue
        curve = {point["step"]: point["sets"] for point in job["curve"]} if "curve" in job else {0: job["sets"]}
        rows.append(Row(job["claim"], base, job["arm"], job["seed"], curve, job))
    name = path.name.removesuffix(".gz").removesuffix(".json")
    shown = path.with_name(f"{name}.pictures.json")
    pictures = json.loads(shown.read_text()) if shown.is_file() else {}
    return Sitting(name, given["manifest"], bases, tuple(rows), pictures)


def _first(path: Path, given: dict[str, Any]) -> Sitting:
    """The rows of 2026-11-29: the same protocol, but for bases that got 230 s instead of 1,000 steps."""
    manifest = path.with_name("manifest.json")
    about = json.loads(manifest.read_text()) if manifest.is_file() else {}
    bases, keys, rows = {}, {}, []
    for name, base in given["bases"].items():
        first = sorted(base["checksums"])[0]
        identity = {"preset": "weak_roles", "seed": base["seed"], "hash": base["checksums"][first][:12]}
        keys[name] = _key(identity)
        analysis = {
            kind: {"share": base["share_true_clips"][kind], "separation": base["separation"][kind]}
            for kind in base["separation"]
        }
        about_it = {**identity, "steps": base["steps"]}
        bases[keys[name]] = {"base": about_it, "sets": _plain(base["scores"]), "analysis": analysis}
    for job in given["jobs"]:
        arm = _name(job["arm"])
        row = {**job, "settings": {"v2t": job["v2t"], "v2v": job["v2v"]}}
        rows.append(Row("alignment", keys[job["base"]], arm, job["seed"], {200: _plain(job["scores"])}, row))
    return Sitting(path.parent.name, about, bases, tuple(rows), {})


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """With the digits of a base's right roles in place of their mean."""
    out = {}
    for part, found in scores.items():
        bits = found.get("right_roles_bits", found["right_roles"])
        out[part] = {k: v for k, v in found.items() if k != "right_roles_bits"} | {"right_roles": bits}
    return out


def _name(arm: str) -> str:
    weight, _, rest = arm.partition(" ")
    return " ".join([_WEIGHTS.get(weight, weight), *([_LAYERS.get(rest, rest)] if rest else [])])
