"""Real text encoders of the host with tiny weights, and a generator of prompts whose truth is known by construction."""

from __future__ import annotations

import io
import random
import unicodedata
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

__all__ = ["Case", "generate", "letters", "make_clip", "only_embeddings", "spiece"]

_T5 = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1}
_LLAMA = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
_CLIP_L = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}

_NOUNS = ("man", "woman", "van", "cup", "café", "naïve robot", "dog", "élève", "jalapeño", "mug", "piñata", "Ångström")
_ADJECTIVES = ("red", "white", "old", "crème", "small", "wooden", "the other", "third")
_DETERMINERS = ("a", "the", "another", "his")
_VERBS = ("picks", "rides", "pushes", "hands", "carries")
_PARTICLES = ("up", "away", "over")
_FILLERS = ("slowly", "near", "and then", "in the rain", "by day", "while", "quietly", "with two hands,", "at noon;")


def spiece(vocabulary: int = 400, gemma: bool = False) -> bytes:
    """A SentencePiece model trained on our own words. UMT5's and Gemma's real ones exist inside checkpoints only, so
    this stands in for them: it has the same special ids and falls back to bytes as theirs do, but splits words more
    finely."""
    import sentencepiece

    words = [*_NOUNS, *_ADJECTIVES, *_DETERMINERS, *_VERBS, *_PARTICLES, *_FILLERS, "target", "id1 id2 id3"]
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(words, k=8)) for _ in range(300)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=3 if gemma else 2,
        bos_id=2 if gemma else -1,
        minloglevel=2,
        **({"add_dummy_prefix": False, "remove_extra_whitespaces": False} if gemma else {}),
    )
    return model.getvalue()


def _gemma() -> Any:
    """The host's text encoder of LTX-2.3, whose sizes it fixes where they are made small here."""
    from comfy.text_encoders import llama, lt

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 512}
    vision = {"hidden_size": 16, "image_size": 224, "intermediate_size": 16, "num_attention_heads": 2}

    class Tiny(lt.LTXAVTEModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            options = {**(model_options or {}), "model_name": "gemma3_12b", "gemma3_12b_model_config": sizes}
            real = llama.Gemma3_12B_Config.vision_config
            llama.Gemma3_12B_Config.vision_config = {**real, **vision, "num_hidden_layers": 1}
            try:
                super().__init__(None, device, dtype, "none", options)
            finally:
                llama.Gemma3_12B_Config.vision_config = real
            self.text_projection_type = "dual_linear"
            operations = self.gemma3_12b.operations
            self.text_embedding_projection = lt.DualLinearProjection(
                16 * 3, 64, 32, dtype=dtype, device=device, operations=operations
            )

    return Tiny


def _qwen(made: Any) -> Any:
    """A text encoder of the host around Qwen2.5-VL, without the tower that looks at pictures, which no prompt holds."""
    from comfy.text_encoders import qwen_vl

    class Tiny(made):  # type: ignore[misc, valid-type]
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            real = qwen_vl.Qwen2VLVisionTransformer
            qwen_vl.Qwen2VLVisionTransformer = lambda **given: torch.nn.Identity()
            try:
                super().__init__(device, dtype, model_options or {})
            finally:
                qwen_vl.Qwen2VLVisionTransformer = real

    return Tiny


def _seeing(made: Any) -> Any:
    """The host's text encoder around Qwen3-VL, with a small tower that looks at pictures."""
    from comfy.text_encoders import qwen3vl

    small = {"hidden_size": 32, "intermediate_size": 16, "depth": 1, "deepstack_visual_indexes": [0]}

    class Tiny(made):  # type: ignore[misc, valid-type]
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            common = mock.patch.dict(qwen3vl.QWEN3VL_VISION_COMMON, num_heads=2)
            with common, mock.patch.dict(qwen3vl.QWEN3VL_VISION, qwen3vl_32b=small):
                super().__init__(device, dtype, model_options or {})

    return Tiny


def make_clip(family: str, tokenizer_data: dict[str, Any] | None = None) -> Any:
    """The host's own CLIP of a family (t5, ltx, cosmos, mochi, umt5, llama, gemma3, qwen25, qwen25_clip, qwen3vl),
    tokenizer and all, around tiny random weights."""
    import comfy.sd
    import comfy.supported_models_base
    from comfy.text_encoders import cogvideo, cosmos, genmo, hunyuan_image, hunyuan_video, kandinsky5, lt, wan

    target = comfy.supported_models_base.ClipTarget
    data = dict(tokenizer_data or {})
    if family == "t5":
        parts = target(cogvideo.CogVideoXTokenizer, cogvideo.cogvideo_te())
    elif family == "umt5":
        parts = target(wan.WanT5Tokenizer, wan.te())
        data.setdefault("spiece_model", torch.frombuffer(bytearray(spiece()), dtype=torch.uint8))
    elif family == "ltx":
        parts = target(lt.LTXVT5Tokenizer, lt.ltxv_te())
    elif family == "cosmos":
        parts = target(cosmos.CosmosT5Tokenizer, cosmos.te())
    elif family == "mochi":
        parts = target(genmo.MochiT5Tokenizer, genmo.mochi_te())
    elif family == "gemma3":
        parts = target(lt.LTXAVGemmaTokenizer, _gemma())
        data.setdefault("spiece_model", torch.frombuffer(bytearray(spiece(gemma=True)), dtype=torch.uint8))
    elif family == "qwen25":
        parts = target(hunyuan_video.HunyuanVideo15Tokenizer, _qwen(hunyuan_image.te()))
    elif family == "qwen3vl":
        from comfy.text_encoders import minimax

        parts = target(minimax.MiniMaxH3Tokenizer, _seeing(minimax.te()))
    elif family == "qwen25_clip":
        parts = target(kandinsky5.Kandinsky5Tokenizer, _qwen(kandinsky5.te()))
    else:
        parts = target(hunyuan_video.HunyuanVideoTokenizer, hunyuan_video.hunyuan_video_clip())
    llama = {**_LLAMA, "num_key_value_heads": 1}
    options = {"t5xxl": _T5, "umt5xxl": _T5, "llama": llama, "clip_l": _CLIP_L, "qwen25_7b": llama}
    options["qwen3vl_32b"] = llama
    options[""] = {"d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1}  # byT5, to which the host gives no name
    clip = comfy.sd.CLIP(
        parts, tokenizer_data=data, model_options={f"{name}_model_config": dict(v) for name, v in options.items()}
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in clip.patcher.model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return clip


def only_embeddings(clip: Any) -> Any:
    """The same CLIP with attention and feed-forward silenced: each conditioning row tells its own token only."""
    with torch.no_grad():
        for name, parameter in clip.patcher.model.named_parameters():
            if name.endswith(
                ("SelfAttention.o.weight", "DenseReluDense.wo.weight", "o_proj.weight", "down_proj.weight")
            ):
                parameter.zero_()
    return clip


def letters(text: str) -> str:
    """Text as tokenizers see it through: compatibility form, composed, no spaces."""
    return "".join(unicodedata.normalize("NFKC", text).split())


@dataclass(frozen=True)
class Case:
    """A prompt in ComfyUI's syntax and its phrases as a person writes them; `spans` are where they stand as typed."""

    prompt: str
    phrases: str
    texts: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]


class _Writer:
    """Writes a prompt and keeps account of visible words."""

    def __init__(self, rng: random.Random, weights: bool) -> None:
        self.rng, self.weights = rng, weights
        self.prompt = ""
        self.words: list[tuple[str, int, int]] = []

    def word(self, text: str, escape: bool = False) -> None:
        rng = self.rng
        if rng.random() < 0.2:
            text = unicodedata.normalize("NFD", text)
        if self.prompt and not self.prompt.endswith("("):
            self.prompt += rng.choice((" ", " ", " ", "  ", "\n"))
        kind = rng.random() if self.weights else 1.0
        before, after = "", ""
        if kind < 0.1 and escape:
            before, after = "\\(", "\\)"
        elif kind < 0.25:
            before, after = "(", rng.choice((":1.3)", ")", ":0.75)"))
        elif kind < 0.3:
            before, after = "((", ":0.9):1.1)"
        start = len(self.prompt) + len(before)
        self.prompt += before + text + after
        shown = f"({text})" if before == "\\(" else text
        self.words.append((shown, start, start + len(text)))

    def phrase(self, text: str) -> tuple[int, int]:
        """Writes words one by one, inner ones perhaps in parentheses; returns their range in `words`."""
        first = len(self.words)
        words = text.split()
        for n, word in enumerate(words):
            self.word(word, escape=0 < n < len(words) - 1)
        return first, len(self.words)

    def text(self, run: tuple[int, int]) -> str:
        return " ".join(word for word, _, _ in self.words[slice(*run)])

    def nth(self, run: tuple[int, int]) -> int:
        """How many times the words of `run` stand in the prompt up to there."""
        plain = [letters(word).casefold() for word, _, _ in self.words]
        wanted = plain[slice(*run)]
        return sum(plain[i : i + len(wanted)] == wanted for i in range(run[0] + 1))


def generate(seed: int, weights: bool = True) -> Case:
    """A prompt of two instances, one parted verb and fillers, in which all words may stand several times. Every word
    may be weighted, escaped, decomposed, or follow odd white space."""
    rng = random.Random(seed)
    writer = _Writer(rng, weights)

    def noun() -> str:
        middle = rng.choice(_ADJECTIVES) + " " if rng.random() < 0.6 else ""
        return f"{rng.choice(_DETERMINERS)} {middle}{rng.choice(_NOUNS)}"

    first, second, verb, particle = noun(), noun(), rng.choice(_VERBS), rng.choice(_PARTICLES)
    runs: tuple[tuple[tuple[int, int], ...], ...] = ()
    for _ in range(rng.choice((1, 2, 3))):
        if rng.random() < 0.7:
            writer.phrase(rng.choice(_FILLERS))
        told = [writer.phrase(words) for words in (first, verb, second, particle)]
        if not runs or rng.random() < 0.5:
            runs = ((told[0],), (told[2],), (told[1], told[3]))
    one, two, act = (writer.text(run[0]) for run in runs)
    lines = (
        f"one: {one}#{writer.nth(runs[0][0])}",
        f"two: {two}#{writer.nth(runs[1][0])}",
        f"act: {act} ... {particle}#{writer.nth(runs[2][0])} = verb(one -> two)",
    )
    spans = tuple(tuple(writer.words[i][1:] for run in part for i in range(*run)) for part in runs)
    return Case(writer.prompt, "\n".join(lines), tuple(" ".join(map(writer.text, part)) for part in runs), spans)
