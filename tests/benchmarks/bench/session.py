"""What the parts of one run share: the setting, and a model and a processor that are built when first needed."""

from functools import cached_property
from typing import Any

from bench.shapes import Setting, build_model, build_processor, preset_config
from xgenmm_hf import XGenMMConfig


class Session:
    """One run of the bench.

    Args:
        setting: What is measured, where and how.
    """

    def __init__(self, setting: Setting):
        self.setting = setting

    @cached_property
    def config(self) -> XGenMMConfig:
        """The preset's config."""
        return preset_config(self.setting.preset)

    @cached_property
    def model(self) -> Any:
        """The preset's model with random weights, in evaluation mode."""
        return build_model(self.config, self.setting.device, self.setting.dtype)

    @cached_property
    def processor(self) -> Any:
        """The preset's processor."""
        return build_processor(self.config)

    def drop_model(self) -> None:
        """Gives the model's memory back, before a part that builds its own."""
        self.__dict__.pop("model", None)
