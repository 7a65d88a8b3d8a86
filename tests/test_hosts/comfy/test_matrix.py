"""This pack beside what people put beside it: maps are those of the calls that ran and steering acts as its reference
says, or there is a sentence that names the reason. See `matrix_cells`; docs/beside-other-packs.md is made of it."""

import itertools
import random

import pytest
import torch
from matrix_cells.graphs import pytorch_attention
from matrix_cells.verdict import captured, compare
from support_counts import SEED, SOAK, count
from support_matrix import CAPTURE, CHANGE_CALLS, EVERY, FAMILIES, NOTHING, WAYS, Matrix

from scripts import beside

pytestmark = pytest.mark.usefixtures("one_thread")
CFGS = (1.0, 6.0)
PARTS = 200 if SOAK else 1  # `make soak` goes on behind the last part that passed


@pytest.fixture(scope="module")
def matrix(pack):
    torch._dynamo.reset()  # beside what was compiled, what other packs add is not followed
    with pytorch_attention():
        yield Matrix(pack)


@pytest.fixture
def cells(matrix, record_property):
    """cells([(family, guider, rows, cfg, column), ...]): makes them all and says which of them are silent."""

    def check(names):
        silent, made = [], []
        for name in names:
            verdict = matrix.cell(*name)
            made.append(verdict)
            record_property(
                "cell", [*name[:2], list(name[2]), *name[3:], verdict.kind, verdict.text, *verdict.notes[:1]]
            )
            if verdict.silent:
                silent.append(f"{' | '.join(map(str, name))}: {verdict.text}")
        assert not silent, f"{len(silent)} of {len(names)} cells are silent:\n" + "\n".join(silent)
        return made

    return check


def test_the_rows_are_found_in_the_host(matrix):
    assert {"BasicGuider", "CFGGuider", "DualCFGGuider, regular", "DualCFGGuider, nested", "DualModelGuider"} < set(
        matrix.guiders
    )
    assert "PerpNegGuider" in matrix.guiders
    core = set(matrix.groups["nodes of the core"])
    assert {
        "SkipLayerGuidanceDiT", "PerturbedAttentionGuidance", "SelfAttentionGuidance", "NAGuidance", "TCFG",
        "CFGZeroStar", "RescaleCFG", "FreSca", "EasyCache", "LazyCache", "WanContextWindowsManual", "ModelSamplingSD3",
    } <= core  # fmt: skip
    assert {"EasyCache", "LazyCache", "SkipLayerGuidanceDiT", "PerturbedAttentionGuidance"} & matrix.idle == set()


@pytest.mark.soak
def test_every_guider_beside_every_patch(matrix, cells):
    """Guiders take turns beside the patches, and so do CFG 1 and 6; `make soak` has all of them beside each."""
    rows = [row for group in ("nodes of the core", "other packs") for row in matrix.groups[group]]
    turns, each = itertools.cycle(matrix.guiders), len(matrix.guiders) if SOAK else 1
    pairs = [(row, next(turns)) for row in rows if row not in matrix.idle for _ in range(each)]
    cfgs = [CFGS[(i + i // len(matrix.guiders)) % 2] for i in range(len(pairs))]
    cells([(FAMILIES[0], guider, (row,), cfg, CAPTURE) for (row, guider), cfg in zip(pairs, cfgs)])


def test_prompts_and_runs_as_people_build_them(cells, matrix):
    rows = [*matrix.groups["prompts"], *matrix.groups["runs"]]
    cells([(FAMILIES[0], "CFGGuider", (row,), cfg, CAPTURE) for row, cfg in zip(rows, itertools.cycle(CFGS))])


def test_a_text_twice_and_a_network_that_fails(cells):
    twice = "ConditioningSetMask, two bound prompts", "ConditioningSetTimestepRange, overlapping"
    longer = "ConditioningConcat with a bound prompt", "ConditioningCombine with a bound prompt"
    past = ("the model called past its wrappers",)
    for family, rows in {"wan_t2v": twice, "cogvideox": longer, "minimax_h3": past}.items():
        made = cells([(family, "CFGGuider", rows, 6.0, column) for column in (CAPTURE, "gradient guidance")])
        assert {verdict.kind for verdict in made} == {"refused" if rows is past else "exact"}


def test_nodes_that_change_nothing_here_change_nothing_there(matrix, cells):
    made = cells([(FAMILIES[0], "CFGGuider", (row,), 6.0, CAPTURE) for row in sorted(matrix.idle)])
    assert {verdict.kind for verdict in made} <= {"exact", "host"}


def test_steering_beside_everything(matrix, cells):
    """An edit of attention, words in time, and a second prediction take turns."""
    rows = [row for row in matrix.rows if row not in matrix.idle]
    ways = itertools.cycle(["region bias", "perturbation", "timed words"])
    cells([(FAMILIES[0], "CFGGuider", (row,), 6.0, way) for row, way in zip(rows, ways)])


def test_a_second_prediction_beside_what_predicts_otherwise(matrix, cells):
    rows = ["APG", "PerpNeg", "WanContextWindowsManual", *CHANGE_CALLS]
    cells([(FAMILIES[0], "CFGGuider", (row,), 6.0, "perturbation") for row in rows])


def test_gradient_guidance_beside_what_changes_attention(matrix, cells):
    rows = [*matrix.groups["prompts"], *matrix.groups["other packs"], *CHANGE_CALLS]
    cells([(FAMILIES[0], "CFGGuider", (row,), 6.0, "gradient guidance") for row in rows])


def test_steering_before_steps_beside_what_changes_steps(matrix, cells):
    rows = ["EasyCache", "LazyCache", "WanContextWindowsManual", "ModelSamplingSD3", "a split run", "a refining run"]
    ways = ["dual clock", "intrinsic denoising"]
    cells([(FAMILIES[0], "CFGGuider", (row,), 6.0, way) for row, way in itertools.product(rows, ways)])


def test_every_guider_with_nothing_beside(matrix, cells):
    """Each column of each guider once; CFG 1 and 6 take turns."""
    pairs = itertools.product(matrix.guiders, [CAPTURE, *WAYS])
    cells([(FAMILIES[0], guider, (NOTHING,), cfg, each) for (guider, each), cfg in zip(pairs, itertools.cycle(CFGS))])


@pytest.mark.parametrize("family", EVERY)
def test_every_family_is_exact_where_nothing_is_beside(cells, family):
    both = [CAPTURE, "region bias"] if family in FAMILIES else [CAPTURE]
    columns = [(cfg, column) for cfg in CFGS for column in both]
    columns += [(6.0, way) for way in (WAYS if family in FAMILIES else ["timed words"]) if way not in both]
    made = cells([(family, "CFGGuider", (NOTHING,), cfg, column) for cfg, column in columns])
    assert {(verdict.kind, verdict.text) for verdict in made} == {("exact", "")}, "and there was something to steer"


def test_a_map_that_is_one_percent_off_is_found(matrix, monkeypatch):
    found = []

    def nearly(truth, *shown):
        for entities in truth.maps.values():
            for name in entities:
                entities[name] = entities[name] * 1.01
        found.append(compare(truth, *shown))
        return found[-1]

    monkeypatch.setattr("matrix_cells.verdict.compare", nearly)
    verdict = captured(matrix.graph(FAMILIES[0], "CFGGuider", (NOTHING,), 6.0))
    assert verdict.silent
    assert any("1 % off" in line for line in found[0])


@pytest.mark.soak
def test_the_page_is_true(matrix, pytestconfig):
    """Some cells of it here. `python -m scripts.beside` runs this and takes all."""
    writer, cells = pytestconfig.pluginmanager.get_plugin(beside.NAME), matrix.page()
    if writer is not None:
        for place, name in cells.items():
            verdict = matrix.cell(*name)
            writer.cells[place] = shown(verdict)
        return
    page, advice = beside.written(), "run python -m scripts.beside"
    assert {place for place, word in page.items() if word != "-"} <= set(cells) <= set(page), advice
    for place in random.Random(SEED).sample(sorted(cells), min(len(cells), count(6, len(cells)))):
        assert page[place] == shown(matrix.cell(*cells[place]))[0], (place, advice)


def shown(verdict):
    """(word, sentence) of a verdict on the page."""
    if verdict.kind == "noted":
        return "noted", verdict.notes[0]
    return ("-", "") if verdict.kind in ("host", "untold") else (verdict.kind, verdict.text)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_product(matrix, cells, family, part):
    """All of it in `make soak`, in an order drawn at random; some of it here."""
    every = list(itertools.product([family], matrix.guiders, [(row,) for row in matrix.rows], CFGS, (CAPTURE, *WAYS)))
    chosen = random.Random(SEED).sample(every, min(len(every), count(3, len(every))))
    cells(chosen[part * len(chosen) // PARTS : (part + 1) * len(chosen) // PARTS])


@pytest.mark.soak
def test_patches_in_pairs(matrix, cells):
    rng = random.Random(SEED)
    pairs = list(itertools.combinations(matrix.rows, 2))
    cells(
        [
            (rng.choice(FAMILIES), rng.choice(list(matrix.guiders)), rng.choice(pairs), rng.choice(CFGS), column)
            for _ in range(count(2, 500))
            for column in (CAPTURE, rng.choice(list(WAYS)))
        ]
    )
