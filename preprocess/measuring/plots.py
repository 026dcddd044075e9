"""Plots of one community as PNG: memes per topic, emotions, token lengths with the cut marked."""

import functools
from itertools import cycle

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from preprocess.measuring.counts import total
from util import replaced_atomically

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3")
CUT_COLOUR = "#d40000"
TITLES = {"queries": "queries", "captions": "captions", "text": "texts on memes"}
WORDS_SHOWN = 20
LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
           "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei",
           "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Arial Unicode MS")  # fmt: skip


def plot_all(folder, name, measures, limits):
    """Write the three plots of community `name` into `folder`: {kind: file name}.

    measures: {split: Measures}, "total" last. limits: {"queries" | "captions" | "text": {limit in tokens: its name}}.
    """
    files = {kind: f"{kind}_{name}.png" for kind in ("memes_per_topic", "token_lengths", "emotions")}
    splits = {split: part for split, part in measures.items() if split != "total"}
    with style():
        plot_memes_per_topic(folder / files["memes_per_topic"], name, measures)
        plot_token_lengths(folder / files["token_lengths"], name, measures["total"], limits)
        plot_emotions(folder / files["emotions"], name, splits)
    return files


def plot_memes_per_topic(path, name, measures):
    """measures: {split: Measures}; a histogram per split, each with its own scales."""
    figure, axes = _figure(len(measures), f"{name}: memes per topic")
    for axis, colour, (split, part) in zip(axes, cycle(COLOURS), measures.items(), strict=False):
        edges = _bins(part.memes_per_topic, 30)
        axis.hist(part.memes_per_topic, bins=edges, color=colour)
        axis.set_xlim(edges[0] - 1, edges[-1] + 1)  # wide enough for whole numbers as ticks
        axis.set_title(f"{split}: {len(part.memes_per_topic):,} topics", fontsize=10)
        axis.set_xlabel("memes")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0].set_ylabel("topics")
    _save(figure, path)


def plot_emotions(path, name, measures):
    """measures: {split: Measures}; the most frequent words of all splits, as shares of each split's persons."""
    words = [word for word, _ in total(measures.values()).emotions.most_common(WORDS_SHOWN)]
    figure, (axis,) = _figure(1, f"{name}: emotions", height=1.6 + 0.28 * max(4, len(words)), width=8)
    place = np.arange(len(words))
    thickness = 0.8 / len(measures)
    for number, (colour, (split, part)) in enumerate(zip(cycle(COLOURS), measures.items(), strict=False)):
        persons = max(1, part.emotions.total())
        shares = [100 * part.emotions[word] / persons for word in words]
        axis.barh(place + (number + 0.5) * thickness - 0.4, shares, thickness, color=colour, label=split)
    axis.set_yticks(place, [label(word) for word in words])
    axis.invert_yaxis()
    axis.set_xlabel("% of the persons")
    if words:
        axis.legend()
    else:
        axis.text(0.5, 0.5, "no meme has any", transform=axis.transAxes, ha="center")
        axis.set_axis_off()
    _save(figure, path)


def plot_token_lengths(path, name, measures, limits):
    """measures: one Measures; a histogram for each kind of text, with a line where it is cut."""
    figure, axes = _figure(len(limits), f"{name}: lengths in CLIP tokens, start and end included", width=11, height=4)
    for axis, colour, (kind, marks) in zip(axes, cycle(COLOURS), limits.items(), strict=False):
        tokens = getattr(measures, kind).tokens
        if len(tokens):
            axis.hist(tokens, bins=_bins(tokens, 40), color=colour)
        axis.set_xlim(0, max([*tokens.tolist(), *marks]) * 1.08 + 1)
        for place, (limit, mark) in enumerate(sorted(marks.items())):
            cut = int((tokens > limit).sum())
            said = f"{mark}: {cut:,} cut ({100 * cut / max(1, len(tokens)):.1f} %)"
            axis.axvline(limit + 0.5, color=CUT_COLOUR, linestyle=("-", "--")[place % 2], label=said)
        axis.set_title(f"{len(tokens):,} {TITLES[kind]}", fontsize=10)
        axis.set_xlabel("tokens")
        axis.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    axes[0].set_ylabel("texts")
    _save(figure, path)


def label(text):
    """A text as a plot can show it: \\u escapes for characters that no installed font has, and no maths between `$`."""
    known = _characters()
    shown = (c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in text)
    return "".join(shown).replace("$", r"\$")


def fonts():
    """The font families of the plots that are installed, Latin first."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [LATIN, *(name for name in CHINESE if name in installed)]


@functools.cache
def _characters():
    """The characters that the fonts have."""
    paths = (font_manager.findfont(font_manager.FontProperties(family=name)) for name in fonts())
    return {character for path in paths for character in font_manager.get_font(path).get_charmap()}


def style():
    """The settings under which every text of a picture has to be made: a Chinese font as well where there is one."""
    return rc_context({"font.family": fonts()})


def _figure(columns, title, width=None, height=3.6):
    figure = Figure(figsize=(width or 3 * columns + 1, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    figure.suptitle(label(title), fontsize=11)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bins(values, most):
    """Edges of at most `most` bins that each hold the same number of whole numbers."""
    low, high = int(min(values)), int(max(values))
    step = -(-(high - low + 1) // most)
    return np.arange(low, high + step + 1, step) - 0.5


def _save(figure, path):
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
