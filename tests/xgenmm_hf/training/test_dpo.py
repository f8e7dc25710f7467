"""DPO with shared images: the loss and the gradients are stock TRL's, the tower runs once per image."""

import copy
import io
import math

import pytest
import torch
from datasets import Dataset
from PIL import Image
from preference_parts import png, turn
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.training import dpo
from xgenmm_hf.training.collators import PreferenceCollator
from xgenmm_hf.training.dpo import XGenMMDPOTrainer, image_module, is_fixed, same_weights
from xgenmm_hf.training.sharding import add_blank_image


# What trains beside the language model, and how often the tower may then run in a step for policy and reference.
KINDS = {"lora": 1, "lora and resampler": 1, "language": 1, "language and resampler": 1, "all": 2}
TRAINED = {"language": (), "language and resampler": ("resampler",), "all": ("resampler", "vision_tower")}


def make_rows() -> list[dict]:
    shown = [[png(90, 60, "red")], [png(40, 100, "blue"), png(30, 30, "green")], [], [png(64, 64, "white")]]
    answers = [("red", "a blue disc and a star"), ("no", "yes"), ("two", "three"), ("white", "there is a dog")]
    rows = []
    for index, (images, (chosen, rejected)) in enumerate(zip(shown, answers, strict=True)):
        rows.append(
            {
                "id": str(index),
                "source": "pairs",
                "images": images,
                "prompt": [turn("user", *[None] * len(images), f"Question {index}: what color is it?")],
                "chosen": [turn("assistant", chosen)],
                "rejected": [turn("assistant", rejected)],
            }
        )
    return rows


@pytest.fixture(scope="module")
def processor():
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_list(make_rows())


def make_model(kind: str):
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    if kind in TRAINED:
        for name in ("resampler", "vision_tower"):
            image_module(model, name).requires_grad_(name in TRAINED[kind])
    return model


def make_adapter(kind: str):
    from peft import LoraConfig

    if not kind.startswith("lora"):
        return None
    saved = [r"resampler"] if "resampler" in kind else None
    targets = r".*language_model.*(qkv_proj|o_proj)"
    return LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=saved, task_type="CAUSAL_LM")


def make_trainer(cls, kind: str, rows: Dataset, processor, folder, collator=None, **options):
    fields = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_checkpointing": False,
        "report_to": "none",
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "learning_rate": 0.5,
        "seed": 7,
        "disable_tqdm": True,
        **options,
    }
    return cls(
        make_model(kind),
        args=DPOConfig(str(folder), **fields),
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
        peft_config=make_adapter(kind),
    )


def move_policy(trainer) -> None:
    """Moves the policy away from the reference, by the same step in every trainer."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, weight in sorted(trainer.model.named_parameters()):
            if weight.requires_grad:
                weight += 0.02 * torch.randn(weight.shape, generator=generator)


class Calls:
    """Counts the tower's calls and the tiles it reads."""

    def __init__(self, *models):
        self.tiles: list[int] = []
        for model in models:
            if model is not None:
                image_module(model, "vision_tower").register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, args, kwargs) -> None:
        self.tiles.append((args[0] if args else kwargs["pixel_values"]).shape[0])


def loss_and_gradients(trainer, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    named = trainer.model.named_parameters()
    return loss.detach(), {name: weight.grad for name, weight in named if weight.grad is not None}


def stock_batch(processor, rows) -> dict:
    decoded = [{**row, "images": [Image.open(io.BytesIO(image["bytes"])) for image in row["images"]]} for row in rows]
    return dict(DataCollatorForVisionPreference(processor)(decoded))


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_stock_trl_and_the_tower_runs_once(kind, rows, processor, tmp_path):
    stock = make_trainer(DPOTrainer, kind, rows, processor, tmp_path)
    ours = make_trainer(XGenMMDPOTrainer, kind, rows, processor, tmp_path)
    for trainer in (stock, ours):
        move_policy(trainer)
    stock_calls, calls = Calls(stock.model, stock.ref_model), Calls(ours.model, ours.ref_model)
    expected, expected_gradients = loss_and_gradients(stock, stock_batch(processor, rows))
    batch = ours.data_collator([dict(row) for row in rows])
    loss, gradients = loss_and_gradients(ours, batch)
    num_tiles = batch["pixel_values"].shape[0]
    assert stock_calls.tiles == [2 * num_tiles] * 2
    assert calls.tiles == [num_tiles] * KINDS[kind]
    assert abs(expected - math.log(2)) > 1e-3  # policy and reference differ
    assert torch.allclose(loss, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("kind", "checkpointing"), [("lora", True), ("language and resampler", False)])
def test_training_follows_stock_trl_step_by_step(kind, checkpointing, rows, processor, tmp_path):
    options = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "gradient_checkpointing": checkpointing,
        "learning_rate": 0.05,
    }
    logs = []
    for cls in (DPOTrainer, XGenMMDPOTrainer):
        data = rows if cls is XGenMMDPOTrainer else Dataset.from_list(make_rows())
        collator = None if cls is XGenMMDPOTrainer else lambda batch: stock_batch(processor, batch)
        trainer = make_trainer(cls, kind, data, processor, tmp_path, collator, **options)
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
        logs[-1].append(trainer.evaluate())
    names = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "eval_loss", "eval_rewards/accuracies")
    for expected, found in zip(*logs, strict=True):
        for name in names:
            if name in expected:
                assert found[name] == pytest.approx(expected[name], abs=2e-5, rel=1e-4), name
    assert len(logs[0]) == 5 and abs(logs[0][-2]["loss"] - math.log(2)) > 1e-4


def test_a_reference_with_another_tower_is_shown_the_images_itself(rows, processor, tmp_path):
    reference = make_model("all")
    with torch.no_grad():
        next(image_module(reference, "vision_tower").parameters()).mul_(1.5)
    batch, losses = stock_batch(processor, rows), []
    for cls in (DPOTrainer, XGenMMDPOTrainer):
        args = DPOConfig(str(tmp_path), report_to="none", bf16=False, use_cpu=True, gradient_checkpointing=False)
        trainer = cls(
            make_model("language"), copy.deepcopy(reference), args, train_dataset=rows, processing_class=processor
        )
        calls = Calls(trainer.model, trainer.ref_model)
        shown = batch if cls is DPOTrainer else trainer.data_collator([dict(row) for row in rows])
        losses.append(loss_and_gradients(trainer, shown)[0])
        assert len(calls.tiles) == 2
    assert torch.allclose(*losses, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", [DPOTrainer, XGenMMDPOTrainer])
def test_both_trainers_take_either_collator(cls, rows, processor, tmp_path):
    trainer = make_trainer(cls, "lora", rows, processor, tmp_path)
    move_policy(trainer)
    ours = PreferenceCollator(processor)([dict(row) for row in rows])
    shared = {name: value for name, value in ours.items() if name not in ("row_ids", "unreadable")}
    losses = [loss_and_gradients(trainer, batch)[0] for batch in (shared, stock_batch(processor, rows))]
    assert torch.allclose(*losses, atol=1e-5, rtol=0)


def test_text_only_batches_and_unreadable_images_train(rows, processor, tmp_path):
    data = make_rows()
    data[0]["images"] = [{"bytes": b"broken", "path": None}]
    data = Dataset.from_list([data[0], data[2]])
    options = {"per_device_train_batch_size": 1, "num_train_epochs": 1}
    trainer = make_trainer(XGenMMDPOTrainer, "lora and resampler", data, processor, tmp_path, **options)
    trainer.train()
    assert [math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry] == [True, True]


def test_a_blank_image_changes_nothing(rows, processor, tmp_path):
    trainer = make_trainer(XGenMMDPOTrainer, "language and resampler", rows, processor, tmp_path)
    move_policy(trainer)
    # In float64: the sums over a batch of other length round differently in float32.
    for model in (trainer.model, trainer.ref_model):
        model.double()
    batch = trainer.data_collator([dict(rows[2]), dict(rows[2])])
    calls = Calls(trainer.model, trainer.ref_model)
    expected, gradients = loss_and_gradients(trainer, batch)
    assert calls.tiles == []
    trainer.model.zero_grad()
    loss, filled = loss_and_gradients(trainer, add_blank_image(batch, trainer.model.config, 2))
    assert calls.tiles == [1]
    assert torch.allclose(loss, expected, atol=1e-6)
    resampler = {name: value for name, value in filled.items() if "resampler" in name}
    assert resampler and all((value == 0).all() for value in resampler.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(filled[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_frozen_part_with_an_adapter_is_not_shared(processor):
    from peft import LoraConfig, get_peft_model

    model = make_model("language")
    assert is_fixed(image_module(model, "vision_tower")) and same_weights(model, make_model("all"))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=r".*vision_tower.*(q_proj|v_proj)"))
    assert not is_fixed(image_module(adapted, "vision_tower"))
    adapted.requires_grad_(False)
    assert not is_fixed(image_module(adapted, "vision_tower"))
    assert is_fixed(image_module(adapted, "resampler"))


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_images_of_a_sharded_model_are_encoded_outside_its_forward(rows, processor, process_group):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = make_model("language")
    batch = PreferenceCollator(processor)([dict(row) for row in rows])
    images = {name: batch[name] for name in dpo.IMAGES}
    expected = model.get_image_features(**images).pooler_output
    for layer in model.language_model.layers:
        fully_shard(layer)
    fully_shard(model)
    assert isinstance(next(model.vision_tower.parameters()), DTensor)
    for _ in range(2):
        with torch.no_grad():
            encoded = dpo.as_forward_method(model, "get_image_features")(**images)
        torch.testing.assert_close(encoded.pooler_output, expected)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "image_repeats")}
        model(**inputs, labels=batch["input_ids"], mm_encoder_outputs={"image": encoded}).loss.backward()
    assert isinstance(model.lm_head.weight.grad, DTensor)


def test_stock_trl_trains_on_our_checkpoint_with_its_own_collator(processor, tmp_path):
    from datasets import Image as ImageFeature
    from datasets import List

    plain = [
        {
            "images": row["images"],
            "prompt": [{"role": "user", "content": "What color is it?"}],
            "chosen": [{"role": "assistant", "content": "red"}],
            "rejected": [{"role": "assistant", "content": "a blue disc"}],
        }
        for row in make_rows()
    ]
    dataset = Dataset.from_list(plain).cast_column("images", List(ImageFeature()))
    args = DPOConfig(
        str(tmp_path),
        report_to="none",
        bf16=False,
        use_cpu=True,
        max_steps=2,
        per_device_train_batch_size=2,
        logging_steps=1,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = DPOTrainer(TINY_MODEL, args=args, train_dataset=dataset, peft_config=make_adapter("lora"))
    trainer.train()
    assert [math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry] == [True, True]
