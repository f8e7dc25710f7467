"""Gathers single calls of many threads into batches."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Gatherer:
    """Answers calls of several threads together, as many as there are at the time.

    A harness that asks one question at a time, but from several threads, so gets a batch's speed.

    Args:
        answer: Answers a list of items.
        batch_size: Most items answered together.
        patience: How long to wait for a batch to fill, in seconds.
    """

    def __init__(self, answer: Callable[[list[Any]], list[Any]], batch_size: int, patience: float = 0.05):
        self.answer = answer
        self.batch_size = batch_size
        self.patience = patience
        self._waiting: queue.Queue[tuple[Any, Future]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True, name="gatherer").start()

    def __call__(self, item: Any) -> Any:
        """Waits for the answer to an item.

        Args:
            item: The item.

        Returns:
            Its answer.

        Raises:
            Exception: What `answer` raised for its batch.
        """
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
            self._settle(batch)

    def _settle(self, batch: list[tuple[Any, Future]]) -> None:
        """Answers a batch; an error goes to everyone who waits for it, and the thread lives on."""
        try:
            answers = self.answer([item for item, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(batch)} items were asked, but {len(answers)} answered.")
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
