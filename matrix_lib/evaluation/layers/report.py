"""The report of an analysis: one HTML file that holds everything, opens anywhere and asks the network for nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...draw.style import INK, Colour
from ...draw.svg import bars, colour_scale, data_url, heat_map, hexed, intervals
from ...io.files import whole_file
from ..statistics import wilson
from .examples import Example
from .report_text import FRAME, METHOD, STYLE, TITLES, WHAT
from .scores import SCORES, RunScores
from .study import KindStudy, Study

__all__ = ["Shown", "report_html", "write_report"]

_ROLES: dict[str, Colour] = {
    "subject": (125, 211, 252),
    "object": (249, 168, 212),
    "instance": (190, 242, 100),
    "verb": (236, 238, 243),
}
_KINDS: dict[str, Colour] = {"v2t": INK["accent"], "v2v": (94, 234, 212)}
_MOST_STEPS = 60


@dataclass(frozen=True)
class Shown:
    """A run that the report shows."""

    run: RunScores
    example: Example


def write_report(path: Path, found: Study, about: Mapping[str, str], examples: Sequence[Shown] = ()) -> Path:
    """Writes the page, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(report_html(found, about, examples), encoding="utf-8")
    return path


def report_html(found: Study, about: Mapping[str, str], examples: Sequence[Shown] = ()) -> str:
    """The page as text. `about`: lines on how the runs were made."""
    body = [_head(found, about), _cards(found)]
    if found.notes:
        body.append(_box("Read this first", "<ul>" + "".join(f"<li>{_e(note)}</li>" for note in found.notes) + "</ul>"))
    body += [_kind(found, one) for one in found.kinds.values()]
    body += [_expert(name, each) for name, each in found.experts.items()]
    if examples:
        body.append(_examples(found, examples))
    body += [_preset(found), _tables(found), _box("How to read the numbers", METHOD)]
    style = STYLE
    for name, colour in INK.items():
        style = style.replace(f"@{name}", hexed(colour))
    return FRAME.format(style=style, body="\n".join(body))


# --- the top
def _head(found: Study, about: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{_e(key)}</dt><dd>{_e(value)}</dd></div>" for key, value in about.items())
    return (
        f"<header><p class=eyebrow>MATRIX layer analysis</p><h1>Which layers carry the interaction</h1>"
        f"<dl class=about>{rows}<div><dt>score</dt><dd>{_e(SCORES[found.options.score])}</dd></div></dl></header>"
    )


def _cards(found: Study) -> str:
    good, bad = found.labelled
    cards = []
    for kind, one in found.kinds.items():
        layers = one.preset(found.options.preset)
        dominant = one.dominance is not None and bool(one.dominance.chosen)
        word = "dominant" if dominant else "influential"
        cards.append(_card(TITLES[kind][0], _list(layers), f"{word} layers, best first", hexed(_KINDS[kind])))
    if good + bad:
        rate = wilson(good, good + bad)
        detail = f"{good} successes, {bad} failures; {rate.mean:.0%} [{rate.low:.0%}, {rate.high:.0%}]"
        cards.append(_card("runs", str(len(found.names)), detail))
    else:
        cards.append(_card("runs", str(len(found.names)), "success unknown"))
    for kind, one in found.kinds.items():
        if one.held_out is not None:
            h = one.held_out
            detail = f"[{h.low:.2f}, {h.high:.2f}], layers chosen on other runs"
            cards.append(_card(f"AUC, {TITLES[kind][1]}", f"{h.mean:.2f}", detail, hexed(_KINDS[kind])))
    return f"<div class=cards>{''.join(cards)}</div>"


def _card(label: str, value: str, detail: str, colour: str = "") -> str:
    style = f' style="color:{colour}"' if colour else ""
    return f"<div class=card><p>{_e(label)}</p><strong{style}>{_e(value)}</strong><p>{_e(detail)}</p></div>"


# --- one kind of map
def _kind(found: Study, one: KindStudy) -> str:
    colour = _KINDS[one.kind]
    chosen = set(one.preset(found.options.preset))
    unit = SCORES[found.options.score]
    roles = [(role, _ROLES[role], mean) for role, mean in one.by_role.items()]
    legend = "".join(f'<span><i style="background:{hexed(c)}"></i>{role}</span>' for role, c, _ in roles)
    parts = [f"<h2>{_e(TITLES[one.kind][0])}</h2><p class=lead>{_e(WHAT[one.kind])}</p>"]
    if one.dummies:
        parts.append(
            f"<p>Left out of the rankings, because they hardly vary over clips: layers {_list(one.dummies)}.</p>"
        )
    parts.append(
        _figure(
            "Every layer",
            f"{unit}, mean of runs with its 95 % interval. Bright: {_chosen_word(one)}.",
            bars(one.layers, one.mean, one.low, one.high, chosen, colour, roles, one.dummies),
            f"<div class=legend>{legend}</div>",
        )
    )
    parts.append(_frequency(found, one, chosen, colour))
    parts.append(_gap(found, one, colour))
    parts.append(_steps(found, one, chosen, unit))
    parts.append(_heads(found, one, chosen, unit))
    return f"<section>{''.join(parts)}</section>"


def _expert(name: str, found: Study) -> str:
    """One of two models that take turns, folded: everything that is said of all steps, of its own."""
    chosen = "; ".join(
        f"{TITLES[kind][1]} {_list(one.preset(found.options.preset))} ({_chosen_word(one)})"
        for kind, one in found.kinds.items()
    )
    steps = _list([step for step, _ in found.steps]) if len(found.steps) < 9 else f"{len(found.steps)} steps"
    text = f"Its own steps alone ({steps}): {chosen}."
    inner = "".join([_cards(found), *(_kind(found, one) for one in found.kinds.values()), _tables(found)])
    summary = f"<summary>Everything about {_e(name)} in its own steps</summary>"
    return _box(_e(name), f"<p class=lead>{_e(text)}</p><details>{summary}{inner}</details>")


def _chosen_word(one: KindStudy) -> str:
    dominant = one.dominance is not None and bool(one.dominance.chosen)
    return "dominant layers" if dominant else "the most influential layers"


def _frequency(found: Study, one: KindStudy, chosen: set[int], colour: Colour) -> str:
    top = found.options.top_of(len(one.layers))
    among = f"among the best {top}" if top > 1 else "the best"
    paper = f" By the paper's raw sum they would be {_list(one.paper_layers)}." if found.options.score != "raw" else ""
    text = (
        f"Share of runs in which a layer is {among}. The {len(one.influence.chosen)} most influential "
        f"by frequency and mean together: {_list(one.influence.chosen)}.{paper}"
    )
    value = one.influence.frequency
    chart = bars(one.influence.layers, value, value, value, chosen, colour, tall=110)
    return _figure("How often among the best", text, chart)


def _gap(found: Study, one: KindStudy, colour: Colour) -> str:
    gap = one.dominance
    if gap is None:
        return f"<h3>Success against failure</h3><p class=quiet>{_e(one.no_gap)}.</p>"
    notes = [f"p {_p(p)}, over all layers {_p(a)}" for p, a in zip(gap.p, gap.p_adjusted)]
    named = f"Layers {_list(gap.chosen)} separate them" if gap.chosen else "No layer separates them"
    text = (
        f"Mean score of {gap.clips} successes minus that of {gap.clips} failures, with 95 % bootstrap intervals. "
        f"{named} at p ≤ {found.options.alpha:g} over all layers together (permutation test)."
    )
    parts = [_figure("Success against failure", text, intervals(
        gap.layers, gap.separation, gap.low, gap.high, gap.chosen, 0.0, notes, colour
    ))]  # fmt: skip
    assert one.auc is not None
    assert one.auc_low is not None
    assert one.auc_high is not None
    strong = [layer for layer, low in zip(one.layers, one.auc_low) if low > 0.5]
    held = f" Layers chosen on other runs reach {one.held_out}." if one.held_out is not None else ""
    text = (
        "AUC of one layer's score as a predictor of success: the chance that a success scores higher than a failure; "
        f"one half is none at all. Bright: the interval lies above.{held}"
    )
    chart = intervals(one.layers, one.auc, one.auc_low, one.auc_high, strong, 0.5, (), colour)
    return "".join([*parts, _figure("Does it predict success?", text, chart)])


def _steps(found: Study, one: KindStudy, chosen: set[int], unit: str) -> str:
    tables = {role: _binned(values) for role, values in one.by_step.items()}
    if not tables or max(v.shape[1] for v in tables.values()) < 2:
        return ""
    top = max(float(np.nanmax(v)) for v in tables.values())
    rows = [str(layer) for layer in one.layers]
    bright = [i for i, layer in enumerate(one.layers) if layer in chosen]
    maps, wide = [], 540 if len(tables) in (1, 2, 4) else 356
    for role, values in tables.items():
        bins = np.array_split([step for step, _ in found.steps], values.shape[1])
        columns = [str(int(part[0])) for part in bins]
        chart = heat_map(values, rows, columns, ("layer", "step"), top, bright, width=wide)
        maps.append(f'<div><h4 style="color:{hexed(_ROLES[role])}">{role}</h4>{chart}</div>')
    text = f"{unit}, mean of runs, from the first step (most noise) to the last."
    return _figure("Layers by steps", text, _grid(maps) + colour_scale(top, unit))


def _binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L, at most 60): steps averaged where there are more than fit."""
    if values.shape[1] <= _MOST_STEPS:
        return values
    return np.stack([part.mean(1) for part in np.array_split(values, _MOST_STEPS, axis=1)], 1)


def _heads(found: Study, one: KindStudy, chosen: set[int], unit: str) -> str:
    rows = [str(layer) for layer in one.layers]
    columns = [str(head) for head in range(one.by_head.shape[1])]
    bright = [i for i, layer in enumerate(one.layers) if layer in chosen]

    def places(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(one.layers.index(layer), head) for layer, head in pairs]

    top = max(float(one.by_head.max()), 1e-9)
    grid = heat_map(one.by_head, rows, columns, ("layer", "head"), top, bright, places(one.heads))
    maps = [f"<div><h4>{_e(unit)}</h4>{grid}{colour_scale(top, '', 540)}</div>"]
    listed = ", ".join(f"{layer}.{head}" for layer, head in one.heads)
    text = f"Every head on its own; framed, the most influential as layer.head: {listed}."
    if one.head_separation is not None:
        high = max(float(one.head_separation.max()), 1e-9)
        grid = heat_map(
            one.head_separation, rows, columns, ("layer", "head"), high, bright, places(one.strong_heads[:40])
        )
        maps.append(
            f"<div><h4>successes minus failures (below 0 is dark)</h4>{grid}{colour_scale(high, '', 540)}</div>"
        )
        strong = ", ".join(f"{layer}.{head}" for layer, head in one.strong_heads[:12]) or "none"
        more = f" and {len(one.strong_heads) - 12} more" if len(one.strong_heads) > 12 else ""
        text += f" Heads that separate success at p ≤ {found.options.alpha:g} over all heads: {strong}{more}."
    return _figure("Heads", text, _grid(maps))


# --- examples, preset, tables
def _examples(found: Study, examples: Sequence[Shown]) -> str:
    lead = "The best layer of each kind in a few runs, mean over steps. Heat is scaled to each clip; lines are masks."
    parts = [f"<h2>Where they look</h2><p class=lead>{lead}</p>"]
    for shown in examples:
        run = shown.run
        word = {True: "success", False: "failure", None: ""}[run.success]
        badge = f"<span class={word}>{word}</span>" if word else ""
        parts.append(f"<h3>{_e(run.clip)}, seed {run.seed} {badge}</h3><p class=quiet>{_e(run.prompt)}</p>")
        parts.append(_strips(found, shown.example))
    return f"<section>{''.join(parts)}</section>"


def _strips(found: Study, example: Example) -> str:
    """One row an entity, one column a kind of map."""
    layers = {kind: one.preset(found.options.preset)[0] for kind, one in found.kinds.items()}
    columns = {kind: pictures for kind, layer in layers.items() if (pictures := example.pictures(kind, layer))}
    names = list(dict.fromkeys(name for pictures in columns.values() for name in pictures))
    cells = ["<p></p>", *(f"<p>{TITLES[kind][1]}, layer {layers[kind]}</p>" for kind in columns)]
    for name in names:
        cells.append(f"<p><b>{_e(name)}</b></p>")
        for pictures in columns.values():
            shown = "".join(f'<img src="{data_url(p, 86)}" alt="">' for p in pictures.get(name, ()))
            cells.append(f"<div>{shown}</div>")
    return f'<div class=strips style="--columns:{len(columns)}">{"".join(cells)}</div>'


def _preset(found: Study) -> str:
    text = (
        "These layers as a MATRIX_LAYERS value. The same stands in layers.json beside this page; nodes and training "
        "that take layers read it."
    )
    return _box("The layers as a preset", f"<p>{text}</p><pre>{_e(found.preset.to_json())}</pre>")


def _tables(found: Study) -> str:
    parts = []
    for kind, one in found.kinds.items():
        head = ["layer", "mean", "95 % interval", "among the best", "rank-sum"]
        gap = one.dominance
        if gap is not None:
            head += ["success gap", "failure gap", "separation", "95 % interval", "p", "p, all layers", "AUC"]
        rows = "".join(_row(one, place) for place in range(len(one.layers)))
        cells = "".join(f"<th>{name}</th>" for name in head)
        title = f"All numbers: {TITLES[kind][1]}"
        parts.append(f"<details><summary>{title}</summary><table><tr>{cells}</tr>{rows}</table></details>")
    return f"<section>{''.join(parts)}</section>"


def _row(one: KindStudy, place: int) -> str:
    layer = one.layers[place]
    ranked = one.influence.layers.index(layer) if layer in one.influence.layers else None
    cells = [f"{one.mean[place]:.4f}", f"{one.low[place]:.4f} … {one.high[place]:.4f}"]
    if ranked is None:
        cells += ["left out", ""]
    else:
        cells += [f"{one.influence.frequency[ranked]:.0%}", f"{one.influence.rank_sum[ranked]:g}"]
    gap = one.dominance
    strong = gap is not None and layer in gap.chosen
    if gap is not None and ranked is not None and one.auc is not None:
        cells += [
            f"{gap.success_gap[ranked]:+.4f}",
            f"{gap.failure_gap[ranked]:+.4f}",
            f"{gap.separation[ranked]:+.4f}",
        ]
        cells += [f"{gap.low[ranked]:+.4f} … {gap.high[ranked]:+.4f}", _p(gap.p[ranked]), _p(gap.p_adjusted[ranked])]
        cells.append(f"{one.auc[place]:.3f}")
    mark = " class=strong" if strong else ""
    return f"<tr{mark}><th>{layer}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


# --- small things
def _grid(cells: Sequence[str]) -> str:
    return f'<div class="grid {"two" if len(cells) in (1, 2, 4) else "three"}">{"".join(cells)}</div>'


def _figure(title: str, text: str, chart: str, after: str = "") -> str:
    return (
        f"<figure><h3>{_e(title)}</h3><figcaption>{_e(text[:1].upper() + text[1:])}</figcaption>{chart}{after}</figure>"
    )


def _box(title: str, inner: str) -> str:
    return f"<section><h2>{_e(title)}</h2>{inner}</section>"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def _e(text: str) -> str:
    return html.escape(str(text))
