"""Chats about descriptions in words: what the embedded model's language part learns before it sees a picture."""

import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from torch.utils.data import Dataset

from xgenmm_hf.data.language import caption
from xgenmm_hf.data.pairs import PAIR_KINDS, ask_pair
from xgenmm_hf.data.questions import KINDS, Question, ask_several, questions_of_split
from xgenmm_hf.data.requests import DISALLOWED_VERBS, HARMLESS_VERBS, ask_request
from xgenmm_hf.data.scene import HELD_OUT, LAYOUT_WEIGHTS, TRAIN, Scene, make_scene
from xgenmm_hf.inference.asking import RELEASED_SYSTEM
from xgenmm_hf.training.collators import SupervisedCollator


# In a chat the many words of captions would outweigh the short answers.
_SHORT = tuple(kind for kind in KINDS if kind != "caption")
_SYSTEM_SHARE = 0.6
_TWO_DESCRIPTIONS = 0.3
_REQUESTS = 0.3
_CHECKED_AT_ONCE = 30


class TextDataset(Dataset):
    """Chats about descriptions in words, as training rows; item i is row i of the stream.

    Most are about one description, some about two, so that the language part knows how to tell two things apart
    before it ever sees two pictures.
    """

    def __init__(self, num_rows: int, first_seed: int, batch_size: int = 32):
        """Sets the stream up.

        Args:
            num_rows: length of the stream.
            first_seed: seed of its first scene.
            batch_size: rows that are padded together.
        """
        self.num_rows, self.first_seed, self.batch_size = num_rows, first_seed, batch_size

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a row with `id` and `messages`."""
        seed = self.first_seed + index
        # Rows of one batch agree in layout and turns, so that they are about equally long and little is padded.
        shared = random.Random(f"batch/{self.first_seed}/{index // self.batch_size}")
        layout = shared.choices(list(LAYOUT_WEIGHTS), weights=list(LAYOUT_WEIGHTS.values()))[0]
        num_turns, with_two = shared.randint(6, 14), shared.random() < _TWO_DESCRIPTIONS
        rng = random.Random(f"row/{seed}")
        scene = make_scene(4 * seed, TRAIN, layout)
        if with_two:
            messages = _two_descriptions((scene, make_scene(4 * seed + 1, TRAIN, layout)), num_turns, rng)
        else:
            messages = _one_description(scene, num_turns, rng)
        return {"id": str(index), "messages": messages}


def _one_description(scene: Scene, num_turns: int, rng: random.Random) -> list[dict[str, str]]:
    """Builds a chat about one description."""
    turns = ask_several(scene, num_turns, rng, _SHORT)
    asked = ask_request(scene, rng, (*HARMLESS_VERBS, *DISALLOWED_VERBS)) if rng.random() < _REQUESTS else None
    return chat([*turns, *([asked] if asked else [])], rng, caption(scene))


def _two_descriptions(scenes: tuple[Scene, Scene], num_turns: int, rng: random.Random) -> list[dict[str, str]]:
    """Builds a chat about two descriptions."""
    asked = [ask_pair(scenes, rng.choice(tuple(PAIR_KINDS)), rng) for _ in range(num_turns)]
    turns = list({question.text: question for question in asked if question is not None}.values())
    before = f"The first picture: {caption(scenes[0])} The second picture: {caption(scenes[1])}"
    return chat(turns or ask_several(scenes[0], 1, rng, _SHORT), rng, before)


def chat(turns: Iterable[Question], rng: random.Random, before: str) -> list[dict[str, str]]:
    """Builds the messages of a chat.

    Args:
        turns: the questions with their answers.
        rng: decides whether there is a system turn.
        before: what is said before the first question.

    Returns:
        The messages, their contents strings.
    """
    messages = [{"role": "system", "content": RELEASED_SYSTEM}] if rng.random() < _SYSTEM_SHARE else []
    for number, turn in enumerate(turns):
        opening = f"{before} " if number == 0 else ""
        messages.append({"role": "user", "content": opening + turn.text})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def held_out_accuracy(processor: Any, num_questions: int) -> Callable[[Any], dict[str, float]]:
    """Prepares a quick measurement: how often the model's best guess is right at every token of the answer.

    That is when greedy generation gives the answer; no generation is needed to find out.

    Args:
        processor: the embedded model's `XGenMMProcessor`.
        num_questions: how many questions about held-out descriptions to ask.

    Returns:
        A function that takes the model and gives the accuracy of each kind of question, and of `all`.
    """
    asked = list(islice(questions_of_split(HELD_OUT, seed=1), num_questions))
    rows = [{"messages": chat([one], random.Random(one.text), caption(scene))} for scene, one in asked]
    collate = SupervisedCollator(processor)

    def measure(model: Any) -> dict[str, float]:
        right: dict[str, list[bool]] = {"all": []}
        for start in range(0, len(rows), _CHECKED_AT_ONCE):
            batch = collate(rows[start : start + _CHECKED_AT_ONCE])
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            guesses, labels = output.logits[:, :-1].argmax(-1), batch["labels"][:, 1:]
            kinds = [one.kind for _, one in asked[start : start + _CHECKED_AT_ONCE]]
            for kind, is_right in zip(kinds, ((guesses == labels) | (labels < 0)).all(1).tolist(), strict=True):
                right["all"].append(is_right)
                right.setdefault(kind, []).append(is_right)
        return {kind: sum(values) / len(values) for kind, values in right.items()}

    return measure
