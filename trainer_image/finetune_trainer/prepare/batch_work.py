"""What is done with a batch of rows, in whichever process: read as conversations, rendered, tokenised, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.objective import Objective, Rendered, Renderer
from finetune_trainer.objectives.remarks import Remarks
from finetune_trainer.prepare.batches import Batch
from finetune_trainer.prepare.expansion import Expansion
from finetune_trainer.prepare.length_limit import LengthLimit
from finetune_trainer.prepare.splitting import content_key

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Findings:
    """What was noticed about rows, added up batch by batch."""

    remarks: Remarks
    expansion: Expansion
    limit: LengthLimit

    def merge(self, later: "Findings") -> None:
        self.remarks.merge(later.remarks)
        self.expansion.merge(later.expansion)
        self.limit.merge(later.limit)


@dataclass(frozen=True)
class TokenBatch:
    """The rows of several conversations, one after another."""

    ids: Array
    """int32 [tokens]"""
    supervised: Array
    """bool [tokens]"""
    lengths: Array
    """Tokens of each row, int32 [rows]."""
    learned: Array
    """Those of them that are learned, int32 [rows]."""
    rows: Array
    """How many each conversation became, int32 [conversations]."""
    keys: bytes
    """`content_key` of each conversation."""
    findings: Findings


@dataclass(frozen=True)
class BatchWork:
    """Picklable."""

    renderer: Renderer
    objective: Objective
    max_length: int
    truncate: bool

    def no_findings(self) -> Findings:
        limit = LengthLimit(self.max_length, truncate=self.truncate, objective=self.objective)
        return Findings(Remarks(), Expansion(), limit)

    def __call__(self, batch: Batch) -> TokenBatch:
        """Raises DataError for a row that cannot be read, rendered or learned from."""
        conversations = batch.conversations()
        return self._packed(conversations, list(self.renderer.render(conversations)))

    def _packed(self, conversations: list[Conversation], rendered: list[Rendered]) -> TokenBatch:
        findings = self.no_findings()
        rows, counts = [], []
        for conversation, result in zip(conversations, rendered, strict=True):
            findings.remarks.add(result.remarks)
            findings.expansion.add(result)
            kept = findings.limit.apply(conversation, result.rows)
            rows += kept
            counts.append(len(kept))
        return TokenBatch(
            ids=np.concatenate([row.ids for row in rows]),
            supervised=np.concatenate([row.supervised for row in rows]),
            lengths=np.array([row.length for row in rows], np.int32),
            learned=np.array([self.objective.learned_tokens(row) for row in rows], np.int32),
            rows=np.array(counts, np.int32),
            keys=b"".join(map(content_key, conversations)),
            findings=findings,
        )
