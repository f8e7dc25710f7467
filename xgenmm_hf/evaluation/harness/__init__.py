"""Adapters for the field's evaluation harnesses: lmms-eval and VLMEvalKit; importing this loads neither of them."""

from typing import Any


def manifest() -> Any:
    """Tells lmms-eval where the model's classes are: what its entry point group `lmms_eval.models` finds."""
    from lmms_eval.models.registry_v2 import ModelManifest

    module = f"{__name__}.lmms_eval"
    paths = {"simple_class_path": f"{module}.XGenMMSimple", "chat_class_path": f"{module}.XGenMMChat"}
    return ModelManifest(model_id="xgenmm", aliases=("xgen_mm", "blip3"), **paths)
