"""What a server counts and measures, in Prometheus' form."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from xgenmm_hf.serving.engine import Engine


SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; each has its own registry, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        statuses = "Chat requests by status (429: turned away, 499: the client left)."
        self.requests = counter("xgenmm_requests", statuses, ["status"])
        self.prompt_tokens = counter("xgenmm_prompt_tokens", "Tokens of prompts, images included.")
        self.new_tokens = counter("xgenmm_generated_tokens", "Tokens of answers.")
        self.images = counter("xgenmm_images", "Images in requests.")
        self.seconds = histogram("xgenmm_request_seconds", "Time of answered requests.", buckets=SECONDS)
        first_text = "Time to a request's first text."
        self.first_seconds = histogram("xgenmm_first_text_seconds", first_text, buckets=SECONDS)
        self.rows = histogram("xgenmm_batch_rows", "Requests decoded together, at each token.", buckets=ROWS)

    def watch(self, engine: Engine) -> None:
        """Adds gauges of the engine's running and waiting requests."""
        gauge = partial(Gauge, registry=self.registry)
        gauge("xgenmm_running_requests", "Requests being decoded.").set_function(lambda: engine.running)
        gauge("xgenmm_waiting_requests", "Requests that wait for a place.").set_function(lambda: engine.waiting)

    def render(self) -> bytes:
        """Returns all values in Prometheus' text format."""
        return generate_latest(self.registry)
