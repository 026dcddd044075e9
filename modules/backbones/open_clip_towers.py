"""The towers of open_clip_torch, each asked for all that IEF reads: N items, L words, P patches, d the common width."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from modules.backbones.protocol import before, layers_of, with_token
from modules.backbones.timm_tower import last_features, patches_of, pools_by_place, token_width
from util import InputError

# --- the text towers ---------------------------------------------------------------------------------------------


class TextTower(nn.Module):
    """The library's TextTransformer. Ids (N, L), padded -> words (N, L, d), sentence (N, d)."""

    tower: Any

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        if tower.cls_emb is not None or tower.pool_type == "none":
            raise InputError("its text tower ends with a token of its own, as CoCa's does; such towers are not read")

    @property
    def reads_padding(self) -> bool:
        """Whether what stands behind a text changes its features, so that it is always padded to the full length."""
        return self.tower.attn_mask is None or self.tower.pool_type == "last"

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from open_clip.transformer import text_global_pool

        tower, length = self.tower, ids.shape[1]
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        words = tower.ln_final(tower.transformer(x, attn_mask=mask))
        if isinstance(tower.text_projection, nn.Linear):
            words = tower.text_projection(words)
        elif tower.text_projection is not None:
            words = words @ tower.text_projection
        return words, text_global_pool(words, ids, tower.pool_type, eos_token_id=tower.eos_id)

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        tower = self.tower
        return [tower.token_embedding.weight, tower.positional_embedding], list(tower.transformer.resblocks)


class HuggingFaceText(nn.Module):
    """The library's HFTextEncoder: an encoder of transformers, pooled and projected. As TextTower."""

    tower: Any

    def __init__(self, tower: Any, pad_id: int) -> None:
        super().__init__()
        self.tower = tower
        self.reads_padding = tower.config.pad_token_id != pad_id  # else it is masked

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tower = self.tower
        mask = (ids != tower.config.pad_token_id).long()
        out = tower.transformer(input_ids=ids, attention_mask=mask)
        return tower.proj(out.last_hidden_state), tower.proj(tower.pooler(out, mask))

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        return layers_of(self.tower.transformer)


# --- the image towers --------------------------------------------------------------------------------------------


class ImageTower(nn.Module):
    """What is common to the library's image towers. Pixels (N, 3, H, W) -> pooled (N, d), patches (N, P, d) or None."""

    tower: Any
    token_width: int | None = None

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.tower(pixels), None

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        blocks = [block for number in range(1, 5) for block in getattr(self.tower, f"layer{number}")]  # of the ResNets
        return before(self.tower, blocks), blocks


class ImageTransformer(ImageTower):
    """The library's VisionTransformer."""

    def __init__(self, tower: Any) -> None:
        super().__init__(tower)
        if tower.pool_type == "none" or isinstance(tower.attn_pool, nn.Module):
            raise InputError("its image tower ends in CoCa's kind of pooling; such towers are not read")
        tower.output_tokens = True
        self.token_width = tower.conv1.out_channels

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tower = self.tower
        with with_token(extra_token, tower.ln_pre, tower.transformer):
            pooled, tokens = tower(pixels)
        return pooled, (tower.ln_post(tokens) if tower.final_ln_after_pool else tokens) @ tower.proj

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        tower, blocks = self.tower, list(self.tower.transformer.resblocks)
        return [parameter for parameter in before(tower, blocks) if parameter is not tower.proj], blocks


class TimmModel(ImageTower):
    """The library's TimmModel: a trunk of timm and a head which may project. Its blocks are the trunk's, or its stages.

    Patches are the places of the trunk's last map, each as if it alone were pooled; a pooling that knows the places
    (CLIP's attention in a ResNet of timm) leaves none.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__(tower)
        self._has_patches = not pools_by_place(tower)
        self.token_width = token_width(tower.trunk)

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        trunk = self.tower.trunk
        features = last_features(trunk, pixels, extra_token)
        asked = patches and self._has_patches
        return self._pooled(features), patches_of(trunk, features, self._pooled) if asked else None

    def _pooled(self, features: torch.Tensor) -> torch.Tensor:
        return self.tower.head(self.tower.trunk.forward_head(features))

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        trunk = self.tower.trunk
        name = next((name for name in ("blocks", "stages", "layers") if hasattr(trunk, name)), None)
        blocks = list(getattr(trunk, name)) if name else [m for n, m in trunk.named_children() if n.startswith("layer")]
        if not blocks:
            raise InputError(f"--freeze_layer_num: the blocks of a {type(trunk).__name__} are not known; take -1")
        return before(trunk, blocks), blocks


def image_tower(tower: nn.Module) -> ImageTower:
    """By the library's own class; any other is one of its ResNets."""
    kinds: dict[str, type[ImageTower]] = {"VisionTransformer": ImageTransformer, "TimmModel": TimmModel}
    return kinds.get(type(tower).__name__, ImageTower)(tower)
