"""Adapters for the field's evaluation harnesses: lmms-eval and VLMEvalKit; importing this loads neither of them."""

from typing import Any


def manifest() -> Any:
    """Returns the model's classes for lmms-eval; the entry point group `lmms_eval.models` names this function."""
    from lmms_eval.models.registry_v2 import ModelManifest

    module = f"{__name__}.lmms_eval"
    paths = {"simple_class_path": f"{module}.XGenMMSimple", "chat_class_path": f"{module}.XGenMMChat"}
    return ModelManifest(model_id="xgenmm", aliases=("xgen_mm", "blip3"), **paths)
