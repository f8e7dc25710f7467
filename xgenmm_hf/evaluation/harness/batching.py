"""Gathers single calls of many threads into batches."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Gatherer:
    """Answers calls of several threads together, as many as there are at the time.

    Args:
        answer: Answers a list of items.
        batch_size: Most items answered together.
        patience: How long to wait for a batch to fill, in seconds.
    """

    def __init__(self, answer: Callable[[list[Any]], list[Any]], batch_size: int, patience: float = 0.05):
        self.answer, self.batch_size, self.patience = answer, batch_size, patience
        self._waiting: queue.Queue[tuple[Any, Future]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True, name="gatherer").start()

    def __call__(self, item: Any) -> Any:
        """Waits for the answer to an item; raises what `answer` raised for its batch."""
        future: Future = Future()
        self._waiting.put((item, future))
        return future.result()

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            end = time.monotonic() + self.patience
            while len(batch) < self.batch_size:
                try:
                    batch.append(self._waiting.get(timeout=max(0.0, end - time.monotonic())))
                except queue.Empty:
                    break
            items, futures = zip(*batch, strict=True)
            try:
                for future, answer in zip(futures, self.answer(list(items)), strict=True):
                    future.set_result(answer)
            except BaseException as error:  # it belongs to everyone who waits; the thread lives on
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
