"""A Hugging Face Space: the page that `xgenmm demo` serves.

The variable XGENMM_MODEL of the Space names another checkpoint than the embedded one, such as `organisation/name`.
"""

import os

import xgenmm_hf
from xgenmm_hf import build_page, launch_page, load


model = os.environ.get("XGENMM_MODEL") or xgenmm_hf.TINY_MODEL
if model == xgenmm_hf.TINY_MODEL:
    demo = build_page(load(model), "the embedded model", base=load(xgenmm_hf.TINY_BASE_MODEL))
else:
    demo = build_page(load(model), model)

if __name__ == "__main__":
    launch_page(demo)
