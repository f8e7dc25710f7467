"""The one place of the package for differences between the library versions that it supports.

What the model's own files need is in `xgenmm_hf.modeling.compat_xgenmm`, as they travel without the package.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from xgenmm_hf.modeling.targets_xgenmm import count_without_images, without_image_targets


if TYPE_CHECKING:
    from datasets import IterableDataset
    from transformers import PretrainedConfig, PreTrainedModel


def publish(model_class: "type[PreTrainedModel]") -> None:
    """Makes a model class visible to code that looks only at Transformers' own names, not at registered classes.

    vLLM, `transformers serve` and TRL take the class of `architectures` from the `transformers` module. Pipelines and
    servers look up in two tables of names whether it reads images.
    """
    name = model_class.__name__
    # 5.24 creates its module object a second time while its models are imported; scripts may hold either
    for module in (transformers, sys.modules["transformers"]):
        setattr(module, name, model_class)
    for table in ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"):
        # 4.57 has the first table only
        getattr(modeling_auto, table, {})[model_class.config_class.model_type] = name


def keep_vision2seq(auto_class: type) -> None:
    """Lets `from transformers import AutoModelForVision2Seq` work where the library has dropped the name (5.x)."""
    for module in (transformers, sys.modules["transformers"]):  # see publish
        if not hasattr(module, "AutoModelForVision2Seq"):
            vars(module)["AutoModelForVision2Seq"] = auto_class


def has_no_video_processor(config_class: "type[PretrainedConfig]") -> None:
    """Registers that a family reads no videos.

    Otherwise 5.x infers the name of a video processor from the image processor's entry in `auto_map`, and asks whether
    to run the code that it expects there.
    """
    VIDEO_PROCESSOR_MAPPING.register(config_class, {}, exist_ok=True)


def allow_adapters_of(package: str) -> None:
    """Lets PEFT's `AutoPeftModel` load adapters of a package's classes; it imports from a list of libraries only."""
    if find_spec("peft") is None:
        return
    from peft import auto

    default = getattr(auto, "get_default_import_allowlist", None)  # PEFT before 0.19 has no such list
    if default is not None and package not in default():
        auto.get_default_import_allowlist = lambda: [*default(), package]


def shuffle_stream(rows: "IterableDataset", seed: int, buffer_size: int) -> "IterableDataset":
    """Shuffles a stream and the order of its shards, and keeps the shards apart.

    datasets 5.0 fills the buffer from several shards and so merges them into one, which ranks can no longer share.
    Earlier releases do not have the option that prevents this.
    """
    apart = {"max_buffer_input_shards": 1}
    known = inspect.signature(rows.shuffle).parameters
    return rows.shuffle(seed=seed, buffer_size=buffer_size, **(apart if apart.keys() <= known.keys() else {}))


def fix_when_imported(module: str, fix: Callable[[ModuleType], None]) -> None:
    """Fixes a library's module once it is imported, without importing it."""
    if module in sys.modules:
        fix(sys.modules[module])
    elif not any(isinstance(finder, _Fixer) and finder.module == module for finder in sys.meta_path):
        sys.meta_path.insert(0, _Fixer(module, fix))


class _Fixer(MetaPathFinder):
    """Finds one module in its usual place, and fixes it after its code has run."""

    def __init__(self, module: str, fix: Callable[[ModuleType], None]):
        self.module = module
        self.fix = fix

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Returns the module's own spec, with a loader that also fixes."""
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_fix(module: ModuleType) -> None:
                execute(module)
                self.fix(module)

            spec.loader.exec_module = execute_and_fix  # type: ignore[method-assign]
        return spec


def keep_sizes_with_tiles(module: ModuleType) -> None:
    """Makes TRL keep `image_sizes` with their prompts if prompts have several images of several tiles.

    Before TRL shuffles a batch of prompts, it splits `pixel_values` and `image_sizes` by prompt. For images of several
    tiles it splits only the former (seen with TRL 1.16), so that sizes go to other prompts than their images.
    """
    split = getattr(module, "split_pixel_values_by_grid", None)
    if split is None or hasattr(split, "__wrapped__"):
        return

    @wraps(split)
    def split_sizes_too(batch: dict[str, Any]) -> dict[str, Any]:
        result = split(batch)
        sizes = result.get("image_sizes")
        if "num_tiles" in batch and isinstance(result.get("pixel_values"), list) and hasattr(sizes, "split"):
            return {**result, "image_sizes": list(sizes.split(batch["num_images"]))}
        return result

    name = split.__name__
    for loaded in [other for path, other in sys.modules.items() if path.startswith("trl.")]:
        if vars(loaded).get(name) is split:  # trainers that were imported before hold it, too
            setattr(loaded, name, split_sizes_too)
    setattr(module, name, split_sizes_too)


def leave_out_image_targets(module: ModuleType) -> None:
    """Makes TRL's `SFTTrainer` leave image tokens out of the targets of a collator that counts them.

    Its fused loss reads the labels itself (seen with TRL 1.16) and replaces the model's loss, which leaves them out.
    """
    trainer = getattr(module, "SFTTrainer", None)
    compute = getattr(trainer, "compute_loss", None)
    if compute is None or hasattr(compute, "__wrapped__"):
        return

    @wraps(compute)
    def compute_without_images(
        self: Any,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
        **options: Any,
    ) -> Any:
        config, labels = getattr(self.model, "config", None), inputs.get("labels")
        if labels is not None and getattr(config, "model_type", None) == "xgenmm":
            targets = without_image_targets(labels, config.image_token_id)  # type: ignore[union-attr]
            if num_items_in_batch is not None:
                num_items_in_batch = count_without_images(num_items_in_batch, labels, targets)
            inputs = {**inputs, "labels": targets}
        return compute(self, model, inputs, return_outputs, num_items_in_batch, **options)

    trainer.compute_loss = compute_without_images  # type: ignore[union-attr]
