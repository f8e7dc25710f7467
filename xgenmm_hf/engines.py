"""What inference engines load by themselves where this package is installed.

vLLM calls the function of its entry point (`vllm.general_plugins` in setup.py) in each of its processes. Its
Transformers backend then builds `XGenMMForConditionalGeneration` without `trust_remote_code` and without code files in
the checkpoint.
"""

from xgenmm_hf.auto import register
from xgenmm_hf.modeling.tokenization_xgenmm import XGenMMTokenizer


def register_in_vllm() -> None:
    """Makes xGen-MM known to the vLLM process that calls this; calling it again changes nothing.

    vLLM reads a prompt's text with the tokenizer alone and puts an image's tokens in place of `<image>`. In the base
    models' form the placeholders would remain after them, so the tokenizer leaves them out.
    """
    register()
    XGenMMTokenizer.one_token_per_image = True
