"""Muon for the matrices, AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the nearest
orthogonal matrix, found by a few Newton-Schulz steps; scaled to an AdamW step's size as in arXiv:2502.16982.
On few tokens it starts far faster than AdamW.
"""

import math

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(gradient: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The orthogonal factor of each matrix in a stack [..., rows, columns], approximately."""
    a, b, c = NEWTON_SCHULZ
    x = gradient.bfloat16() if gradient.is_cuda else gradient
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.mT if tall else x).to(gradient.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices and stacks of matrices. A parameter marked `halves` holds two matrices, one above the other."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])
                if getattr(p, "halves", False):
                    update = update.unflatten(-2, (2, -1))
                rows, columns = update.shape[-2:]
                step = orthogonalise(update).reshape(p.shape)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step, alpha=-group["lr"] * 0.2 * math.sqrt(max(rows, columns)))


def build(model, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """One Muon and one AdamW; embedding, router and norms are AdamW's, without decay."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        if p.dim() < 2 or name.endswith(("embedding.weight", "router.weight")):
            others.append(p)
        else:
            p.halves = name.endswith("gate_up")
            matrices.append(p)
    adam = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), eps=1e-9, weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=lr, weight_decay=weight_decay), adam]
