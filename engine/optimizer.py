"""Parameter groups, and the learning rate's warm-up and cosine."""

import math
from typing import Any

import torch
from torch import nn

from modules.ief_model import IEF


def parameter_groups(
    model: IEF, lr: float, coef_lr: float, fusion_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups over the model's trainable parameters; each has `name` and its peak rate `peak_lr`.

    The towers' own parameters at lr * coef_lr; what only weighs scores or captions, the weights of QI and QC and the
    logits of `--text_pool_type weight_l`, at fusion_lr without decay: a logit has to move by about one to say anything,
    which at `lr` takes more steps than a run has. All others at lr. No decay on biases, norms and the logit scale.
    """
    rates = {"clip": lr * coef_lr, "new": lr, "fusion": fusion_lr}
    norms = {id(p) for module in model.modules() if _is_norm(module) for p in module.parameters(recurse=False)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        weighs = name.startswith("fusion.") or name == "caption_pooling.logits"
        kind = "fusion" if weighs else "clip" if _is_towers_own(model, name) else "new"
        leaf = name.split(".")[-1]
        decayed = not (kind == "fusion" or id(parameter) in norms or "bias" in leaf or leaf == "logit_scale")
        key = f"{kind} {'decayed' if decayed else 'undecayed'}"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "peak_lr": rates[kind],
                "weight_decay": weight_decay if decayed else 0.0,
                "params": [],
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _is_norm(module: nn.Module) -> bool:
    """Whether it scales what it normalises; other people's towers bring classes of their own, such as RMSNorm."""
    return "norm" in type(module).__name__.lower()


def _is_towers_own(model: IEF, name: str) -> bool:
    own = name.removeprefix("backbone.")
    return own != name and not model.backbone.is_new(own)


def make_optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with CLIP's betas, the fused kernel where the device has one."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-6, fused=devices <= {"cpu", "cuda"})


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, total_steps: int, warmup_proportion: float) -> None:
    """Each group's rate for optimisation step `step` (0-based): linear warm-up to its peak, then cosine to 0."""
    factor = warmup_then_cosine(step, total_steps, warmup_proportion)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def warmup_then_cosine(step: int, total_steps: int, warmup_proportion: float) -> float:
    """The factor of the peak rate at `step` of `total_steps`, in (0, 1]."""
    warmup = round(total_steps * warmup_proportion)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
