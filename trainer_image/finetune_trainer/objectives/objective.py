"""What an objective is: how rows become tokens for the preparation, and how tokens become a loss for the training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from finetune_contract.jobspec import Dataset
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.remarks import Remark

if TYPE_CHECKING:
    from torch import Tensor

Ids = np.ndarray[Any, np.dtype[np.int32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class TokenRow:
    ids: Ids
    """Token ids, [tokens]."""
    supervised: Mask
    """True where the token is learned, [tokens]."""

    @property
    def length(self) -> int:
        return len(self.ids)

    def truncated(self, tokens: int) -> "TokenRow":
        return TokenRow(self.ids[:tokens], self.supervised[:tokens])

    def filler(self) -> "TokenRow":
        """One token that nothing is learned from."""
        return TokenRow(self.ids[:1], np.zeros(1, np.bool_))


@dataclass(frozen=True)
class Rendered:
    """What becomes of one conversation."""

    rows: list[TokenRow]
    """Usually one; one for each answer where the chat template rewrites what was said before."""
    tokens_once: int
    """Of the conversation rendered as a whole: what its rows would have if they were one."""
    remarks: tuple[Remark, ...] = ()
    """Those of the conversation's own row included."""


class Renderer(Protocol):
    """Picklable, and without a memory of earlier conversations: several processes may share the work."""

    def render(self, conversations: Sequence[Conversation]) -> Iterator[Rendered]:
        """One result for each conversation, in order. Raises DataError for one that cannot be rendered."""


class Collator(Protocol):
    def __call__(self, rows: Sequence[TokenRow]) -> "dict[str, Tensor]":
        """Tensors [rows, tokens]: `input_ids`, `attention_mask` (1 on tokens, 0 on padding) and `shift_labels`. The
        Trainer counts what in the last is not -100: the same number as `Objective.count`."""


class BatchLoss(Protocol):
    def __call__(self, model: Any, batch: "dict[str, Tensor]") -> "Tensor":
        """Scalar, fp32: the loss summed over what `Objective.count` counts, so that batches can be added up.

        Args:
            model: the model that the loss was made for, or a wrapper around it.
        """


class Objective(Protocol):
    """One value of `spec.stage`. The first three serve the preparation and must not import torch; the others serve the
    training."""

    def row_options(self, dataset: Dataset) -> dict[str, Any]:
        """What of the job decides how its rows are rendered: part of the digest of the prepared rows. An objective
        added later names itself in it, or it would find the rows of another."""

    def renderer(self, chat: Chat, dataset: Dataset) -> Renderer: ...

    def learned_tokens(self, row: TokenRow) -> int:
        """How many tokens of a row are learned. A row of 0 is an error."""

    def collator(self, pad: int, multiple: int) -> Collator:
        """Args:
        pad: token to pad with.
        multiple: rows are padded to a multiple of so many tokens.
        """

    def loss(self, model: Any) -> BatchLoss: ...

    def count(self, batch: "dict[str, Tensor]") -> "Tensor":
        """How many items of a batch its loss sums over; a scalar."""
