"""The similarity of cached items, against the machine's matrix-product rate in the same run.

    python -m benchmarks.similarity [--queries 2000] [--memes 2000] [--words 32] [--frames 1] [--device cpu]

Times what an evaluation does with encoded queries and memes: WTI in the chunks of `evaluation/eval_loop.py`, and QC.
The alternative in the same run: WTI as the formula is written, with a mask over the whole score tensor.
"""

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import Figure, describe, gemm_rate, options_of, peak_memory, seconds_of, show, synchroniser
from evaluation.eval_loop import chunk_of_queries
from modules.caption_similarity import caption_scores
from modules.interaction import token_interaction, unit_tokens
from util import Parser, program


def masked_formula(words, word_mask, word_weight, tokens, token_mask, token_weight):
    """WTI written down plainly: score tensor, two masked maxima, two weighted sums."""
    S = torch.einsum("qwd,mvd->qmwv", words, tokens)
    S = S.masked_fill(~word_mask[:, None, :, None] | ~token_mask[None, :, None, :], -torch.inf)
    best_token, best_word = S.amax(dim=3), S.amax(dim=2)
    best_token = best_token.masked_fill(~word_mask[:, None], 0)
    best_word = best_word.masked_fill(~token_mask[None], 0)
    return (
        torch.einsum("qmw,qw->qm", best_token, word_weight) + torch.einsum("qmv,mv->qm", best_word, token_weight)
    ) / 2


def measure(options):
    """The benchmark's Figures."""
    Q, M, W, V, d = options.queries, options.memes, options.words, options.frames, 512
    device = options.device
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    lengths = torch.randint(3, W + 1, (Q,), generator=generator).to(device)
    word_mask = torch.arange(W, device=device) < lengths[:, None]
    token_mask = torch.ones(M, V, dtype=torch.bool, device=device)
    raw_words, raw_tokens = random(Q, W, d), random(M, V, d)
    word_weight = random(Q, W).masked_fill(~word_mask, -torch.inf).softmax(dim=1)
    token_weight = random(M, V).softmax(dim=1)
    words, tokens = unit_tokens(raw_words, word_mask), unit_tokens(raw_tokens, token_mask)
    sentences, captions = F.normalize(random(Q, d), dim=1), F.normalize(random(M, d), dim=1)

    def chunked(rows, chunk):
        out = np.empty((rows, M), np.float32)
        for start in range(0, rows, chunk):
            part = slice(start, min(start + chunk, rows))
            out[part] = token_interaction(words[part], word_weight[part], tokens, token_weight).cpu().numpy()
        return out

    def plain(rows):
        return masked_formula(
            F.normalize(raw_words[:rows], dim=2), word_mask[:rows], word_weight[:rows], tokens, token_mask, token_weight
        )

    chunk = chunk_of_queries(W, V, M, torch.device(device))
    synchronise = synchroniser(device)
    with torch.no_grad():
        some = min(Q, 64)
        error = np.abs(chunked(some, chunk) - plain(some).cpu().numpy()).max()
        before = gemm_rate(device=device)
        seconds = seconds_of(lambda: chunked(Q, chunk), options.repeats, synchronise)
        rate = max(before, gemm_rate(device=device))
        qc = seconds_of(lambda: caption_scores(sentences, captions).cpu().numpy(), options.repeats, synchronise)
        ours, other = (
            seconds_of(f, options.repeats, synchronise) for f in (lambda: chunked(some, chunk), lambda: plain(some))
        )
    flop = 2.0 * Q * W * M * V * d
    size = f"{Q} x {M}, {W} words, {V} visual token(s), d {d}"
    yield Figure(
        f"WTI, {size}, chunks of {chunk} queries",
        f"{seconds:.4f} s, {flop / seconds / 1e9:,.1f} GFLOP/s of its matrix product",
        f"torch.mm {rate / 1e9:,.1f} GFLOP/s",
        f"{flop / seconds / rate:.1%}",
    )
    yield Figure(
        f"WTI, {some} of the queries",
        f"{ours:.4f} s",
        f"the masked formula {other:.4f} s, largest difference {error:.1e}",
        f"{other / ours:.1f} times as fast",
    )
    yield Figure(f"QC, {Q} x {M}", f"{qc:.4f} s")
    yield Figure("similarity, peak memory", peak_memory(device))


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--memes", type=int, default=2000)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = options_of(parser, argv)
    show(describe(options.device), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
