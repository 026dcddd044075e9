"""The agreement of annotations as it is printed and written."""

from preprocess.measuring.number_tables import aligned, markdown, markdown_table, wrapped

WORDS_SHOWN = 20
EXPLANATION = (
    "Compared are the images that are ok in all files. Emotions: the category of a meme is its distinct words joined, "
    '"none" without any; then each word alone, present or not. Mapped: by the table of emotion words. Caption '
    "overlap: F1 of the captions' words, each as often as it occurs. Text distance: edits over the longer text's "
    "length."
)
CONSTANT = "all annotations are the same category: chance alone agrees as well, 0 / 0 is given as 1"


def file_rows(report):
    rows = [["file", "images", "ok", "made by"]]
    for file in report["files"]:
        rows.append([file["file"], f"{file['images']:,}", f"{file['ok']:,}", ", ".join(file["models"])])
    return rows


def kappa_rows(report):
    """The emotions' rows, the heading first: agreement observed, kappa, and how many memes have the word by file."""
    emotions = report["emotions"]
    rows = [
        [
            "emotions",
            "agree",
            {"Cohen": "Cohen's kappa", "Fleiss": "Fleiss' kappa"}[report["kappa"]],
            *(f"file {i + 1}" for i in range(len(report["files"]))),
        ]
    ]
    for name in ("as_answered", "mapped"):
        rows.append(
            [f"words joined, {name.replace('_', ' ')}", *_kappa_cells(emotions[name]), *([""] * len(report["files"]))]
        )
    for word, entry in list(emotions["words"].items())[:WORDS_SHOWN]:
        rows.append([f"  {word}", *_kappa_cells(entry), *(f"{count:,}" for count in entry["memes"])])
    return rows


def _kappa_cells(entry):
    return [f"{100 * entry['observed']:.1f} %", f"{entry['kappa']:.3f}{' *' * entry['constant']}"]


def other_rows(report):
    captions, text = report["captions"]["overlap"], report["text"]["distance"]
    rows = [["", "mean", "q1", "median", "q3"]]
    for name, spread in (("caption overlap", captions), ("text distance", text)):
        keys = ("mean", "q1", "median", "q3")
        rows.append([name, *("–" if spread is None else f"{spread[key]:.3f}" for key in keys)])
    return rows


def worst_rows(report):
    rows = [["image", "mean", "emotions", "captions", "text distance"]]
    keys = ("agreement", "emotions_shared", "caption_overlap", "text_distance")
    for worst in report["worst"]:
        rows.append([worst["image"], *("–" if worst[key] is None else f"{worst[key]:.2f}" for key in keys)])
    return rows


def sentences(report):
    """What the tables do not hold."""
    yield f"The same number of persons in all files: {100 * report['persons']['same_number']:.1f} % of the images."
    yield f"Texts within 10 % of edits: {100 * report['text']['at_most_0.1']:.1f} % of the images."
    kappas = report["emotions"]
    if any(entry["constant"] for entry in (kappas["as_answered"], kappas["mapped"], *kappas["words"].values())):
        yield f"* {CONSTANT}."


def terminal(report):
    """The lines about the agreement."""
    yield f"{report['images']:,} images are ok in all files"
    yield ""
    yield aligned(file_rows(report), left=(0, 3))
    yield ""
    yield aligned(kappa_rows(report))
    yield ""
    yield aligned(other_rows(report))
    yield from map(wrapped, sentences(report))
    if report["worst"]:
        yield "\nThe images that agree least (mean of emotions shared, caption overlap, 1 - text distance):"
        yield aligned(worst_rows(report))
    yield ""
    yield wrapped(EXPLANATION, "")


def page(report):
    """agreement.md."""
    lines = ["# Agreement of annotations", "", f"{report['images']:,} images are ok in all files.", ""]
    lines += [markdown(EXPLANATION), "", markdown_table(file_rows(report), left=(0, 3)), ""]
    lines += [markdown_table(kappa_rows(report)), "", markdown_table(other_rows(report)), ""]
    lines += [f"{markdown(sentence)}\n" for sentence in sentences(report)]
    if report["worst"]:
        lines += ["## The images that agree least", ""]
    for worst in report["worst"]:
        lines += [f"### {markdown(worst['image'])}: {worst['agreement']:.2f}", ""]
        rows = [["file", "emotions", "text", "captions"]]
        for answer in worst["answers"]:
            rows.append([answer["file"], ", ".join(answer["emotions"]), answer["text"], " / ".join(answer["captions"])])
        lines += [markdown_table(rows, left=range(4)), ""]
    return "\n".join(lines)
