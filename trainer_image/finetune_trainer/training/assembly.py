"""Builds the parts of a training: the model with its trainable weights, the Trainer, the evaluator.

Imports torch and transformers: only after `libraries.set_up_training`.
"""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.model import generation
from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.model.loading import load_model, load_tokenizer
from finetune_trainer.model.method import Trainable, apply_method
from finetune_trainer.model.optimizer import AdamWithMasters
from finetune_trainer.model.tokenizer import settle as settle_tokenizer
from finetune_trainer.objectives.objective import BatchLoss
from finetune_trainer.training.batches import BatchShape, RowSet
from finetune_trainer.training.evaluation import Evaluator
from finetune_trainer.training.health import Health
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.trainer import ObjectiveTrainer


@dataclass(frozen=True)
class Loaded:
    model: Any
    """With LoRA, peft's wrapper."""
    tokenizer: Any
    trainable: Trainable


def load(setup: Setup) -> Loaded:
    """Raises ConfigurationError when the weights cannot be loaded; Transient for storage or network."""
    spec = setup.job.spec
    files = setup.files
    with parsed_once(files):
        tokenizer = load_tokenizer(files)
        model = load_model(
            files,
            setup.settings,
            setup.device,
            setup.process,
            spec.method.quantization,
            setup.scratch,
            source=spec.model.source,
            report=setup.report,
        )
    _settle(setup, tokenizer, model)
    model, trainable = apply_method(model, setup.job, setup.settings)
    setup.report(f"training {trainable}")
    return Loaded(model, tokenizer, trainable)


def _settle(setup: Setup, tokenizer: Any, model: Any) -> None:
    """What is saved beside the weights, in each checkpoint and in the result; the sample answers follow it too."""
    prepared = setup.prepared
    end_of_turn = prepared.stats["endOfTurn"]
    generation.settle(model, setup.files, tokenizer, end_of_turn)
    first_token = int(prepared.train[0].ids[0])
    settle_tokenizer(tokenizer, prepared.template, end_of_turn=end_of_turn, first_token=first_token)


def make_trainer(setup: Setup, loaded: Loaded, arguments: Any, loss: BatchLoss, health: Health) -> ObjectiveTrainer:
    training = setup.job.spec.training
    needs_masters = setup.settings.precision == "bf16" and setup.settings.zero_stage is None
    return ObjectiveTrainer(
        model=loaded.model,
        args=arguments,
        data_collator=setup.objective.collator(loaded.tokenizer.pad_token_id, multiple=8 if setup.device.is_gpu else 1),
        processing_class=loaded.tokenizer,
        optimizer_cls_and_kwargs=(AdamWithMasters, {"lr": training.learning_rate}) if needs_masters else None,
        loss=loss,
        shape=BatchShape(
            training.per_device_batch_size, training.gradient_accumulation_steps, setup.process.world_size
        ),
        rows=RowSet(setup.prepared.train),
        grouped=training.group_by_length,
        health=health,
    )


def make_evaluator(setup: Setup, loaded: Loaded, arguments: Any, loss: BatchLoss) -> Evaluator:
    spec, prepared = setup.job.spec, setup.prepared
    return Evaluator(
        rows=prepared.evaluation,
        questions=prepared.questions[: spec.evaluation.sample_answers],
        objective=setup.objective,
        loss=loss,
        tokenizer=loaded.tokenizer,
        process=setup.process,
        device=arguments.device,
        batch_size=spec.training.per_device_batch_size,
        max_new_tokens=spec.evaluation.max_new_tokens,
        answers_on_all_ranks=setup.settings.zero_stage == 3,
    )
