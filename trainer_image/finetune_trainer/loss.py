"""Cross entropy on labelled positions only.

The head of a language model is as wide as its vocabulary: logits of a prompt that is not learned are most of the memory
and a good part of the time of a step, for nothing. A hook in front of the head lets the labelled positions through
alone.
"""

from typing import Any

import torch
from torch.nn import functional

IGNORED = -100
"""Label of a position that is not learned, as everywhere in transformers."""


class LabelledLoss:
    """Sum of the cross entropies of one model's labelled positions.

    Works through whatever is wrapped around the model (peft, DDP, DeepSpeed), as it changes what the head receives and
    not who calls it; soft caps and scales that a model applies to its logits stay in place.
    """

    def __init__(self, model: Any) -> None:
        self._positions: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def __call__(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Args:
            model: the model itself, or its wrapper.
            batch: input_ids, attention_mask, labels, each [rows, tokens]. Labels are shifted already: `labels[:, t]` is
                the token that follows position t, or IGNORED.

        Returns:
            Scalar, fp32; 0 with a gradient of 0 when nothing is labelled.
        """
        labels = batch["labels"]
        self._positions = labels != IGNORED
        try:
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        finally:
            positions, self._positions = self._positions, None
        logits = output.logits
        if logits.dim() == 3:  # a model that does not call its head as a module
            logits = logits[positions]
        return functional.cross_entropy(logits.float(), labels[positions], reduction="sum")

    def _select(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._positions is None:
            return None
        return (inputs[0][self._positions], *inputs[1:])
