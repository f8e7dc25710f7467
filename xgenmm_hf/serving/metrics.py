"""What a server counts and measures, in Prometheus' form."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from xgenmm_hf.serving.engine import Engine


SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; each has its own registry, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "xgenmm_requests",
            "Chat requests by status (429: turned away, 499: the client left).",
            ["status"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "xgenmm_prompt_tokens", "Tokens of prompts, images included.", registry=self.registry
        )
        self.new_tokens = Counter("xgenmm_generated_tokens", "Tokens of answers.", registry=self.registry)
        self.images = Counter("xgenmm_images", "Images in requests.", registry=self.registry)
        self.seconds = Histogram(
            "xgenmm_request_seconds", "Time of answered requests.", buckets=SECONDS, registry=self.registry
        )
        self.first_seconds = Histogram(
            "xgenmm_first_text_seconds", "Time to a request's first text.", buckets=SECONDS, registry=self.registry
        )
        self.rows = Histogram(
            "xgenmm_batch_rows", "Requests decoded together, at each token.", buckets=ROWS, registry=self.registry
        )

    def watch(self, engine: Engine) -> None:
        """Adds the engine's present state."""
        running = Gauge("xgenmm_running_requests", "Requests being decoded.", registry=self.registry)
        running.set_function(lambda: engine.running)
        waiting = Gauge("xgenmm_waiting_requests", "Requests that wait for a place.", registry=self.registry)
        waiting.set_function(lambda: engine.waiting)

    def render(self) -> bytes:
        """Returns all values in Prometheus' text format."""
        return generate_latest(self.registry)
