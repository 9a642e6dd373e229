"""The conversations of some files as tokens on disk, with the few bytes of each that splitting and counting need."""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune_trainer.prepare.batch_work import TokenBatch
from finetune_trainer.prepare.splitting import Choice, Keys
from finetune_trainer.prepare.token_files import TokenSpill

Array = np.ndarray[Any, Any]


class Tokenised:
    """In memory: 36 bytes for each conversation, 8 for each row that it became."""

    def __init__(self, folder: Path) -> None:
        self._spill = TokenSpill(folder)
        self._keys = bytearray()
        self._rows, self._learned = array("i"), array("i")

    def append(self, batch: TokenBatch) -> None:
        self._spill.append(batch.ids, batch.supervised, batch.lengths)
        self._keys += batch.keys
        self._rows.frombytes(batch.rows.tobytes())
        self._learned.frombytes(batch.learned.tobytes())

    def close(self) -> None:
        """All are there."""
        self._spill.close()

    def __len__(self) -> int:
        """Conversations."""
        return len(self._rows)

    @property
    def keys(self) -> Keys:
        return np.frombuffer(bytes(self._keys), np.uint8).reshape(-1, 32)

    def side(self, chosen: Choice) -> "Side":
        rows = np.repeat(chosen, np.array(self._rows, np.int32))
        return Side(
            self._spill,
            chosen,
            rows,
            keys=self.keys[chosen],
            lengths=self._spill.lengths[rows],
            learned=np.array(self._learned, np.int32)[rows],
        )


@dataclass(frozen=True)
class Side:
    """Conversations that are trained on, or those that are held out."""

    _spill: TokenSpill
    conversations: Choice
    """Which of the files they come from."""
    rows: Choice
    """The same, of the rows that the conversations became."""
    keys: Keys
    lengths: Array
    """Tokens of each row, [rows]."""
    learned: Array
    """Those of them that are learned, [rows]."""

    def write(self, path: Path) -> None:
        """As `StoredRows` reads them."""
        self._spill.write(path, self.rows)
