"""The benchmark of the server, small: every answer is counted, and all are right."""

from benchmarks.serving import main


def test_all_are_answered_as_one_is(capsys):
    main(["--memes", "300", "--clients", "4", "--queries", "3"])
    out = capsys.readouterr().out
    assert "300 memes, 4 clients x 3 queries, answers equal to those of one client: 12 of 12" in out
    assert "seconds until an answer: median" in out and "answers a second" in out
