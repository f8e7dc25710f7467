"""Training a checkpoint of the first release, whose resampler reads the prompt: images never see an answer."""

import pytest
import torch
from datasets import Dataset
from run_rows import chat_rows, image_part, message, png
from trl import DPOConfig, SFTConfig, SFTTrainer

from xgenmm_hf import (
    TINY_MODEL,
    PreferenceCollator,
    SupervisedCollator,
    XGenMMConfig,
    XGenMMDPOTrainer,
    XGenMMForConditionalGeneration,
    XGenMMProcessor,
    XGenMMSFTTrainer,
)


OPTIONS = {
    "max_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_length": None,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "disable_tqdm": True,
}
NAMES = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "image_num_tiles")


def make_model(seed: int) -> XGenMMForConditionalGeneration:
    config = XGenMMConfig.from_pretrained(TINY_MODEL)
    config.resampler_config.text_conditioned = True
    model = XGenMMForConditionalGeneration(config).float()
    tuned = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    model.load_state_dict(tuned.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.model.resampler.text_projection.parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=generator)
    return model


@pytest.fixture(scope="module")
def processor() -> XGenMMProcessor:
    return XGenMMProcessor.from_pretrained(TINY_MODEL, max_images_per_prompt=1)


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    rows = []
    for index, (chosen, rejected) in enumerate([("red", "a blue disc, I think"), ("no", "yes, two of them")]):
        answers = {"chosen": [message("assistant", chosen)], "rejected": [message("assistant", rejected)]}
        prompt = [message("user", image_part(), f"Question {index}?")]
        image = png((200, 30 * index, 0), (40 + 50 * index, 70))
        rows.append({"id": str(index), "source": "pairs", "images": [image], "prompt": prompt, **answers})
    return Dataset.from_list(rows)


def answer_log_probs(model, processor, row, side: str) -> float:
    """Log-probability of an answer, of that row alone, by the model's own logits."""
    batch = PreferenceCollator(processor)([row])
    index = ("chosen", "rejected").index(side)
    inputs = {name: batch[name][[index]] if name in NAMES[:2] else batch[name] for name in NAMES}
    labels = inputs["input_ids"].masked_fill(batch["completion_mask"][[index]] == 0, -100)
    with torch.no_grad():
        log_probs = model.eval()(**inputs, labels=labels).logits.log_softmax(-1)[0, :-1]
    targets = labels[0, 1:]
    kept = (targets != -100).nonzero().flatten()
    return float(log_probs[kept, targets[kept]].sum())


def projection(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.model.resampler.text_projection.named_parameters()}


def test_dpo_scores_answers_as_the_model_does(processor, pairs, tmp_path):
    policy, reference = make_model(0), make_model(1)
    sides = ("chosen", "rejected")
    expected = [[answer_log_probs(policy, processor, row, side) for row in pairs] for side in sides]
    before = [[answer_log_probs(reference, processor, row, side) for row in pairs] for side in sides]
    args = DPOConfig(str(tmp_path), beta=1.0, **OPTIONS)
    trainer = XGenMMDPOTrainer(policy, reference, args, None, pairs, pairs, processing_class=processor)
    metrics = trainer.evaluate()
    for side, ours, theirs in zip(sides, expected, before, strict=True):
        assert metrics[f"eval_logps/{side}"] == pytest.approx(sum(ours) / 2, abs=2e-4)
        rewards = [one - other for one, other in zip(ours, theirs, strict=True)]
        assert min(map(abs, rewards)) > 1e-2
        assert metrics[f"eval_rewards/{side}"] == pytest.approx(sum(rewards) / 2, abs=2e-4)
    start = projection(policy)
    trainer.train()
    assert all(not torch.equal(weight, start[name]) for name, weight in projection(policy).items())


def test_sft_shows_images_the_prompt_without_the_answer(processor, tmp_path):
    """TRL's fused loss keeps the labels from the model."""
    model, rows = make_model(0), chat_rows(2)
    collator = SupervisedCollator(processor, max_length=2048)
    trainer = XGenMMSFTTrainer(
        model=model,
        args=SFTConfig(str(tmp_path), **OPTIONS),
        train_dataset=Dataset.from_list(rows),
        data_collator=collator,
        processing_class=processor,
    )
    seen, start = [], projection(model)
    hook = model.model.resampler.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    trainer.compute_loss(model, trainer._prepare_inputs(collator(rows)))
    hook.remove()
    batch = collator(rows)
    prompts = ((batch["labels"] != -100).cumsum(1) == 0) & batch["attention_mask"].bool()
    num_image_tokens = (batch["input_ids"] == model.config.image_token_id).sum(1)
    assert seen[0].visible.sum(1).tolist() == (prompts.sum(1) - num_image_tokens + 1).tolist()
    trainer.train()
    assert all(not torch.equal(weight, start[name]) for name, weight in projection(model).items())


def test_a_trainer_that_does_not_say_where_the_prompt_ends_is_refused(processor, tmp_path):
    trainer = SFTTrainer(
        model=make_model(0),
        args=SFTConfig(str(tmp_path), remove_unused_columns=False, **OPTIONS),
        train_dataset=Dataset.from_list(chat_rows(2)),
        data_collator=SupervisedCollator(processor, max_length=2048),
        processing_class=processor,
    )
    with pytest.raises(ValueError, match="must know where the prompt ends"):
        trainer.train()
