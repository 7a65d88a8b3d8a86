"""`scaled_dot_product_attention` with its log-sum-exp, which carries its gradient, for the price of the plain call.

A fused kernel's backward pass computes dS = P (dP - delta), delta being the row sum of dO * O and the only thing that O
is read for. A gradient g of the log-sum-exp adds P g, which is delta - g in place of delta; so the same kernel, told
O - g dO / |dO|^2 in place of O, gives q and k both gradients at once. No product of queries and keys is done twice.

B batch, H heads, Nq / Nk query / key tokens, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

from ..no_compile import uncompiled
from .masks import mask_part

__all__ = ["LseTap", "attend", "has_lse", "logits_of", "masked", "row_chunks", "row_lse", "sdpa_with_lse"]


def row_lse(q: Tensor, k: Tensor, scale: float, *, mask: Tensor | None = None, budget: int | None = None) -> Tensor:
    """Natural log-sum-exp of each row of scaled, masked logits, (B, H, Nq) float32 (float64 for float64 input).

    The second pass for kernels that keep it to themselves: a fused PyTorch kernel where one returns it, else chunks.
    """
    if has_lse(q):
        four = mask_part(mask)
        if four is not None and four.dtype == torch.bool and four.shape[1] == four.shape[2] == 1:
            return _kept_lse(q, k, scale, four)
        fused = sdpa_with_lse(q, k, k, attn_mask=mask, scale=scale)[1]
        if fused is not None:
            return fused
    if mask is None and q.device.type == "cpu" and q.dtype == torch.float32 and k.shape[2] > _FEW:
        fused = sdpa_with_lse(q, k, k, scale=scale)[1]  # a third of what the passes over logits take
        if fused is not None:
            return fused
    out = []
    for rows in row_chunks(q, k.shape[2], budget):
        out.append(logits_of(q[:, :, rows], k, scale, mask_part(mask, rows, None)).logsumexp(-1))
    return torch.cat(out, dim=-1)


def sdpa_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`scaled_dot_product_attention` by the kernel that PyTorch would pick itself, and that kernel's log-sum-exp.

    Returns (output, lse): output bit-identical to the plain call; lse (B, H, Nq) float32, with its gradient where
    gradients are recorded (see `attend`), None where the picked kernel does not return one (then the plain
    call ran).
    """
    plain = torch.nn.functional.scaled_dot_product_attention

    def fallback() -> tuple[Tensor, None]:
        options: dict[str, Any] = {"enable_gqa": True} if enable_gqa else {}
        return plain(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **options), None

    if dropout_p or is_causal or enable_gqa or q.ndim != 4 or v.shape[-1] != q.shape[-1]:
        return fallback()
    pick = torch._fused_sdp_choice(q, k, v, attn_mask, 0.0, False, scale=scale)
    return attend(q, k, v, attn_mask, scale, pick) or fallback()


class LseTap(TorchFunctionMode):
    """While active, `scaled_dot_product_attention` also yields its log-sum-exp: `tap.calls` lists (q, k, lse, the other
    arguments by name).

    Output is bit-identical to the plain call: the same kernel runs, only asked for one more result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args)), **kwargs}
        q, k, v = given.pop("query"), given.pop("key"), given.pop("value")
        out, lse = sdpa_with_lse(q, k, v, **given)
        self.calls.append((q, k, lse, given))
        return out

    def lse_for(self, q: Tensor, k: Tensor) -> Tensor | None:
        """The log-sum-exp of the one call that was made, if it was made with this q and k, bit for bit."""
        if len(self.calls) != 1 or not (_is(self.calls[0][0], q) and _is(self.calls[0][1], k)):
            return None
        return self.calls[0][2]

    def only_call(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]] | None:
        """The one call that was made, if it was one of q's shape; None for none or several."""
        return self.calls[0] if len(self.calls) == 1 and self.calls[0][0].shape == q.shape else None


def _is(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same values in memory."""
    return a is b or (
        a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()
    )


def logits_of(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    logits = (q.to(kind) @ k.to(kind).transpose(-1, -2)) * scale
    return logits if mask is None else masked(logits, mask)


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits under a mask, additive or keep."""
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, float("-inf"))
    return logits + mask.to(logits.dtype)


def row_chunks(q: Tensor, width: int, budget: int | None) -> list[slice]:
    """Row slices whose logits against `width` keys stay within `budget` elements."""
    if budget is None:
        budget = 1 << 23 if q.device.type == "cpu" else 1 << 25
    step = max(1, budget // max(1, q.shape[0] * q.shape[1] * width))
    return [slice(i, min(i + step, q.shape[2])) for i in range(0, q.shape[2], step)]


def has_lse(q: Tensor) -> bool:
    """Whether a fused PyTorch kernel on this device returns the log-sum-exp at useful precision for q's dtype."""
    return q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16)


def _kept_lse(q: Tensor, k: Tensor, scale: float, keep: Tensor) -> Tensor:
    """Log-sum-exp over the keys that keep (B or 1, 1, 1, Nk) bool says, from a kernel that gives none with a mask: each
    key brings along how far it is out of the question, in eight more numbers a head, as kernels want them. The other
    keys weigh nothing beside them."""
    far = torch.where(keep, 0.0, max(-2e3 / scale, torch.finfo(q.dtype).min / 2)).mT.to(k.dtype)
    q = torch.nn.functional.pad(torch.cat([q, torch.ones_like(q[..., :1])], dim=-1), (0, 7))
    k = torch.nn.functional.pad(torch.cat([k, far.expand(*k.shape[:3], 1)], dim=-1), (0, 7))
    lse = sdpa_with_lse(q, k, k, scale=scale)[1]
    lse = row_lse(q.float(), k.float(), scale) if lse is None else lse
    return lse.masked_fill(~keep.any(-1), float("-inf"))


_FEW = 64  # keys up to which logits are as cheap as a kernel
_FLASH, _CUDNN = SDPBackend.FLASH_ATTENTION.value, SDPBackend.CUDNN_ATTENTION.value
_EFFICIENT = SDPBackend.EFFICIENT_ATTENTION.value
_AT_ONCE, _GROUP = 1 << 22, 1 << 24  # elements that are held in float32, and in the format of the model, at a time
# A row whose dO is this much smaller than its g, or zero, gets so much more of it: O - g dO / |dO|^2 stays in range. To
# q and k it is lost in the rounding of g; v feels this share of g where it should feel (almost) nothing.
_LEAST = {torch.float64: 2.0**-60, torch.float32: 2.0**-30, torch.bfloat16: 2.0**-16, torch.float16: 2.0**-13}


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, pick: int
) -> tuple[Tensor, Tensor] | None:
    """(output (B, H, Nq, D), log-sum-exp (B, H, Nq) float32 or wider) of the kernel `pick` (a value of `SDPBackend`),
    both with gradients where they are recorded; None where that kernel returns no log-sum-exp.

    mask: additive or keep, for the CPU kernel alone.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if q.device.type == "cpu" and pick == _FLASH:
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
    elif q.device.type != "cuda" or q.shape[-1] % 8 or mask is not None or pick not in (_FLASH, _CUDNN, _EFFICIENT):
        return None
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (q, k, v)):
        out, lse, _ = _forward(q, k, v, mask, scale, pick)
    else:
        out, lse = _apply(q, k, v, mask, scale, pick)
    return out, lse.reshape(*lse.shape[:2], -1)[:, :, : q.shape[2]]


@uncompiled
def _apply(*args: Any) -> tuple[Tensor, Tensor]:
    return _Attention.apply(*args)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, pick: int
    ) -> tuple[Tensor, Tensor]:
        out, lse, more = _forward(q, k, v, mask, scale, pick)
        tensors = [value for value in more if isinstance(value, Tensor)]
        ctx.more = [None if isinstance(value, Tensor) else value for value in more]
        ctx.places = [i for i, value in enumerate(more) if isinstance(value, Tensor)]
        ctx.scale, ctx.pick, ctx.masked = scale, pick, mask is not None
        ctx.save_for_backward(q, k, v, out, lse, *([mask] if mask is not None else []), *tensors)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, *rest = ctx.saved_tensors
        mask = rest.pop(0) if ctx.masked else None
        more = list(ctx.more)
        for place, value in zip(ctx.places, rest, strict=True):
            more[place] = value
        if grad is None and grad_lse is None:
            return (None,) * 6
        grad = torch.zeros_like(out) if grad is None else grad
        if grad_lse is None:
            return (*_backward(grad, q, k, v, out, lse, mask, more, ctx.scale, ctx.pick), None, None, None)
        extra = grad_lse.reshape(*lse.shape[:2], -1)[:, :, : q.shape[2]].unsqueeze(-1)
        made = tuple(torch.empty_like(t) for t in (q, k, v))
        step = max(1, _GROUP // max(1, out[:, :1].numel()))
        for at in (slice(i, i + step) for i in range(0, q.shape[1], step)):  # few heads: two copies of them are held
            shifted, pushed = _shifted(out[:, at], grad[:, at], extra[:, at])
            limit = mask if mask is None or mask.ndim < 4 or mask.shape[1] == 1 else mask[:, at]
            norm = lse[:, at].contiguous()
            part = _backward(pushed, q[:, at], k[:, at], v[:, at], shifted, norm, limit, more, ctx.scale, ctx.pick)
            for whole, some in zip(made, part):
                whole[:, at] = some
            del shifted, pushed, part, some
        return (*made, None, None, None)


def _shifted(out: Tensor, grad: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """Output and its gradient whose product over D is smaller by `extra` (B, H, Nq, 1). Rows without `extra` stay bit
    for bit what they are. Both come back laid out in memory like `out`."""
    shifted, pushed = out.clone(), torch.empty_like(out).copy_(grad)
    wide = torch.promote_types(torch.float32, out.dtype)
    step = max(1, _AT_ONCE // max(1, out[:, :1].numel()))
    for heads in (slice(i, i + step) for i in range(0, out.shape[1], step)):
        some, more = pushed[:, heads], extra[:, heads].to(wide)
        least = more.abs() * _LEAST[out.dtype]
        small = torch.linalg.vector_norm(some, dim=-1, keepdim=True, dtype=wide) < least
        first = some[..., :1]
        first += torch.where(small, torch.where(first < 0, -least, least), 0.0).to(out.dtype)
        size = torch.linalg.vector_norm(some, dim=-1, keepdim=True, dtype=wide)
        unit = some / size.clamp_min(torch.finfo(wide).tiny)
        shifted[:, heads] -= (unit * (more / size.clamp_min(torch.finfo(wide).tiny))).to(wide)
    return shifted, pushed


def _forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, pick: int
) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Output, log-sum-exp as the kernel lays it out, and what else its backward pass asks for."""
    aten = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
        return out, lse, ()
    if pick == _FLASH:
        out, lse, *more = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
        return out, lse, tuple(more[:6])
    if pick == _CUDNN:
        out, lse, *more = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False, scale=scale)
        return out, lse, tuple(more[:6])
    out, lse, *more = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, False, scale=scale)
    return out, lse, tuple(more)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    mask: Tensor | None, more: list[Any], scale: float, pick: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    aten = torch.ops.aten
    found: tuple[Tensor, ...]
    if q.device.type == "cpu":
        found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False, attn_mask=mask, scale=scale
        )
    elif pick == _FLASH:
        q_starts, k_starts, q_most, k_most, seed, offset = more
        found = aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, q_starts, k_starts, q_most, k_most, 0.0, False, seed, offset, scale=scale
        )
    elif pick == _CUDNN:
        q_starts, k_starts, q_most, k_most, seed, offset = more
        found = aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, lse, seed, offset, None, q_starts, k_starts, q_most, k_most, 0.0, False, scale=scale
        )
    else:
        found = aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, None, out, lse, *more, 0.0, [True, True, True, False], False, scale=scale
        )
    return found[0], found[1], found[2]
