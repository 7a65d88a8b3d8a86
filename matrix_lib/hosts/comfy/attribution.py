"""Which prediction a forward belongs to, and whose words: told by the ids of the conditionings, never by positions.

Guiders name their conditionings and predict them in any order, together or apart. Other packs ask for further
predictions of the same conditionings (skipped layers, disturbed attention). So a row of a batch is told by the id that
the host gives each conditioning, and it is the guider's own if it is the first of that conditioning in one call of the
guider (in one context window), asked with the guider's own patches. A conditioning that comes under another id is known
by the words that it carries, and a prompt counts as one while the model reads its text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .bound_rows import bound_rows
from .run import BINDING, PERTURBED_KEY, TRACKS, Prompt

__all__ = ["Predictions", "prompt_lists", "prompts_of", "who"]

_PATCHES = ("patches", "patches_replace", "optimized_attention_override")
# Patches that are given q, k, v or outputs of all predictions of a batch, and may mix them: NAG does.
_MIXING = ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch")


def prompt_lists(conds: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a guider's conditionings that are prompts: "positive"; where that carries no words, all that do but the
    negative ones."""
    bound = [name for name, each in conds.items() if any(BINDING in cond for cond in each or ())]
    if "positive" in bound or not bound:
        return ("positive",) if conds.get("positive") else ()
    return tuple(name for name in bound if "negative" not in name)


def prompts_of(
    conds: Mapping[str, Any], text_rows: Callable[[Mapping[str, Any]], int] | None = None
) -> dict[Any, Prompt]:
    """The prompts of a guider by the host's id of each conditioning, in order.

    text_rows: how many text tokens the network makes of a conditioning, where that is not a row each.
    """
    every = [cond for name in prompt_lists(conds) for cond in conds[name]]

    def rows(cond: dict[str, Any]) -> int:
        return 0 if text_rows is None else text_rows(cond)

    return {cond["uuid"]: Prompt(i, bound_rows(cond, rows(cond)), cond.get(TRACKS)) for i, cond in enumerate(every)}


class Predictions:
    """Follows the predictions of one sampling run.

    notes: of predictions that could not be attributed. asked: whether the guider asked the model for anything since a
    reader last made it false; asked_now: in the open call of the guider; claimed_now: the model was then called for it.
    own: what it got in it for the prompt, outside of context windows and where no patch may have mixed it with others
    of its batch. level: sigma of the batch that was read last.

    Args:
        given: the conditionings of the guider at the start of the run. prompts: which of them are prompts.
    """

    def __init__(self, given: Sequence[Mapping[str, Any]] = (), prompts: Container[Any] = ()) -> None:
        self._given = {cond["uuid"]: cond for cond in given}
        self._prompts = {name: cond for name, cond in self._given.items() if name in prompts}
        self._renamed: dict[Any, Any] = {}  # ids that came in the run -> of the prompt that they are of
        self._texts: dict[Any, Tensor] = {}  # of each prompt, as the model is given it
        self._copied: set[Any] = set()  # ids that stand several times in the open batch
        self.notes: dict[str, None] = {}
        self._options: Mapping[str, Any] | None = None  # of the guider's call that is open
        self._windowed = False
        self._made: set[Any] = set()  # (conditioning, window) that it has predicted
        self.asked = self.asked_now = self.claimed_now = False
        self.own: Tensor | None = None
        self.level = 0.0
        self._asked: dict[Any, bool] = {}  # conditionings of the open batch: whether they are the guider's own
        self._ran: set[Any] = set()  # of these, those that the model was called with

    @contextlib.contextmanager
    def predicting(self, options: Mapping[str, Any]) -> Iterator[None]:
        """One call of the guider with these model options."""
        before = self._options, self._made
        self._options, self._made = options, set()
        self.asked_now = self.claimed_now = False
        self.own = None
        try:
            yield
        finally:
            self._options, self._made = before

    @property
    def token(self) -> Any:
        """Whose extra prediction the open call of the guider is; None: the sampler's own."""
        return None if self._options is None else self._options["transformer_options"].get(PERTURBED_KEY)

    @contextlib.contextmanager
    def batch(self, conds: Sequence[Any], options: Mapping[str, Any]) -> Iterator[None]:
        """One batch of conditionings that somebody asks for; a context window has one of its own."""
        window = options["transformer_options"].get("context_window")
        place = None if window is None else tuple(window.index_list)
        named = [self.name_of(cond) for each in conds for cond in each or ()]
        ids = dict.fromkeys(named)
        # of a conditioning with an area the host puts a copy, with its id, to each of the others, with their text
        self._copied = {name for name in ids if named.count(name) > 1}
        own = self._own(options)
        before = self._asked, self._ran
        if own and any((name, place) in self._made for name in ids if name in self._prompts):
            self._note("the guider predicted a prompt more often than once in a step: the first prediction is shown")
        self._asked, self._ran = {name: own and (name, place) not in self._made for name in ids}, set()
        self.asked |= own and self.token is None
        self.asked_now |= own
        self._windowed = place is not None
        if own:
            self._made.update((name, place) for name in ids)
        try:
            yield
        finally:
            self._asked, self._ran = before

    def name_of(self, cond: Mapping[str, Any]) -> Any:
        """The id of a conditioning that is predicted: that which it had at the start of the run. Guiders may make
        conditionings anew, which then have new ids."""
        name, text = cond["uuid"], cond.get("model_conds", {}).get("c_crossattn")
        if name not in self._given and BINDING in cond and name not in self._renamed:
            alike = [
                known
                for known, prompt in self._prompts.items()
                if all(prompt.get(key) is cond.get(key) for key in (BINDING, TRACKS))
            ]
            same = [known for known in alike if self._prompts[known].get("cross_attn") is cond.get("cross_attn")]
            if not alike:
                self._note("a prompt with words came into the run after its start: it is neither shown nor steered")
            self._renamed[name] = next(iter(same or alike), name)
        name = self._renamed.get(name, name)
        prompt, rows = self._prompts.get(name), getattr(text, "cond", None)
        new = prompt is not None and (name not in self._texts or rows is prompt.get("cross_attn"))
        if new and isinstance(rows, Tensor):
            self._texts[name] = rows
        return name

    def read(self, names: Sequence[Any], text: Tensor | None, sigma: Tensor | None = None) -> list[Any]:
        """The conditionings of a batch's parts, None for a prompt in whose place the model reads another text.

        sigma: of the batch; `level` is it afterwards. All that is read from the device comes in one go: each time the
        host would wait for all work that is under way.
        """
        parts: list[Any] = [None] * len(names)
        if text is not None and names and len(text) % len(names) == 0:
            parts = list(text.chunk(len(names)))
        same: list[Any] = [rows is None or self._reads(name, rows) for name, rows in zip(names, parts)]
        waiting = [place for place, each in enumerate(same) if isinstance(each, Tensor)]
        asked = [same[place] if sigma is None else same[place].to(sigma) for place in waiting]
        asked += [] if sigma is None else [sigma.flatten()[0]]
        told = torch.stack(asked).tolist() if asked else []
        if sigma is not None:
            self.level = float(told[-1])
        for place, value in zip(waiting, told):
            same[place] = bool(value) or self._both_nan(names[place], parts[place])
        found = [name if each else None for name, each in zip(names, same)]
        if any(new is None and name not in self._copied for new, name in zip(found, names)):
            self._note(
                "the model was given another text than the prompt's at some steps (another pack exchanges or changes "
                "it): its words are neither shown nor steered in those steps"
            )
        return found

    def _reads(self, name: Any, rows: Tensor) -> bool | Tensor:
        """Whether the text rows (S, n, width) of S samples are those of a conditioning, which the host may repeat: on
        the device, where they are looked at; True for one that is no prompt."""
        text = self._texts.get(name)
        if text is None:
            return True
        if text.ndim != 3 or text.shape[2] != rows.shape[2] or rows.shape[1] % text.shape[1]:
            return False
        return (rows == self._repeated(name, rows)).all()

    def _repeated(self, name: Any, rows: Tensor) -> Tensor:
        text = self._texts[name] = self._texts[name].to(rows.device)
        samples = text if len(text) in (1, len(rows)) else text[[row % len(text) for row in range(len(rows))]]
        times = rows.shape[1] // text.shape[1]
        return (samples if times == 1 else samples.repeat(1, times, 1)).to(rows.dtype)

    def _both_nan(self, name: Any, rows: Tensor) -> bool:
        """A text encoder that overflows gives NaN, which is told elsewhere."""
        return torch.allclose(rows, self._repeated(name, rows).expand_as(rows), rtol=0.0, atol=0.0, equal_nan=True)

    def got(self, conds: Sequence[Any], out: Sequence[Tensor], prompts: Mapping[Any, Prompt]) -> None:
        """What the open batch came to: keeps the prompt's prediction, if it is the guider's own."""
        if self._windowed or (sum(bool(each) for each in conds) > 1 and self._mixes()):
            return
        for each, found in zip(conds, out):
            ids = {self.name_of(cond) for cond in each or ()}
            if ids and ids <= prompts.keys() and all(self._asked.get(name) for name in ids):
                self.own = found.clone()  # guidance functions may change it in place

    def _mixes(self) -> bool:
        if self._options is None:
            return False
        patches = self._options["transformer_options"].get("patches", {})
        return any(patches.get(name) for name in _MIXING)

    def _own(self, options: Mapping[str, Any]) -> bool:
        if self._options is None:
            self._note("a prediction was asked for outside of the guider: it is not shown")
            return False
        mine, theirs = (each["transformer_options"] for each in (self._options, options))
        if all(_same(mine.get(key), theirs.get(key)) for key in _PATCHES):
            return True
        changed = ", ".join(key for key in _PATCHES if not _same(mine.get(key), theirs.get(key)))
        self._note(
            f"a prediction was asked for with patches of its own ({changed}): it is not shown, and "
            "what the guider predicts with its own patches is"
        )
        return False

    def claim(
        self, ids: Sequence[Any] | None, rows: int, text: Tensor | None = None, sigma: Tensor | None = None
    ) -> tuple[tuple[Any, bool], ...]:
        """(conditioning, whether it is the guider's own) of each part of a batch that the model is called with.

        Args:
            ids: as the host tells them; rows: how many parts there are where it does not.
            text: what the model is given to read, (rows of the batch, n, width). sigma: of the batch; see `read`.
        """
        if ids is None:
            self._note("the model was called without the ids of its conditionings: that call is not shown")
            self.read((), None, sigma)
            return tuple((None, False) for _ in range(max(1, rows)))
        found = []
        for name in self.read([self._renamed.get(name, name) for name in ids], text, sigma):
            own = self._asked.get(name, False)
            if own and name in self._ran:
                self._note("the model was called twice for one conditioning in one prediction: the first is shown")
                own = False
            self._ran.add(name)
            self.claimed_now |= own
            found.append((name, own))
        return tuple(found)

    def _note(self, text: str) -> None:
        self.notes[text] = None


def who(thing: Any) -> str:
    """How a function or object of somebody else is called, with the module that it is from."""
    thing = getattr(thing, "func", thing)  # functools.partial
    thing = getattr(thing, "__func__", thing)
    if not hasattr(thing, "__qualname__"):
        thing = type(thing)
    return f"{thing.__module__}.{thing.__qualname__}"


def _same(a: Any, b: Any) -> bool:
    """Whether two options hold the same objects; containers are copied at every merge. Empty is as good as none."""
    if a is b or (not a and not b):
        return True
    if isinstance(a, (str, int, float)):
        return bool(a == b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return False
