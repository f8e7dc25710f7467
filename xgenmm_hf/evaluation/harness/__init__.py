"""Adapters for the field's evaluation harnesses: lmms-eval and VLMEvalKit.

Importing this package loads neither of them. `manifest` is what lmms-eval finds in its entry point group
`lmms_eval.models`.
"""

from typing import Any


_MODULE = "xgenmm_hf.evaluation.harness.lmms_eval"


def manifest() -> Any:
    """Tells lmms-eval where the model's classes are; called when lmms-eval looks for plugins."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="xgenmm",
        simple_class_path=f"{_MODULE}.XGenMMSimple",
        chat_class_path=f"{_MODULE}.XGenMMChat",
        aliases=("xgen_mm", "blip3"),
    )
