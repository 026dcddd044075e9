"""The server of `recommend serve` asked by many at once: are all answered, as when one asks, and how long do they wait.

    python -m benchmarks.serving [--memes 1536 150000] [--clients 32] [--queries 50] [--device cpu]

The index is that of `benchmarks.recommend`: random features, half precision, stills, WTI and QC, queries of 12 words
that cost no encoding. The server is a process of its own; each client is a thread with one connection, which asks again
as soon as it is answered. First one client asks all queries one by one; then all clients ask theirs at once.

The server compares the texts of requests that wait with the memes together, which changes the last bits of a score.
Answers are equal where they hold the same memes with the same figures, to 1e-6, in the same order: but for memes whose
scores are the same to 1e-6, which may change places.
"""

import http.client
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch

from benchmarks.machine import Figure, describe, options_of, show
from benchmarks.recommend import RandomModel, write_index
from recommend.recommender import Recommender
from recommend.store import Store
from util import Parser, program

WORDS = 12
PATIENCE = 300  # seconds
SAME = 1e-6  # figures


class Client:
    """One connection to a server of this machine."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, number):
        """(seconds, the answer) of a query; RuntimeError where it is refused."""
        started = time.perf_counter()
        self.connection.request("GET", f"/api/search?{urlencode({'text': f'{number} {WORDS}'})}")
        response = self.connection.getresponse()
        data = response.read()
        seconds = time.perf_counter() - started
        if response.status != 200:
            raise RuntimeError(f"query {number} got the status {response.status}: {data[:200]!r}")
        return seconds, json.loads(data)


def run_server(index, device, told):
    """A process: serve the index and tell the port."""
    from recommend.serving.run import listening, make_server

    torch.manual_seed(0)
    recommender = Recommender(Store.open(index), RandomModel(device))
    with listening("127.0.0.1", 0) as bound:
        told.put(bound.getsockname()[1])
        make_server(recommender).run(sockets=[bound])


@contextmanager
def served(index, device):
    """The port of a server in another process."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=run_server, args=(str(index), device, told), daemon=True)
    process.start()
    try:
        port = told.get(timeout=PATIENCE)
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.join()


def _wait_for(port):
    until = time.monotonic() + PATIENCE
    while True:
        try:
            Client(port).ask(0)
            return
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def measure(options, folder):
    """The benchmark's Figures."""
    for memes in options.memes:
        index = write_index(folder / str(memes), memes)
        with served(index, options.device) as port:
            numbers = range(options.clients * options.queries)
            alone = Client(port)
            one_by_one = [alone.ask(number) for number in numbers]
            started = time.perf_counter()
            with ThreadPoolExecutor(options.clients) as pool:
                parts = [numbers[start :: options.clients] for start in range(options.clients)]
                answers = list(pool.map(_ask_all, [port] * options.clients, parts))
            seconds = time.perf_counter() - started
        together = {number: found for of_client in answers for number, found in of_client.items()}
        same = sum(equal(together[number][1], one_by_one[number][1]) for number in numbers)
        what = f"{memes:,} memes, {options.clients} clients x {options.queries} queries"
        yield Figure(f"{what}, answers equal to those of one client", f"{same:,} of {len(numbers):,}")
        yield Figure(
            f"{what}, seconds until an answer",
            percentiles([took for took, _ in together.values()]),
            f"one client: {percentiles([took for took, _ in one_by_one])}",
        )
        rate, rate_alone = len(numbers) / seconds, len(numbers) / sum(took for took, _ in one_by_one)
        yield Figure(
            f"{what}, answers a second",
            f"{rate:.1f}",
            f"one client: {rate_alone:.1f}",
            f"{rate / rate_alone:.2f}",
        )


def _ask_all(port, numbers):
    client = Client(port)
    return {number: client.ask(number) for number in numbers}


def equal(one, other):
    """Whether two answers of the API are the same, up to the last bits of their figures and such ties."""
    first, second = one["memes"], other["memes"]
    if len(first) != len(second) or any(one[name] != other[name] for name in ("like", "gallery", "notes")):
        return False
    known = {meme["id"]: meme for meme in second}
    last = min((meme["score"] for meme in second), default=0)
    return (
        [word for word, _ in one["words"]] == [word for word, _ in other["words"]]
        and all(_near(weight, same) for (_, weight), (_, same) in zip(one["words"], other["words"], strict=True))
        and all(_near(meme["score"], same["score"]) for meme, same in zip(first, second, strict=True))
        and all(
            _same_meme(meme, known[meme["id"]], one["gallery"]) if meme["id"] in known else _near(meme["score"], last)
            for meme in first
        )
    )


def _same_meme(one, other, gallery):
    """Whether two answers say the same of a meme, whatever its rank. below: a tie counts for the one or the other."""
    figures = ("score", "qi", "qc", "alpha")
    texts = one.keys() - {*figures, "rank", "below"}
    return (
        all(_near(one[name], other[name]) for name in figures)
        and abs(one["below"] - other["below"]) * gallery < 2
        and all(one[name] == other[name] for name in texts)
    )


def _near(one, other):
    return one == other or (None not in (one, other) and abs(one - other) <= SAME)


def percentiles(seconds):
    median, most, last = np.percentile(seconds, [50, 95, 100])
    return f"median {median:.3f}, 95 % within {most:.3f}, longest {last:.3f}"


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--memes", type=int, nargs="+", default=[1536, 150_000])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--queries", type=int, default=50, help="of each client")
    parser.add_argument("--folder", help="where the index is written, for a while; the default is the system's")
    options = options_of(parser, argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show(describe(options.device), list(measure(options, Path(folder))), options.json)


if __name__ == "__main__":
    main()
