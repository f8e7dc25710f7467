"""Load and faults of `xgenmm serve`, measured from another process: `python tests/benchmarks/serving_load.py`.

Sequential and concurrent rounds alternate, so that whatever else the machine does meets both; figures are medians.
"""

import argparse
import base64
import http.client
import io
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from PIL import Image


IMAGES = Path(__file__).resolve().parents[2] / "xgenmm_hf" / "assets" / "images"
START = "from xgenmm_hf.cli.app import main; main()"


@contextmanager
def server(*arguments: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """Runs a server and yields its port and process."""
    command = [sys.executable, "-c", START, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(re.search(r":(\d+)/v1", process.stdout.readline())[1]), process
        finally:
            process.kill()


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    """Sends one request and returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


def distinct_images(count: int) -> list[str]:
    """Returns data URLs of images that all differ, made from the shipped ones."""
    urls = []
    for number in range(count):
        with Image.open(sorted(IMAGES.glob("*.png"))[number % 5]) as image:
            changed = image.convert("RGB").crop((number, 0, image.width, image.height))
        buffer = io.BytesIO()
        changed.save(buffer, "PNG")
        urls.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return urls


def request(url: str | None = None, **options: Any) -> dict[str, Any]:
    """Returns the body of a request for a caption."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "Describe this image."}]
    if url is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 128, **options}


def long_request(seed: int, **options: Any) -> dict[str, Any]:
    """Returns the body of a request whose answer rarely ends: what was said is likely to be said again."""
    return request(temperature=1, seed=seed, frequency_penalty=-2, **{"max_tokens": 1500, **options})


def one_round(port: int, bodies: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    """Answers all bodies with so many clients and returns what it took."""

    def answer(body: dict[str, Any]) -> tuple[str, int, float]:
        start = time.perf_counter()
        status, data = call(port, "POST", "/v1/chat/completions", body)
        if status != 200:
            raise RuntimeError(f"{status}: {data.decode()}")
        answer = json.loads(data)
        text = answer["choices"][0]["message"]["content"]
        return text, answer["usage"]["completion_tokens"], time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(answer, bodies))
    seconds = time.perf_counter() - start
    return {
        "texts": [text for text, _, _ in answers],
        "requests": len(answers) / seconds,
        "tokens": sum(tokens for _, tokens, _ in answers) / seconds,
        "latency": statistics.median(latency for _, _, latency in answers),
    }


def load(rounds: int, count: int, known: bool) -> None:
    """Prints throughput by number of clients, for images that the server has seen or not."""
    bodies = [request(url) for url in distinct_images(count)]
    levels = (1, 4, 16, 32)
    with server("--kept-mib", "1024" if known else "0", "--max-batch", "32") as (port, _):
        one_round(port, bodies if known else bodies[:8], 8)
        results: dict[int, list[dict[str, Any]]] = {clients: [] for clients in levels}
        for _ in range(rounds):
            for clients in levels:
                results[clients].append(one_round(port, bodies, clients))
    alone = results[1][0]["texts"]
    print(f"{'Known' if known else 'New'} images:\n")
    print("| clients | requests/s | tokens/s | median latency, s | against one | same answers |")
    print("|---|---|---|---|---|---|")
    for clients in levels:
        found = results[clients]
        ratio = statistics.median(a["requests"] / b["requests"] for a, b in zip(found, results[1], strict=True))
        same = sum(text == other for result in found for text, other in zip(result["texts"], alone, strict=True))
        values = {
            name: statistics.median(result[name] for result in found) for name in ("requests", "tokens", "latency")
        }
        print(
            f"| {clients} | {values['requests']:.1f} | {values['tokens']:.0f} | {values['latency']:.2f} "
            f"| {ratio:.1f}x | {same} of {rounds * count} |"
        )
    print()


def again() -> None:
    """Prints what an image costs the second time it is asked about."""
    with server() as (port, _):
        one_round(port, [request(url, max_tokens=1) for url in distinct_images(25)[20:]], 1)
        bodies = [request(url, max_tokens=1) for url in distinct_images(20)]
        first, second = (one_round(port, bodies, 1)["latency"] for _ in range(2))
    print(f"First token of a new image after {first * 1000:.0f} ms, of a known one after {second * 1000:.0f} ms.")


def metric(port: int, name: str) -> float:
    """Returns one of the server's metrics."""
    text = call(port, "GET", "/metrics")[1].decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE)[1])


def clients_that_leave() -> str:
    """Sixteen clients leave in the middle of their answers."""
    with server() as (port, _):
        connections = []
        for seed in range(16):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps(long_request(seed, stream=True))
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            connections.append((connection, connection.getresponse()))
        running = metric(port, "xgenmm_running_requests")
        start = time.perf_counter()
        for connection, response in connections:
            response.close()
            connection.close()
        while metric(port, "xgenmm_running_requests") > 0:
            time.sleep(0.005)
        return f"{running:.0f} running, none left after {(time.perf_counter() - start) * 1000:.0f} ms"


def overload() -> str:
    """Sixty-four clients at a server that takes eight."""
    with server("--max-batch", "4", "--max-waiting", "4") as (port, _):
        call(port, "POST", "/v1/chat/completions", request())
        times: list[tuple[int, float]] = []
        barrier = threading.Barrier(64)

        def one(seed: int) -> None:
            body = long_request(seed, max_tokens=200)
            barrier.wait()
            start = time.perf_counter()
            status, _ = call(port, "POST", "/v1/chat/completions", body)
            times.append((status, time.perf_counter() - start))

        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = Counter(status for status, _ in times)
        slowest = max((seconds for status, seconds in times if status == 429), default=0.0)
        healthy = call(port, "GET", "/health")[0]
        return (
            f"{counts[200]} answered, {counts[429]} told to come back (429) within {slowest:.2f} s, health {healthy}"
        )


def refusals() -> str:
    """Bodies and images that are too large."""
    with server() as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        start = time.perf_counter()
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(1 << 30))
        connection.endheaders()
        body = connection.getresponse().status, time.perf_counter() - start
        connection.close()
        buffer = io.BytesIO()
        Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
        bomb = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        start = time.perf_counter()
        image = call(port, "POST", "/v1/chat/completions", request(bomb))[0], time.perf_counter() - start
    return (
        f"1 GiB announced: {body[0]} after {body[1] * 1000:.0f} ms; image of 900 million pixels in "
        f"{len(buffer.getvalue()) >> 10} KiB: {image[0]} after {image[1] * 1000:.0f} ms"
    )


def shutdown() -> str:
    """The server is told to stop while sixteen answers run."""
    with server() as (port, process), ThreadPoolExecutor(16) as pool:
        bodies = [long_request(seed, max_tokens=300) for seed in range(16)]
        answers = [pool.submit(call, port, "POST", "/v1/chat/completions", body) for body in bodies]
        while metric(port, "xgenmm_running_requests") < 16 and not all(answer.done() for answer in answers):
            time.sleep(0.005)
        start = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        statuses = Counter(answer.result()[0] for answer in answers)
        process.wait(60)
        return f"{statuses[200]} of 16 answers complete, process gone after {time.perf_counter() - start:.1f} s"


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from importlib.metadata import version

    print(
        f"{date.today()}, Transformers {version('transformers')}, PyTorch {version('torch')}, {os.cpu_count()} cores",
        end="",
    )
    print(f" ({platform.machine()}), OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}\n")
    for known in (False, True):
        load(options.rounds, options.requests, known)
    again()
    print("\n| fault | what happened |\n|---|---|")
    for fault in (clients_that_leave, overload, refusals, shutdown):
        print(f"| {fault.__doc__.rstrip('.')} | {fault()} |")


if __name__ == "__main__":
    main()
