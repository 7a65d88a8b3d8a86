"""What both hosts share: finding a family's attention in a module tree, and knowing which one is running."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ..backbones.spec import BackboneSpec, Blocks
from ..core.no_compile import hidden
from ..core.sites import AttentionSite

__all__ = ["Running", "find_sites", "marked", "text_trouble"]


@dataclass
class Running:
    """The attention that is running now, and how many attention calls it has made so far.

    rest: query rows of it that are to come in further calls. odd: something about its calls is not as it should be.
    failed: it ended with an error. entered: the names of all sites that have run. again: it has run before.
    """

    site: AttentionSite | None = None
    module: nn.Module | None = None
    calls: int = 0
    rest: int = 0
    odd: bool = False
    failed: bool = False
    again: bool = False
    entered: set[str] = field(default_factory=set)

    def enter(self, site: AttentionSite, module: nn.Module) -> None:
        """A site begins."""
        self.site, self.module, self.calls, self.rest, self.odd, self.failed = site, module, 0, 0, False, False
        self.again = site.name in self.entered
        self.entered.add(site.name)


def find_sites(
    root: nn.Module, blocks: Blocks, modules: Mapping[str, nn.Module] | None = None
) -> list[tuple[nn.Module, AttentionSite]]:
    """Every attention module of `root` with its site, in layer order.

    modules: of `root`, by path, where others than those in it now are meant. Raises ValueError when the tree does not
    have a stack that its family promises.
    """
    found_in = root.named_modules() if modules is None else modules.items()
    tree = {name.replace("_orig_mod.", "").removesuffix("._orig_mod"): module for name, module in found_in}
    found: list[tuple[nn.Module, AttentionSite]] = []
    first = 0
    for group in blocks.stacks:
        count = 0
        while group[0].path.format(count) in tree:
            for stack in group:
                name = stack.path.format(count)
                if name not in tree:
                    raise ValueError(f"{type(root).__name__} has no {name}: its attention cannot be found")
                found.append((tree[name], AttentionSite(first + count, stack.kind, name, stack.sound_sides)))
            count += 1
        first += count
    if not found:
        paths = ", ".join(stack.path for group in blocks.stacks for stack in group)
        raise ValueError(f"{type(root).__name__} has none of {paths}: its attention cannot be found")
    return found


def text_trouble(
    root: nn.Module,
    spec: BackboneSpec,
    host: Literal["native", "diffusers"],
    modules: Mapping[str, nn.Module] | None = None,
) -> str:
    """Why rows of a text cannot be kept apart in a network of a family, as a clause for people; "" where they can: its
    blocks alone read the text, all of them are found, and nothing in front of them mixes it. modules: see
    `find_sites`."""
    if spec.text_mixed:
        return f"{spec.text_mixed} mixes the rows of all texts, so that one would say what another says"
    known = {site.name for _, site in find_sites(root, spec.blocks(host), modules) if site.has_v2t}
    kinds = {kind for name in known if not (kind := name.rpartition(".")[2]).isdigit()}
    names = (name.replace("_orig_mod.", "") for name in modules or dict(root.named_modules()))
    other = [name for name in names if name.rpartition(".")[2] in kinds and name not in known]
    return f"{other[0]} and the like read the text, too, and are not steered" if other else ""


@contextlib.contextmanager
def marked(
    sites: list[tuple[nn.Module, AttentionSite]],
    now: Running | None = None,
    enter: Callable[[Running], Any] | None = None,
    leave: Callable[[Running], Any] | None = None,
) -> Iterator[Running]:
    """While open, the yielded `Running` (`now`, or a new one) tells which site is inside its forward. Every hook is
    gone afterwards.

    A module's `leave` runs even when its forward raises (`Running.failed`), so an interrupt in mid-layer leaves nothing
    behind.
    """
    now = now or Running()
    at, handles = dict(sites), []

    def before(module: nn.Module, _args: Any) -> None:
        now.enter(at[module], module)
        if enter is not None:
            enter(now)

    def after(_module: nn.Module, _args: Any, out: Any) -> None:
        now.failed = out is None
        if leave is not None:
            leave(now)
        now.site = now.module = None

    entered, left = hidden(before), hidden(after)  # once for all sites: this runs before every forward
    try:
        for module in at:
            handles.append(module.register_forward_pre_hook(entered))
            handles.append(module.register_forward_hook(left, always_call=True))
        yield now
    finally:
        for handle in handles:
            handle.remove()
