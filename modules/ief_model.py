"""IEF: two towers, QI and QC joined. Finished parts come in, named features and scores go out.

B batch, L words, F frames, P patches, K captions, V visual tokens, d embedding width; Q queries, M memes.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from modules.backbones.protocol import Backbone
from modules.caption_attention import CaptionAttention, mask_drawn_caption
from modules.caption_similarity import CaptionPooling, caption_scores
from modules.emotion_encoder import EmotionChannel, EmotionToken, EmotionVectors
from modules.fusion import Fusion
from modules.image_similarity import PooledSimilarity, TightSimilarity, TokenSimilarity
from modules.tf32 import tf32
from modules.tower_pieces import (
    Texts,
    groups_of_like_length,
    lengths_of,
    put_together,
    sizes_of,
    text_pieces,
)
from modules.transformer import attendable, masked_mean

GROUP_COST = {"cpu": 64}  # tokens that one more run of the text tower costs, in its launches and its weights' traffic
GROUP_COST_ELSEWHERE = 4096
TextFeatures = tuple[
    torch.Tensor | None, torch.Tensor
]  # words (N, L, w), None where they are not read; sentence (N, w)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """How the parts are joined: everything that is not a module."""

    visual_tokens: str = "cls"  # or patch
    reads_captions: bool = True
    has_image: bool = True  # branch qi
    has_caption: bool = True  # branch qc
    keep_pooled: bool = False  # CDCR reads the memes' mean token


def known_text(batch: Mapping[str, torch.Tensor], kind: str) -> TextFeatures | None:
    """What a frozen text tower gave for a batch's `query` or `caption` texts, where it was asked before, or None."""
    sentence = batch.get(f"{kind}_sentence")
    return None if sentence is None else (batch.get(f"{kind}_words"), sentence)


def encoded_captions(mask: torch.Tensor) -> torch.Tensor:
    """Which captions of mask (B, K, L) the text tower is asked for: (B, K), the present ones.

    Where there is none it is the first place, since the tower never runs on nothing; what it gives is then masked.
    """
    present = mask.any(dim=2)
    encoded = present.clone()
    encoded[0, 0] |= ~present.any()
    return encoded


class IEF(nn.Module):
    """The model. Parts that a setting does not use are None and have no parameters."""

    def __init__(
        self,
        wiring: Wiring,
        backbone: Backbone,
        emotion_vectors: EmotionVectors | None = None,
        emotion_fusion: EmotionChannel | EmotionToken | None = None,
        caption_attention: CaptionAttention | None = None,
        aggregator: nn.Module | None = None,
        image_similarity: PooledSimilarity | TokenSimilarity | None = None,
        caption_pooling: CaptionPooling | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        self.wiring = wiring
        self.backbone = backbone
        self.emotion_vectors = emotion_vectors
        self.emotion_fusion = emotion_fusion
        self.caption_attention = caption_attention
        self.aggregator = aggregator
        self.image_similarity = image_similarity
        self.caption_pooling = caption_pooling
        self.fusion = fusion
        self.reads_words = isinstance(image_similarity, TokenSimilarity | TightSimilarity)
        # bfloat16 or float16: the two towers run in it, all else in the weights' precision
        self.tower_dtype: torch.dtype | None = None
        self.tower_tf32 = False  # their products in TF32, on a GPU that has it

    def _tower(
        self,
        function: Callable[..., tuple[torch.Tensor, Any]],
        first: torch.Tensor,
        *others: torch.Tensor | bool | None,
    ) -> tuple[torch.Tensor, Any]:
        """Run a tower in `tower_dtype`: its two features, which come out in the weights' precision."""
        autocast = torch.autocast(first.device.type, self.tower_dtype, enabled=self.tower_dtype is not None)
        with autocast, tf32(self.tower_tf32):
            one, other = function(first, *others)
        dtype = self.backbone.logit_scale.dtype
        return one.to(dtype), None if other is None else other.to(dtype)

    def _projected(self, texts: TextFeatures, reads_words: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The text tower's features -> words (N, L, d), None where they are not read, and sentence (N, d)."""
        words, sentence = texts
        assert words is not None or not reads_words
        projected = self.backbone.project_text(words) if words is not None and reads_words else None
        return projected, self.backbone.project_text(sentence)

    def encode_queries(
        self, ids: torch.Tensor, mask: torch.Tensor, known: TextFeatures | None = None
    ) -> dict[str, torch.Tensor]:
        """Token ids and mask (B, L) -> what `similarities` reads of a query, computed once per query.

        `sentence` (B, d): the sentence feature at length 1; with a token interaction also `words` (B, L, d) and
        `word_weight` (B, L). `known`: what the text tower gives for these texts, where that was computed before.
        """
        words, sentence = self._projected(known or self.text_features(ids, mask), self.reads_words)
        return self._query_side(words, sentence, mask)

    def _query_side(
        self, words: torch.Tensor | None, sentence: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        features = {"sentence": F.normalize(sentence, dim=-1)}
        if self.image_similarity is not None:
            features |= self.image_similarity.query_side(words, mask, sentence)
        return features

    def encode_memes(
        self, batch: Mapping[str, torch.Tensor], image: bool = True, caption: bool = True
    ) -> dict[str, torch.Tensor]:
        """A batch of memes (dataloaders/meme_dataset.py) -> what `similarities` reads of a meme, once per meme.

        With QI the features of `image_similarity.meme_side`; with QC `caption` (B, d), of `--text_pool_type max`
        (B, K, d). `image` or `caption` False leaves a side out. With caption augmentation also `drawn_*`: the drawn
        captions as further queries.
        """
        features: dict[str, torch.Tensor] = {}
        words = sentences = present = None
        if self.wiring.reads_captions:
            words, sentences, present = self._captions(batch)
        if caption and self.caption_pooling is not None:
            features["caption"] = self.caption_pooling(sentences, present)
        if image and self.image_similarity is not None:
            attended = present
            if "drawn_caption" in batch:
                assert sentences is not None and present is not None, "captions are drawn of those that are read"
                drawn = batch["drawn_caption"]
                attended = mask_drawn_caption(present, drawn)
                features |= self._drawn_queries(words, sentences, batch["caption_mask"], present, drawn)
            features |= self._image(batch, sentences, attended)
        return features

    def _captions(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """The present captions' words (N, L, d), where they are read, sentence features (B, K, d) and mask (B, K)."""
        mask = batch["caption_mask"]
        present, encoded = mask.any(dim=2), encoded_captions(mask)
        texts = known_text({**batch, **self.encode_texts(batch, ("caption",))}, "caption")
        assert texts is not None
        words, sentence = self._projected(texts, self.reads_words and "drawn_caption" in batch)
        sentences = sentence.new_zeros(*present.shape, sentence.shape[-1])
        sentences[encoded] = sentence
        return words, sentences, present

    def _drawn_queries(
        self,
        words: torch.Tensor | None,
        sentences: torch.Tensor,
        mask: torch.Tensor,
        present: torch.Tensor,
        drawn: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The captions number `drawn` (B,) of the memes as queries; -1 gives a row with `drawn_present` False."""
        slot = drawn.clamp(min=0)
        row = torch.arange(len(drawn), device=drawn.device)
        place = (present.flatten().cumsum(0) - 1).view(present.shape)[row, slot].clamp(min=0)
        drawn_mask = mask[row, slot].clone()
        drawn_mask[:, 0] = True
        features = self._query_side(None if words is None else words[place], sentences[row, slot], drawn_mask)
        return {f"drawn_{name}": tensor for name, tensor in features.items()} | {"drawn_present": drawn >= 0}

    def _image(
        self, batch: Mapping[str, torch.Tensor], sentences: torch.Tensor | None, attended: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        tokens, mask = self._visual_tokens(batch)
        if self.caption_attention is not None:
            tokens = self.caption_attention(tokens, sentences, attended, batch.get("row_key"))
        assert self.aggregator is not None and self.image_similarity is not None
        tokens = self.aggregator(tokens, mask)
        features = self.image_similarity.meme_side(tokens, mask)
        if self.wiring.keep_pooled and "pooled" not in features:
            features["pooled"] = F.normalize(masked_mean(tokens, mask), dim=-1)
        return features

    def _visual_tokens(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The real frames of B memes -> tokens (B, V, d) and mask (B, V); absent frames are not computed."""
        frame_mask = batch["frame_mask"]
        if "frame_features" in batch:
            out = batch["frame_features"]
        else:
            out = self.frame_features(batch["pixels"], frame_mask, batch["emotions"])
        out = self.backbone.project_image(out)
        tokens = out.new_zeros(*frame_mask.shape, *out.shape[1:])
        tokens[frame_mask] = out
        return tokens.flatten(1, 2), frame_mask.repeat_interleave(out.shape[1], dim=1)

    def frame_features(self, pixels: torch.Tensor, frame_mask: torch.Tensor, emotions: torch.Tensor) -> torch.Tensor:
        """Real frames (N, 3, H, W), uint8, of B memes, emotions (B, E) -> what the image tower gives: (N, V / F, v)."""
        meme_of_frame = frame_mask.nonzero()[:, 0]
        patch_bias = extra_token = None
        if self.emotion_fusion is not None:
            assert self.emotion_vectors is not None
            embedded = self.emotion_fusion(self.emotion_vectors(emotions))[meme_of_frame]
            if embedded.ndim == 4:
                patch_bias = embedded
            else:
                extra_token = embedded
        pixels = self.backbone.normalise(pixels, self.backbone.logit_scale.dtype)
        of_patches = self.wiring.visual_tokens == "patch"
        inputs = pixels, patch_bias, extra_token, meme_of_frame, of_patches
        pooled, patches = self._tower(self.backbone.image_features, *inputs)
        return patches if of_patches else pooled[:, None]

    def text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (N, L) -> words (N, L, w), sentence (N, w), as the text tower gives them."""
        words, sentence = self._tower(self.backbone.text_features, ids, mask)
        return words, sentence

    def encode_texts(
        self, batch: Mapping[str, torch.Tensor], kinds: Collection[str] = ("query", "caption")
    ) -> dict[str, torch.Tensor]:
        """What the text tower gives for a batch's texts, where it was not asked before: what `known_text` reads.

        They go through it in groups of like length, queries and captions together.
        """
        texts = self.texts_to_ask(batch, kinds)
        if not texts:
            return {}
        lengths = lengths_of(texts)
        groups = [np.arange(len(lengths))]
        if not self.backbone.reads_padding:
            cost = GROUP_COST.get(texts[0].ids.device.type, GROUP_COST_ELSEWHERE)
            groups = groups_of_like_length(lengths, cost)
        return put_together(text_pieces(self.text_features, texts, lengths, groups), sizes_of(texts, batch))

    def texts_to_ask(
        self, batch: Mapping[str, torch.Tensor], kinds: Collection[str] = ("query", "caption")
    ) -> list[Texts]:
        """A batch's texts that the text tower was not asked for yet, queries before captions."""
        texts = []
        if "query" in kinds and known_text(batch, "query") is None:
            texts.append(Texts("query", batch["query_ids"], batch["query_mask"], self.reads_words))
        if "caption" in kinds and self.wiring.reads_captions and known_text(batch, "caption") is None:
            ids, mask = batch["caption_ids"], batch["caption_mask"]
            encoded = encoded_captions(mask)
            reads_words = self.reads_words and "drawn_caption" in batch
            texts.append(Texts("caption", ids[encoded], attendable(mask[encoded]), reads_words))
        return texts

    def trains(self, tower: str) -> bool:
        """Whether anything that the `text` or the `image` tower's features depend on is trained."""
        parts = (self.emotion_vectors, self.emotion_fusion) if tower == "image" else ()
        of_emotions = (parameter for part in parts if part is not None for parameter in part.parameters())
        return not self.backbone.is_frozen(tower) or any(parameter.requires_grad for parameter in of_emotions)

    def similarities(
        self,
        queries: dict[str, torch.Tensor],
        memes: dict[str, torch.Tensor],
        names: Collection[str] = ("qi", "qc", "fused"),
    ) -> dict[str, torch.Tensor]:
        """Scores (Q, M) of the encoded queries and memes, of the branches that exist: a dict.

        `names`: which ones are wanted; `fused` is the single branch's score where only one exists.
        """
        scores = {}
        if self.wiring.has_image and ({"qi", "fused"} & set(names)):
            assert self.image_similarity is not None
            scores["qi"] = self.image_similarity.scores(queries, memes)
        if self.wiring.has_caption and ({"qc", "fused"} & set(names)):
            scores["qc"] = caption_scores(queries["sentence"], memes["caption"])
        if "fused" in names:
            if self.fusion is None:
                scores["fused"] = next(iter(scores.values()))
            else:
                scores["fused"] = self.fusion(scores["qi"], scores["qc"], queries["sentence"])
        return scores
