"""One check in front of every node: what comes in is what the schema says, before the node works with it.

The host checks types of links, and ranges of typed numbers that are not NaN. It does not look at what a link brings, at
constants in a socket, or at the choice of a `DynamicCombo`. Every error is one sentence: the node, the input, what it
takes, what it got, what to do.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from ..matrix_lib.core.near import did_you_mean
from .socket_values import SOCKETS, shown

__all__ = ["Files", "checked"]

_MOST, _BEGIN, _END = 2400, 1700, 500  # characters of a message
_ABSENT = object()
_LONGEST_TEXT = 1 << 20


class Files(list[str]):
    """A menu of what lies on this machine. The node says itself what to do about a name that is not in it."""


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same class, whose `execute` and `validate_inputs` get what its schema declares, or raise ValueError (return
    the sentence, for `validate_inputs`). Optional inputs that bring nothing count as not given."""
    if "_checked" not in vars(node):
        node._checked = True
        node.execute = classmethod(_before_execute(node.execute.__func__))  # type: ignore[method-assign, attr-defined]
        dynamic = [part.id for part in node.define_schema().inputs if isinstance(part, io.DynamicCombo.Input)]
        if "validate_inputs" in vars(node):
            node.validate_inputs = classmethod(_before_validate(node.validate_inputs.__func__))  # type: ignore[method-assign, attr-defined]
        elif dynamic:
            node.validate_inputs = classmethod(_validate_choices(dynamic))  # type: ignore[method-assign]
    return node


def _before_execute(execute: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(execute).parameters)[1:]
    defaults = {n for n, p in inspect.signature(execute).parameters.items() if p.default is not inspect.Parameter.empty}

    @functools.wraps(execute)
    def wrapper(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> Any:
        schema = cls.define_schema()
        given = dict(zip(names, args)) | kwargs
        for part in schema.inputs:
            value = given.get(part.id, _ABSENT)
            if value is None and part.optional and part.id in defaults:
                del given[part.id]
            elif value is not _ABSENT:
                given[part.id] = _value(part, value, schema.display_name)
            elif part.id not in defaults:
                raise ValueError(f"{schema.display_name}: {part.id!r} is missing; it takes {_takes(part)}")
        try:
            return execute(cls, **given)
        except Exception as error:
            error.args = tuple(_sent(each) if isinstance(each, str) else each for each in error.args)
            raise

    return wrapper


def _sent(text: str) -> str:
    """A message as the host can send it: its worker ends where one holds half a character (a lone surrogate), and what
    somebody typed may be as long as it likes."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _MOST:
        return text
    left_out = len(text) - _BEGIN - _END
    return f"{text[:_BEGIN]} ... ({left_out} characters left out) ... {text[-_END:]}"


def _before_validate(validate: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(validate)

    @functools.wraps(validate)
    def wrapper(cls: type[io.ComfyNode], **given: Any) -> Any:
        schema = cls.define_schema()
        for part in schema.inputs:
            if part.id in signature.parameters and given.get(part.id) is not None:  # a link has no value yet
                try:
                    _value(part, given[part.id], schema.display_name)
                except ValueError as error:
                    return str(error)
        return validate(cls, **given)

    wrapper.__signature__ = signature  # type: ignore[attr-defined]  # the host asks which inputs are named here
    return wrapper


def _validate_choices(names: list[str]) -> Callable[..., Any]:
    """`validate_inputs` for a node that has menus with inputs of their own.

    The host leaves a choice that it does not know out of all inputs, so there is none to blame: an exception at least
    stops the graph at this node before anything runs. A link there it does not check at all (one to an output that
    there is not ends its worker), and could not use: which inputs there are depends on the choice.
    """

    def validate_inputs(cls: type[io.ComfyNode], **given: Any) -> bool | str:
        schema = cls.define_schema()
        for part in schema.inputs:
            if part.id in names and part.id not in given:
                raise ValueError(
                    f"{schema.display_name}: {part.id!r} is missing or no choice of its menu; it takes {_takes(part)}"
                )
            if part.id in names and not isinstance(given[part.id], Mapping):
                return f"{schema.display_name}: {part.id!r} takes no link, but {_takes(part)}, chosen on the node"
        return True

    own = inspect.Parameter("cls", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in names]
    validate_inputs.__signature__ = inspect.Signature([own, *named])  # type: ignore[attr-defined]
    return validate_inputs


# -- one input --------------------------------------------------------------------------------------------------------
def _value(part: io.Input, value: Any, node: str, prefix: str = "") -> Any:
    """What the node gets for an input. Raises ValueError for anything that it does not take."""
    name = prefix + part.id
    if isinstance(part, io.Autogrow.Input):
        return _grown(part, value, node, name)
    if isinstance(part, io.DynamicCombo.Input):
        return _chosen(part, value, node, name)
    plain = _PLAIN.get(part.get_io_type())
    if plain is not None:
        try:
            return plain(part, value)
        except (ValueError, OverflowError):
            hint = did_you_mean(value, getattr(part, "options", None) or ()) if isinstance(value, str) else ""
            raise ValueError(f"{node}: {name!r} takes {_takes(part)}; got {shown(value)}{hint}") from None
    sockets = [SOCKETS[kind] for kind in part.get_io_type().split(",") if kind in SOCKETS]
    wrong = [socket.wrong(value) for socket in sockets]
    if not sockets or None in wrong:
        return value
    closest = next((text for text in wrong if text != shown(value)), wrong[0])
    raise ValueError(f"{node}: {name!r} takes {_takes(part)}; got {closest}. {sockets[0].advice}")


def _grown(part: Any, value: Any, node: str, name: str) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{node}: {name!r} takes a socket for each of its values; got {shown(value)}")
    parts = {one.id: one for one in part.template.get_all()}
    template = part.template.input
    return {
        key: None if one is None else _value(parts.get(key, template), one, node, f"{name}.")
        for key, one in value.items()
    }


def _chosen(part: Any, value: Any, node: str, name: str) -> Any:
    options = {option.key: option for option in part.options}
    choice = value.get(part.id) if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping) or not isinstance(choice, str) or choice not in options:
        hint = did_you_mean(choice, options) if isinstance(choice, str) else ""
        raise ValueError(f"{node}: {name!r} takes {_takes(part)}; got {shown(choice)}{hint}")
    found = dict(value)
    for one in options[choice].inputs:
        if one.id not in found and getattr(one, "default", None) is not None:
            found[one.id] = one.default
        elif found.get(one.id) is not None or not one.optional:
            found[one.id] = _value(one, found.get(one.id), node, f"{name}.")
    return found


def _takes(part: Any) -> str:
    """What an input takes, for people."""
    kind = part.get_io_type()
    if isinstance(part, io.DynamicCombo.Input):
        return _one_of([option.key for option in part.options])
    if kind == "COMBO":
        return "a name of its menu" if isinstance(part.options, Files) else _one_of(part.options)
    if kind in ("INT", "FLOAT"):
        what = "a whole number" if kind == "INT" else "a number"
        low, high = part.min, part.max
        return f"{what} from {low:g} to {high:g}" if low is not None and high is not None else what
    if kind == "STRING":
        return f"a text of at most {_LONGEST_TEXT} characters"
    known = [SOCKETS[one].takes if one in SOCKETS else one for one in kind.split(",")]
    return {"BOOLEAN": "on or off"}.get(kind, " or ".join(known))


def _one_of(choices: list[Any]) -> str:
    rest = f", ... ({len(choices)} in all)" if len(choices) > 20 else ""
    return f"one of {', '.join(map(repr, choices[:20]))}{rest}" if choices else "a choice of its menu, which is empty"


def _in_range(part: Any, value: Any) -> Any:
    if (part.min is not None and value < part.min) or (part.max is not None and value > part.max):
        raise ValueError
    return value


def _whole(part: Any, value: Any) -> int:
    if not isinstance(value, Integral) and not (isinstance(value, float) and value.is_integer()):
        raise ValueError
    return int(_in_range(part, value))


def _real(part: Any, value: Any) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(_in_range(part, value))


def _switch(part: Any, value: Any) -> bool:
    if not isinstance(value, Integral) and type(value).__name__ not in ("bool", "bool_"):
        raise ValueError
    return bool(value)


def _text(part: Any, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError
    return value


def _choice(part: Any, value: Any) -> Any:
    if not isinstance(value, str) or (not isinstance(part.options, Files) and value not in part.options):
        raise ValueError
    return value


_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "INT": _whole,
    "FLOAT": _real,
    "BOOLEAN": _switch,
    "STRING": _text,
    "COMBO": _choice,
}
