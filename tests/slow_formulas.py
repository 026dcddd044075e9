"""The model's formulas written out in loops over numbers, in float64, without torch.nn: what tests compare with.

Arrays are NumPy's; `w` is a dict of a module's tensors by name (`numbers_of`). One item at a time, without padding.
"""

import math

import numpy as np


def numbers_of(module, prefix=""):
    """A module's parameters and buffers as float64 arrays, those below `prefix` alone, without it."""
    return {
        name.removeprefix(prefix): tensor.detach().double().cpu().numpy()
        for name, tensor in module.state_dict().items()
        if name.startswith(prefix)
    }


def below(w, prefix):
    return {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}


def unit(x):
    return x / math.sqrt(sum(float(value) ** 2 for value in x))


def cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def softmax(values):
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def linear(x, w, name):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def layer_norm(x, w, name):
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / math.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(queries, keys, w, heads):
    """Multi-head attention of the rows `queries` over the rows `keys`, which are the values too."""
    d = queries.shape[1]
    size = d // heads
    project = [w["in_proj_weight"][i * d : (i + 1) * d] for i in range(3)]
    shift = [w["in_proj_bias"][i * d : (i + 1) * d] for i in range(3)]
    Q = [project[0] @ row + shift[0] for row in queries]
    K = [project[1] @ row + shift[1] for row in keys]
    V = [project[2] @ row + shift[2] for row in keys]
    rows = []
    for q in Q:
        row = np.zeros(d)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = softmax([q[part] @ k[part] / math.sqrt(size) for k in K])
            for weight, v in zip(weights, V, strict=True):
                row[part] += weight * v[part]
        rows.append(linear(row, w, "out_proj"))
    return np.stack(rows)


def quick_gelu(x):
    return np.array([value * sigmoid(1.702 * value) for value in x])


def gelu(x):
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def transformer(rows, w, layers, heads):
    """CLIP's pre-norm transformer over all `rows` (n, d)."""
    x = rows.copy()
    for layer in range(layers):
        block = below(w, f"resblocks.{layer}.")
        normed = np.stack([layer_norm(row, block, "ln_1") for row in x])
        x = x + attention(normed, normed, below(block, "attn."), heads)
        hidden = [quick_gelu(linear(layer_norm(row, block, "ln_2"), block, "mlp.c_fc")) for row in x]
        x = x + np.stack([linear(row, block, "mlp.c_proj") for row in hidden])
    return x


def caption_attention(tokens, captions, w, heads=8):
    """A post-norm block: tokens (V, d) attend to captions (K, d), K may be 0."""
    attended = attention(tokens, captions, below(w, "attention."), heads) if len(captions) else np.zeros_like(tokens)
    rows = []
    for token, more in zip(tokens, attended, strict=True):
        x = layer_norm(token + more, w, "norm_attention")
        fed = linear(gelu(linear(x, w, "feed_forward.0")), w, "feed_forward.3")
        rows.append(layer_norm(x + fed, w, "norm_feed_forward"))
    return np.stack(rows)


def lstm(rows, w):
    """The outputs of one LSTM layer; the gates' order is input, forget, cell, output."""
    d = rows.shape[1]
    h, c, out = np.zeros(d), np.zeros(d), []
    for x in rows:
        gates = w["weight_ih_l0"] @ x + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        i, f, g, o = (gates[k * d : (k + 1) * d] for k in range(4))
        for n in range(d):
            c[n] = sigmoid(f[n]) * c[n] + sigmoid(i[n]) * math.tanh(g[n])
            h[n] = sigmoid(o[n]) * math.tanh(c[n])
        out.append(h.copy())
    return np.stack(out)


def token_weights(rows, w):
    """WTI's weights of the rows: linear layers (0, 2, 4, ... of a Sequential) with ReLU between, softmax over rows."""
    last = max(int(name.split(".")[1]) for name in w)
    scores = []
    for x in rows:
        for number in range(0, last + 1, 2):
            x = linear(x, w, f"network.{number}")
            if number < last:
                x = np.array([max(0.0, value) for value in x])
        scores.append(float(x[0]))
    return softmax(scores)


def interaction(words, word_weights, tokens, token_weights):
    """½ (Σ_t w_t max_v S_tv + Σ_v w_v max_t S_tv), S the cosines: one number."""
    S = [[cosine(word, token) for token in tokens] for word in words]
    by_word = sum(weight * max(row) for weight, row in zip(word_weights, S, strict=True))
    columns = [[row[v] for row in S] for v in range(len(tokens))]
    by_token = sum(weight * max(column) for weight, column in zip(token_weights, columns, strict=True))
    return 0.5 * (by_word + by_token)


def pooled_captions(captions, kind, w, heads=1):
    """The vector of a meme's captions (K, d), K >= 1, by --text_pool_type; not normalised."""
    if kind == "clip_top1":
        return captions[0]
    if kind == "weight_l":
        weights = softmax([float(w["logits"][k]) for k in range(len(captions))])
        return sum(weight * caption for weight, caption in zip(weights, captions, strict=True))
    if kind == "transf_avg":
        captions = transformer(captions + w["positions"][: len(captions)], below(w, "transformer."), 2, heads)
    return sum(captions) / len(captions)


def caption_score(sentence, captions, kind, w, heads=1):
    """QC of a sentence (d,) and a meme's captions (K, d), by --text_pool_type."""
    if not len(captions):
        return 0.0
    if kind == "max":
        return max(cosine(sentence, caption) for caption in captions)
    return cosine(sentence, pooled_captions(captions, kind, w, heads))


def info_nce(logits, positives):
    """Minus the mean log-probability of each row's positives: a list. A row without positives gives 0."""
    losses = []
    for row, is_positive in zip(logits, positives, strict=True):
        largest = max(row)
        log_total = largest + math.log(sum(math.exp(value - largest) for value in row))
        mine = [log_total - value for value, positive in zip(row, is_positive, strict=True) if positive]
        losses.append(sum(mine) / len(mine) if mine else 0.0)
    return losses
