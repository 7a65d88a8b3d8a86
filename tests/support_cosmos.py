"""Cosmos Predict 2 in diffusers, with tiny parts around its transformer."""

from typing import Any


class Unjudged:
    """In the place of the safety checker, whose package diffusers asks for: random weights make nothing to judge."""

    def to(self, device: Any) -> None:
        """It is nowhere."""

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def cosmos_pipeline(**parts: Any) -> Any:
    import diffusers

    given = {"tokenizer": None, "text_encoder": None, "safety_checker": Unjudged(), **parts}
    pipe = diffusers.Cosmos2VideoToWorldPipeline(**given)
    pipe.set_progress_bar_config(disable=True)
    return pipe
