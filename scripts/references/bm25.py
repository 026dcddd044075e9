"""BM25 of a query and a meme's captions, all of them one document.

score = Σ over the query's words t of idf(t) · tf / (tf + k1 · (1 - b + b · length / mean length)), with Lucene's
idf(t) = ln(1 + (N - n + 0.5) / (n + 0.5)); tf: how often t is in the document, n: how many of the N documents have it.
A word that is twice in the query counts twice. Words are not stemmed, and none are left out.
"""

import unicodedata

import numpy as np
import regex

from util import InputError

PACKAGE = "bm25s"
K1, B = 1.5, 0.75  # the library's defaults; fixed, not tuned
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー"  # written without spaces between words
RUN = regex.compile(rf"(?V1)([{UNSPACED}]+)|([[\p{{L}}\p{{N}}]--[{UNSPACED}]][[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]*)")


def words_of(text):
    """The lower-cased words of a text: runs of letters and digits; of Chinese and Japanese text the single
    characters, then the pairs of neighbours.

    Full-width and other compatibility forms are read as the plain ones (NFKC).
    """
    words = []
    for unspaced, word in RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        words += [word] if word else [*unspaced, *map("".join, zip(unspaced, unspaced[1:], strict=False))]
    return words


class BM25:
    """Scores of queries (Q texts) and documents (M lists of texts). InputError without bm25s, or without any word."""

    parameters = 0
    counts = {}  # of texts that were cut: none are

    def __init__(self, queries, documents):
        try:
            import bm25s
        except ImportError as error:
            raise InputError(f"bm25 needs bm25s ({error}): pip install -r requirements-references.txt") from error
        tokens = [[word for text in texts for word in words_of(text)] for texts in documents]
        vocabulary = {word for words in tokens for word in words}
        if not vocabulary:
            raise InputError("bm25: no caption has a word, that is a letter or a digit")
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        self._index.index(tokens, show_progress=False)
        self._queries = [[word for word in words_of(query) if word in vocabulary] for query in queries]
        self._memes = len(documents)
        unknown = sum(not words for words in self._queries)
        self.description = f"BM25, k1 {K1}, b {B}: {len(vocabulary)} different words in the captions"
        if unknown:
            self.description += f"; queries without any of them, so with scores of 0: {unknown}"

    def scores(self, rows):
        """The scores of the queries `rows` (slice): (R, M) float32."""
        block = np.zeros((rows.stop - rows.start, self._memes), np.float32)
        for line, words in zip(block, self._queries[rows], strict=True):
            if words:
                line[:] = self._index.get_scores(words)
        return block
