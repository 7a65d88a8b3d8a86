"""Words and conditioning rows in the real text encoders of both hosts, with tiny weights.

UMT5's real SentencePiece model exists inside checkpoints only: `support_words.spiece` trains a stand-in with the same
special ids and byte fallback. T5's, LLaMA's and Qwen's tokenizers are the host's own files.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support_counts import count, seeds
from support_words import Case, generate, letters, make_clip, only_embeddings, spiece

from matrix_lib.core.words.binding import CUT, PromptBinding, bind
from matrix_lib.core.words.prompt import parse_prompt
from matrix_lib.hosts import tokens as tokens_module
from matrix_lib.hosts.comfy.prompts import PromptTokens, bind_prompt, encode, find_encoder, read_prompt, reuse
from matrix_lib.hosts.diffusers.prompts import bind_prompt as bind_diffusers
from matrix_lib.hosts.diffusers.prompts import prompt_tokens

QWEN = ("qwen25", "qwen25_clip", "qwen3vl")
PROMPTS = seeds(60, soak=500)


@pytest.fixture(scope="module")
def clips(comfy: Any) -> Any:
    """clips(family): the host's CLIP, made once."""
    torch.set_num_threads(1)
    return functools.cache(lambda family: only_embeddings(make_clip(family)))


def llama_file(comfy: Any) -> Path:
    return Path(comfy.__path__[0]) / "text_encoders" / "llama_tokenizer" / "tokenizer.json"


@pytest.fixture(scope="module")
def spaced(clips: Any, comfy: Any) -> Any:
    """HunyuanVideo's CLIP whose tokenizer keeps spaces, as it does with transformers 4."""
    import transformers

    clip = clips("llama").clone()
    outer = type(clip.tokenizer)()
    outer.llama.tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(llama_file(comfy)), bos_token="<|begin_of_text|>"
    )
    assert outer.llama.tokenizer("")["input_ids"] == [128000]
    clip.tokenizer = outer
    return clip


def read(clip: Any, case: Case) -> tuple[PromptTokens, PromptBinding]:
    tokens = read_prompt(clip, case.prompt)
    return tokens, bind(case.prompt, tokens.tokens, case.phrases, tokens.length, tokens.family, weights=True)


def host_ids(clip: Any, prompt: str) -> list[int]:
    """Ids of the conditioning's rows, from what the host itself would encode and how its text encoder crops that."""
    made = clip.tokenize(prompt)
    if "qwen25_7b" in made:
        ids = [token for token, _ in made["qwen25_7b"][0]]
        second = [i for i, token in enumerate(ids) if token == 151644][1]
        return ids[second + 3 :]
    if "llama" not in made:
        (section,) = made.values()
        return [token for token, _ in section[0]]
    ids = [token for token, _ in made["llama"][0]]
    user = max(i for i in range(len(ids)) if ids[i : i + 3] == [128006, 882, 128007]) + 2
    first = user + 2 if ids[user + 1] == 271 else user
    return ids[first : ids.index(128009, user) + 1]


@pytest.mark.soak
def test_generated_prompts_t5(clips: Any) -> None:
    """Decoded pieces of each phrase's rows are the phrase, letter by letter; a letter unknown to T5 is one <unk>."""
    tokenizer = find_encoder(clips("t5")).tokenizer.tokenizer
    for seed in PROMPTS:
        case = generate(seed)
        tokens, binding = read(clips("t5"), case)
        ids = host_ids(clips("t5"), case.prompt)
        assert tokens.length == len(ids) == 226
        for phrase, text in zip(binding.phrases, case.texts):
            pieces = tokenizer.convert_ids_to_tokens([ids[row] for row in phrase.rows])
            pattern = "".join(".+" if p == "<unk>" else re.escape(p.replace("\u2581", "")) for p in pieces)
            assert re.fullmatch(pattern, letters(text)), (seed, phrase, pieces)


@pytest.mark.soak
def test_generated_prompts_umt5(clips: Any) -> None:
    """What SentencePiece itself decodes from each phrase's rows is the phrase."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=spiece())
    for seed in PROMPTS:
        case = generate(seed)
        tokens, binding = read(clips("umt5"), case)
        ids = host_ids(clips("umt5"), case.prompt)
        assert tokens.length == len(ids) == 512
        for phrase, text in zip(binding.phrases, case.texts):
            assert letters(processor.decode([ids[row] for row in phrase.rows])) == letters(text), (seed, phrase)


def runs_of(case: Case, index: int) -> list[str]:
    """Letters of each word of a phrase, as typed."""
    return [case.prompt[a:b] for a, b in case.spans[index]]


def check_spaced(clip: Any, comfy: Any) -> None:
    """What the tokenizer's own file decodes from each phrase's rows is the phrase."""
    import tokenizers

    decoder = tokenizers.Tokenizer.from_file(str(llama_file(comfy)))
    for seed in PROMPTS:
        case = generate(seed)
        tokens, binding = read(clip, case)
        ids = host_ids(clip, case.prompt)
        assert tokens.length == len(ids)
        assert not tokens.notes
        for phrase, words in zip(binding.phrases, case.texts):
            text = decoder.decode([ids[row] for row in phrase.rows])
            # A weight cuts its word off from the space before; a line break may be one token with the next sign.
            assert letters(text) == letters(words), (seed, phrase, text)


@pytest.mark.soak
def test_generated_prompts_llama(clips: Any, comfy: Any) -> None:
    """The rows' pieces spell the phrase, and only their first and last may hold letters beside it.

    With transformers 5 the host's tokenizer drops spaces and what it has no letter for, and words run together; with
    transformers 4 it does neither (`test_generated_prompts_llama_with_spaces`).
    """
    tokenizer = find_encoder(clips("llama")).tokenizer.tokenizer
    if "ared" not in tokenizer.tokenize("a red"):
        check_spaced(clips("llama"), comfy)
        return
    vocabulary = tokenizer.get_vocab()
    for seed in PROMPTS:
        case = generate(seed)
        tokens, binding = read(clips("llama"), case)
        ids = host_ids(clips("llama"), case.prompt)
        assert tokens.length == len(ids)
        for index in (0, 1):
            pieces = tokenizer.convert_ids_to_tokens([ids[row] for row in binding.phrases[index].rows])
            spelled = [re.escape("".join(char for char in word if char in vocabulary)) for word in runs_of(case, index)]
            found = re.fullmatch("(.*?)" + r"[()]*".join(spelled) + "(.*)", "".join(pieces))
            assert found, (seed, pieces, spelled)
            assert len(found[1]) < len(pieces[0]), (seed, pieces)
            assert len(found[2]) < len(pieces[-1]), (seed, pieces)


@pytest.mark.soak
def test_generated_prompts_llama_with_spaces(spaced: Any, comfy: Any) -> None:
    check_spaced(spaced, comfy)


@pytest.mark.soak
def test_generated_prompts_gemma(clips: Any) -> None:
    """LTX-2's words stand at the front, behind the start token; padding in front of them makes no rows. Weights are
    characters like all others."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=spiece(gemma=True))
    for seed in PROMPTS:
        case = generate(seed, weights=False)
        tokens, binding = read(clips("gemma3"), case)
        ids = [token for token, _ in clips("gemma3").tokenize(case.prompt)["gemma3_12b"][0]]
        assert len(ids) == 1024
        ids = ids[ids.index(2) :]
        assert tokens.length == len(ids)
        for phrase, text in zip(binding.phrases, case.texts):
            assert letters(processor.decode([ids[row] for row in phrase.rows])) == letters(text), (seed, phrase)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("family", "tail"),
    [("qwen25", "<|im_end|>\n<|im_start|>assistant\n"), ("qwen25_clip", "<|im_end|>"), ("qwen3vl", "")],
)
def test_generated_prompts_qwen(clips: Any, family: str, tail: str) -> None:
    """Words stand behind the user header, and HunyuanVideo 1.5's assistant's stands behind them. They know no
    weights."""
    tokenizer = find_encoder(clips(family)).tokenizer.tokenizer
    for seed in PROMPTS:
        case = generate(seed, weights=False)
        tokens, binding = read(clips(family), case)
        ids = host_ids(clips(family), case.prompt)
        assert tokens.length == len(ids)
        assert tokenizer.decode(ids).endswith(tail)
        for phrase, text in zip(binding.phrases, case.texts):
            decoded = tokenizer.decode([ids[row] for row in phrase.rows])
            assert letters(text) in letters(decoded), (seed, phrase, decoded)
            assert len(letters(decoded)) <= len(letters(text)) + 2, (seed, "a sign beside it may share its token")


@pytest.mark.parametrize("family", ["t5", "ltx", "cosmos", "mochi", "umt5", "llama", "gemma3", *QWEN])
def test_rows_of_the_encoded_prompt_are_the_words(clips: Any, family: str) -> None:
    """With attention silenced a row depends on its own token alone. Another word in the phrase's place (of as many
    tokens) changes the rows of that phrase and no others."""
    clip = clips(family)
    phrases = "a: a red cup\nb: the white van\nrides up = verb(a -> b)"
    words = ("big", "hot") if family == "llama" else ("red", "old")
    phrases = phrases.replace("red", words[0])
    white = "white" if family in ("gemma3", *QWEN) else "(white:1.2)"  # which read no weights
    one, two = (f"by day a {word} cup rides up to the {white} van" for word in words)
    read_one, binding = bind_prompt(clip, one, phrases)
    read_two, other = bind_prompt(clip, two, phrases.replace(*words))
    with torch.inference_mode():
        rows_one, rows_two = encode(clip, read_one)[0][0], encode(clip, read_two)[0][0]
    assert rows_one.shape[1] == binding.length
    assert rows_one.shape == rows_two.shape, "the two words have to make as many tokens"
    changed = (rows_one - rows_two).abs().amax(-1)[0].nonzero().flatten().tolist()
    assert changed
    assert set(changed) < set(binding.phrase("a").rows)
    assert binding.phrase("a").rows == other.phrase("a").rows
    if family == "gemma3":
        assert rows_one.shape[1] == 1 + len(binding.tokens)
        return
    # and every row is the embedding of the id that we say it has
    model = clip.cond_stage_model
    model = model.llama if family == "llama" else getattr(model, model.clip)
    plain, _ = bind_prompt(clip, one.replace("(white:1.2)", "white"), phrases)
    with torch.inference_mode():
        rows = encode(clip, plain)[0][0][0]
        ids = torch.tensor([token.id for token in plain.tokens])
        expected = model.transformer.get_input_embeddings()(ids, out_dtype=torch.float32)
        if family not in ("llama", *QWEN):
            expected = model.transformer.encoder.final_layer_norm(expected)
    torch.testing.assert_close(rows[[token.row for token in plain.tokens]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "limit"),
    [
        ("t5", 226),
        ("ltx", 128),
        ("cosmos", 512),
        ("mochi", 256),
        ("umt5", 512),
        ("llama", 256),
        ("qwen25", 1000),
        ("qwen25_clip", 512),
    ],
)
def test_long_prompts(clips: Any, family: str, limit: int) -> None:
    """Cut as diffusers cuts it, or whole as the host does; a phrase in the tail that was cut off is an error."""
    clip = clips(family)
    prompt = "a man rides " + "slowly and quietly " * (350 if limit == 1000 else 250) + "past the van"
    read_cut, binding = bind_prompt(clip, prompt, "man: a man")
    assert binding.length == limit
    assert len(binding.tokens) in (
        limit,
        limit - 1,
        limit - 2,
    )  # the end token; with transformers 5 the user header's, too
    assert "left out, from" in binding.notes[0]
    assert {token.row for token in read_cut.tokens if token.start > len(prompt) - 8} == {CUT}
    with pytest.raises(ValueError, match=rf"'van' \(line 1\), 'the van', is cut off.*the model reads {limit}"):
        bind_prompt(clip, prompt, "van: the van")
    read_all, whole = bind_prompt(clip, prompt, "van: the van", overlong="keep")
    assert whole.length > limit
    assert "all are kept" in whole.notes[0]
    with torch.inference_mode():
        cut, every = encode(clip, read_cut)[0][0], encode(clip, read_all)[0][0]
        host = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0]
    assert torch.equal(every, host)
    torch.testing.assert_close(cut[:, : limit - 1], host[:, : limit - 1])


@pytest.mark.parametrize(("family", "base"), [("t5", 32100), ("umt5", None)])
def test_tag_ids_of_the_authors_training(clips: Any, family: str, base: int | None) -> None:
    """transformers appends added tokens behind all that a tokenizer knows: 32100 for T5, 256300 for UMT5 (256,000
    pieces and 300 sentinels). Around the tag the words keep their tokens."""
    clip = clips(family)
    if base is None:
        base = find_encoder(clip).tokenizer.tokenizer.tokenizer.get_piece_size() + 300
    read_, binding = bind_prompt(clip, "a man hands the cup to another woman", "m: a man\nw: another woman", "tag_ids")
    assert binding.prompt == "a <id1> man hands the cup to another <id2> woman"
    ids = {token.text: token.id for token in read_.tokens}
    assert ids["<id1>"] == base
    assert ids["<id2>"] == base + 1
    assert "<id2>" in binding.pieces("w")
    (section,) = read_.encode.values()
    assert [section[0][token.row][0] for token in read_.tokens] == [token.id for token in read_.tokens]
    assert len(section[0]) == binding.length
    with torch.inference_mode():
        assert encode(clip, read_)[0][0].shape[1] == binding.length


def test_long_prompts_of_gemma(clips: Any) -> None:
    """It has no end token: the last row is the last word that fits."""
    clip, prompt = clips("gemma3"), "a man rides " + "slowly and quietly " * 600 + "past the van"
    tokens, binding = bind_prompt(clip, prompt, "man: a man")
    assert binding.length == 1024
    assert len(tokens.encode["gemma3_12b"][0]) == 1024
    assert max(token.row for token in binding.tokens) == 1023
    with pytest.raises(ValueError, match=r"'the van', is cut off.*the model reads 1024"):
        bind_prompt(clip, prompt, "van: the van")
    every, whole = bind_prompt(clip, prompt, "van: the van", overlong="keep")
    assert whole.length == len(every.encode["gemma3_12b"][0]) > 1024
    with pytest.raises(ValueError, match="token ids of <idK> tags for LTX-2"):
        bind_prompt(clip, "a man", "man: a man", "tag_ids")


def test_tag_ids_in_long_prompts(clips: Any) -> None:
    """A tag is one token where its characters would be six: the length is that of the tokens that are encoded."""
    clip = clips("t5").clone()
    for words in (210, 221, 222, 223, 400):
        prompt = "a man and a van " + "very " * words
        tokens, binding = bind_prompt(clip, prompt, "m: a man\nv: a van", "tag_ids")
        assert binding.length == 226
        assert len(tokens.encode["t5xxl"][0]) == 226
        every, _ = bind_prompt(clip, prompt, "m: a man", "tag_ids", overlong="keep")
        assert every.length == max(226, len(every.tokens) + 1)
    clip.set_tokenizer_option("t5xxl_min_length", 0)
    clip.set_tokenizer_option("t5xxl_min_padding", 3)
    tokens, binding = bind_prompt(clip, "a man", "m: a man", "tag_ids")
    assert binding.length == len(tokens.tokens) + 1 + 3


def test_t5_tag_ids_equal_an_extended_tokenizer(clips: Any) -> None:
    import transformers

    own = find_encoder(clips("t5")).tokenizer.tokenizer
    extended = transformers.T5TokenizerFast.from_pretrained(own.name_or_path)
    extended.add_special_tokens({"additional_special_tokens": [f"<id{k}>" for k in range(1, 6)]})
    prompt = "a <id1> man, then <id3>: another <id2> woman <id5>"
    tokens = read_prompt(clips("t5"), prompt, tag_ids=True)
    assert [token.id for token in tokens.tokens] == extended(prompt, add_special_tokens=False)["input_ids"]


def test_tags_as_characters_and_refusals(clips: Any) -> None:
    _, binding = bind_prompt(clips("llama"), "a man and a van", "man: a man\nvan: a van", "tags")
    assert "<id1>" in "".join(binding.pieces("man"))
    with pytest.raises(ValueError, match="nobody has published token ids of <idK> tags for HunyuanVideo"):
        bind_prompt(clips("llama"), "a man and a van", "man: a man", "tag_ids")
    small = make_clip("umt5")
    small.cond_stage_model.umt5xxl.transformer.shared = torch.nn.Embedding(400, 16)
    with pytest.raises(ValueError, match="embeddings for 400 ids only"):
        bind_prompt(small, "a man", "man: a man", "tag_ids")
    with pytest.raises(ValueError, match="one of plain, tags, tag_ids, target"):
        bind_prompt(clips("t5"), "a man", "man: a man", "loud")


def test_prompts_that_qwen_would_take_for_a_whole_chat(clips: Any) -> None:
    clip = clips("qwen25")
    for begins in ("<|im_start|>user\n", "<|start_header_id|>"):
        with pytest.raises(ValueError, match="chat template of its own"):
            read_prompt(clip, begins + "a man")
    nothing = read_prompt(clip, "")
    assert not nothing.tokens
    assert encode(clip, nothing)[0][0].shape[1] == nothing.length == 6, "one space, and the assistant's header"
    glyphs = read_prompt(clip, 'a sign says "open" by the van')
    assert "byt5" in glyphs.encode
    assert encode(clip, glyphs)[0][1]["conditioning_byt5small"].shape[1] == len(glyphs.encode["byt5"][0])
    with pytest.raises(ValueError, match="nobody has published token ids"):
        bind_prompt(clip, "a man", "man: a man", "tag_ids")


def test_unknown_text_encoders_are_named(comfy: Any, clips: Any) -> None:
    import comfy.sd1_clip

    clip = clips("t5").clone()
    clip.tokenizer = comfy.sd1_clip.SD1Tokenizer()
    with pytest.raises(ValueError, match="SD1Tokenizer.*Accepted are T5.*CLIPLoader of type wan"):
        find_encoder(clip)


def test_embeddings_cannot_be_bound(clips: Any, tmp_path: Path) -> None:
    clip = clips("t5").clone()
    clip.tokenizer = type(clip.tokenizer)(embedding_directory=[str(tmp_path)])
    with pytest.raises(ValueError, match="embedding:NAME"):
        read_prompt(clip, "a man embedding:style")
    assert read_prompt(clip, "a man").tokens


def test_padding_options_move_no_rows(clips: Any) -> None:
    clip = clips("t5").clone()
    clip.set_tokenizer_option("t5xxl_min_length", 0)
    clip.set_tokenizer_option("t5xxl_min_padding", 3)
    tokens, binding = bind_prompt(clip, "a man", "a man")
    assert binding.length == len(tokens.tokens) + 1 + 3
    with torch.inference_mode():
        assert encode(clip, tokens)[0][0].shape[1] == binding.length


def test_a_host_that_splits_differently_is_noticed(clips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clips("t5")
    real = clip.tokenizer.tokenize_with_weights

    def swapped(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        made["t5xxl"][0][:2] = made["t5xxl"][0][1::-1]
        return made

    monkeypatch.setattr(clip.tokenizer, "tokenize_with_weights", swapped)
    with pytest.raises(ValueError, match="this version of ComfyUI splits prompts in a way that we do not know"):
        read_prompt(clip, "small dog")


def test_reuse_with_another_clip(clips: Any) -> None:
    """Wan 2.2's two experts share a text encoder: the same tokens, so one binding serves both."""
    _, binding = bind_prompt(clips("umt5"), "a man on a (red:1.2) van", "man: a man")
    tokens, same = reuse(make_clip("umt5"), binding)
    assert same is binding
    assert tokens.length == 512
    with pytest.raises(ValueError, match="512 rows, the text encoder makes 226"):
        reuse(clips("t5"), binding)
    other = make_clip("umt5", {"spiece_model": torch.frombuffer(bytearray(spiece(330)), dtype=torch.uint8)})
    with pytest.raises(ValueError, match="bind anew"):
        reuse(other, binding)


class _Vision:
    """What CLIP Vision Encode gives for a LLaVA encoder."""

    def __init__(self, count: int) -> None:
        self.mm_projected = torch.randn(1, count, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_hunyuan_image_rows_come_first(clips: Any, step: int) -> None:
    clip = clips("llama")
    prompt, phrases = "a man and a white van", "man: a man\nvan: white van"
    tokens, binding = bind_prompt(clip, prompt, phrases, vision=_Vision(9), image_step=step)
    _, bare = bind_prompt(clip, prompt, phrases)
    images = -(-9 // step)
    assert binding.phrase("van").rows == tuple(row + images for row in bare.phrase("van").rows)
    model = clip.cond_stage_model.llama.transformer
    with torch.inference_mode():
        rows = encode(clip, tokens)[0][0][0]
        expected = model.get_input_embeddings()(torch.tensor([t.id for t in tokens.tokens]), out_dtype=torch.float32)
    torch.testing.assert_close(rows[[token.row for token in tokens.tokens]], expected)
    torch.testing.assert_close(rows[:images], _Vision(9).mm_projected[0, ::step])
    with pytest.raises(ValueError, match="HunyuanVideo I2V only"):
        bind_prompt(clips("t5"), prompt, phrases, vision=_Vision(9))


@settings(max_examples=count(100, soak=3000))
@given(st.text(alphabet="ab :.1(()\\)", max_size=24))
def test_weights_are_read_as_the_host_reads_them(text: str) -> None:
    from comfy import sd1_clip

    theirs = sd1_clip.token_weights(sd1_clip.escape_important(text), 1.0)
    theirs = [(sd1_clip.unescape_important(segment), weight) for segment, weight in theirs]
    visible = parse_prompt(text, weights=True)
    assert [(segment.text, segment.weight) for segment in visible.segments] == theirs
    assert [text[b - 1] for _, b in visible.spans] == list(visible.text)


@settings(max_examples=count(30, soak=1000))
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
@example("a \0\2toy\0\1 (car\0\1:1.3)")  # what the host makes of escaped brackets, typed
def test_any_text_has_its_rows(clips: Any, text: str) -> None:
    """Whatever a person types, tokens are the host's own, in order, on characters of the prompt."""
    for family in ("t5", "umt5", "llama"):
        clip = clips(family)
        tokens = read_prompt(clip, text).tokens
        ids = host_ids(clip, text)
        assert all(ids[token.row] == token.id for token in tokens)
        assert all(0 <= token.start <= token.end <= len(text) for token in tokens)


@pytest.mark.soak
def test_sentencepiece_without_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before 0.2.1 do not tell offsets: pieces are walked along the normalised text, to the same result."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=spiece())
    prompts = [generate(seed, weights=False).prompt for seed in seeds(30, soak=1000)] + [
        "  a cafe\u0301 \u2460 \ufb01ts \u2728 "
    ]
    with_offsets = [tokens_module.sentencepiece_pieces(processor, prompt) for prompt in prompts]

    class Old:
        encode = staticmethod(processor.encode)

    for prompt, pieces in zip(prompts, with_offsets):
        assert tokens_module.sentencepiece_pieces(Old(), prompt) == pieces


# --- diffusers -------------------------------------------------------------------------------------------------------


def pipeline(kind: str, comfy: Any, tmp_path: Path) -> Any:
    """A real pipeline with a real tokenizer and a tiny text encoder; its other parts are not needed to encode words."""
    import diffusers
    import transformers

    torch.manual_seed(0)
    if kind == "CogVideoXPipeline":
        tokenizer = transformers.T5TokenizerFast.from_pretrained(llama_file(comfy).parents[1] / "t5_tokenizer")
        encoder = transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=32128, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        )
    elif kind == "WanPipeline":
        (tmp_path / "spiece.model").write_bytes(spiece())
        tokenizer = transformers.T5TokenizerFast.from_pretrained(tmp_path, extra_ids=0)
        encoder = transformers.UMT5EncoderModel(
            transformers.UMT5Config(
                vocab_size=len(tokenizer) + 8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
            )
        )
    else:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(llama_file(comfy)), bos_token="<|begin_of_text|>", pad_token="<|end_of_text|>"
        )
        encoder = transformers.LlamaModel(
            transformers.LlamaConfig(
                vocab_size=128264,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=1,
            )
        )
    for name, parameter in encoder.named_parameters():
        if name.endswith(("SelfAttention.o.weight", "DenseReluDense.wo.weight", "o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
    parts = {"tokenizer": tokenizer, "text_encoder": encoder.eval(), "transformer": None, "scheduler": None}
    cls = getattr(diffusers, kind)
    if kind.startswith("Hunyuan"):
        parts |= {"text_encoder_2": None, "tokenizer_2": None}
    pipe = cls.__new__(cls)
    diffusers.DiffusionPipeline.__init__(pipe)
    pipe.register_modules(**parts, vae=None)
    return pipe


def rows_of(pipe: Any, prompt: str) -> torch.Tensor:
    """The conditioning as the pipeline's own code makes it."""
    with torch.no_grad():
        if type(pipe).__name__.startswith("Hunyuan"):
            import sys

            template = vars(sys.modules[type(pipe).__module__])["DEFAULT_PROMPT_TEMPLATE"]
            return pipe._get_llama_prompt_embeds(prompt, template, device="cpu")[0][0]
        length = 226 if type(pipe).__name__.startswith("Cog") else 512
        return pipe._get_t5_prompt_embeds(prompt, max_sequence_length=length, device="cpu")[0]


@pytest.mark.parametrize("kind", ["CogVideoXPipeline", "WanPipeline", "HunyuanVideoPipeline"])
def test_rows_of_a_diffusers_pipeline(kind: str, comfy: Any, tmp_path: Path) -> None:
    """With attention silenced, another word of as many tokens changes the rows of its phrase and no others."""
    pipe = pipeline(kind, comfy, tmp_path)
    phrases = "a: a red cup\nb: the white van\nrides up = verb(a -> b)\ncaf\u00e9"
    one = "  by day a red cup &amp; rides\n up to the (white) van, cafe\u0301 "
    phrases = phrases.replace("white", "(white)")
    binding = bind_diffusers(pipe, one, phrases)
    other = bind_diffusers(pipe, one.replace("red", "old"), phrases.replace("red", "old"))
    first, second = rows_of(pipe, one), rows_of(pipe, one.replace("red", "old"))
    assert first.shape[0] == binding.length == {"C": 226, "W": 512, "H": 256}[kind[0]]
    changed = (first - second).abs().amax(-1).nonzero().flatten().tolist()
    assert changed
    assert set(changed) < set(binding.phrase("a").rows)
    assert other.phrase("a").rows == binding.phrase("a").rows
    for name, text in (("b", "the(white)van"), ("rides up", "ridesup"), ("a", "aredcup")):
        ids = [token.id for token in binding.tokens if token.row in binding.phrase(name).rows]
        decoded = re.escape(letters(pipe.tokenizer.decode(ids)))
        assert re.fullmatch(decoded.replace("<unk>", ".+"), text)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["CogVideoXPipeline", "WanPipeline", "HunyuanVideoPipeline"])
def test_generated_prompts_in_diffusers(kind: str, comfy: Any, tmp_path: Path) -> None:
    pipe = pipeline(kind, comfy, tmp_path)
    for seed in seeds(40, soak=200):
        case = generate(seed, weights=False)
        binding = bind_diffusers(pipe, case.prompt, case.phrases)
        for phrase, text in zip(binding.phrases, case.texts):
            decoded = letters(pipe.tokenizer.decode([t.id for t in binding.tokens if t.row in phrase.rows]))
            assert re.fullmatch(re.escape(decoded).replace("<unk>", ".+"), letters(text)), (seed, phrase, decoded)


@pytest.mark.parametrize(
    ("kind", "limit"), [("CogVideoXPipeline", 226), ("WanPipeline", 512), ("HunyuanVideoPipeline", 256)]
)
def test_diffusers_cuts_long_prompts(kind: str, limit: int, comfy: Any, tmp_path: Path) -> None:
    pipe = pipeline(kind, comfy, tmp_path)
    prompt = "a man rides " + "slowly and quietly " * 250 + "past the van"
    assert bind_diffusers(pipe, prompt, "man: a man").length == limit
    with pytest.raises(ValueError, match="'the van', is cut off"):
        bind_diffusers(pipe, prompt, "van: the van")
    assert bind_diffusers(pipe, prompt, "van: the van", max_sequence_length=4096).length == 4096


def test_hunyuan_image_to_video_rows_in_diffusers(comfy: Any, tmp_path: Path) -> None:
    """288 image rows (every second of 576) come before the words; the assistant's header leaves."""
    from diffusers import HunyuanVideoImageToVideoPipeline

    text = pipeline("HunyuanVideoPipeline", comfy, tmp_path)
    pipe = HunyuanVideoImageToVideoPipeline.__new__(HunyuanVideoImageToVideoPipeline)
    pipe.__dict__["tokenizer"] = text.tokenizer
    prompt = "a man and a white van"
    tokens, length, family = prompt_tokens(pipe, prompt)
    assert (length, family) == (288 + 256 - 4, "llama")
    assert prompt_tokens(pipe, prompt, image_step=1)[1] == 576 + 252
    crop = 103
    ids = text.tokenizer(_i2v_template().format(prompt))["input_ids"]
    assert [ids[token.row - 288 + crop] for token in tokens] == [token.id for token in tokens]
    long, _, _ = prompt_tokens(pipe, "man " * 400)
    assert max(token.row for token in long) == 288 + 256 - 5


def _i2v_template() -> str:
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video as module

    return module.DEFAULT_PROMPT_TEMPLATE["template"]


def test_diffusers_refusals(comfy: Any, tmp_path: Path) -> None:
    pipe = pipeline("HunyuanVideoPipeline", comfy, tmp_path)
    with pytest.raises(ValueError, match="pass template="):
        prompt_tokens(pipe.tokenizer, "a man", family="llama")
    tokens, _, _ = prompt_tokens(pipe.tokenizer, "a man", family="llama", template={"template": "{}", "crop_start": 1})
    assert [token.row for token in tokens] == [0, 1]
    with pytest.raises(ValueError, match="object is no pipeline that we know"):
        prompt_tokens(object(), "a man")
    with pytest.raises(ValueError, match="does not say which characters"):
        tokens_module.tokenizer_pieces(object(), "a man")
