"""The files that the rows of a job come from."""

from dataclasses import dataclass
from pathlib import Path

from finetune_contract.jobspec import Dataset
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.prepare.data_files import DataFile, find_files
from finetune_trainer.rank.reporting import Report


@dataclass(frozen=True)
class DatasetFiles:
    train: list[DataFile]
    evaluation: list[DataFile] | None
    """None: held-out rows are split off the training rows."""

    @property
    def size(self) -> int:
        """Bytes, as the files are."""
        return sum(file.path.stat().st_size for file in [*self.train, *(self.evaluation or [])])


def fetch(dataset: Dataset, storage: Storage, into: Path, report: Report) -> DatasetFiles:
    """Raises ConfigurationError for a source that does not exist or holds no data file."""

    def find(uri: str, name: str, field: str) -> list[DataFile]:
        return find_files(uri, storage.fetch(uri, into / name, field=field), field, report)

    train = [
        file
        for index, item in enumerate(dataset.train)
        for file in find(item.source, f"train-{index}", f"spec.dataset.train[{index}].source")
    ]
    if dataset.evaluation is None:
        return DatasetFiles(train, None)
    return DatasetFiles(train, find(dataset.evaluation.source, "evaluation", "spec.dataset.evaluation.source"))
