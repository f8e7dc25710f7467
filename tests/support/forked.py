"""Programs in processes of their own that find torch, Transformers, TRL and the package imported.

A new interpreter takes seconds to import them. These processes are forked from one server for all tests of a worker,
itself a fork of the worker as it was before its first test; otherwise they are like those of `subprocess`: arguments,
environment, folder, standard streams, signals and exit code. `others` is a second server, without the package: for
programs that import it as remote code, or in an order of their own; it is a fork of the worker before that reads any
test. What is imported of other libraries, and in which order, and what happens while an interpreter shuts down need a
new interpreter.
"""

import faulthandler
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any
from unittest import mock


# what libraries read when they are imported, and where a server finds what it imports
READ_BY_LIBRARIES = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
SEARCH_PATH = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
SETTINGS = {**READ_BY_LIBRARIES, "PYTHONPATH": SEARCH_PATH}
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["forked_libraries"])
others = forkserver.ForkServer()
others.set_forkserver_preload(["forked_others"])


def start_here(server: forkserver.ForkServer = forkserver._forkserver) -> None:
    """Forks a server from this process, if it imported the libraries with the server's settings."""
    if sys.platform == "linux" and READ_BY_LIBRARIES.items() <= os.environ.items():
        with mock.patch.object(util, "spawnv_passfds", _fork):
            server.ensure_running()


def _fork(program: str, arguments: list[str], descriptors: list[int]) -> int:
    """Starts what multiprocessing would start as a new interpreter: the server's code, with a pipe and a socket."""
    if pid := os.fork():
        return pid
    try:
        # what pytest holds open, and may write to when one of its objects dies here, leads nowhere
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, nowhere, *descriptors}:
            os.dup2(nowhere, descriptor)
        # pytest catches what goes wrong in the background; a program says it
        faulthandler.disable()
        sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
        for server in (forkserver._forkserver, others):
            server._lock = threading.Lock()  # one of the worker's is held right now
        gc.enable()
        exec(arguments[-1])
    finally:
        os._exit(0)


@contextmanager
def others_with(environment: dict[str, str]) -> Iterator[forkserver.ForkServer]:
    """A server like `others` for settings that libraries read when they are imported."""
    server = forkserver.ForkServer()
    server.set_forkserver_preload(["forked_others"])
    with mock.patch.dict(os.environ, {**environment, "PYTHONPATH": SEARCH_PATH}, clear=True):
        server.ensure_running()
    yield server
    server._stop()


class Program:
    """A running program.

    Args:
        command: what stands behind `python`: `-m MODULE`, `-c CODE` or a script, and the arguments.
        env: its environment; None: that of this process.
        cwd: its folder; None: that of this process.
        stdin: what it can read.
        terminal: a terminal that takes the place of the three standard streams.
        server: what it is forked from; `others` has not imported the package.
    """

    def __init__(
        self,
        command: Sequence[Any],
        *,
        env: dict[str, str] | None = None,
        cwd: Any = None,
        stdin: str = "",
        terminal: str | None = None,
        server: forkserver.ForkServer = forkserver._forkserver,
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="xgenmm-forked-")
        self._files = [Path(self._folder.name) / name for name in ("stdin", "stdout", "stderr")]
        for file, text in zip(self._files, (stdin, "", ""), strict=True):
            file.write_text(text)
        self._command = [str(part) for part in command]
        streams = [str(file) for file in self._files] if terminal is None else [terminal] * 3
        with mock.patch.dict(os.environ, SETTINGS):
            server.ensure_running()
        environment, folder = dict(os.environ if env is None else env), str(cwd or Path.cwd())
        self._process = context.Process(target=_become, args=(self._command, environment, folder, streams))
        with mock.patch.object(forkserver, "connect_to_new_process", server.connect_to_new_process):
            self._process.start()
        self.pid = self._process.pid

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self.wait(60)
        self._folder.cleanup()

    @property
    def stdout(self) -> str:
        """What it wrote so far."""
        return self._files[1].read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it wrote so far."""
        return self._files[2].read_text(errors="replace")

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs. A signal that killed it is a negative number."""
        return self._process.exitcode

    def wait(self, seconds: float = 600) -> int:
        """Waits for the end; returns the exit code."""
        self._process.join(seconds)
        if self.poll() is None:
            self._process.kill()
            raise TimeoutError(f"{self._command} took more than {seconds} s: {self.stdout}{self.stderr}")
        return self.poll()

    def completed(self, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Waits for the end; returns exit code and output."""
        return subprocess.CompletedProcess(self._command, self.wait(seconds), self.stdout, self.stderr)

    def wait_for_line(self, seconds: float = 600) -> str:
        """Waits for the first line of output and returns it."""
        end = time.monotonic() + seconds
        while "\n" not in self.stdout:
            assert self.poll() is None and time.monotonic() < end, self.stderr
            time.sleep(0.02)
        return self.stdout.partition("\n")[0]


def run(command: Sequence[Any], seconds: float = 600, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, like `subprocess.run(..., capture_output=True, text=True)`."""
    with Program(command, **options) as program:
        return program.completed(seconds)


def run_ranks(command: Sequence[Any], count: int, port: int, **options: Any) -> list[subprocess.CompletedProcess[str]]:
    """Runs a program as `torchrun` does on one machine, once for each rank; returns them in order."""
    base = {**os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ExitStack() as running:
        ranks = [
            running.enter_context(
                Program(command, env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
            )
            for rank in range(count)
        ]
        return [program.completed() for program in ranks]


def _become(command: list[str], environment: dict[str, str], folder: str, streams: list[str]) -> None:
    """Is the new process: takes over streams, environment and folder, and runs the program."""
    os.setsid()  # a terminal that is opened now is the process's own
    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDWR | os.O_APPEND * (number > 0)), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, 1 if number == 2 or os.isatty(number) else -1, closefd=False)
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "transformers.dynamic_module_utils" in sys.modules and "HF_MODULES_CACHE" in environment:
        # where Transformers, which is imported already, has read it
        sys.modules["transformers.dynamic_module_utils"].HF_MODULES_CACHE = environment["HF_MODULES_CACHE"]
    # of the worker, whose search path comes along: it may have loaded remote code of its own
    sys.path[:] = [entry for entry in sys.path if not Path(entry, "transformers_modules").exists()]
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.modules.pop(command[1], None)
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
