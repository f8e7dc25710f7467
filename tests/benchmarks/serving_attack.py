"""Attacks on `xgenmm serve`, from another process: memory before and after, and the worst time of /health meanwhile.

python tests/benchmarks/serving_attack.py
"""

import argparse
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from serving_load import call, distinct_images, request, server


CHAT = "/v1/chat/completions"
MIB = 1 << 20


def hostile_bodies() -> Iterator[bytes]:
    """Yields bodies that would cost many times their size if they were validated item by item."""
    for items in ("1," * (2 * MIB) + "1", "{}," * MIB + "{}", "[" * (4 * MIB), '"' * (4 * MIB)):
        yield f'{{"model": "tiny", "messages": [{{"role": "user", "content": [{items}]}}]}}'.encode()
    yield ("{" + ",".join(f'"{number}":1' for number in range(200_000)) + "}").encode()
    yield ('{"metadata": {' + ",".join(f'"{number}":1' for number in range(200_000)) + "}}").encode()
    # as many as are read
    yield ("{" + ",".join(f'"{number}":1' for number in range(39_000)) + "}").encode()
    yield ('{"metadata": {' + ",".join(f'"{number}":1' for number in range(39_000)) + "}}").encode()
    yield b'{"model": "' + b"\\\\" * (2 * MIB) + b'"}'


def send(port: int, body: bytes) -> int:
    """Sends a body and returns the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


HOSTILE = list(hostile_bodies())


def nothing(port: int, seconds: float) -> str:
    """Nobody attacks"""
    time.sleep(seconds)
    return "what the machine's other work costs"


def bodies(port: int, seconds: float) -> str:
    """Four clients send bodies of up to 4 MiB made to cost more than they weigh"""
    end, statuses = time.monotonic() + seconds, []

    def attack(first: int) -> None:
        while time.monotonic() < end:
            statuses.append(send(port, HOSTILE[(first + len(statuses)) % len(HOSTILE)]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attack, range(4)))
    return f"{len(statuses)} requests, all answered {sorted(set(statuses))}"


def half_bodies(port: int, seconds: float) -> str:
    """Two hundred connections send half a body and wait"""
    connections = []
    for _ in range(200):
        connection = socket.create_connection(("127.0.0.1", port))
        fields = ("Host: localhost", "Content-Type: application/json", "Content-Length: 1000")
        head = "\r\n".join((f"POST {CHAT} HTTP/1.1", *fields, "", ""))
        connection.sendall(head.encode() + b"{" * 500)
        connections.append(connection)
    start = time.monotonic()
    status, _ = call(port, "POST", CHAT, request(max_tokens=2))
    took = time.monotonic() - start
    for connection in connections:
        connection.close()
    return f"a request beside them: {status} after {took:.2f} s"


def leavers(port: int, seconds: float) -> str:
    """Twelve clients with fifteen images each leave after 0.3 s, again and again"""
    urls, end, delays, rounds = distinct_images(15), time.monotonic() + seconds, [], 0
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": content}]}).encode()
    while time.monotonic() < end:
        connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(12)]
        for connection in connections:
            connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        time.sleep(0.3)
        for connection in connections:
            connection.close()
        start = time.monotonic()
        assert call(port, "POST", CHAT, request(max_tokens=2))[0] == 200
        delays.append(time.monotonic() - start)
        rounds += 1
    return f"{12 * rounds} requests given up; the next text request took {max(delays):.2f} s at most"


@contextmanager
def watched(port: int) -> Iterator[list[float]]:
    """Asks for /health every 50 ms and collects how long that took."""
    times, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            start = time.monotonic()
            assert call(port, "GET", "/health")[0] == 200
            times.append(time.monotonic() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield times
    finally:
        done.set()
        thread.join()


def memory(pid: int) -> int:
    """Returns the resident memory of a process in MiB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 // MIB


def main() -> None:
    """Prints a row per attack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="length of each attack")
    seconds = parser.parse_args().seconds
    print("| attack | what happened | memory before, after | /health: median, worst |\n|---|---|---|---|")
    attacks: tuple[Callable[[int, float], str], ...] = (nothing, bodies, half_bodies, leavers)
    with server() as (port, process):
        call(port, "POST", CHAT, request(distinct_images(1)[0], max_tokens=2))
        for attack in attacks:
            before = memory(process.pid)
            with watched(port) as times:
                told = attack(port, seconds)
            times.sort()
            health = f"{1000 * times[len(times) // 2]:.0f}, {1000 * times[-1]:.0f} ms of {len(times)}"
            print(f"| {attack.__doc__} | {told} | {before}, {memory(process.pid)} MiB | {health} |", flush=True)


if __name__ == "__main__":
    main()
