"""`<idK>` tags as single tokens of a diffusers pipeline, as the code that MATRIX's authors released trains with them.

with tag_tokens(pipe):
    binding = bind_prompt(pipe, "a <id1> man pushes a <id2> cart", "man: <id1>\\ncart: <id2>")
    video = pipe(image=image, prompt=binding.prompt).frames[0]
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from ...backbones.spec import BackboneSpec
from ...core.words.forms import MAX_TAGS
from .prompts import spec_of

__all__ = ["tag_tokens", "with_tags"]

_TAGS = [f"<id{k}>" for k in range(1, MAX_TAGS + 1)]


def with_tags(tokenizer: Any, spec: BackboneSpec, rows: int | None = None) -> Any:
    """A copy of a tokenizer in which each of `<id1>` to `<id5>` is one token, behind all that it knew: 256300 to 256304
    for UMT5, by the same rule 32100 to 32104 for T5. Their embeddings are rows that the text encoder never learnt: only
    weights trained on them know these ids.

    Args:
        rows: of the text encoder's embeddings, where they are known.

    Raises ValueError for other text encoders, a tokenizer without offsets, and one whose encoder has too few rows.
    """
    if spec.text_encoder not in ("t5", "umt5"):
        raise ValueError(f"nobody has published token ids of <idK> tags for {spec.title}: use the tags as characters")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"<idK> ids are added to a fast tokenizer, and this is {type(tokenizer).__name__}: load it with "
            "AutoTokenizer.from_pretrained(...)"
        )
    made = copy.deepcopy(tokenizer)
    made.add_tokens(_TAGS, special_tokens=True)
    last = max(made.convert_tokens_to_ids(_TAGS))
    if rows is not None and last >= rows:
        raise ValueError(
            f"the <idK> ids would end at {last}, but this text encoder has embeddings for {rows} ids only: use the "
            "tags as characters"
        )
    return made


@contextlib.contextmanager
def tag_tokens(pipeline: Any) -> Iterator[Any]:
    """While open, the pipeline's tokenizer knows the tags; prompts and bindings read them so. Raises ValueError as
    `with_tags`."""
    own, encoder = pipeline.tokenizer, getattr(pipeline, "text_encoder", None)
    rows = None if encoder is None else int(encoder.get_input_embeddings().weight.shape[0])
    pipeline.tokenizer = with_tags(own, spec_of(pipeline), rows)
    try:
        yield pipeline
    finally:
        pipeline.tokenizer = own
