"""The server's paths: the page, its files, the JSON API and its documentation."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Asked
from starlette.types import ASGIApp

from pages import markup
from recommend.recommender import Recommender
from recommend.request import MAX_PARTS, MAX_TEXT, MAX_TOP, MAX_WEIGHT, Request
from recommend.serving import answers
from recommend.serving.current import Current
from recommend.serving.documentation import documentation
from recommend.serving.guard import Guard
from recommend.serving.page import page
from recommend.serving.turns import Turns
from recommend.store import Damaged
from util import InputError

ASSETS = Path(__file__).parent
MAX_SEEN = 1000  # ids
MAX_ID = 4096  # characters
UPLOAD_SECONDS = 60
SEARCHES = max(2, min(8, (os.cpu_count() or 1) // 2))  # threads
TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


NUMBER_OF_WEIGHT = f"a number above 0, at most {MAX_WEIGHT:g}"
EXPECTED = {
    "top": f"a whole number from 1 to {MAX_TOP:,}",
    "min_score": "a number from -100 to 100",
    "plus_weight": NUMBER_OF_WEIGHT,
    "minus_weight": NUMBER_OF_WEIGHT,
    "duplicates": "true or false",
}


def _several(description: str, most: int = MAX_PARTS) -> Any:
    return Query(default_factory=list, max_length=most, description=f"{description} (may come {most:,} times)")


Id = Annotated[str, Query(max_length=MAX_ID, description="the id of a meme of the index")]


def wanted(
    *,
    text: Annotated[str, Query(max_length=MAX_TEXT, description="a sentence")] = "",
    like: Annotated[str | None, Query(max_length=MAX_ID, description="memes like this one: an id of the index")] = None,
    plus: Annotated[list[str], _several("a further sentence, which is added")],
    plus_weight: Annotated[
        list[float], _several(f"its weight, above 0, at most {MAX_WEIGHT:g}; 1 where there is none")
    ],
    minus: Annotated[list[str], _several("a further sentence, which is taken away")],
    minus_weight: Annotated[list[float], _several("its weight")],
    emotion: Annotated[
        str | None, Query(max_length=200, description="memes whose persons show it, or one near to it, come first")
    ] = None,
    seen: Annotated[list[str], _several("the id of a meme that is not to come again", MAX_SEEN)],
    top: Annotated[int, Query(ge=1, le=MAX_TOP, description="how many memes")] = 10,
    min_score: Annotated[float | None, Query(description="memes below this score are left out")] = None,
    duplicates: Annotated[bool, Query(description="also memes that are nearly the same as one before")] = False,
) -> Request:
    """The Request of a query string."""
    return Request(
        text,
        like or None,
        answers.weighted(plus, plus_weight, "plus"),
        answers.weighted(minus, minus_weight, "minus"),
        emotion or None,
        seen,
        top,
        min_score,
        duplicates,
    )


class Server:
    """What the paths share: the index as it is now, and threads that search it."""

    def __init__(self, recommender: Recommender) -> None:
        self.current = Current(recommender)
        self.turns = Turns(self._search_each, SEARCHES)
        self.uploads = asyncio.Semaphore(2 * SEARCHES)

    async def search(self, asked: Asked, request: Request) -> Response:
        """Search once it is this request's turn, and if somebody still waits for the answer."""
        request.check()
        return await self.turns.answer(request, asked) or Response(status_code=204)

    def _search_each(self, requests: Sequence[Request]) -> Iterator[Response | Exception]:
        for found in answers.search_each(self.current(), requests):
            yield found if isinstance(found, Exception) else as_json(found)


def build_app(recommender: Recommender, names: Collection[str] = ()) -> ASGIApp:
    """The application. names: host names by which it is asked for, beside localhost (`Guard`)."""
    app = FastAPI(
        title="Memes for a sentence",
        docs_url=None,  # theirs load scripts from another server
        redoc_url=None,
        telemetry=TELEMETRY,
    )
    server = Server(recommender)
    files = {
        "/page.css": ("text/css", markup.styles(ASSETS / "page.css")),
        "/page.js": ("text/javascript", markup.script(ASSETS / "page.js")),
    }
    for path, (kind, content) in files.items():
        app.get(path, include_in_schema=False)(functools.partial(_file, kind, content))

    @app.get("/", include_in_schema=False)
    def show_page() -> HTMLResponse:
        return HTMLResponse(page(answers.facts(server.current())))

    @app.get("/docs", include_in_schema=False)
    def show_documentation(asked: Asked) -> HTMLResponse:
        return HTMLResponse(documentation(app.openapi(), str(asked.base_url)))

    @app.get("/api/search", summary="Search by a sentence, a meme of the index, an emotion")
    async def search(asked: Asked, request: Annotated[Request, Depends(wanted)]) -> Response:
        """What is found, best first: `memes`, with `score` (of several parts it may exceed 1, and compares memes of one
        answer), `qi`, `qc`, `alpha` (the weight of QI), `below` (the share
        of the gallery that scores lower), `emotions`, `captions`, `text` and the ids of near-duplicates that are not
        shown; `words`, the weights of the text's words; `gallery`, how many memes were compared; `notes`."""
        return await server.search(asked, request)

    @app.post("/api/search", summary="Search by a picture, and all else")
    async def search_by_picture(asked: Asked, request: Annotated[Request, Depends(wanted)]) -> Response:
        """Memes like the picture whose file is the body of the request, at most 20 MiB and 50 million pixels. It is
        not stored. The options are those of `GET /api/search`, without `like`. A picture that is in the index is taken
        for the meme that it is: the answer's `like` is its id, and it does not come itself."""
        if request.like is not None:
            raise InputError("like and a picture: one of them")
        async with server.uploads:
            data = await uploaded(asked)
            like = await run_in_threadpool(lambda: answers.picture(server.current(), data))
            return await server.search(asked, dataclasses.replace(request, like=like))

    @app.get("/api/index", summary="What the index holds")
    def index() -> Response:
        """The number of `memes`, the `emotions` that the model knows and the most frequent ones of the memes."""
        return as_json(answers.facts(server.current()))

    @app.get("/api/thumbnail", summary="A meme as a small picture", response_class=Response)
    def thumbnail(id: Id) -> Response:
        """WebP, its first frame, at most 256 pixels long."""
        data = answers.thumbnail(server.current(), id)
        return Response(data, media_type="image/webp", headers={"cache-control": "private, max-age=600"})

    @app.get("/api/image", summary="A meme's file", response_class=FileResponse)
    def image(id: Id) -> FileResponse:
        """As it is in the folder."""
        path, kind = answers.image_file(server.current(), id)
        return FileResponse(path, media_type=kind, headers={"cache-control": "private, max-age=600"})

    app.add_exception_handler(InputError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(ClientDisconnect, _refused)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, names)


async def _file(kind: str, content: str) -> Response:
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


async def uploaded(asked: Asked) -> bytes:
    """The body of a request. HTTPException where it is too long, comes too slowly, or is empty."""
    too_long = HTTPException(413, f"the picture has more than {answers.MAX_UPLOAD:,} bytes")
    told = asked.headers.get("content-length", "")
    if told.isdigit() and int(told) > answers.MAX_UPLOAD:
        raise too_long

    async def read() -> bytes:
        pieces, size = [], 0
        async for piece in asked.stream():
            size += len(piece)
            if size > answers.MAX_UPLOAD:
                raise too_long
            pieces.append(piece)
        return b"".join(pieces)

    try:
        data = await asyncio.wait_for(read(), UPLOAD_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the picture took more than {UPLOAD_SECONDS} seconds to come") from None
    if not data:
        raise HTTPException(400, "there is no picture in the body of the request")
    return data


def as_json(value: Any, status: int = 200) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(json.dumps(value, allow_nan=False), status, headers, media_type="application/json")


async def _refused(_: Asked, error: Exception) -> Response:
    """A sentence, for what somebody has asked wrongly."""
    if isinstance(error, RequestValidationError):
        return as_json({"error": "; ".join(map(_sentence, error.errors()[:5]))}, 400)
    if isinstance(error, HTTPException):
        told = "there is nothing under this address: see /docs" if error.status_code == 404 else str(error.detail)
        return as_json({"error": told}, error.status_code)
    if isinstance(error, Damaged):
        return as_json({"error": "the index is damaged: make it anew"}, 500)
    status = 404 if isinstance(error, answers.NotThere) else 400
    return as_json({"error": re.sub(r"--(?=[a-z])", "", str(error))}, status)


def _sentence(found: dict[str, Any]) -> str:
    """What is wrong with an option, as in: top: found '5000', expected a whole number from 1 to 1,000."""
    name = ".".join(str(part) for part in found["loc"][1:])
    expected = EXPECTED.get(str(found["loc"][1])) if isinstance(found["input"], str) else None
    return f"{name}: found {found['input'][:50]!r}, expected {expected}" if expected else f"{name}: {found['msg']}"


async def _failed(_: Asked, error: Exception) -> Response:
    """A bug of ours; the traceback goes to the terminal."""
    return as_json({"error": "something went wrong here; the terminal that the server runs in says what"}, 500)
