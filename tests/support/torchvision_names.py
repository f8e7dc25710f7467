"""Importing this makes a torchvision importable that was built for another PyTorch; harnesses import it.

There is no torchvision for the CPU build of PyTorch that the tests run on. VLMEvalKit imports it, but what runs here
calls none of its compiled operators: declaring their names is enough. Without torchvision nothing happens.
"""

import importlib
import sys
from importlib.util import find_spec

import torch


OPERATORS = (
    *("nms", "qnms", "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "roi_pool"),
    *("_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "qroi_align", "deform_conv2d"),
    "_deform_conv2d_backward",
)
# The declarations live as long as this does.
DECLARED: list[torch.library.Library] = []


def make_torchvision_importable() -> None:
    if find_spec("torchvision") is None or "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor x) -> Tensor")
        DECLARED.append(library)


make_torchvision_importable()
