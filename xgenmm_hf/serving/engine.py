"""One thread that runs the language model for all requests and decodes the running ones together."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch

from xgenmm_hf.inference.asking import end_tokens
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.serving.batch import Batch
from xgenmm_hf.serving.errors import OUT_OF_MEMORY, RequestError
from xgenmm_hf.serving.sampling import Sampler, Sampling
from xgenmm_hf.serving.text import AnswerText


logger = logging.getLogger(__name__)
# After this many consecutive internal errors the engine gives up; the process should then be restarted.
MAX_FAILURES = 3


@dataclass(frozen=True)
class Done:
    """The end of an answer: why it ended (``stop`` or ``length``) and how many tokens it took."""

    reason: str
    new_tokens: int


Event = str | Done | RequestError  # a piece of an answer's text, its end, or why there is none


@dataclass(eq=False)
class Job:
    """A prompt to answer; `emit` is called from the engine's thread, last with a `Done` or an error."""

    input_ids: torch.Tensor  # (1, length), with as many image tokens as the images have
    max_new_tokens: int
    emit: Callable[[Event], None]
    images: Sequence[torch.Tensor] = ()  # (tokens, text width) each
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    stream: bool = True  # else the text may come in one piece
    deadline: float = float("inf")  # by `time.monotonic`
    cancelled: bool = False  # set by anyone who no longer wants the answer

    @property
    def reserved(self) -> int:
        """Maximum number of context tokens that the job can take."""
        return self.input_ids.shape[1] + self.max_new_tokens


@dataclass(eq=False)
class _Row:
    """A job being decoded: its text so far, its last token and how many there are."""

    job: Job
    text: AnswerText
    last: int = 0
    count: int = 0
    sampler: Sampler | None = None  # created on first use


class Engine:
    """Answers jobs in order of arrival, as many together as fit.

    `on_step` gets the number of rows at every step; `on_failure` is called, in the engine's thread, if it gives up.
    """

    def __init__(
        self,
        loaded: Loaded,
        max_batch: int = 16,
        max_batch_tokens: int = 65536,
        on_step: Callable[[int], None] = lambda rows: None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self._loaded, self._max_batch, self._max_tokens, self._on_step = loaded, max_batch, max_batch_tokens, on_step
        self._ends = frozenset(end_tokens(loaded.model).tolist())
        self._batch = Batch(loaded.model)
        self._rows: list[_Row] = []
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self.failed = False
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name="xgenmm-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Jobs being decoded."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a place."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether jobs are taken and answered."""
        return self._thread.is_alive() and not (self._closing or self.failed)

    def submit(self, job: Job) -> None:
        """Queues a job."""
        with self._wake:
            if not self.alive:
                raise RequestError(503, "The server is stopping.", retry_after=5)
            self._waiting.append(job)
            self._wake.notify()

    def close(self, seconds: float = 0.0) -> None:
        """Refuses new jobs, gives the present ones `seconds` to finish, and ends the thread."""
        end = time.monotonic() + seconds
        with self._wake:
            self._closing = True
            for job in [*self._waiting, *(row.job for row in self._rows)]:
                job.deadline = min(job.deadline, end)
            self._wake.notify()
        self._thread.join(seconds + 10)

    @torch.inference_mode()
    def _run(self) -> None:
        failures = 0
        try:
            while self._wait_for_work():
                try:
                    self._turn()
                    failures = 0
                except Exception as error:
                    failures += 1
                    if failures == MAX_FAILURES:
                        raise
                    self._start_over(error)
        except BaseException:
            self._abandon()
            raise

    def _wait_for_work(self) -> bool:
        """Waits for jobs and returns True; returns False if the engine closes and no job is left."""
        with self._wake:
            while not (self._waiting or self._rows or self._closing):
                self._wake.wait()
            return bool(self._waiting or self._rows)

    def _turn(self) -> None:
        """Takes the jobs that fit, reads their prompts, and decodes one token of every row."""
        self._leave([row for row in self._rows if self._given_up(row.job)])
        with self._wake:
            self._waiting = deque(job for job in self._waiting if not self._given_up(job))
            newcomers = self._take()
        if newcomers:
            self._guarded(newcomers, partial(self._read, newcomers))
        if self._rows:
            self._guarded([row.job for row in self._rows], self._step)

    def _start_over(self, error: Exception) -> None:
        """Fails the running rows after an internal error of the engine, and continues with an empty batch."""
        logger.exception("The engine failed and starts over.")
        running, self._rows = self._rows, []
        self._batch.keep([])
        self._fail([row.job for row in running], error)

    def _abandon(self) -> None:
        """Fails all jobs, because nothing more will be computed."""
        with self._wake:
            self.failed = True
            left = [*self._waiting, *(row.job for row in self._rows)]
            self._waiting.clear()
            self._rows = []
        self._fail(left, None)
        self._on_failure()

    def _fail(self, jobs: Sequence[Job], error: Exception | None) -> None:
        """Cancels jobs and sends an error to whoever waits for them."""
        reason = OUT_OF_MEMORY if isinstance(error, (torch.OutOfMemoryError, MemoryError)) else "The model failed."
        for job in jobs:
            job.cancelled = True
            with suppress(Exception):
                job.emit(RequestError(500, reason, code="model_error"))

    def _given_up(self, job: Job) -> bool:
        """Tells whether a job is cancelled; cancels it with an error if its deadline has passed."""
        if not job.cancelled and time.monotonic() > job.deadline:
            job.cancelled = True
            why = "The server is stopping" if self._closing else "The request took longer than the server allows"
            job.emit(RequestError(503, f"{why}; try again.", code="timeout", retry_after=5))
        return job.cancelled

    def _take(self) -> list[Job]:
        """Takes the next jobs off the queue as long as they fit with the running ones."""
        taken: list[Job] = []
        while self._waiting:
            job = self._waiting[0]
            jobs = [row.job for row in self._rows] + [*taken, job]
            too_many = len(jobs) > self._max_batch or len(jobs) * max(j.reserved for j in jobs) > self._max_tokens
            if len(jobs) > 1 and too_many:
                break
            taken.append(self._waiting.popleft())
        return taken

    def _guarded(self, jobs: list[Job], work: Callable[[], None]) -> None:
        """Does a piece of work; if it fails, these jobs fail and the engine continues."""
        try:
            work()
        except Exception as error:
            # Lack of memory and failing kernels raise several kinds of errors.
            logger.exception("The model failed on %d requests.", len(jobs))
            self._fail(jobs, error)
            self._leave([row for row in self._rows if row.job.cancelled])
            if not self._rows:
                self._batch.keep([])

    def _read(self, jobs: list[Job]) -> None:
        """Reads the prompts of jobs and chooses their first tokens."""
        decode = partial(self._loaded.processor.decode, skip_special_tokens=True)
        rows = [_Row(job, AnswerText(decode, job.stops)) for job in jobs]
        images = [tokens for row in rows for tokens in row.job.images]
        logits = self._batch.add([row.job.input_ids for row in rows], images)
        self._rows += rows
        self._choose(rows, logits)

    def _step(self) -> None:
        """Chooses the next token of every row."""
        self._on_step(len(self._rows))
        self._choose(self._rows, self._batch.step([row.last for row in self._rows]))

    def _choose(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Chooses each row's next token from the logits (rows, vocabulary); finished rows leave."""
        likeliest = logits.argmax(-1).tolist()
        finished = []
        for number, row in enumerate(rows):
            try:
                if row.job.sampling.is_plain:
                    row.last = likeliest[number]
                else:
                    row.sampler = row.sampler or Sampler(row.job.sampling, logits.device)
                    row.last = row.sampler.pick(logits[number])
                row.count += 1
                complete = self._advance(row)
            except Exception as error:
                # an error in one row's sampling, text or listener ends only that row
                logger.exception("One request failed.")
                self._fail([row.job], error)
                complete = True
            if complete:
                finished.append(row)
        self._leave(finished)

    def _advance(self, row: _Row) -> bool:
        """Sends the text that a row's new token adds; returns whether the answer is complete."""
        job = row.job
        ended = row.last in self._ends
        text = "" if ended else row.text.feed(row.last, read=job.stream or bool(job.stops))
        complete = ended or row.text.stopped or row.count >= job.max_new_tokens
        if complete:
            text += row.text.finish()
        if text:
            job.emit(text)
        if complete:
            job.emit(Done("stop" if ended or row.text.stopped else "length", row.count))
        return complete

    def _leave(self, leaving: list[_Row]) -> None:
        if not leaving:
            return
        kept = [number for number, row in enumerate(self._rows) if row not in leaving]
        self._batch.keep(kept)
        self._rows = [self._rows[number] for number in kept]
