"""The viewer as a widget of a notebook. Needs anywidget: pip install 'matrix-video[notebook]'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets

from .answers import answer_about
from .exhibit import Exhibit
from .script import script

__all__ = ["ViewerWidget"]

_RENDER = """
export default { render({ model, el }) { return viewer_mount.mountWidget(el, model) } }
"""


class ViewerWidget(anywidget.AnyWidget):
    """A viewer in a notebook's cell. The page asks with messages, `{"id", "exhibit", "what", "query"}`, and gets
    `{"id", "status", "type"}` with the body as the one buffer; only what is looked at travels.

    `choice` is what is looked at, as MATRIX Preview Attention has it: kind, names, layers, steps.
    """

    _esm = script() + _RENDER
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)
    height = traitlets.Int(620).tag(sync=True)

    def __init__(self, exhibits: Sequence[Exhibit], **traits: Any) -> None:
        self._exhibits = tuple(exhibits)
        super().__init__(labels=[each.label for each in exhibits], **traits)
        self.on_msg(self._asked)

    def _asked(self, _: Any, content: Any, buffers: Any) -> None:
        number, what, query = content.get("exhibit"), content.get("what"), content.get("query", {})
        if type(number) is not int or not 0 <= number < len(self._exhibits):
            self.send({"id": content.get("id"), "status": 404, "type": "application/json"}, [b"{}"])
            return
        texts = {str(key): str(value) for key, value in query.items()}
        found = answer_about(self._exhibits[number], str(what), texts)
        self.send({"id": content.get("id"), "status": found.status, "type": found.type}, [found.body])
