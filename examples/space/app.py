"""A Hugging Face Space: the page that `xgenmm demo` serves.

The variable XGENMM_MODEL of the Space names another checkpoint than the embedded one, such as `organisation/name`.
"""

import os

import xgenmm_hf
from xgenmm_hf.demo.page import build_page, launch_page
from xgenmm_hf.inference.loading import load


model = os.environ.get("XGENMM_MODEL") or xgenmm_hf.TINY_MODEL
demo = build_page(load(model), "the embedded model" if model == xgenmm_hf.TINY_MODEL else model)

if __name__ == "__main__":
    launch_page(demo)
