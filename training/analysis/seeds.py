"""The part of an analysis that is about seeds: a rule fitted or tried on its runs, and what choosing by it is worth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matrix_lib.evaluation.layers.scores import RunScores
from matrix_lib.evaluation.seeds.choice import choice_table, most_gain, seed_choices, shared_fate
from matrix_lib.evaluation.seeds.fit import fit_seeds, rule_checks, rule_scores
from matrix_lib.instrument.readings.seed_rule import SeedRule
from matrix_lib.io.files import whole_file

__all__ = ["about_seeds", "check_seeds"]


def check_seeds(steps: int, rule: str, backbone: str, whole: int) -> None:
    """Before anything is measured: whether a rule can be fitted on `steps` of `whole` steps, or the file `rule` tried.
    Raises ValueError."""
    wanted = steps
    if rule:
        used = _read(rule)
        wanted = used.steps
        if used.backbone and used.backbone != backbone:
            raise ValueError(f"{rule} was fitted on {used.backbone}, and the model is {backbone}")
    if wanted >= whole:
        raise ValueError(
            f"a seed rule looks at fewer steps than a run has; {wanted} are asked for, and a run has {whole}"
        )


def _read(rule: str) -> SeedRule:
    try:
        return SeedRule.from_json(Path(rule).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{rule}: {error}") from None


def about_seeds(
    runs: Sequence[RunScores], backbone: str, out: Path, *, steps: int, rule: str, take: int, title: str
) -> str:
    """Fits a rule on the first `steps` steps and writes `seed_rule.json`, or tries the one in the file `rule` on runs
    that it was not fitted on; writes `seed_choice.json` and `.md` where clips have several seeds. What came of it, for
    people. Raises ValueError for runs that no rule can be fitted on, or held to.
    """
    if rule:
        used = _read(rule)
        judged = [run for run in runs if run.success is not None]
        scores = rule_scores(used, judged, backbone)
        checks: Mapping[str, float] = rule_checks(scores, judged)
        name = f"{rule}, on {title}"
    else:
        fit = fit_seeds(runs, steps, backbone, take, title=title)
        used, judged, scores = fit.rule, [*fit.runs], fit.held_out
        checks, name = used.checks, f"{out / 'seed_rule.json'}, on held-out clips"
        _write(out / "seed_rule.json", used.to_json())
    choices, alike = seed_choices(judged, scores, used.steps), shared_fate(judged)
    looked, share = used.steps / len(next(iter(judged[0].kinds.values())).steps), checks["successes"] / checks["runs"]
    most = most_gain(share, max(0.5, checks["auc"]), looked)
    known = {"most_gain": most, "shared_fate": None if math.isnan(alike.mean) else alike.mean}
    rows = [each.as_json() for each in choices]
    told = {"rule": used.source, "runs": title, "checks": dict(checks), **known, "choices": rows}
    _write(out / "seed_choice.json", json.dumps(told, indent=1))
    verdict = "it tells them apart" if checks["useful"] else "it does NOT tell them apart: do not use it"
    said = (
        f"{name}: AUC {checks['auc']:.2f} [{checks['auc_low']:.2f}, {checks['auc_high']:.2f}], Brier "
        f"{checks['brier']:.3f} beside {checks['brier_base']:.3f} of the share alone, calibration off by "
        f"{checks['calibration']:.2f}; {verdict}"
    )
    said += (
        f"\nof seeds that succeed in {share:.2f}, dropping the worst after {used.steps} steps by scores of this AUC "
        f"makes at most {most:.2f} times the successes of plain sampling"
    )
    if choices:
        said += f"; seeds of one clip share their fate by {alike.interval} (1: wholly, and there is nothing to choose)"
    if rule and used.source.endswith(title):
        said += "\n! it was fitted on runs of this model and these clips: where they are the same, this says too much"
    if not choices:
        return f"{said}\nwhat choosing by it is worth needs two seeds a clip or more: give more --seeds"
    table = choice_table(choices)
    _write(out / "seed_choice.md", f"{said}\n\n{table}")
    return f"{said}\n{table}"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
