"""Losses off running diffusers models: every family, with gradient checkpointing, against a float64 softmax."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_models import randomize

from matrix_lib.core.attention.pooled_maps import Pool
from matrix_lib.core.grid import Grid
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.batch import TargetBatch
from matrix_lib.core.losses.config import AlignmentConfig, TargetAwareConfig
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.losses.flow import feature_flow, features_on, flow_loss, latents_on, mask_flow
from matrix_lib.core.losses.mask_loss import alignment_loss
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps, LossParts, TargetMaps

LATENT = (3, 4, 6)
GRID = Grid.from_latent(LATENT)
LAYERS = AlignmentConfig(v2t=LayerDraw((0, 1)), v2v=LayerDraw((1,)))


def build(family: str, layers: int = 2) -> tuple[Any, dict[str, Any]]:
    g = torch.Generator().manual_seed(2)
    t, h, w = LATENT
    if family == "cogvideox":
        from diffusers import CogVideoXTransformer3DModel

        model: Any = CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8,
            text_embed_dim=16, num_layers=layers, sample_width=w, sample_height=h, sample_frames=9,
        )  # fmt: skip
        x, words = torch.randn(1, t, 4, h, w, generator=g), torch.randn(1, 226, 16, generator=g)
    elif family == "minimax_h3":
        return _minimax_h3(layers, g)
    else:
        from diffusers import WanTransformer3DModel

        model = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=8,
            ffn_dim=16, num_layers=layers,
        )  # fmt: skip
        x, words = torch.randn(1, 4, t, h, w, generator=g), torch.randn(1, 20, 16, generator=g)
    args = {"hidden_states": x, "encoder_hidden_states": words, "timestep": torch.tensor([500])}
    return randomize(model, std=0.15), args


def _minimax_h3(layers: int, g: torch.Generator) -> tuple[Any, dict[str, Any]]:
    """As it is trained: a first frame and silence between 20 words, behind five rows of the picture, and the clip."""
    from diffusers import MiniMaxH3Transformer3DModel

    from matrix_lib.hosts.diffusers.families import family as of

    model = MiniMaxH3Transformer3DModel(
        num_attention_heads=2, attention_head_dim=8, hidden_size=16, num_layers=layers, num_refiner_layers=1,
        ffn_dim=16, text_dim=16, freq_dim=8, time_embed_hidden_dim=8, time_embed_dim=8, rope_freq_dim=1,
    )  # fmt: skip
    t, h, w = LATENT
    text = {"rows": torch.randn(1, 25, 16, generator=g), "sound": torch.randn(1, 6, 32, generator=g)}
    text["tags"] = (torch.arange(25) >= 5).float()[None]
    hidden = torch.randn(1, t, 48, h, w, generator=g)
    args = of(family := "minimax_h3").inputs(model.config, hidden, torch.tensor([600.0]), text)
    assert of(family).packed(args).between == 2 * 3 + 6
    args.pop("return_dict")
    return randomize(model, std=0.15), args


def targets(family: str) -> Targets:
    binding = make_binding(binding_module, 226 if family == "cogvideox" else 20)
    if family == "minimax_h3":
        return Targets.of(binding, make_tracks(tracks_module, 9, 64, 96), replace(GRID, spatial_stride=16, cycle=5))
    return Targets.of(binding, make_tracks(tracks_module, 9, 32, 48), GRID)


def gradients(model: Any, args: dict[str, Any], maps: Any, loss: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with attach(model, Session([maps]), lambda forward: None):
        out = model(**args, return_dict=False)[0]
        total = out.square().mean() + loss(maps)
        total.backward()
    return float(total), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).norm() / b[n].double().norm().clamp_min(1e-9)) for n in a)


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_gradient_checkpointing_changes_nothing(family: str, scores: Any) -> None:
    model, args = build(family)
    config = AlignmentConfig(sga=1.0, spa=1.0, v2t=LAYERS.v2t, v2v=LAYERS.v2v, scores=scores)
    torch.manual_seed(0)
    decoder = MaskDecoder(DecoderConfig(2, 1, width=8, least=4, probabilities=scores == "probabilities"))
    found = []
    for checkpointing in (False, True):
        model.train()
        (model.enable_gradient_checkpointing if checkpointing else model.disable_gradient_checkpointing)()
        maps = AlignmentMaps(config, [targets(family)])
        found.append(gradients(model, args, maps, lambda m: m.alignment(decoder).total))
        assert len(maps.grounding) == 2
        assert len(maps.propagation) == 1
    off = gradients(model, args, AlignmentMaps(config, [None]), lambda m: m.alignment().total)
    assert abs(found[0][0] - found[1][0]) < 1e-6
    assert apart(found[0][1], found[1][1]) < 1e-5
    assert abs(found[0][0] - off[0]) > 0.1
    assert apart(found[0][1], off[1]) > 1e-2


@pytest.mark.parametrize("family", ["cogvideox", "wan", "minimax_h3"])
def test_parameters_get_the_gradient_of_an_explicit_softmax(family: str) -> None:
    """Through a whole model in float64, where the reference reads the same q and k."""
    model, args = build(family, layers=1)
    model, args = model.double(), {k: v.double() if v.is_floating_point() else v for k, v in args.items()}
    target = targets(family)
    config = AlignmentConfig(sga=1.0, spa=0.5, v2t=LayerDraw((0,)), v2v=LayerDraw((0,)), scores="probabilities")
    got = gradients(model, args, AlignmentMaps(config, [target]), lambda m: m.alignment().total)

    class Explicit(AlignmentMaps):
        def observe(self, call: Any, lse: Any = None) -> None:
            p = (call.q @ call.k.transpose(-1, -2) * call.scale).softmax(-1)[0].mean(0)
            first = call.video_q[0]
            video = slice(first, first + GRID.size)
            if call.site.has_v2t:
                made = p[video][:, target.words.indices + call.text_k[0]] @ target.words.weights.double()
                self.grounding[0] = made.T.unflatten(-1, GRID.shape)[None]
            if call.site.has_v2v:
                made = target.queries.weights.double().T @ p[target.queries.indices + first][:, video]
                self.propagation[0] = made.unflatten(-1, GRID.shape)[None]

    wanted = gradients(model, args, Explicit(config, [target]), lambda m: m.alignment().total)
    assert abs(got[0] - wanted[0]) < 1e-6
    assert apart(got[1], wanted[1]) < 1e-4


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
def test_flow_is_that_of_an_explicit_loop(family: str) -> None:
    """Every token of every mask by itself, in float64, through a whole model; checkpointed blocks give the same."""
    model, args = build(family, layers=1)
    model, args = model.double(), {k: v.double() if v.is_floating_point() else v for k, v in args.items()}
    target, side = targets(family), 3
    config = AlignmentConfig(sga=0, spa=0, flow=0.5, window=side, v2v=LayerDraw((0,)))
    got = gradients(model, args, AlignmentMaps(config, [target]), lambda m: m.alignment().total)
    masks = target.token_masks(target.queries.names) > 0

    class Explicit(AlignmentMaps):
        def observe(self, call: Any, lse: Any = None) -> None:
            if not call.site.has_v2v:
                return
            logits = call.scale * (call.q @ call.k.transpose(-1, -2))[0].mean(0)
            f, h, w = GRID.shape
            losses = []
            for mask in masks:
                own = []
                for t, y, x in mask[: f - 1].nonzero().tolist():
                    around = [(a, b) for a in range(y - 1, y + 2) for b in range(x - 1, x + 2)]
                    around = [(a, b) for a, b in around if 0 <= a < h and 0 <= b < w]
                    inside = torch.tensor([bool(mask[t + 1, a, b]) for a, b in around])
                    if not inside.any():
                        continue
                    place = call.video_q[0] + (t * h + y) * w + x
                    keys = [call.video_k[0] + ((t + 1) * h + a) * w + b for a, b in around]
                    log = logits[place, keys].log_softmax(0)
                    own.append(-log[inside].mean() - torch.log(inside.sum().double()))
                losses.append(torch.stack(own).mean())
            self.flow[0] = torch.stack(losses).sum()

        def alignment(self, decoder: Any = None, t: Any = None) -> LossParts:
            return LossParts(config.flow * self.flow[0], {})

    wanted = gradients(model, args, Explicit(config, [target]), lambda m: m.alignment().total)
    assert abs(got[0] - wanted[0]) < 1e-6
    assert apart(got[1], wanted[1]) < 1e-6
    model.train()
    model.enable_gradient_checkpointing()
    again = gradients(model, args, AlignmentMaps(config, [target]), lambda m: m.alignment().total)
    assert apart(again[1], got[1]) < 1e-9


def test_flow_knows_what_stands_still_and_what_moves() -> None:
    """Features that move one place to the right a frame: their flow points there, and agrees with that of a mask."""
    g = torch.Generator().manual_seed(0)
    still = torch.randn(1, 32, 1, 6, 12, generator=g)
    moving = torch.cat([still.roll(t, -1) for t in range(3)], 2)
    flow = feature_flow(moving, 3, 0.05)
    assert (flow[0, :, 5, 1:-1, 1:-1] > 0.9).float().mean() > 0.95  # the middle row, one to the right
    masks = torch.zeros(1, 3, 6, 12, dtype=torch.bool)
    for t in range(3):
        masks[0, t, 2, 3 + t] = True
    teacher = mask_flow(masks, 3)
    assert teacher.sum() == 2
    assert (teacher[0, :, 5, 2].sum(-1) == 1).all()
    log = {0: flow.clamp_min(1e-9).log()}
    right, wrong = flow_loss(log, teacher), flow_loss(log, mask_flow(masks.flip(1), 3).flip(1))
    assert right < 0.2 < wrong
    assert flow_loss(log, teacher, torch.tensor([True, True, False])) == pytest.approx(float(right), abs=0.1)
    assert flow_loss(log, torch.zeros_like(teacher)) == 0
    with pytest.raises(ValueError, match="odd side"):
        mask_flow(masks, 4)


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
@pytest.mark.parametrize("of", ["attention", "values"])
def test_features_teach_every_token(family: str, of: Any) -> None:
    """The flow of features against a loop in float64, as attention has it and as its values have it: through a whole
    model, beside SGA and SPA, and for a clip without instances, too."""
    model, args = build(family, layers=1)
    model, args = model.double(), {k: v.double() if v.is_floating_point() else v for k, v in args.items()}
    target, heat, (f, h, w) = targets(family), 0.2, GRID.shape
    features = torch.randn(1, 5, f, h, w, generator=torch.Generator().manual_seed(3))
    more = {"window": 3, "v2t": LayerDraw((0,)), "v2v": LayerDraw((0,)), "flow_of": of, "teacher": "features"}
    config = AlignmentConfig(sga=0, spa=0, flow=0.5, temperature=heat, **more)
    batch = TargetBatch.of([target], pixels=False, features=features)
    got = gradients(model, args, AlignmentMaps(config, batch), lambda m: m.alignment().total)
    unit = torch.nn.functional.normalize(features[0].double(), dim=0)

    class Explicit(AlignmentMaps):
        def observe(self, call: Any, lse: Any = None) -> None:
            if not call.site.has_v2v:
                return
            first = call.video_k[0]
            values = torch.nn.functional.normalize(call.v[0].transpose(0, 1).flatten(1), dim=1)[first:]
            logits = call.scale * (call.q @ call.k.transpose(-1, -2))[0].mean(0)[call.video_q[0] :, first:]
            logits = values @ values.T / heat if of == "values" else logits
            losses = []
            for t, y, x in torch.ones(f - 1, h, w).nonzero().tolist():
                around = [(a, b) for a in range(y - 1, y + 2) for b in range(x - 1, x + 2)]
                around = [(a, b) for a, b in around if 0 <= a < h and 0 <= b < w]
                log = logits[(t * h + y) * w + x, [((t + 1) * h + a) * w + b for a, b in around]].log_softmax(0)
                told = torch.stack([unit[:, t, y, x] @ unit[:, t + 1, a, b] for a, b in around])
                own = (told / heat).log_softmax(0)
                losses.append((own.exp() * (own - log)).sum())
            self.flow[0] = torch.stack(losses).mean()

        def alignment(self, decoder: Any = None, t: Any = None) -> LossParts:
            return LossParts(config.flow * self.flow[0], {})

    wanted = gradients(model, args, Explicit(config, batch), lambda m: m.alignment().total)
    assert abs(got[0] - wanted[0]) < 1e-6
    assert apart(got[1], wanted[1]) < 1e-5
    mixed = AlignmentMaps(replace(config, sga=0.1, spa=0.1), batch)
    parts: dict[str, Any] = {}
    gradients(model, args, mixed, lambda m: parts.update(m.alignment().parts) or 0.0 * m.flow[0].sum())
    assert set(parts) == {"sga", "spa", "flow"}
    nobody = TargetBatch.of([replace(target, queries=Pool.mean_of({}))], features=features)
    alone = gradients(model, args, AlignmentMaps(config, nobody), lambda m: m.alignment().total)
    assert alone[0] == got[0], "a clip without instances is taught as well"
    with pytest.raises(ValueError, match="targets have none"):
        gradients(model, args, AlignmentMaps(config, [target]), lambda m: m.alignment().total)
    with pytest.raises(ValueError, match="are not of 1 clips"):
        TargetBatch.of([target], features=features[:, :, 1:])


def test_features_come_to_the_tokens_that_they_are_of() -> None:
    """Of pixel frames and of latents: a ramp keeps its places, and frames their groups."""
    grid = Grid.from_latent((3, 4, 6))
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    seen = torch.stack([torch.stack([rows, columns, torch.full_like(rows, t)]) for t in range(9)], 1)
    found = features_on(seen, grid)
    assert found.shape == (3, *grid.shape)
    assert found[2, :, 0, 0].tolist() == [0.0, 2.5, 6.5]
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([3.5, 11.5]))
    torch.testing.assert_close(found[1, 0, 0], torch.tensor([3.5, 11.5, 19.5]))
    with pytest.raises(ValueError, match="8 frames"):
        features_on(seen[:, 1:], grid)
    latents = torch.arange(24.0).view(1, 1, 1, 4, 6).expand(-1, -1, 3, -1, -1)
    assert latents_on(latents, grid)[0, 0, 0].tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]


def test_target_aware_loss_of_a_model() -> None:
    model, args = build("cogvideox")
    config = TargetAwareConfig(layers=LayerDraw((0, 1)))
    model.enable_gradient_checkpointing()
    model.train()
    found = {}
    for weight in (0.0, 0.1, 0.2):
        config = TargetAwareConfig(weight=weight, layers=LayerDraw((0, 1)))
        maps = TargetMaps(config, [targets("cogvideox")], ["van"])
        found[weight] = gradients(model, args, maps, lambda m: m.target_aware().total)[0]
    assert found[0.1] - found[0.0] == pytest.approx((found[0.2] - found[0.0]) / 2, rel=1e-4)
    assert found[0.1] > found[0.0]
    with pytest.raises(ValueError, match="no grounded phrase"):
        TargetMaps(config, [targets("cogvideox")], ["lamp"])


def test_targets_join_words_and_tracks_by_name() -> None:
    target = targets("cogvideox")
    assert target.words.names == ("cyclist", "van", "passes")
    assert target.queries.names == ("cyclist", "van")
    masks = target.token_masks(target.words.names)
    assert torch.equal(masks[2], torch.maximum(masks[0], masks[1])), "a verb's mask is its pair's, united"
    pixels = target.pixel_masks(["van", "passes"])
    assert pixels.shape == (2, 9, 32, 48)
    assert bool((pixels[0] <= pixels[1]).all())
    binding = make_binding(binding_module, 226)
    first = make_tracks(tracks_module, 9, 32, 48).take([0])
    alone = Targets.of(binding, first, GRID)
    assert alone.known.tolist() == [True, False, False]
    assert alone.pixel_known.tolist() == [True] + [False] * 8
    assert alone.pixel_masks(["van"])[0, 1:].sum() == 0
    with pytest.raises(ValueError, match="join"):
        Targets.of(binding, first.rename({"van": "lorry"}), GRID)


def test_what_cannot_be_asked_is_noted_or_refused() -> None:
    verb = make_binding(binding_module, 226, {"cyclist": (1,), "van": (), "passes": (9,)})
    target = Targets.of(verb, make_tracks(tracks_module, 9, 32, 48), GRID)
    assert target.words.names == ("cyclist", "passes")
    assert any("'van' has no words" in note for note in target.notes)
    model, args = build("cogvideox")
    with pytest.raises(ValueError, match="rows"):
        gradients(model, args, AlignmentMaps(LAYERS, [target, target]), lambda m: m.alignment().total)
    far = AlignmentConfig(v2t=LayerDraw((7,)), v2v=LayerDraw((1,)))
    with pytest.raises(ValueError, match=r"layers \[7\] gave no map"):
        gradients(model, args, AlignmentMaps(far, [target]), lambda m: m.alignment().total)
    other = MaskDecoder(DecoderConfig(2, 1, width=8, probabilities=True))
    with pytest.raises(ValueError, match="the other kind of scores"):
        gradients(model, args, AlignmentMaps(LAYERS, [target]), lambda m: m.alignment(other).total)
    bell = AlignmentConfig(v2t=LayerDraw((0,)), v2v=LayerDraw((1,)), timestep="bell")
    with pytest.raises(ValueError, match="needs the times"):
        gradients(model, args, AlignmentMaps(bell, [target]), lambda m: m.alignment().total)
    half = gradients(model, args, AlignmentMaps(bell, [target]), lambda m: m.alignment(t=torch.tensor([0.5])).total)
    ends = gradients(model, args, AlignmentMaps(bell, [target]), lambda m: m.alignment(t=torch.tensor([1.0])).total)
    assert half[0] > ends[0]


def test_switched_off_losses_watch_nothing() -> None:
    maps = AlignmentMaps(AlignmentConfig(sga=0.0, spa=0.0), [targets("cogvideox")])
    assert not maps.v2t
    assert not maps.v2v
    assert float(maps.alignment().total) == 0.0
    with pytest.raises(ValueError, match="no layer"):
        alignment_loss({}, torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.parametrize("decoded", [False, True], ids=["tokens", "decoder"])
def test_a_batch_is_the_mean_of_its_rows(scores: Any, decoded: bool) -> None:
    """Rows with other words, fewer entities, other known frames, and one that is not aligned."""
    model, args = build("cogvideox")
    g = torch.Generator().manual_seed(7)
    many = {
        "hidden_states": torch.randn(4, *args["hidden_states"].shape[1:], generator=g),
        "encoder_hidden_states": torch.randn(4, 226, 16, generator=g),
        "timestep": torch.tensor([500, 500, 500, 500]),
    }
    fewer = make_binding(binding_module, 226, {"cyclist": (3, 4, 5), "van": (), "passes": (9,)})
    tracks = make_tracks(tracks_module, 9, 32, 48)
    given = [targets("cogvideox"), Targets.of(fewer, tracks, GRID), None, Targets.of(fewer, tracks.take([0]), GRID)]
    config = AlignmentConfig(1.0, 0.5, v2t=LAYERS.v2t, v2v=LAYERS.v2v, scores=scores, timestep="bell")
    torch.manual_seed(0)
    made = DecoderConfig(2, 1, width=8, least=4, probabilities=scores == "probabilities")
    decoder = MaskDecoder(made) if decoded else None
    times = torch.tensor([0.5, 0.3, 0.2, 0.7])

    def run(rows: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        maps = AlignmentMaps(config, [given[i] for i in rows])
        inputs = {name: value[rows] for name, value in many.items()}
        model.zero_grad()
        with attach(model, Session([maps]), lambda forward: None):
            model(**inputs, return_dict=False)
            found = maps.alignment(decoder, times[rows])
        weight = model.transformer_blocks[0].attn1.to_q.weight
        asked = found.total.requires_grad
        grad = torch.autograd.grad(found.total, weight)[0] if asked else torch.zeros_like(weight)
        return found.total.detach(), found.parts, grad

    total, parts, grad = run([0, 1, 2, 3])
    single = [run([i]) for i in range(4)]
    torch.testing.assert_close(total, torch.stack([s[0] for s in single]).mean(), rtol=1e-5, atol=1e-6)
    for name, value in parts.items():
        each = torch.stack([s[1].get(name, torch.zeros(())) for s in single])
        torch.testing.assert_close(value, each.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, torch.stack([s[2] for s in single]).mean(0), rtol=1e-4, atol=1e-6)
    batch = TargetBatch.of(given)
    chosen = batch.select(torch.tensor([3, 0]), torch.tensor([True, False]))
    assert chosen.pairs("words") == [(0, e) for e in range(len(given[3].words))]  # type: ignore[union-attr]
    assert torch.equal(chosen.tokens[1], batch.tokens[0])
    rows, entities = (torch.tensor([pair[axis] for pair in batch.pairs("words")]) for axis in (0, 1))
    wanted = [t.pixel_masks(t.words.names) for t in given if t is not None]
    assert torch.equal(batch.masks("words", rows, entities, pixels=True), torch.cat(wanted))
