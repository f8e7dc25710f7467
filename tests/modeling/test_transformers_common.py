"""Transformers' own common model tests, run on both model classes.

The tests come from the source distribution of the installed Transformers version (`make test` fetches it; nothing of
it is in this repository). `XGENMM_TRANSFORMERS_TESTS` names the folder that holds `test_modeling_common.py`.
"""

import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path
from unittest import mock

import pytest
import torch

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMModel


FOLDER = Path(os.environ.get("XGENMM_TRANSFORMERS_TESTS", "missing"))
PACKAGE = "transformers_common_tests"

if not (FOLDER / "test_modeling_common.py").is_file():
    pytest.skip("XGENMM_TRANSFORMERS_TESTS does not name Transformers' tests", allow_module_level=True)


def load(name: str, file: str) -> types.ModuleType:
    """Imports one of the library's test files."""
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}.{name}", FOLDER / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_common_tests() -> types.ModuleType:
    """Imports the library's `test_modeling_common.py`; the parts of its test tree that it does not ship are empty."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(FOLDER)]
    sys.modules[PACKAGE] = package
    absent = {"generation.test_utils": "GenerationTesterMixin", "exporters.test_export": "ExportTesterMixin"}
    for name, mixin in absent.items():
        stub = types.ModuleType(f"{PACKAGE}.{name}")
        setattr(stub, mixin, type(mixin, (), {}))
        sys.modules[stub.__name__] = stub
    # only configs without parts are compared with these
    stub = types.ModuleType(f"{PACKAGE}.utils.test_configuration_utils")
    stub.config_common_kwargs = {}
    sys.modules[stub.__name__] = stub
    return load("common", "test_modeling_common.py")


common = load_common_tests()
# the tests look up in the library's tables which classes have a loss
common.MODEL_MAPPING_NAMES["xgenmm"] = "XGenMMModel"
common.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["xgenmm"] = "XGenMMForConditionalGeneration"

NUM_LATENTS = 4
BATCH_SIZE = 3
IMAGE_SIZES = [(30, 20), (20, 40), (40, 21)]
TEXT_LENGTH = 6


class ModelTester:
    """Builds the tiny config and inputs that the common tests ask for.

    Every prompt holds the same number of image tokens, because the common tests slice and repeat batches.
    """

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent
        self.batch_size = BATCH_SIZE
        self.is_training = True
        self.num_tiles = 3
        self.seq_length = TEXT_LENGTH + NUM_LATENTS * self.num_tiles
        self.encoder_seq_length = self.seq_length
        self.key_length = self.seq_length
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.vocab_size = 99

    def get_config(self) -> XGenMMConfig:
        return XGenMMConfig(
            vision_config={
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 16,
                "patch_size": 4,
            },
            resampler_config={
                "num_latents": NUM_LATENTS,
                "depth": 2,
                "num_heads": 4,
                "head_dim": 8,
                "hidden_size": 16,
            },
            text_config={
                "model_type": "phi3",
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": 64,
                "num_hidden_layers": self.num_hidden_layers,
                "num_attention_heads": self.num_attention_heads,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
                "original_max_position_embeddings": 512,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
                "sliding_window": None,
            },
            image_token_id=3,  # low, because some tests clamp the ids to a smaller vocabulary
            image_placeholder_token_id=4,
            end_of_chunk_token_id=5,
            anyres_grids=[[16, 32], [32, 16]],
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        generator = torch.Generator().manual_seed(0)
        num_images = self.batch_size
        pixel_values = torch.rand(num_images * self.num_tiles, 3, 16, 16, generator=generator)
        input_ids = torch.randint(6, 90, (self.batch_size, self.seq_length), generator=generator)
        input_ids[:, 1 : 1 + NUM_LATENTS * self.num_tiles] = config.image_token_id
        return config, {
            "pixel_values": pixel_values,
            "image_sizes": torch.tensor(IMAGE_SIZES),
            "image_num_tiles": torch.full((num_images,), self.num_tiles),
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
        }

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class CommonModelTest(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (XGenMMModel, XGenMMForConditionalGeneration)
    all_generative_model_classes = (XGenMMForConditionalGeneration,)
    _is_composite = True
    test_pruning = False  # 4.57 asks for head pruning and masking; none of the three parts has them
    test_head_masking = False
    skip_test_image_features_output_shape = True  # an image's tokens are as many as its tiles say

    def setUp(self):
        self.model_tester = ModelTester(self)

    def test_config(self):
        with mock.patch("transformers.utils.direct_transformers_import"):  # of a file that is not shipped, for nothing
            tests = load("configuration", "test_configuration_common.py")
        tests.ConfigTester(self, config_class=XGenMMConfig, has_text_modality=False).run_common_tests()
