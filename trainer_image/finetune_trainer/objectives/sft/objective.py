"""Supervised fine-tuning, as the preparation and the training ask for it."""

from typing import TYPE_CHECKING, Any

from finetune_contract.jobspec import Dataset
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.objective import TokenRow
from finetune_trainer.objectives.sft import rows

if TYPE_CHECKING:
    from torch import Tensor

    from finetune_trainer.objectives.sft.loss import AnswerCollator, LabelledLoss


class SupervisedFineTuning:
    """Cross entropy on the answers of conversations. loss.py needs torch, so only the training imports it."""

    def row_options(self, dataset: Dataset) -> dict[str, Any]:
        return {"train_on_prompt": dataset.train_on_prompt, "mask_history": dataset.mask_history}

    def renderer(self, chat: Chat, dataset: Dataset) -> rows.AnswerRenderer:
        return rows.AnswerRenderer(chat, **self.row_options(dataset))

    def learned_tokens(self, row: TokenRow) -> int:
        return rows.learned_tokens(row)

    def collator(self, pad: int, multiple: int) -> "AnswerCollator":
        from finetune_trainer.objectives.sft.loss import AnswerCollator

        return AnswerCollator(pad, multiple)

    def loss(self, model: Any) -> "LabelledLoss":
        from finetune_trainer.objectives.sft.loss import LabelledLoss

        return LabelledLoss(model)

    def count(self, batch: "dict[str, Tensor]") -> "Tensor":
        from finetune_trainer.objectives.sft.loss import count_labels

        return count_labels(batch)
