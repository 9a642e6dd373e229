"""A model of every architecture that we name, in every layout in which people save one, is taken: by the preparation,
which sees names and shapes alone, and by the loading."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import architecture, headers, weights
from finetune_trainer.model.loading import load_weights
from finetune_trainer.model.places import FolderPlace
from finetune_trainer.model.source import ModelFiles
from tests.trainer.cases import weights_models


@pytest.mark.parametrize("name", weights_models.ARCHITECTURES)
def test_every_architecture_in_every_layout(name: str, tmp_path: Path) -> None:
    saved = weights_models.save(name, tmp_path / "saved")
    refused = {}
    for layout in weights_models.LAYOUTS:
        folder = weights_models.laid_out(saved, layout, tmp_path / layout)
        try:
            lines = _as_prepare_does(folder) + _as_training_does(folder)
        except ConfigurationError as error:
            lines = [str(error)]
        if lines:
            refused[layout] = lines
    assert refused == {}


def _as_prepare_does(folder: Path) -> list[str]:
    files = ModelFiles(folder, None, trust_remote_code=False)
    shapes = headers.read_weights(FolderPlace("it", folder)).shapes
    if shapes is None:
        return []
    config = architecture.load_causal_config(files, "it")
    model = architecture.build_on_meta_device(config, "it", trust_remote_code=False)
    line = weights.check(weights.compare(model, shapes), model, "it")
    return [line] if line else []


def _as_training_does(folder: Path) -> list[str]:
    lines: list[str] = []
    files = ModelFiles(folder, None, trust_remote_code=False)
    load_weights(files, torch.float32, source="it", report=lines.append)
    return lines


@pytest.mark.parametrize("name", weights_models.ARCHITECTURES)
def test_no_architecture_does_without_a_weight(name: str, tmp_path: Path) -> None:
    folder = weights_models.save(name, tmp_path / "saved")
    lost: list[str] = []

    def without_one(tensors: dict[str, Any]) -> dict[str, Any]:
        lost.append(next(name for name in sorted(tensors) if "layers" in name or ".h." in name))
        return {name: tensor for name, tensor in tensors.items() if name not in lost}

    weights_models.rewrite(folder, without_one)
    with pytest.raises(ConfigurationError, match=r"1 is missing|of another shape") as in_prepare:
        _as_prepare_does(folder)
    with pytest.raises(ConfigurationError) as in_training:
        _as_training_does(folder)
    assert in_prepare.value.reason == "WeightsDoNotFit"
    assert in_training.value.reason in {"WeightsDoNotFit", "ModelNotLoadable"}  # where an expert of several is lost
