"""dp, ti, wti and the cross encoder's reranking against loops over single (query, meme) pairs."""

import numpy as np
import pytest
import torch

from modules import image_similarity, interaction
from modules.aggregator import TightTransf
from modules.choices import INTERACTIONS
from modules.image_similarity import TightSimilarity, similarity_of
from modules.interaction import uniform_weights, unit_tokens
from tests import slow_formulas as slow
from tests.model_parts import randomised

DIM = 32
WORD_COUNTS, TOKEN_COUNTS = (2, 5, 3, 7), (1, 4, 2, 3, 1)
OF_TOKENS = [name for name, chosen in INTERACTIONS.items() if chosen.function]


def padded(counts, seed, more=0, dim=DIM, fill=0.0):
    """Random rows (B, N, dim) float64 with padding of size `fill`, their mask, and the unpadded rows as arrays."""
    generator = torch.Generator().manual_seed(seed)
    x = fill * torch.randn(len(counts), max(counts) + more, dim, generator=generator, dtype=torch.float64)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed + 1)
    rows = []
    for i, count in enumerate(counts):
        x[i, :count] = torch.randn(count, dim, generator=generator, dtype=torch.float64)
        mask[i, :count] = True
        rows.append(x[i, :count].numpy())
    return x, mask, rows


def score(similarity, words, word_mask, tokens, token_mask):
    sentence = words[torch.arange(len(words)), word_mask.sum(1) - 1]
    queries = {"sentence": torch.nn.functional.normalize(sentence, dim=-1)}
    queries |= similarity.query_side(words, word_mask, sentence)
    return similarity.scores(queries, similarity.meme_side(tokens, token_mask))


def slow_scores(queries, memes, pair_score):
    return torch.tensor([[pair_score(query, meme) for meme in memes] for query in queries], dtype=torch.float64)


def make(name, arch=2):
    return randomised(similarity_of(name, DIM, arch).double(), std=0.3)


@pytest.mark.parametrize("arch", [1, 2, 3])
def test_wti_equals_the_formula(arch):
    similarity = make("wti", arch)
    words, word_mask, queries = padded(WORD_COUNTS, 0, fill=9.0)
    tokens, token_mask, memes = padded(TOKEN_COUNTS, 10, fill=9.0)
    of_words, of_tokens = (slow.numbers_of(similarity, f"{side}_weights.") for side in ("word", "token"))
    assert len(of_words) == len(of_tokens) == 2 * arch  # `arch` linear layers

    def pair(query, meme):
        weights = slow.token_weights(query, of_words), slow.token_weights(meme, of_tokens)
        return slow.interaction(query, weights[0], meme, weights[1])

    ours = score(similarity, words, word_mask, tokens, token_mask)
    torch.testing.assert_close(ours, slow_scores(queries, memes, pair), rtol=0, atol=1e-12)


@pytest.mark.parametrize("token_counts", [TOKEN_COUNTS, (1, 1, 1)], ids=["frames", "stills"])
def test_ti_is_the_halved_sum_of_the_two_means_of_maxima(token_counts):
    words, word_mask, queries = padded(WORD_COUNTS, 0, fill=9.0)
    tokens, token_mask, memes = padded(token_counts, 10, fill=9.0)

    def pair(query, meme):
        by_word = sum(max(slow.cosine(word, token) for token in meme) for word in query) / len(query)
        by_token = sum(max(slow.cosine(word, token) for word in query) for token in meme) / len(meme)
        return (by_word + by_token) / 2

    ours = score(make("ti"), words, word_mask, tokens, token_mask)
    torch.testing.assert_close(ours, slow_scores(queries, memes, pair), rtol=0, atol=1e-12)
    assert not list(make("ti").parameters())


def test_dp_is_the_cosine_of_the_end_of_text_and_the_mean_token():
    words, word_mask, queries = padded(WORD_COUNTS, 0, fill=9.0)
    tokens, token_mask, memes = padded(TOKEN_COUNTS, 10, fill=9.0)
    ours = score(make("dp"), words, word_mask, tokens, token_mask)
    expected = slow_scores(queries, memes, lambda query, meme: slow.cosine(query[-1], sum(meme) / len(meme)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", INTERACTIONS)
def test_contents_of_padding_change_nothing_and_more_of_it_next_to_nothing(name):
    similarity = make(name)
    words, word_mask, _ = padded(WORD_COUNTS, 0)
    tokens, token_mask, _ = padded(TOKEN_COUNTS, 10)
    plain = score(similarity, words, word_mask, tokens, token_mask)
    for fill in (1.0, 1e6):
        words, word_mask, _ = padded(WORD_COUNTS, 0, fill=fill)
        tokens, token_mask, _ = padded(TOKEN_COUNTS, 10, fill=fill)
        assert torch.equal(score(similarity, words, word_mask, tokens, token_mask), plain)
    words, word_mask, _ = padded(WORD_COUNTS, 0, more=3, fill=5.0)
    tokens, token_mask, _ = padded(TOKEN_COUNTS, 10, more=3, fill=5.0)
    longer = score(similarity, words, word_mask, tokens, token_mask)
    torch.testing.assert_close(longer, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", INTERACTIONS)
def test_a_pair_s_score_is_its_own_whatever_else_is_scored_and_of_the_features_precision(name):
    """An evaluation and an index score in blocks: any queries with any memes."""
    similarity = make(name).float()
    words, word_mask, _ = padded(WORD_COUNTS, 0)
    tokens, token_mask, _ = padded(TOKEN_COUNTS, 10)
    words, tokens = words.float(), tokens.float()
    whole = score(similarity, words, word_mask, tokens, token_mask)
    assert whole.dtype == torch.float32 and whole.std() > 1e-3
    for q, some_words in enumerate(WORD_COUNTS):
        for m, some_tokens in enumerate(TOKEN_COUNTS):
            query, meme = words[q : q + 1, :some_words], tokens[m : m + 1, :some_tokens]
            masks = word_mask[q : q + 1, :some_words], token_mask[m : m + 1, :some_tokens]
            alone = score(similarity, query, masks[0], meme, masks[1])
            torch.testing.assert_close(alone[0, 0], whole[q, m], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_padding_never_wins_a_max_where_all_similarities_are_negative(name):
    similarity = make(name)
    words, word_mask, queries = padded(WORD_COUNTS, 0)
    tokens, token_mask, memes = padded(TOKEN_COUNTS, 10)
    words, tokens = words.abs() * word_mask[..., None], -tokens.abs() * token_mask[..., None]
    for fill in (0.0, 1.0, -1.0):
        words = torch.where(word_mask[..., None], words, torch.full_like(words, fill))
        tokens = torch.where(token_mask[..., None], tokens, torch.full_like(tokens, fill))
        scores = score(similarity, words, word_mask, tokens, token_mask)
        assert scores.max() < -0.3
        for q, query in enumerate(queries):
            for m, meme in enumerate(memes):
                highest = max(slow.cosine(abs(word), -abs(token)) for word in query for token in meme)
                assert scores[q, m] <= highest + 1e-12


@pytest.mark.parametrize("name", sorted({INTERACTIONS[name].function for name in OF_TOKENS}))
@pytest.mark.parametrize("token_counts", [TOKEN_COUNTS, (1, 1, 1)], ids=["frames", "stills"])
def test_the_gradient_of_the_interaction(token_counts, name):
    words, word_mask, _ = padded((2, 3), 0, dim=4)
    tokens, token_mask, _ = padded(token_counts, 10, dim=4)
    weights = uniform_weights(word_mask, torch.float64), uniform_weights(token_mask, torch.float64)

    def function(words, tokens):
        sides = unit_tokens(words, word_mask), weights[0], unit_tokens(tokens, token_mask), weights[1]
        return getattr(interaction, name)(*sides)

    torch.autograd.gradcheck(function, (words.requires_grad_(), tokens.requires_grad_()))


@pytest.mark.parametrize("name", [name for name in OF_TOKENS if INTERACTIONS[name].weighted])
@pytest.mark.parametrize("token_counts", [TOKEN_COUNTS, (1, 1, 1)], ids=["frames", "stills"])
def test_every_parameter_takes_part_in_every_batch(token_counts, name):
    """Several processes that average gradients wait for each parameter: also where all memes are stills."""
    similarity = make(name)
    words, word_mask, _ = padded(WORD_COUNTS, 0)
    tokens, token_mask, _ = padded(token_counts, 10)
    score(similarity, words, word_mask, tokens, token_mask).sum().backward()
    for parameter in similarity.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


# tightTransf


@pytest.fixture
def tight():
    return TightSimilarity(randomised(TightTransf(DIM, 2, max_frames=6).double(), std=0.3))


def encoded_pairs(tight, fill=0.0, token_counts=TOKEN_COUNTS):
    words, word_mask, queries = padded(WORD_COUNTS, 0, fill=fill)
    tokens, token_mask, memes = padded(token_counts, 10, fill=fill)
    sentence = words[torch.arange(len(words)), word_mask.sum(1) - 1]
    return tight.query_side(words, word_mask, sentence), tight.meme_side(tokens, token_mask), queries, memes


def slow_cross_score(query, meme, w):
    rows = np.concatenate([query + w["kind"][0], meme + w["positions.embedding"][: len(meme)] + w["kind"][1]])
    out = slow.transformer(rows, slow.below(w, "transformer."), layers=2, heads=1)
    hidden = np.tanh(slow.linear(out[0], w, "pooler"))
    return float(np.tanh(slow.linear(hidden, w, "score"))[0])


@torch.no_grad()
def test_the_cross_encoder_equals_the_formula_pair_by_pair(tight, monkeypatch):
    queries, memes, query_rows, meme_rows = encoded_pairs(tight, fill=7.0)
    w = slow.numbers_of(tight.cross_encoder)
    expected = slow_scores(query_rows, meme_rows, lambda query, meme: slow_cross_score(query, meme, w))
    assert expected.std() > 1e-3
    for pairs_at_once in (2048, 3):
        monkeypatch.setattr(image_similarity, "PAIRS_AT_ONCE", pairs_at_once)
        torch.testing.assert_close(tight.scores(queries, memes), expected, rtol=0, atol=1e-12)


def test_contents_of_padding_change_no_pair(tight):
    plain = tight.scores(*encoded_pairs(tight)[:2])
    for fill in (1.0, 1e3):
        assert torch.equal(tight.scores(*encoded_pairs(tight, fill)[:2]), plain)


def test_pieces_that_are_computed_again_give_the_same_gradient(tight, monkeypatch):
    def gradient():
        tight.zero_grad()
        queries, memes, _, _ = encoded_pairs(tight)
        weights = torch.linspace(-1, 1, len(WORD_COUNTS) * len(TOKEN_COUNTS), dtype=torch.float64)
        (tight.scores(queries, memes).flatten() * weights).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in tight.parameters()])

    whole = gradient()
    monkeypatch.setattr(image_similarity, "PAIRS_AT_ONCE", 7)
    torch.testing.assert_close(gradient(), whole, rtol=1e-9, atol=1e-12)
    assert whole.abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("top", [1, 3, 12, 100])
def test_reranking_puts_dps_best_in_the_cross_encoders_order_and_the_others_below(tight, top):
    counts = (1, 2, 3, 1, 2, 1, 3, 2, 1, 1, 2, 1)
    queries, memes, query_rows, meme_rows = encoded_pairs(tight, token_counts=counts)
    by_dp = slow_scores(query_rows, meme_rows, lambda query, meme: slow.cosine(query[-1], sum(meme) / len(meme)))
    w = slow.numbers_of(tight.cross_encoder)
    ours = tight.rerank(queries, memes, top)
    for q, query in enumerate(query_rows):
        order = sorted(range(len(counts)), key=lambda m, q=q: -by_dp[q, m])
        best, others = order[:top], order[top:]
        cross = {m: slow_cross_score(query, meme_rows[m], w) for m in best}
        expected = sorted(best, key=lambda m: -cross[m]) + others  # noqa: B023
        assert ours[q].argsort(descending=True).tolist() == expected
        for m in best:
            assert ours[q, m].item() == pytest.approx(cross[m], abs=1e-12)
