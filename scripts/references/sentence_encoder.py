"""Cosine of a query's vector and those of a meme's captions, by a pretrained sentence encoder."""

from pathlib import Path

import numpy as np

from util import InputError, progress_bar

PACKAGE = "sentence-transformers"
DEFAULT_MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"  # 50 languages, Chinese among them
BATCH = 64


class SentenceEncoder:
    """Scores of queries (Q texts) and documents (M lists of texts): the query with the mean of a meme's unit vectors.

    name: a Hugging Face name or a folder. Where the model has prompts of its own for queries and documents, they are
    used. InputError without sentence-transformers, or where there is no such model.
    """

    def __init__(self, queries, documents, name, device, progress=True):
        model = load(name, device)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.counts = {}
        captions = dict.fromkeys(text for texts in documents for text in texts)
        index = {text: i for i, text in enumerate(captions)}
        query_vectors, self.counts["queries_cut"] = encode(model, model.encode_query, queries, "queries", progress)
        vectors, self.counts["captions_cut"] = encode(model, model.encode_document, captions, "captions", progress)
        self._queries = query_vectors.astype(np.float64)
        self._keep(vectors.astype(np.float64), [[index[text] for text in texts] for texts in documents])
        self.description = (
            f"{name}: {self.parameters / 1e6:.1f} million parameters, vectors of {vectors.shape[1]} numbers"
        )

    def _keep(self, vectors, captions):
        """vectors (C, d) of all captions; captions: the rows of each meme's."""
        self._memes = np.zeros((len(captions), vectors.shape[1]))
        for meme, rows in enumerate(captions):
            if rows:
                self._memes[meme] = unit(vectors[rows].mean(axis=0))

    def scores(self, rows):
        """The scores of the queries `rows` (slice): (R, M) float32.

        Rounded from double precision, so that memes with the same captions tie.
        """
        return (self._queries[rows] @ self._memes.T).astype(np.float32)


class NearestCaption(SentenceEncoder):
    """The same, but the query with the caption nearest to it. A meme without any has score 0."""

    def _keep(self, vectors, captions):
        self._captions = vectors
        self._rows = captions

    def scores(self, rows):
        by_caption = self._queries[rows] @ self._captions.T
        scores = np.zeros((len(by_caption), len(self._rows)), np.float32)
        for meme, captions in enumerate(self._rows):
            if captions:
                scores[:, meme] = by_caption[:, captions].max(axis=1)
        return scores


NAMES = {"sentence_encoder": SentenceEncoder, "sentence_encoder_max": NearestCaption}


def load(name, device):
    """The SentenceTransformer on the device, in single precision."""
    from modules.torchvision_ops import import_torchvision

    try:
        import_torchvision()  # transformers imports it too, and would fail where its library does not load
        import transformers
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f"sentence_encoder needs sentence-transformers ({error}): pip install -r requirements-references.txt"
        ) from error
    if Path(name).is_dir():
        transformers.utils.logging.disable_progress_bar()  # there is nothing to download
    try:
        model = SentenceTransformer(name, device=str(device)).float()  # some are stored in half precision
    except Exception as error:  # OSError, ValueError, SafetensorError and more, as the files are
        raise InputError(missing_model_message(name, error)) from error
    tokenizer = getattr(model, "tokenizer", None)
    if hasattr(tokenizer, "all_special_tokens") and len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"--sentence_model {name}: its tokenizer knows no words: a file is missing (tokenizer.json)")
    return model


def missing_model_message(name, error):
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return (
        f"--sentence_model {name}: no sentence encoder can be loaded from there ({reason}). It is looked for as a "
        "folder, then on the hub and in the Hugging Face cache ($HF_HOME, ~/.cache/huggingface), with HF_HUB_OFFLINE=1 "
        "in the cache alone. Without a network: `hf download NAME --local-dir FOLDER` on another machine, then "
        "--sentence_model FOLDER"
    )


def encode(model, encode_batch, texts, what, progress):
    """Unit vectors (n, d) float32 of n texts, each different one encoded once, and how many the model cuts."""
    different = sorted(set(texts), key=lambda text: (len(text), text))  # a batch of equal lengths has little padding
    parts, lost = [], []
    starts = range(0, len(different), BATCH)
    for start in progress_bar(starts, desc=f"encoding {what}", unit="batch", leave=False, disable=not progress):
        batch = [text.encode("utf-8", "replace").decode() for text in different[start : start + BATCH]]
        parts.append(encode_batch(batch, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False))
        lost += tokens_lost(model, batch)
    index = {text: i for i, text in enumerate(different)}
    cut = [tokens for tokens in lost if tokens]
    counts = {
        "texts": len(different),
        "cut": len(cut),
        "limit": model.max_seq_length if lost else None,
        "tokens_lost": sum(cut),
        "most_lost_by_one": max(cut, default=0),
    }
    return np.concatenate(parts)[[index[text] for text in texts]], counts


def tokens_lost(model, batch):
    """How many tokens of each text are beyond the model's limit; nothing where it has none."""
    limit = model.max_seq_length
    if limit is None or not callable(model.tokenizer):
        return []
    ids = model.tokenizer(batch, truncation=False, verbose=False)["input_ids"]
    return [max(0, len(tokens) - limit) for tokens in ids]


def unit(vector):
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector
