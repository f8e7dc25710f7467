"""The benchmarks of the report and the harness that measures each, for the docs' table and for messages."""

import re
from typing import NamedTuple


class Benchmark(NamedTuple):
    """A benchmark of the report: its name there, its harness, and the harness's name of it (`--data`, `--tasks`).

    `judge` says how answers that cannot be read are rated: "none" (no judge is ever asked), "optional" (exact matching
    without one), or "required".
    """

    name: str
    harness: str
    data: str
    judge: str

    @property
    def command(self) -> str:
        """The command that measures it."""
        names = "--data" if self.harness == "vlmevalkit" else "--tasks"
        return f"xgenmm eval --harness {self.harness} {names} {self.data} --model MODEL"


SINGLE_IMAGE = (
    Benchmark("SEED-IMG", "vlmevalkit", "SEEDBench_IMG", "optional"),
    Benchmark("SEED2", "vlmevalkit", "SEEDBench2", "optional"),
    Benchmark("MMBench (dev)", "vlmevalkit", "MMBench_DEV_EN", "optional"),
    Benchmark("MMStar", "vlmevalkit", "MMStar", "optional"),
    Benchmark("MME", "vlmevalkit", "MME", "optional"),
    Benchmark("CV-Bench 2D", "vlmevalkit", "CV-Bench-2D", "optional"),
    Benchmark("CV-Bench 3D", "vlmevalkit", "CV-Bench-3D", "optional"),
    Benchmark("RealWorldQA", "vlmevalkit", "RealWorldQA", "optional"),
    Benchmark("MMMU (val)", "vlmevalkit", "MMMU_DEV_VAL", "optional"),
    Benchmark("MathVista (mini)", "vlmevalkit", "MathVista_MINI", "required"),
    Benchmark("ScienceQA", "vlmevalkit", "ScienceQA_TEST", "optional"),
    Benchmark("POPE", "vlmevalkit", "POPE", "optional"),
    Benchmark("TextVQA", "vlmevalkit", "TextVQA_VAL", "none"),
)
MULTI_IMAGE = (
    Benchmark("BLINK", "vlmevalkit", "BLINK", "optional"),
    Benchmark("MuirBench", "vlmevalkit", "MUIRBench", "optional"),
    Benchmark("QBench-2", "lmms-eval", "qbench2_dev", "none"),
    Benchmark("Mantis-Eval", "lmms-eval", "mantis", "none"),
)
FURTHER = (
    Benchmark("HallusionBench", "vlmevalkit", "HallusionBench", "optional"),
    Benchmark("OCRBench", "vlmevalkit", "OCRBench", "none"),
    Benchmark("MM-Vet", "vlmevalkit", "MMVet", "required"),
)
BENCHMARKS = (*SINGLE_IMAGE, *MULTI_IMAGE, *FURTHER)
HARNESS_HINT = "name its harness: xgenmm eval --harness vlmevalkit --data NAME --model MODEL (see docs/evaluation.md)."


def command_for(name: str) -> str:
    """Returns a sentence with the command that measures a benchmark; empty where none is known."""
    plain = _plain(name)
    for one in BENCHMARKS:
        names = {_plain(one.name), _plain(one.data), _plain(one.name.split(" (")[0])}
        if plain in names or (len(plain) > 3 and any(known.startswith(plain) for known in names)):
            return f"{one.name} is measured by: {one.command}."
    return ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
