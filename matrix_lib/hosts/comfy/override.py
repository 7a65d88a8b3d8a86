"""Our attention override: shows the calls of one forward to who watches, and runs them edited for who steers.

It stands in front of the override that was there. What counts is what reaches the kernel: another pack's override is
handed a stand-in for the host's kernel, so that q and k are seen (and edited) as that pack leaves them. One with a
kernel of its own is asked whether q and k as we know them explain its output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.attention.masks import batch_part
from ...core.attention.sdpa_lse import LseTap, logits_of
from ...core.sites import AttentionCall, AttentionSite
from ...instrument.editing import EditRunner
from ..modules import Running
from .attribution import who
from .layout import Layout
from .run import Run

__all__ = ["Foreign", "Override", "Troubles"]

_ROWS, _ALIKE = 8, 0.05  # query rows that are computed again, and how far apart results of two kernels may be
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

    bypassed: passed by where the host's kernel is needed. explained: whether our q, k and v gave their output.
    reaching: whether they go through the kernel that they are handed.
    """

    bypassed: set[tuple[str, int]] = field(default_factory=set)
    explained: dict[tuple[str, int], bool] = field(default_factory=dict)
    reaching: dict[tuple[str, int], bool] = field(default_factory=dict)


class Override:
    """The override of one forward.

    Args:
        earlier: the override that was there, or None.
        runs: who is attached. watching: those of them that are shown this forward.
        kernel: to use instead of the host's choice, where gradients are wanted.
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
        if self.earlier is None or (running.site.name, id(self.earlier)) in self.foreign.bypassed:
            return self._run(func, q, k, v, heads, mask, kwargs)
        if self.kernel is not None and not self._reaches(self.earlier, func, q, k, v, heads, mask, kwargs):
            return self._run(func, q, k, v, heads, mask, kwargs)
        return self._behind(self.earlier, func, q, k, v, heads, mask, kwargs)

    def left(self, running: Running) -> None:
        """A site has ended: was its attention seen, once?"""
        site = running.site
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
        reached = 0

        @functools.wraps(func)
        def kernel(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, *args: Any, **given: Any) -> Tensor:
            nonlocal reached
            reached += 1
            if reached > 1:
                self._odd(f"{who(earlier)} runs attention more than once", earlier)
                return func(q, k, v, heads, mask, *args, **given)
            if args:  # attn_precision, skip_reshape, skip_output_reshape, by position
                given |= dict(zip(("attn_precision", "skip_reshape", "skip_output_reshape"), args))
            return self._run(func, q, k, v, heads, mask, given)

        with LseTap() as tap:
            out = earlier(kernel, q, k, v, heads, mask=mask, **kwargs)
        if reached:
            return out
        return self._own_kernel(earlier, tap, out, func, q, k, v, heads, mask, kwargs)

    def _reaches(
        self, earlier: Kernel, func: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any, kwargs: dict
    ) -> bool:
        """Whether another pack's override goes through the kernel that it is handed. It is asked once, outside of what
        gradients go through: a checkpointed block has to run twice in the same way."""
        site = self.running.site
        assert site is not None
        at = (site.name, id(earlier))
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
        at = (site.name, id(earlier))
        if at not in self.foreign.explained:
            self.foreign.explained[at] = _explains(
                call, out if kwargs.get("skip_output_reshape") else _split_heads(out, heads)
            )
        explained = self.foreign.explained[at]
        if self.kernel is not None or self._edits(call):
            if not explained:
                self._odd(f"{who(earlier)} changes what attention computes, behind our back", earlier)
                return out
            self.troubles.add(
                f"{who(earlier)} brings a kernel of its own; where attention is steered PyTorch's runs instead", site
            )
            self.foreign.bypassed.add(at)
            return out if self.kernel is not None else self._run(func, q, k, v, heads, mask, kwargs)
        if explained:
            self._show(call, None)
        elif (seen := tap.only_call(call.q)) is not None:  # it changed q or k, in front of PyTorch's kernel
            real_q, real_k, lse, given = seen
            scale = given.get("scale") or real_q.shape[-1] ** -0.5
            self._show(self.layout.call(site, real_q, real_k, call.v, scale, given.get("attn_mask")), lse)
        else:
            self._odd(f"{who(earlier)} changes what attention computes, behind our back", earlier)
        return out

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

    def _watchers(self, site: AttentionSite) -> list[Run]:
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


def replaced(module: torch.nn.Module) -> Any:
    """What another pack has put in the place of a module's forward, or None."""
    forward = module.__dict__.get("forward")  # the host leaves a class's own there when it takes a patch off
    return None if getattr(forward, "__func__", forward) in (None, type(module).forward) else forward


def _by(thing: Any) -> str:
    """Who sits there: what replaced a module's forward, or an override."""
    if isinstance(thing, torch.nn.Module):
        by = replaced(thing)
        return f" ({type(thing).__name__})" if by is None else f" ({who(by)} replaces its forward)"
    return ""


def _explains(call: AttentionCall, out: Tensor) -> bool:
    """Whether q, k and v give `out` (B, H, Nq, D): some rows are computed again. Reads from the device."""
    rows = torch.linspace(0, call.q.shape[2] - 1, min(_ROWS, call.q.shape[2]), device=call.q.device).long()
    mask = call.mask
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    while mask is not None and mask.ndim < 4:
        mask = mask[None] if mask.ndim == 2 else mask[:, None]
    p = logits_of(call.q[:, :, rows], call.k, call.scale, mask).softmax(-1)
    want, got = p @ call.v.to(p.dtype), out[:, :, rows].to(p.dtype)
    return bool((want - got).abs().max() <= _ALIKE * want.abs().max())


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) -> (B, H, N, D), a view."""
    b, n, width = tensor.shape
    return tensor.view(b, n, heads, width // heads).transpose(1, 2)
