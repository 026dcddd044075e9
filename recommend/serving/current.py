"""The index as it is now: opened again once another process has changed it."""

from __future__ import annotations

import sys
import threading
import time

from recommend.recommender import Recommender
from util import InputError

SECONDS = 1.0  # between two looks


class Current:
    """Call it for the Recommender of the last whole index. Who has one keeps it for all of a search."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.looked_at = time.monotonic()
        self.seen = recommender.store.stamp
        self.looking = threading.Lock()

    def __call__(self) -> Recommender:
        if time.monotonic() - self.looked_at >= SECONDS and self.looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self.looked_at = time.monotonic()
                self.looking.release()
        return self.recommender

    def _look(self) -> None:
        """Open the index, where it is not the one that was seen last; one that cannot be is told, once."""
        stamp = self.recommender.store.stamp_now()
        if stamp == self.seen:
            return
        self.seen = stamp
        try:
            self.recommender = self.recommender.reopened()
        except (InputError, OSError) as error:
            print(f"the server goes on with the index as it was: {error}", file=sys.stderr, flush=True)
