"""The model that is trained: a Qwen3-style Mixture-of-Experts decoder, and its two dense twins.

Tensors are named as the code reads; `export.py` gives them the names that Hugging Face transformers expects.
Shapes in comments: B sequences, T positions, N = B * T tokens, H hidden, E experts, F expert width, k experts a token.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. `experts == 1` is a dense model: no router, one feed-forward of width `ffn`."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 32
    top_k: int = 4
    ffn: int = 128
    context: int = 512
    rope_theta: float = 10000.0
    eps: float = 1e-6

    def iso_active(self) -> "Shape":
        """The dense model that computes as much for a token as this one."""
        return replace(self, experts=1, top_k=1, ffn=self.ffn * self.top_k)

    def iso_total(self) -> "Shape":
        """The dense model that holds as many weights as this one, and uses all of them for every token."""
        return replace(self, experts=1, top_k=1, ffn=self.ffn * self.experts)

    @property
    def dense(self) -> bool:
        return self.experts == 1

    def parameters(self) -> tuple[int, int]:
        """All parameters, and those that compute with one token (the tied embedding counts once)."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads) + 2 * self.head_dim
        expert = 3 * self.hidden * self.ffn
        router = 0 if self.dense else self.experts * self.hidden
        rest = self.vocab * self.hidden + self.hidden + self.layers * (attention + router + 2 * self.hidden)
        return rest + self.layers * self.experts * expert, rest + self.layers * self.top_k * expert


class GroupedProduct(torch.autograd.Function):
    """y[a:b] = x[a:b] @ w[e]^T for rows that are sorted by expert; one product an expert, the fastest way on a CPU."""

    @staticmethod
    def forward(ctx, x, w, bounds):
        y = x.new_empty(x.shape[0], w.shape[1])
        for e, (a, b) in enumerate(zip(bounds, bounds[1:])):
            if b > a:
                torch.mm(x[a:b], w[e].t(), out=y[a:b])
        ctx.save_for_backward(x, w)
        ctx.bounds = bounds
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        for e, (a, b) in enumerate(zip(ctx.bounds, ctx.bounds[1:])):
            if b > a:
                torch.mm(dy[a:b], w[e], out=dx[a:b])
                torch.mm(dy[a:b].t(), x[a:b], out=dw[e])
        return dx, dw, None


class VocabularyLoss(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight^T`, a block of rows at a time, so that no [N, vocabulary] tensor exists.

    The gradients are made on the way forward, while a block's probabilities are still in the cache. `emphasis` [N]
    says how much a row counts in the gradients; in the loss all count alike, so that it stays comparable.
    """

    ROWS = 512

    @staticmethod
    def forward(ctx, hidden, weight, targets, emphasis):
        total = hidden.new_zeros((), dtype=torch.float32)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), VocabularyLoss.ROWS):
            rows, answers = hidden[start : start + VocabularyLoss.ROWS], targets[start : start + VocabularyLoss.ROWS]
            logits = (rows @ weight.t()).float()
            at = answers.unsqueeze(1)
            total += (logits.logsumexp(-1) - logits.gather(1, at).squeeze(1)).sum()
            gradient = torch.softmax(logits, -1)
            gradient.scatter_add_(1, at, gradient.new_full(at.shape, -1.0))
            gradient *= emphasis[start : start + VocabularyLoss.ROWS].unsqueeze(1)
            gradient = gradient.to(hidden.dtype)
            torch.mm(gradient, weight, out=d_hidden[start : start + VocabularyLoss.ROWS])
            d_weight.addmm_(gradient.t(), rows)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.count = len(hidden)
        return total / len(hidden)

    @staticmethod
    def backward(ctx, scale):
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * (scale / ctx.count), d_weight * (scale / ctx.count), None, None


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotary_tables(length: int, dim: int, theta: float, device) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = theta ** (-torch.arange(0, dim, 2, device=device).float() / dim)
    angles = torch.outer(torch.arange(length, device=device).float(), frequencies)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = nn.Linear(shape.hidden, width, bias=False)
        self.k = nn.Linear(shape.hidden, kv_width, bias=False)
        self.v = nn.Linear(shape.hidden, kv_width, bias=False)
        self.o = nn.Linear(width, shape.hidden, bias=False)
        self.q_norm, self.k_norm = RMSNorm(shape.head_dim, shape.eps), RMSNorm(shape.head_dim, shape.eps)

    def forward(self, x, cos, sin):
        s = self.shape
        batch, length, _ = x.shape
        q = self.q_norm(self.q(x).view(batch, length, s.heads, s.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k(x).view(batch, length, s.kv_heads, s.head_dim)).transpose(1, 2)
        v = self.v(x).view(batch, length, s.kv_heads, s.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = s.heads // s.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(batch, length, -1))


class Experts(nn.Module):
    """E gated feed-forwards as two stacks of matrices; the gate's rows come before the up projection's."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(shape.experts, 2 * shape.ffn, shape.hidden))
        self.down = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.ffn))

    def dense(self, x):
        gate, up = F.linear(x, self.gate_up[0].to(x.dtype)).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down[0].to(x.dtype))

    def forward(self, x, chosen, weights):
        """x [N, H], chosen [N, k] expert numbers, weights [N, k]: the weighted sum of the chosen experts, [N, H]."""
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        token = torch.div(order, chosen.shape[1], rounding_mode="floor")
        rows = x.index_select(0, token)
        load = torch.bincount(flat, minlength=self.down.shape[0])
        if x.is_cuda:
            ends = load.cumsum(0).to(torch.int32)
            product = lambda a, w: F.grouped_mm(a, w.to(a.dtype).transpose(-2, -1), offs=ends)  # noqa: E731
        else:
            bounds = [0] + load.cumsum(0).tolist()
            product = lambda a, w: GroupedProduct.apply(a, w, bounds)  # noqa: E731
        gate, up = product(rows, self.gate_up).chunk(2, -1)
        y = product((F.silu(gate) * up).contiguous(), self.down)
        y = y * weights.reshape(-1)[order].unsqueeze(-1).to(y.dtype)
        return torch.zeros_like(x).index_add(0, token, y)


class FeedForward(nn.Module):
    """Router and experts: softmax over all experts, the k largest, renormalised (or one dense feed-forward)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.experts = Experts(shape)
        if not shape.dense:
            self.router = nn.Linear(shape.hidden, shape.experts, bias=False)

    def forward(self, x):
        """Returns the output, the load-balancing loss (1 when balanced), the router's z-loss and the choices [N, k]."""
        rows = x.reshape(-1, x.shape[-1])
        if self.shape.dense:
            zero = x.new_zeros(())
            return self.experts.dense(rows).view_as(x), zero, zero, None
        logits = F.linear(rows.float(), self.router.weight.float())
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(self.shape.top_k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = self.experts(rows, chosen, weights)
        load = torch.bincount(chosen.reshape(-1), minlength=self.shape.experts).float() / chosen.numel()
        balance = self.shape.experts * (load * probabilities.mean(0)).sum()
        z = logits.logsumexp(-1).pow(2).mean()
        return y.view_as(x), balance, z, chosen


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(shape.hidden, shape.eps), Attention(shape)
        self.feed_forward_norm, self.feed_forward = RMSNorm(shape.hidden, shape.eps), FeedForward(shape)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y, balance, z, chosen = self.feed_forward(self.feed_forward_norm(x))
        return x + y, balance, z, chosen


class Model(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.eps)
        self._rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                into_residual = name.endswith(("o.weight", "down"))
                nn.init.normal_(parameter, 0.0, 0.02 / (math.sqrt(2 * shape.layers) if into_residual else 1.0))

    def forward(self, ids, dtype=torch.float32):
        """ids [B, T] -> final hidden states [B, T, H], balance and z losses (means over layers), choices by layer."""
        if self._rotary is None or self._rotary[0].device != ids.device:
            s = self.shape
            self._rotary = rotary_tables(s.context, s.head_dim, s.rope_theta, ids.device)
        cos, sin = (table[: ids.shape[1]] for table in self._rotary)
        x = self.embedding(ids).to(dtype)
        balance = z = 0.0
        choices = []
        for block in self.blocks:
            x, layer_balance, layer_z, chosen = block(x, cos, sin)
            balance, z = balance + layer_balance / len(self.blocks), z + layer_z / len(self.blocks)
            choices.append(chosen)
        return self.norm(x), balance, z, choices

    def logits(self, hidden):
        return F.linear(hidden, self.embedding.weight.to(hidden.dtype)).float()

    def loss(self, ids, targets, dtype=torch.float32, emphasis=None):
        """Mean cross-entropy in nats a token, and the two router losses; `emphasis` as in [`VocabularyLoss`]."""
        hidden, balance, z, _ = self(ids, dtype)
        weight = self.embedding.weight.to(hidden.dtype)
        emphasis = torch.ones_like(targets, dtype=torch.float32) if emphasis is None else emphasis
        loss = VocabularyLoss.apply(hidden.flatten(0, 1), weight, targets.flatten(), emphasis.flatten())
        return loss, balance, z
