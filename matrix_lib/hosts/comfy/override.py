"""Our attention override: shows the calls of one forward to who watches, and runs them edited for who steers.

It stands in front of the override that was there. What counts is what reaches the kernel: another pack's override is
handed a stand-in for the host's kernel, so that q and k are seen (and edited) as that pack leaves them, in the order
of the model's tokens, and it has to give back what that kernel gave, scaled, or with something of its own added
(`followed`). One with a kernel of its own is asked at every call whether q and k as we know them explain its output.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...core.attention.masks import batch_part
from ...core.attention.sdpa_lse import LseTap, logits_of
from ...core.sites import AttentionCall, AttentionSite
from ...instrument.editing import EditRunner
from ..modules import Running
from .attribution import who
from .followed import Followed
from .layout import Layout
from .run import Run

__all__ = ["Foreign", "Override", "Troubles", "other_tokens", "replaced"]

_ROWS, _ALIKE = 8, 0.05  # query rows that are computed again, and how far apart results of two kernels may be
_EXACT = 1e-4  # how far apart results of exact kernels are at most, and those of float32
_OTHERS = 8  # tokens for each of these, among which it has to be known again
_SAME_WAY = 0.999  # cosine of outputs of which one is the other, scaled or rounded
Kernel = Callable[..., Tensor]


@dataclass
class Troubles:
    """What could not be seen in a run, with the sites where; each sentence once."""

    found: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, text: str, site: AttentionSite | None = None) -> None:
        self.found.setdefault(text, {}).setdefault("" if site is None else site.name)

    def sentences(self) -> list[str]:
        """Each trouble with the sites that it concerns."""
        return [f"{_places([name for name in sites if name])}{text}" for text, sites in self.found.items()]


def _places(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: "


@dataclass
class Foreign:
    """What a sampling run has learnt of other packs' overrides that bring kernels of their own, by site and override.

    bypassed: passed by where the host's kernel is needed. reaching: whether they go through the kernel that they are
    handed. known: whose output was looked at. last: some numbers of what they gave last at a site for a batch of
    conditionings.
    """

    bypassed: set[tuple[str, int]] = field(default_factory=set)
    reaching: dict[tuple[str, int], bool] = field(default_factory=dict)
    known: set[tuple[str, int]] = field(default_factory=set)
    last: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    _known: dict[int, tuple[Callable[[], Any], int]] = field(default_factory=dict)
    _count: int = 0

    def at(self, site: AttentionSite, override: Any) -> tuple[str, int]:
        """The key of an override at a site. Some packs make one for every forward, and ids are given again."""
        alive, number = self._known.get(id(override), (lambda: None, 0))
        if alive() is not override:
            try:
                alive = weakref.ref(override)
            except TypeError:
                alive = functools.partial(lambda kept: kept, override)
            number = self._count = self._count + 1
            self._known[id(override)] = alive, number
        return site.name, number

    def repeats(self, key: tuple[Any, ...], rows: Tensor) -> bool:
        """Whether some rows (B, H, n, D) of what was given are bit for bit those of the last time. Reads from the
        device."""
        rows, before = rows[:, 0], self.last.get(key)
        self.last[key] = rows
        return before is not None and before.shape == rows.shape and torch.equal(before, rows)


class Override:
    """The override of one forward.

    Args:
        earlier: the override that was there, or None.
        runs: who is attached. watching: those of them that are shown this forward.
        kernel: to use instead of the host's choice, where gradients are wanted.

    exchanged: who gave the block that runs another text, if anybody did. given: what a cross-attention was given whose
    forward is replaced: module, arguments.
    """

    def __init__(
        self,
        running: Running,
        layout: Layout,
        earlier: Kernel | None,
        runs: Sequence[Run],
        watching: Sequence[Run],
        editing: EditRunner | None,
        troubles: Troubles,
        foreign: Foreign,
        kernel: Kernel | None = None,
    ) -> None:
        self.running, self.layout, self.earlier, self.runs = running, layout, earlier, runs
        self.watching, self.editing, self.troubles = watching, editing, troubles
        self.foreign, self.kernel = foreign, kernel
        self.exchanged = ""
        self.given: tuple[torch.nn.Module, Any, dict[str, Any]] | None = None

    def __call__(
        self, func: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **kwargs: Any
    ) -> Tensor:
        running, func = self.running, self.kernel or func
        if running.site is None:  # not a block's own attention: HunyuanVideo's text refiner, say
            return self._host(func)(q, k, v, heads, mask=mask, **kwargs)
        running.calls += 1
        rows = q.shape[2] if kwargs.get("skip_reshape") else q.shape[1]
        if 0 < rows <= running.rest:  # the queries of guides, behind those of the clip
            running.rest -= rows
            running.calls -= 1
            return self._host(func)(q, k, v, heads, mask=mask, **kwargs)
        if running.calls == due(running) and self.layout.split and running.site.kind == "self":
            running.rest = (k.shape[2] if kwargs.get("skip_reshape") else k.shape[1]) - rows
        if running.calls != due(running):
            if running.calls > due(running):
                self._odd("attention ran more often than once in a forward", running.module)
            elif replaced(running.module) is not None:
                self._odd("it is open which of its calls reads the prompt and which the picture", running.module)
            return self._host(func)(q, k, v, heads, mask=mask, **kwargs)
        if running.site.has_v2t and (what := self._another_text(k, kwargs)):
            self._odd(what, running.module)
            return self._host(func)(q, k, v, heads, mask=mask, **kwargs)
        if running.again and self.kernel is None and self._watchers(running.site, whole=True):
            self.troubles.add("it ran more often than once in a forward: the first time is in the maps", running.site)
        if self.earlier is None or self.foreign.at(running.site, self.earlier) in self.foreign.bypassed:
            return self._run(func, q, k, v, heads, mask, kwargs)
        if self.kernel is not None and not self._reaches(self.earlier, func, q, k, v, heads, mask, kwargs):
            return self._run(func, q, k, v, heads, mask, kwargs)
        return self._behind(self.earlier, func, q, k, v, heads, mask, kwargs)

    def _another_text(self, k: Tensor, kwargs: dict[str, Any]) -> str:
        """Why the keys of a call are not of the text that the network was given, as a clause; "" where they are."""
        if self.exchanged:
            return f"{self.exchanged} gives it another text than the prompt's"
        if self.given is None:
            return ""
        made = _made_keys(*self.given, due(self.running))
        if made is None or other_tokens((made[0],), (k,), made[1], kwargs):
            return "its keys are not made of the text that it is given"
        return ""

    def left(self, running: Running) -> None:
        """A site has ended: was its attention seen, once?"""
        site, self.given = running.site, None
        if site is None or running.failed:
            return
        if running.rest:
            self._odd(f"{running.rest} rows of queries are missing in its attention", running.module)
        whole = running.calls == due(running) and not running.odd
        if running.calls < due(running):
            self._odd("it ran without the host's attention, or another pack took our place in it", running.module)
        for run in self.watching:
            run.session.settle(site, whole)

    # -- one call --------------------------------------------------------------------------------------------------

    def _host(self, func: Kernel) -> Kernel:
        return func if self.earlier is None else functools.partial(self.earlier, func)

    def _behind(
        self, earlier: Kernel, func: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any, kwargs: dict
    ) -> Tensor:
        """Through another pack's override, with us in the place of its kernel."""
        site, (given_q, given_k) = self.running.site, (q, k)
        assert site is not None
        asked = bool(self._watchers(site)) or any(run.session.editors and run.session.wants(site) for run in self.runs)
        if not asked:
            return earlier(func, q, k, v, heads, mask=mask, **kwargs)
        reached, made, followed = 0, None, Followed(k, v)

        def ours(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any, given: dict[str, Any]) -> Tensor:
            nonlocal reached, made
            reached += 1
            if reached > 1:
                self._odd(f"{who(earlier)} runs attention more than once{followed.unseen}", earlier)
                return func(q, k, v, heads, mask=mask, **given)
            if what := other_tokens((given_q, given_k), (q, k), kwargs, given):
                self._odd(f"{who(earlier)} {what}", earlier)
                return func(q, k, v, heads, mask=mask, **given)
            out = self._run(func, q, k, v, heads, mask, given)
            made = _some_rows(out, heads, given)
            return out

        @functools.wraps(func)
        def kernel(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, *args: Any, **given: Any) -> Tensor:
            if args:  # attn_precision, skip_reshape, skip_output_reshape, by position
                given |= dict(zip(("attn_precision", "skip_reshape", "skip_output_reshape"), args))
            if followed.theirs(k, v):  # a picture's, say
                return func(q, k, v, heads, mask=mask, **given)
            with followed.resting():
                out = ours(q, k, v, heads, mask, given)
            followed.gave(out)
            return out

        with LseTap() as tap, followed:
            out = earlier(kernel, q, k, v, heads, mask=mask, **kwargs)
        if not reached:
            return self._own_kernel(earlier, tap, out, func, q, k, v, heads, mask, kwargs)
        if made is not None and not self.running.odd:
            rows = _some_rows(out, heads, kwargs)
            self.foreign.last[self._batch] = rows[:, 0]
            at, adds = self.foreign.at(site, earlier), followed.adds(out)
            if not (adds and at in self.foreign.known) and not _same_way(made, rows) and not adds:
                what = "gives something else than the attention that it ran"
                self._odd(f"{who(earlier)} {what}{followed.unseen}", earlier)
            self.foreign.known.add(at)
        return out

    @property
    def _batch(self) -> tuple[Any, ...]:
        """The key of what overrides give at this site for this batch."""
        assert self.running.site is not None
        return self.running.site.name, self.layout.chunks, self.layout.frames

    def _reaches(
        self, earlier: Kernel, func: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any, kwargs: dict
    ) -> bool:
        """Whether another pack's override goes through the kernel that it is handed. It is asked once, outside of what
        gradients go through: a checkpointed block has to run twice in the same way."""
        site = self.running.site
        assert site is not None
        at = self.foreign.at(site, earlier)
        if at not in self.foreign.reaching:
            calls = []

            @functools.wraps(func)
            def kernel(*args: Any, **given: Any) -> Tensor:
                calls.append(1)
                return func(*args, **given)

            with torch.no_grad():
                q, k, v = q.detach(), k.detach(), v.detach()
                out = earlier(kernel, q, k, v, heads, mask=mask, **kwargs)
                self.foreign.reaching[at] = bool(calls)
                if not calls:
                    self._own_kernel(earlier, LseTap(), out, func, q, k, v, heads, mask, kwargs)
        return self.foreign.reaching[at]

    def _own_kernel(
        self, earlier: Kernel, tap: LseTap, out: Tensor, func: Kernel, q: Tensor, k: Tensor, v: Tensor,
        heads: int, mask: Any, kwargs: dict,
    ) -> Tensor:  # fmt: skip
        """Another pack ran a kernel of its own: `out`."""
        call = self._call(q, k, v, heads, mask, kwargs)
        if call is None:
            return out
        site = call.site
        at, rows = self.foreign.at(site, earlier), _some_rows(out, heads, kwargs)
        kept = self.foreign.repeats(self._batch, rows)
        off = math.inf if kept else _off(call, rows)
        explained = off <= _ALIKE
        if self.kernel is not None or self._edits(call):
            if not explained:
                self._odd(f"{who(earlier)} changes what attention computes, behind our back", earlier)
                return out
            self.troubles.add(
                f"{who(earlier)} brings a kernel of its own; where attention is steered PyTorch's runs instead", site
            )
            if self.kernel is not None:  # where gradients are wanted alone
                return out
            self.foreign.bypassed.add(at)
            return self._run(func, q, k, v, heads, mask, kwargs)
        if kept:
            self._odd(f"{who(earlier)} answers from a cache at some steps, where attention is skipped", earlier)
        elif explained:
            if off > max(_EXACT, 2 * torch.finfo(out.dtype).eps):
                self.troubles.add(f"{who(earlier)} brings a kernel that is not exact: maps are softmax attention", site)
            self._show(call, None)
        elif (real := self._really(call, tap, rows)) is not None:
            self._show(*real)
        else:
            self._odd(f"{who(earlier)} changes what attention computes, behind our back", earlier)
        return out

    def _really(self, call: AttentionCall, tap: LseTap, rows: Tensor) -> tuple[AttentionCall, Tensor | None] | None:
        """The call with q and k as another pack handed them to PyTorch's kernel, and its log-sum-exp; None where they
        are not what gave some `rows` of its output."""
        if (seen := tap.only_call(call.q)) is None or seen[1].shape != call.k.shape:
            return None
        q, k, lse, given = seen
        real = replace(call, q=q, k=k, scale=given.get("scale") or q.shape[-1] ** -0.5, mask=given.get("attn_mask"))
        as_they_are = {"skip_reshape": True}
        moved = other_tokens((call.q, call.k), (q, k), as_they_are, as_they_are)
        return None if moved or _off(real, rows) > _ALIKE else (real, lse)

    def _run(
        self, func: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any, kwargs: dict[str, Any]
    ) -> Tensor:
        """The host's own kernel on what reaches it, edited or as it is; shown to who watches."""
        call = self._call(q, k, v, heads, mask, kwargs)
        if call is None:
            return func(q, k, v, heads, mask=mask, **kwargs)
        edits, flat = self._edits(call), not kwargs.get("skip_output_reshape")

        def host_rows(part: slice) -> tuple[Tensor, Tensor | None]:
            with LseTap() as tap:
                out = func(q[part], k[part], v[part], heads, mask=batch_part(mask, part), **kwargs)
            return _split_heads(out, heads) if flat else out, tap.lse_for(call.q[part], call.k[part])

        if edits:
            assert self.editing is not None
            edited = self.editing.run(call, edits, host_rows)
            for run in self._watchers(call.site):
                for seen, lse in edited.seen(self.layout.with_rows(call, run, shown=True)):
                    run.session.observe(seen, lse)
            return edited.out.transpose(1, 2).flatten(2) if flat else edited.out
        if not self._watchers(call.site):
            return func(q, k, v, heads, mask=mask, **kwargs)
        with LseTap() as tap:
            out = func(q, k, v, heads, mask=mask, **kwargs)
        self._show(call, tap.lse_for(call.q, call.k))
        return out

    def _call(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any, kwargs: dict[str, Any]
    ) -> AttentionCall | None:
        """The call as the layout of this forward reads it; None where it is not one of its rows."""
        site = self.running.site
        assert site is not None
        if not kwargs.get("skip_reshape"):
            q, k, v = _split_heads(q, heads), _split_heads(k, heads), _split_heads(v, heads)
        if q.shape[0] != self.layout.batch:
            self._odd(f"attention ran on {q.shape[0]} rows of a batch of {self.layout.batch}", self.running.module)
            return None
        if site.kind == "cross" and k.shape[2] != self.layout.text:
            self._odd(f"it attends to {k.shape[2]} keys, the prompt has {self.layout.text} rows", self.running.module)
            return None
        scale = kwargs.get("scale") or q.shape[-1] ** -0.5
        return self.layout.call(site, q, k, v, scale, mask)

    def _edits(self, call: AttentionCall) -> list[Any]:
        if self.editing is None:
            return []
        editing = [run for run in self.runs if run.session.editors]
        return [given for run in editing for given in run.session.edits(self.layout.with_rows(call, run))]

    def _watchers(self, site: AttentionSite, whole: bool = False) -> list[Run]:
        """Who is shown a call of a site, which counts once in a forward. whole: who is shown the site at all."""
        if self.running.again and self.kernel is None and not whole:
            return []
        return [run for run in self.watching if run.session.watches(site)]

    def _show(self, call: AttentionCall, lse: Tensor | None) -> None:
        for run in self._watchers(call.site):
            run.session.observe(self.layout.with_rows(call, run, shown=True), lse)

    def _odd(self, what: str, thing: Any) -> None:
        """Attention that is not as it should be: an error where it is steered, else dropped and told."""
        site = self.running.site
        assert site is not None
        self.running.odd = True
        text = f"{what}{_by(thing)}"
        sessions = [run.session for run in self.runs if run.session.wants(site) and run.session.steers]
        watching = [run.session for run in self.watching]
        if any(session in watching or (session.editors and self.layout.own) for session in sessions):
            raise ValueError(
                f"{site.name} cannot be steered: {text}. Take that pack off this model, or steer other layers"
            )
        if self.layout.own:
            self.troubles.add(f"{text}. Its attention is not in the maps", site)


def due(running: Running) -> int:
    """Which call of a site is its own: Wan I2V's cross-attention attends to the picture before it attends to the text,
    and lengths do not tell them apart."""
    site = running.site
    return 2 if site is not None and site.kind == "cross" and hasattr(running.module, "k_img") else 1


def replaced(module: torch.nn.Module, name: str = "forward") -> Any:
    """What another pack has put in the place of a method of a module, or None."""
    method = module.__dict__.get(name)  # the host leaves a class's own there when it takes a patch off
    return None if getattr(method, "__func__", method) in (None, getattr(type(module), name)) else method


class _FoundError(Exception):
    """No attention has to run."""


def _made_keys(
    module: torch.nn.Module, args: Any, kwargs: dict[str, Any], call: int
) -> tuple[Tensor, dict[str, Any]] | None:
    """The keys that a module's own forward makes for its attention call of this number, and how they lie; or None."""
    found: list[tuple[Tensor, dict[str, Any]]] = []

    def kernel(func: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int, *more: Any, **given: Any) -> Tensor:
        found.append((k, given))
        if len(found) == call:
            raise _FoundError
        return torch.zeros_like(q)

    options = {**kwargs.get("transformer_options", {}), "optimized_attention_override": kernel}
    try:
        with torch.no_grad():
            type(module).forward(module, *args, **{**kwargs, "transformer_options": options})
    except _FoundError:
        return found[-1]
    except Exception:  # a forward that takes something else than the class's own
        return None
    return None


def _by(thing: Any) -> str:
    """Who sits there: what replaced a module's forward, or an override."""
    if isinstance(thing, torch.nn.Module):
        by = replaced(thing)
        return f" ({type(thing).__name__})" if by is None else f" ({who(by)} replaces its forward)"
    return ""


def _rows(count: int, device: torch.device, most: int = _ROWS) -> Tensor:
    return torch.linspace(0, count - 1, min(most, count), device=device).long()


def _some_rows(out: Tensor, heads: int, kwargs: dict[str, Any]) -> Tensor:
    """A copy of some rows (B, H, n, D) of what attention gave."""
    out = out if kwargs.get("skip_output_reshape") else _split_heads(out, heads)
    return out.detach()[:, :, _rows(out.shape[2], out.device)]


def _off(call: AttentionCall, out: Tensor) -> float:
    """How far some rows `out` (B, H, n, D) are from what q, k and v give, as a share of the largest: they are computed
    again. Reads from the device."""
    rows = _rows(call.q.shape[2], call.q.device)
    if out.shape[2] != len(rows):
        return math.inf
    mask = call.mask
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    while mask is not None and mask.ndim < 4:
        mask = mask[None] if mask.ndim == 2 else mask[:, None]
    p = logits_of(call.q[:, :, rows], call.k, call.scale, mask).softmax(-1)
    want, got = p @ call.v.to(p.dtype), out.to(p.dtype)
    gap, most = torch.stack([each.detach().abs().max() for each in (want - got, want)]).tolist()
    return 0.0 if gap == 0 else gap / most if gap < math.inf and most else math.inf


def _same_way(made: Tensor, given: Tensor) -> bool:
    """Whether rows (B, H, n, D) are those that a kernel made, be it scaled or rounded. Reads from the device."""
    if made.shape != given.shape:
        return False
    made, given = made.float(), given.float()
    sizes = made.norm(dim=-1) * given.norm(dim=-1)
    return not bool(((made * given).sum(-1) < _SAME_WAY * sizes).any())


def other_tokens(
    given: tuple[Tensor, ...], reached: tuple[Tensor, ...], given_as: dict[str, Any], reached_as: dict[str, Any]
) -> str:
    """What is wrong with q and k that reach a kernel, as a clause, beside those that an override was given: other
    tokens, or the same in another order. "" where nothing is."""
    for before, after in zip(given, reached):
        before, after = (
            t.transpose(1, 2) if kwargs.get("skip_reshape") else t
            for t, kwargs in ((before, given_as), (after, reached_as))
        )
        if after.shape[1] != before.shape[1]:
            return f"runs attention on {after.shape[1]} tokens where {before.shape[1]} are due, or in parts"
    moved = before.data_ptr() != after.data_ptr() or before.stride() != after.stride()
    if moved and before.flatten(2).shape == after.flatten(2).shape and not _in_order(before, after):
        return "attends to tokens in an order of its own"
    return ""


def _in_order(before: Tensor, after: Tensor) -> bool:
    """Whether tokens (B, N, ...) that were changed are each most like itself before, of some. Reads from the device."""
    step = _rows(before.shape[1], before.device, _ROWS * _OTHERS)
    before, after = (t.detach()[:, step].flatten(2).float() for t in (before, after))
    before, after = (t - t.mean(1, keepdim=True) for t in (before, after))
    before, after = (t / t.norm(dim=-1, keepdim=True).clamp(min=1e-12) for t in (before, after))
    alike = after[:, ::_OTHERS] @ before.transpose(1, 2)
    own = alike[:, torch.arange(alike.shape[1]), torch.arange(0, len(step), _OTHERS)]
    return not bool((own < alike.amax(-1) - _ALIKE).any())


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) -> (B, H, N, D), a view."""
    b, n, width = tensor.shape
    return tensor.view(b, n, heads, width // heads).transpose(1, 2)
