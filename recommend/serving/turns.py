"""Who searches when: threads that, once free, take what has waited longest, several requests at once."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from starlette.requests import Request as Asked
from starlette.responses import Response

from recommend.request import Request

AT_ONCE = 32  # requests that a thread takes
SearchEach = Callable[[Sequence[Request]], Iterator[Response | Exception]]


class Waiting(NamedTuple):
    """A request, who waits for its answer, and the answer: None where nobody waits any more."""

    request: Request
    asked: Asked
    answer: asyncio.Future[Response | None]


class Turns:
    """Requests come to a thread in the order in which they were asked; one that finds a thread free waits for none."""

    def __init__(self, search_each: SearchEach, threads: int) -> None:
        """search_each: requests -> the answer of each, or its error. It is called in up to `threads` threads."""
        self.search_each = search_each
        self.pool = ThreadPoolExecutor(threads, "search")
        self.free = threads
        self.waiting: deque[Waiting] = deque()
        self.at_work: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request, asked: Asked) -> Response | None:
        """The answer to a request; None, and no search, where who has asked is gone when its turn comes."""
        own = Waiting(request, asked, asyncio.get_running_loop().create_future())
        if self.free:
            self.free -= 1
            task = asyncio.create_task(self._work([own]))
            self.at_work.add(task)
            task.add_done_callback(self.at_work.discard)
        else:
            self.waiting.append(own)
        return await own.answer

    async def _work(self, some: list[Waiting]) -> None:
        """Have one thread answer the given requests, and then those that wait, until none does."""
        loop = asyncio.get_running_loop()
        while some:
            try:
                gone = [await one.asked.is_disconnected() for one in some]
                for one in itertools.compress(some, gone):
                    _settle(one.answer, None)
                there = [one for one, is_gone in zip(some, gone, strict=True) if not is_gone]
                await loop.run_in_executor(self.pool, self._search, there, loop)
            except Exception as error:
                for one in some:
                    _settle(one.answer, error)
            some = [self.waiting.popleft() for _ in range(min(AT_ONCE, len(self.waiting)))]
        self.free += 1

    def _search(self, some: list[Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: answer each, as soon as its answer is there."""
        found = self.search_each([one.request for one in some])
        for one, answer in zip(some, found, strict=True):
            if loop.is_closed():  # the server has ended
                return
            loop.call_soon_threadsafe(_settle, one.answer, answer)


def _settle(answer: asyncio.Future[Response | None], value: Response | Exception | None) -> None:
    if answer.done():  # cancelled, as the server ends
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)
