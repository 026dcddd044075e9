"""Who waits is searched for together with the others who wait, in order, and nobody's error is another's."""

import asyncio
import threading

from recommend.request import Request
from recommend.serving import turns
from recommend.serving.turns import Turns


class Searching:
    """Answers a request by its text; holds the texts of each search. The first text "slow" waits for `go_on`."""

    def __init__(self):
        self.searches, self.go_on = [], threading.Event()

    def __call__(self, requests):
        texts = [request.text for request in requests]
        self.searches.append(texts)
        for text in texts:
            if text == "slow":
                assert self.go_on.wait(30)
            if text == "failing":
                raise ZeroDivisionError
            yield ValueError(text) if text == "bad" else f"to {text}"


class Client:
    def __init__(self, is_gone=False):
        self.is_gone = is_gone

    async def is_disconnected(self):
        return self.is_gone


def asked(texts, gone=()):
    """(what each text gets, the texts of each search): "slow" is asked first, and goes on once all have been asked."""
    searching = Searching()

    async def all_of_them():
        server = Turns(searching, 1)
        answers = []
        for text in texts:
            answers.append(asyncio.create_task(server.answer(Request(text), Client(text in gone))))
            while text == "slow" and not searching.searches:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # all wait
        searching.go_on.set()
        got = await asyncio.gather(*answers, return_exceptions=True)
        assert await server.answer(Request("later"), Client()) == "to later"
        while not server.free:  # as soon as the thread has told all its answers
            await asyncio.sleep(0.001)
        assert server.free == 1 and not server.waiting
        return got

    return asyncio.run(all_of_them()), searching.searches[:-1]


def test_who_waits_is_searched_for_together_in_order(monkeypatch):
    monkeypatch.setattr(turns, "AT_ONCE", 3)
    texts = ["slow", *"abcde"]
    assert asked(texts) == ([f"to {text}" for text in texts], [["slow"], ["a", "b", "c"], ["d", "e"]])


def test_an_error_is_that_of_its_request_alone():
    got, searches = asked(["slow", "a", "bad", "b"])
    assert searches == [["slow"], ["a", "bad", "b"]]
    assert got[:2] + got[3:] == ["to slow", "to a", "to b"]
    assert isinstance(got[2], ValueError)


def test_a_search_that_fails_is_told_to_all_who_have_no_answer_yet():
    got, _ = asked(["slow", "a", "failing", "b"])
    assert got[:2] == ["to slow", "to a"]
    assert [type(error) for error in got[2:]] == [ZeroDivisionError] * 2


def test_who_is_gone_is_not_searched_for():
    assert asked(["slow", "a", "b", "c"], gone=["b"]) == (["to slow", "to a", None, "to c"], [["slow"], ["a", "c"]])
    assert asked(["slow", "a"], gone=["a"]) == (["to slow", None], [["slow"], []])


def test_who_finds_a_thread_free_waits_for_nobody():
    searching = Searching()

    async def two():
        server = Turns(searching, 2)
        slow = asyncio.create_task(server.answer(Request("slow"), Client()))
        for text in ("a", "b"):
            assert await asyncio.wait_for(server.answer(Request(text), Client()), 30) == f"to {text}"
        assert not slow.done()
        searching.go_on.set()
        return await slow

    assert asyncio.run(two()) == "to slow"


def test_an_answer_is_there_before_those_after_it():
    searching = Searching()

    async def several():
        server = Turns(searching, 1)
        first = asyncio.create_task(server.answer(Request("a"), Client()))
        slow = asyncio.create_task(server.answer(Request("slow"), Client()))
        assert await asyncio.wait_for(first, 30) == "to a" and not slow.done()
        searching.go_on.set()
        return await slow

    assert asyncio.run(several()) == "to slow"
