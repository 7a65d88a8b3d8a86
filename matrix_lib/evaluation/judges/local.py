"""A judge on this machine: a vision-language model's folder, through `transformers`. Nothing is downloaded or sent.

Any model that `AutoModelForImageTextToText` and `AutoProcessor` open and whose chat template takes several pictures.
Code that lies in a model's folder is not run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .judge import JudgeError, Reply, Request, told

__all__ = ["LocalJudge"]


class LocalJudge:
    """Asks a local model, greedily: the same request has the same answer.

    Args:
        folder: of the model, with its processor and chat template.
        device, dtype: where and in what it runs ("auto": as it was saved). most: tokens of an answer.

    Raises ValueError, in one line, for a folder that is no such model.
    """

    workers = 1

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "auto", most: int = 1024) -> None:
        self.folder, self.device, self.most = folder, device, most
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no model folder: it has no config.json")
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError:
            raise ValueError("this judge needs the transformers package:  pip install transformers") from None
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder, **local)
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **local)
            self.model = model.to(device).eval()
        except Exception as error:  # configurations, weights and packages fail in many ways
            said = " ".join(str(error).split())[:300]
            raise ValueError(f"{folder} does not open as a vision-language model: {said}") from None
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(f"{folder} has no chat template: an instruction-tuned model has one")
        if not self._shows_pictures():
            raise ValueError(f"the chat template of {folder} does not take several pictures among words")
        self.name = f"{folder.name} ({_digest(folder)})"

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """See `Judge`."""
        try:
            inputs = self.inputs(request, complaint)
            before = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                made = self.generate(inputs)[0, before:]
            text = self.processor.decode(made, skip_special_tokens=True)
        except torch.OutOfMemoryError as error:
            raise JudgeError(
                f"{request.where} does not fit into memory (a smaller --longest helps): {error}"[:500]
            ) from None
        except Exception as error:  # processors refuse what a model cannot take in errors of every kind
            said = " ".join(str(error).split())
            raise JudgeError(f"{self.name} fails on {request.where}: {type(error).__name__}: {said}"[:500]) from None
        if not text.strip():
            raise JudgeError("the answer is empty")
        return Reply(text, self.name, {"prompt_tokens": before, "completion_tokens": len(made)})

    def _shows_pictures(self) -> bool:
        """A template that drops pictures would leave the model to judge without looking."""
        content = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, {"type": "image"}]
        try:
            shown = [
                self.processor.apply_chat_template([{"role": "user", "content": content[:some]}], tokenize=False)
                for some in (1, 2, 3, 4)
            ]
        except Exception:  # whatever a template raises, it does not take them
            return False
        one, two = len(shown[1]) - len(shown[0]), len(shown[3]) - len(shown[2])
        return one > 0 and two > 0

    def inputs(self, request: Request, complaint: str = "") -> Any:
        """What the model is given: `input_ids` (1, tokens), pixels and the rest that its processor makes."""
        content: list[dict[str, Any]] = [{"type": "text", "text": request.system + "\n"}]  # not all know a system role
        for part in told(request, complaint):
            if isinstance(part, str):
                content.append({"type": "text", "text": part + "\n"})
            else:
                with Image.open(part.path) as picture:
                    content.append({"type": "image", "image": picture.convert("RGB")})
        found = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return found.to(self.device, dtype=self.model.dtype)

    def generate(self, inputs: Any) -> torch.Tensor:
        """Token ids (1, before + new) that continue `inputs`."""
        found: torch.Tensor = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.most)
        return found


def _digest(folder: Path) -> str:
    """Tells models of one name apart: of the configuration, and of the weights' names and sizes."""
    files = sorted((path.name, path.stat().st_size) for path in folder.glob("*.safetensors"))
    content = (folder / "config.json").read_bytes() + json.dumps(files).encode()
    return hashlib.sha256(content).hexdigest()[:8]
