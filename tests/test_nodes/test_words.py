"""MatrixBindPrompt, as the host runs it, on the host's own text encoders with tiny weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from support_words import make_clip

PROMPT = "A man on a (bicycle:1.2) rides up behind the white van."
PHRASES = "cyclist: a man on a bicycle\nvan: the white van\nrides up behind = verb(cyclist -> van)"


@pytest.fixture(scope="module")
def clips(comfy: Any) -> Any:
    torch.set_num_threads(1)
    return functools.cache(make_clip)


@pytest.fixture
def run(pack: Any, clips: Any) -> Any:
    def execute(family: str = "t5", **inputs: Any) -> Any:
        defaults = {
            "clip": clips(family),
            "prompt": PROMPT,
            "phrases": PHRASES,
            "form": "as written",
            "length": "cut to the model's length",
        }
        return pack.run("MatrixBindPrompt", **{**defaults, **inputs})

    return execute


def make_tracks(pack: Any, *names: str) -> Any:
    masks = {name: torch.zeros(2, 8, 8) for name in names}
    for mask in masks.values():
        mask[:, 2:5, 2:5] = 1
    return pack.lib("core.tracks.tracks").MaskTracks.from_masks(masks)


@pytest.mark.parametrize(("family", "length"), [("t5", 226), ("umt5", 512), ("llama", None)])
def test_conditioning_is_the_hosts_with_the_binding_on_board(run: Any, clips: Any, family: str, length: int) -> None:
    conditioning, binding, table, picture, _ = run(family).result
    with torch.inference_mode():
        theirs = clips(family).encode_from_tokens_scheduled(clips(family).tokenize(PROMPT))
    assert torch.equal(conditioning[0][0], theirs[0][0])
    assert set(conditioning[0][1]) == set(theirs[0][1]) | {"matrix_binding", "matrix_encoded"}
    assert conditioning[0][1]["matrix_binding"] is binding
    assert conditioning[0][0].shape[1] == binding.length
    assert length in (None, binding.length)
    assert binding.names == ("cyclist", "van", "rides up behind")
    assert "| van | object | the white van |" in table
    assert picture.shape[0] == 1
    assert picture.shape[2:] == (1024, 3)
    assert picture.dtype == torch.float32
    assert 0.0 <= float(picture.min()) < float(picture.max()) <= 1.0


def test_the_picture_is_shown(run: Any) -> None:
    output = run()
    assert output.ui["images"]
    assert output.ui["text"][0].startswith("**T5 (CogVideoX): ")


def test_tracks_travel_along_and_have_to_agree(run: Any, pack: Any) -> None:
    tracks = make_tracks(pack, "cyclist", "van", "tree")
    conditioning = run(tracks=tracks).result[0]
    assert conditioning[0][1]["matrix_tracks"] is tracks
    with pytest.raises(ValueError, match="binds 'cyclist', but the tracks are named 'rider', 'van'"):
        run(tracks=make_tracks(pack, "rider", "van"))


def test_two_prompts_keep_their_own_bindings(run: Any) -> None:
    """Conditionings that the host combines stay entries of their own, each with its own binding."""
    import nodes

    one = run().result
    two = run(prompt="A dog pulls a rope.", phrases="dog: a dog\nrope: a rope\npulls = verb(dog -> rope)").result
    both = nodes.ConditioningCombine().combine(one[0], two[0])[0]
    assert [options["matrix_binding"] for _, options in both] == [one[1], two[1]]
    again = run().result[0]
    assert again[0][1]["matrix_binding"] == one[1]


def test_forms(run: Any) -> None:
    tagged = run(form="<idK> tags").result[1]
    assert tagged.prompt == "A <id1> man on a (bicycle:1.2) rides up behind the <id2> white van."
    ids = run(form="<idK> tags, MATRIX's token ids").result[1]
    assert "<id2>" in ids.pieces("van")
    assert [token.id for token in ids.tokens if token.text == "<id2>"] == [32101]
    target = run(form="target word (TAViD)").result[1]
    assert "behind the target white van" in target.prompt
    assert len(target.phrase("van").rows) == len(run().result[1].phrase("van").rows) + 1


def test_a_binding_is_used_again(run: Any) -> None:
    binding = run("umt5").result[1]
    conditioning, same, *_ = run("umt5", prompt="ignored", phrases="ignored", binding=binding).result
    assert same is binding
    assert conditioning[0][1]["matrix_binding"] is binding
    with pytest.raises(ValueError, match="512 rows, the text encoder makes 226"):
        run("t5", binding=binding)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"phrases": "van: the blue vans"}, "'the blue vans' is not in the prompt; did you mean 'the white van'"),
        ({"phrases": "a: van\na: man"}, "line 2 .* the name 'a' is taken by line 1"),
        ({"phrases": "a: van\nrides = verb(b -> a)"}, "line 2 .* names the instance 'b'"),
        ({"phrases": ""}, "no phrases given"),
        ({"phrases": "van: " + "x" * 99_000}, "line 1 .{,150}has 99005 characters, and 2000 are the most"),
        ({"phrases": "x" * 200_000}, "the phrases have 200000 characters"),
        ({"phrases": "\n".join(f"n{i}: van" for i in range(999))}, "more than 256 phrases"),
        *(
            ({"phrases": f"a: van\nrides = verb(a) {wrong}"}, f"line 2 .*one time a line, .*@2s-.*; got '{shown}'")
            for wrong, shown in (("@1-2", "@1-2"), ("@ 1s", "@ 1s"), ("@0,5s-", "@0,5s-"), ("@0-1s @1s-", "@0-1s"))
        ),
        (
            {"phrases": "a: van @1-2"},
            "line 1 .*'van @1-2' is not in the prompt; a time ends its line, as one of @0-1.5s",
        ),
        ({"phrases": "rides @1s- = verb(a)\na: van"}, "line 1 .*a time ends its line"),
        ({"phrases": "a: van @1S to 2S"}, "line 1 .*a time ends its line"),
        ({"phrases": "a: van @0s\u20131s"}, "line 1 .*a time ends its line"),
        ({"phrases": "van: van", "prompt": "very " * 300 + "small van"}, "cut off by the token limit"),
    ],
)
def test_bad_input(run: Any, inputs: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        run(**inputs)


def test_a_clip_of_another_family(run: Any, clips: Any, comfy: Any) -> None:
    import comfy.sd1_clip

    clip = clips("t5").clone()
    clip.tokenizer = comfy.sd1_clip.SD1Tokenizer()
    with pytest.raises(ValueError, match="Accepted are T5"):
        run(clip=clip)


def test_every_token_kept_on_request(run: Any) -> None:
    prompt = "very " * 300 + "small van"
    conditioning, binding, table, *_ = run(prompt=prompt, phrases="van: van", length="keep every token").result
    assert conditioning[0][0].shape[1] == binding.length > 300
    assert "all are kept" in table


@pytest.mark.parametrize("family", ["t5", "umt5", "llama", "qwen3vl"])
def test_a_node_that_encodes_the_prompt_itself(run: Any, pack: Any, clips: Any, family: str) -> None:
    """Its conditioning is what this node makes, binding and tracks and all; copies of the CLIP do the same, and other
    texts and tokens are refused."""
    import nodes

    tracks = make_tracks(pack, "cyclist", "van")
    conditioning, binding, *_, bound = run(family, tracks=tracks).result
    with torch.inference_mode():
        for clip in (bound, bound.clone(), bound.clone().clone()):
            ((rows, more),) = nodes.CLIPTextEncode().encode(clip, PROMPT)[0]
            assert torch.equal(rows, conditioning[0][0])
            assert more["matrix_binding"] == binding
            assert more["matrix_tracks"] is tracks
            assert set(more) == set(conditioning[0][1])
        with pytest.raises(ValueError, match=r"bound to the prompt 'A man .*the node encodes ''"):
            nodes.CLIPTextEncode().encode(bound, "")
        with pytest.raises(ValueError, match="tokens that are not those"):
            bound.encode_from_tokens_scheduled(clips(family).tokenize(PROMPT))
        with pytest.raises(ValueError, match=r"tells .* a_thing, and it is not known here where the words are then"):
            bound.tokenize(PROMPT, a_thing=1)
        same = run(family, clip=bound, binding=binding, prompt="ignored").result
        assert same[1] is binding
        with pytest.raises(ValueError, match="the node encodes 'ignored'"):
            same[-1].tokenize("ignored")


def test_a_node_that_shows_hunyuan_a_picture(run: Any) -> None:
    """Words stand behind its rows, as with the picture in this node; a prompt with tags is encoded as written out."""
    from comfy_extras.nodes_hunyuan import TextEncodeHunyuanVideo_ImageToVideo

    class Vision:
        mm_projected = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(0))
        last_hidden_state = penultimate_hidden_states = mm_projected

    prompt = PROMPT.replace("(bicycle:1.2)", "bicycle")  # the host fails on weights beside a picture
    given = {"prompt": prompt, "form": "<idK> tags"}
    conditioning, binding, *_ = run("llama", clip_vision_output=Vision(), image_interleave=3, **given).result
    bound = run("llama", **given).result[-1]
    with torch.inference_mode():
        made = TextEncodeHunyuanVideo_ImageToVideo.execute(bound, Vision(), prompt, 3).args[0]
    torch.testing.assert_close(made[0][0], conditioning[0][0])
    assert made[0][1]["matrix_binding"].phrases == binding.phrases
    assert made[0][1]["matrix_binding"].length == binding.length
