"""Captured and steered runs of everything in the matrix, that end well, in an error, an interrupt or without memory at
any place: what comes after is bit for bit what came before, and nothing is left."""

import collections
import contextlib
import gc
import random
import resource
import sys

import pytest
import torch
from matrix_cells.graphs import pytorch_attention
from matrix_cells.verdict import capturing, sample
from support_counts import SEED, count
from support_matrix import CAPTURE, FAMILIES, NOTHING, WAYS, Matrix

pytestmark = pytest.mark.usefixtures("one_thread")
CYCLES = 1000


@pytest.fixture(scope="module")
def matrix(pack):
    with pytorch_attention():
        yield Matrix(pack)


class SomethingError(Exception):
    """Anything that goes wrong."""


@contextlib.contextmanager
def failing(network, rng, error):
    """Raises `error` where some module of the network is called, or behind it, at some time; counts whether it did."""
    ran = [module for module in network.modules() if not isinstance(module, torch.nn.ModuleList)]
    module, left, happened = rng.choice(ran), [rng.randrange(4)], []

    def fail(*_):
        left[0] -= 1
        if left[0] < 0:
            happened.append(True)
            raise error

    handle = rng.choice([module.register_forward_pre_hook, module.register_forward_hook])(fail)
    try:
        yield happened
    finally:
        handle.remove()


def remains(matrix):
    """Everything that a run could have left somewhere."""
    import comfy.model_management

    found = collections.Counter()
    for family in FAMILIES:
        model = matrix.model(family)
        for name, module in model.model.diffusion_model.named_modules():
            found[family, "hooks"] += len(module._forward_hooks) + len(module._forward_pre_hooks)
            set_ = [vars(module)[part] for part in ("forward", "_call_impl") if part in vars(module)]
            own = type(module).forward, type(module)._call_impl  # the host leaves these where a patch was
            found[family, name, "attributes"] += sum(getattr(each, "__func__", each) not in own for each in set_)
        options = model.model_options.get("transformer_options", {})
        found[family, "options"] += len(set(options) & {"matrix", "matrix_steered", "optimized_attention_override"})
        found[family, "wrappers"] += sum(map(len, options.get("wrappers", {}).values()))
    found["modes"] += torch.overrides._len_torch_function_stack()
    found["training"] += comfy.model_management.in_training
    found["kernel"] += torch.nn.functional.scaled_dot_product_attention is not KERNEL
    return +found


KERNEL = torch.nn.functional.scaled_dot_product_attention


def tensors():
    gc.collect()
    return sum(1 for each in gc.get_objects() if type(each) is torch.Tensor)


@pytest.mark.soak
def test_random_cycles_leave_nothing(matrix, monkeypatch):
    import comfy.model_management as management

    viewer = sys.modules[f"{matrix.pack.module.__name__}.nodes.viewer"]
    monkeypatch.setattr(viewer.ANSWERS.store, "most", 0)  # it keeps captures to show them: on purpose, and not here

    rng, cycles = random.Random(11 + SEED), count(4, CYCLES)
    rows = list(matrix.rows)
    steer = matrix.pack.lib("hosts.comfy.steer").steer

    def plain(family):
        graph = matrix.graph(family, "CFGGuider", (NOTHING,), 6.0)
        return graph.sample(lambda guider, *given: (sample(guider, *given), None))[0]

    def graph_of(family):
        beside = rng.sample(rows, rng.randrange(3))
        try:
            graph = matrix.graph(family, rng.choice(list(matrix.guiders)), tuple(beside), rng.choice([1.0, 6.0]))
        except Exception:  # the host refuses some of these together
            return matrix.graph(family, "CFGGuider", (NOTHING,), 6.0)
        return graph.but(steps=2)

    def once(family, ends):
        graph, column = graph_of(family), rng.choice([CAPTURE, *WAYS])
        network = graph.model.model.diffusion_model
        error = {"error": SomethingError("x"), "interrupt": management.InterruptProcessingException()}.get(ends)
        if ends == "memory":
            error = management.OOM_EXCEPTION("out of memory")
        with contextlib.ExitStack() as stack:
            happened = stack.enter_context(failing(network, rng, error)) if error is not None else []
            try:
                run = capturing(graph) if column == CAPTURE else lambda guider, *given: (sample(guider, *given), None)
                if column != CAPTURE:
                    guidance = WAYS[column].guidance(graph)
                    given = {"reference": {"samples": graph.reference()}} if guidance.needs_reference else {}
                    graph = graph.but(model=steer(graph.model, guidance, **given))
                graph.sample(run)
            except (Exception, management.InterruptProcessingException):  # a refusal, the host's own, or ours
                pass
        return bool(happened)

    before = {family: plain(family) for family in FAMILIES}
    assert remains(matrix) == {}
    failed, figures = 0, []
    for cycle in range(cycles):
        family = rng.choice([FAMILIES[0], *FAMILIES])
        failed += once(family, rng.choice(["well", "error", "interrupt", "memory"]))
        assert torch.equal(plain(family), before[family]), cycle
        assert remains(matrix) == {}, cycle
        if cycle % max(1, cycles // 10) == 0:
            matrix.made.cache_clear()
            figures.append((tensors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))
    assert failed > cycles // 10
    half = figures[len(figures) // 2 :]
    assert half[-1][0] <= half[0][0] + 40, figures
    if cycles >= CYCLES:
        assert half[-1][1] <= half[0][1] + 100, figures


def test_a_backward_pass_that_fails_holds_nothing(matrix):
    """Blocks run again in it: there somebody interrupts, or memory ends."""
    graph = matrix.graph(FAMILIES[0], "CFGGuider", (NOTHING,), 1.0).but(steps=2)
    steer, part = matrix.pack.lib("hosts.comfy.steer").steer, graph.model.model.diffusion_model.blocks[0].self_attn.q
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > 1:
            raise SomethingError("x")

    def run():
        held = graph.but(model=steer(graph.model, WAYS["gradient guidance"].guidance(graph)))
        with pytest.raises(SomethingError):
            held.sample(lambda guider, *given: (sample(guider, *given), None))

    handle = part.register_forward_pre_hook(fail)
    try:
        run()
    finally:
        handle.remove()
    gc.collect()
    assert len(calls) == 2
    assert not [each for each in gc.get_objects() if type(each).__name__ == "_CheckpointFrame"]


def test_a_gradient_that_is_refused_holds_nothing(matrix):
    """HunyuanVideo adds in place: under gradients that makes circles within PyTorch, which Python cannot free."""
    graph = matrix.graph("hunyuan", "CFGGuider", ("the model called past its wrappers",), 1.0).but(steps=2)
    steer, before = matrix.pack.lib("hosts.comfy.steer").steer, tensors()
    held = graph.but(model=steer(graph.model, WAYS["gradient guidance"].guidance(graph)))
    with pytest.raises(ValueError, match="past ComfyUI's wrappers"):
        held.sample(lambda guider, *given: (sample(guider, *given), None))
    del held
    assert tensors() <= before
