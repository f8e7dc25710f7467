"""What regression tests count instead of seconds: operators by name, and where the host waits for the device."""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xgenmm_hf.modeling import chunking_xgenmm


MODELING = Path(chunking_xgenmm.__file__).parent
# On a GPU each of these waits until everything queued before is done.
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten._unique2")


class OperatorCounter(TorchDispatchMode):
    """Counts operators, and collects which lines of this package make the host wait."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.calls[name.rsplit(".", 1)[0]] += 1
        if name.startswith(WAITS):
            self._note()
        return function(*args, **(kwargs or {}))

    def _note(self) -> None:
        frames = [frame for frame in traceback.extract_stack() if "torch" not in Path(frame.filename).parts]
        callers = [frame for frame in frames if Path(frame.filename) != Path(__file__)]
        if Path(callers[-1].filename).parent == MODELING:
            self.waits.append(f"{Path(callers[-1].filename).name}: {callers[-1].line}")


class InitialisationCounter(TorchDispatchMode):
    """Adds up the values that are drawn at random and finds the largest float32 tensor, off the meta device."""

    def __init__(self):
        super().__init__()
        self.drawn = 0
        self.largest_float32 = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "meta":
            if str(function).startswith(("aten.normal", "aten.uniform", "aten.randn", "aten.rand.")):
                self.drawn += result.numel()
            if result.dtype == torch.float32:
                self.largest_float32 = max(self.largest_float32, result.numel())
        return result
