"""The benchmark of the server, small: every answer is counted, and all are right. What it takes for right."""

import copy

from benchmarks.serving import equal, main


def test_all_are_answered_as_one_is(capsys):
    main(["--memes", "300", "--clients", "4", "--queries", "3"])
    out = capsys.readouterr().out
    assert "300 memes, 4 clients x 3 queries, answers equal to those of one client: 12 of 12" in out
    assert "seconds until an answer: median" in out and "answers a second" in out


def meme(image_id, score):
    figures = {"score": score, "below": 0.5, "qi": score + 0.1, "qc": None, "alpha": 0.5}
    return {"id": image_id, "rank": 1, "captions": ["c"], "duplicates": [], **figures}


def test_what_counts_as_equal():
    """Figures to 1e-6; memes with the same score, to that, in any order, and any of them at the end."""
    memes = [meme("a", 0.5), meme("b", 0.4), meme("c", 0.4 - 5e-7), meme("d", 0.1)]
    answer = {"like": None, "words": [["x", 0.25]], "gallery": 90, "notes": [], "memes": memes}

    def changed(**new):
        return copy.deepcopy(answer) | new

    def with_memes(*numbers, **figures):
        chosen = [copy.deepcopy(memes[number]) for number in numbers]
        chosen[0] |= figures
        return changed(memes=chosen)

    for other in (
        *(answer, with_memes(0, 2, 1, 3), with_memes(0, 1, 2, 3, score=0.5 + 9e-7), changed(words=[["x", 0.2500001]])),
        changed(memes=[*memes[:3], meme("e", 0.1 - 5e-7)]),
    ):
        assert equal(answer, other) and equal(other, answer)
    for other in (
        *(with_memes(0, 1, 2), with_memes(1, 0, 2, 3), with_memes(0, 1, 2, 3, score=0.5 + 2e-6), changed(gallery=89)),
        *(with_memes(0, 1, 2, 3, qi=0.5), with_memes(0, 1, 2, 3, qc=0.5), with_memes(0, 1, 2, 3, below=0.53)),
        *(with_memes(0, 1, 2, 3, captions=[]), changed(words=[["y", 0.25]]), changed(words=[["x", 0.26]])),
        *(changed(words=[]), changed(notes=["n"]), changed(like="a"), changed(memes=[])),
        changed(memes=[memes[0], meme("e", 0.4), *memes[2:]]),
    ):
        assert not equal(answer, other) and not equal(other, answer)
