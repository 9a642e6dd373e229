"""From files to tokens on disk, split into what is trained on and what is held out. Memory does not grow with the text.

One pass over the rows, shared among the pod's CPUs; then the held-out ones are chosen by their keys.
"""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.prepare import batches, splitting
from finetune_trainer.prepare.batch_work import BatchWork, Findings
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.dataset import DatasetFiles
from finetune_trainer.prepare.pace import Pace
from finetune_trainer.prepare.tokenising import Side, Tokenised
from finetune_trainer.prepare.workers import in_order
from finetune_trainer.rank.cpus import available_cpus
from finetune_trainer.rank.reporting import Report, discard

_NO_ROW = {
    "train": "there is no row to train on",
    "evaluation": "there is no row to evaluate on; fill it, or leave spec.dataset.evaluation out",
}


@dataclass(frozen=True)
class Split:
    train: Side
    held_out: Side
    held_out_files: list[DataFile]
    """Where the text of the held-out rows is."""
    first: Conversation
    """Of the training data, whichever side it is on."""
    findings: Findings


@dataclass(frozen=True)
class Pipeline:
    """
    Args:
        wanted: `spec.dataset.format`.
        scratch: for tokens on their way.
    """

    work: BatchWork
    wanted: str
    most_rows: int | None
    split_fraction: float
    seed: int
    pace: Pace
    scratch: Path
    report: Report

    @contextmanager
    def split(self, files: DatasetFiles) -> Iterator[Split]:
        """The tokens are gone afterwards.

        Raises:
            DataError: a row cannot be read or rendered, or a source has none.
            Transient: a worker was killed, or the disk fails.
        """
        findings = self.work.no_findings()
        try:
            train, first = self._tokenised(files.train, "train", self.most_rows, findings)
            if files.evaluation is None:
                chosen = splitting.choose_held_out(train.keys, self.split_fraction, self.seed)
                yield Split(train.side(~chosen), train.side(chosen), files.train, first, findings)
            else:
                held_out, _ = self._tokenised(files.evaluation, "evaluation", None, findings)
                yield Split(_whole(train), _whole(held_out), files.evaluation, first, findings)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _tokenised(
        self, files: Sequence[DataFile], name: str, most_rows: int | None, findings: Findings
    ) -> tuple[Tokenised, Conversation]:
        some = batches.read(files, self.wanted, most_rows, self.report, self.pace.moved)
        first = next(some, None)
        if first is None:
            raise DataError(_NO_ROW[name], file=files[0].name)
        with closing(Tokenised(self.scratch / name)) as tokens:
            some = itertools.chain([first], some)
            for result in in_order(self.work, some, workers=available_cpus(), report=self.report):
                tokens.append(result)
                findings.merge(result.findings)
                self.pace.done(len(result.rows))
        return tokens, first.conversation(0)

    def held_out_conversations(self, split: Split) -> Iterator[Conversation]:
        """Read once more."""
        chosen, position = split.held_out.conversations, 0
        for batch in batches.read(split.held_out_files, self.wanted, len(chosen), discard):
            for index in np.flatnonzero(chosen[position : position + len(batch.rows)]):
                yield batch.conversation(int(index))
            position += len(batch.rows)


def _whole(tokens: Tokenised) -> Side:
    return tokens.side(np.ones(len(tokens), np.bool_))
