"""What the fork server for programs without the package imports: libraries of others."""

import gc

import accelerate  # noqa: F401
import torch  # noqa: F401
from transformers import (  # noqa: F401
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)


gc.collect()
gc.freeze()
