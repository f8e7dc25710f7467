"""Choosing the next token of one answer, with its own random numbers, independent of other rows in the batch."""

from collections import Counter
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper


# A lower temperature would overflow the logits; at this one only the most likely token is drawn already.
LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen."""

    temperature: float = 0.0  # 0: always the most likely token
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int | None = None
    frequency_penalty: float = 0.0  # subtracted from a token's logit for every time it was generated
    presence_penalty: float = 0.0  # subtracted once

    @property
    def is_plain(self) -> bool:
        """Whether the most likely token is always the answer."""
        return self.temperature == 0 and self.frequency_penalty == 0 and self.presence_penalty == 0


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: Sampling, device: torch.device):
        self._sampling = sampling
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._warpers = LogitsProcessorList()
        if sampling.temperature > 0:
            self._warpers.append(TemperatureLogitsWarper(max(float(sampling.temperature), LEAST_TEMPERATURE)))
        if sampling.top_k > 0:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(float(sampling.top_p)))

    def pick(self, logits: torch.Tensor) -> int:
        """Returns the next token for logits (vocabulary,)."""
        scores = self._penalised(logits.float())
        if self._sampling.temperature == 0:
            token = int(scores.argmax())
        else:
            scores = self._warpers(torch.empty(1, 0, dtype=torch.long, device=scores.device), scores[None])
            token = int(torch.multinomial(scores[0].softmax(-1), 1, generator=self._generator))
        self._counts[token] += 1
        return token

    def _penalised(self, scores: torch.Tensor) -> torch.Tensor:
        frequency, presence = self._sampling.frequency_penalty, self._sampling.presence_penalty
        if not self._counts or (frequency == 0 and presence == 0):
            return scores
        ids = torch.tensor(list(self._counts), device=scores.device)
        times = torch.tensor(list(self._counts.values()), device=scores.device, dtype=scores.dtype)
        return scores.index_add(0, ids, -(frequency * times + presence))
