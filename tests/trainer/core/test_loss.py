"""Loss on labelled positions only: equal to the loss of all logits, without them."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_trainer.objectives.sft import loss as loss_
from finetune_trainer.objectives.sft.loss import IGNORED, LabelledLoss


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 300, (3, 12), generator=generator)
    attention = torch.ones_like(ids)
    attention[2, 7:] = 0
    labels = torch.full_like(ids, IGNORED)
    labels[0, 5:11] = ids[0, 6:]
    labels[2, 4:6] = ids[2, 5:7]
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def _model(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def test_the_loss_equals_that_over_all_logits(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    ours, theirs = _model(tiny_model), _model(tiny_model)
    full = torch.cat([torch.full((3, 1), IGNORED), batch["labels"][:, :-1]], dim=1)  # theirs are shifted inside
    want = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=full).loss
    got = LabelledLoss(ours)(ours, batch) / 8
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)

    got.backward()
    want.backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_the_head_computes_labelled_positions_only(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    model = _model(tiny_model)
    loss = LabelledLoss(model)
    seen: list[torch.Size] = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: seen.append(logits.shape))
    loss(model, batch)
    model(input_ids=batch["input_ids"])
    assert [tuple(shape) for shape in seen] == [(8, 400), (3, 12, 400)], "and all of them when no loss is asked for"


def test_without_labels_loss_and_gradient_are_zero(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    model = _model(tiny_model)
    loss = LabelledLoss(model)(model, {**batch, "labels": torch.full_like(batch["labels"], IGNORED)})
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_bf16_logits_lose_only_their_own_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of two rows: five rows are three chunks, the last of them shorter."""
    monkeypatch.setitem(loss_._CHUNK_BYTES, "cpu", 2 * 4 * 400)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 400, generator=generator).mul(4).bfloat16().requires_grad_()
    reference = logits.detach().float().requires_grad_()
    labels = torch.randint(0, 400, (5,), generator=generator)

    got = loss_._CrossEntropySum.apply(logits, labels) / 5
    want = torch.nn.functional.cross_entropy(reference, labels)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    got.backward()
    want.backward()
    assert logits.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(logits.grad, reference.grad.bfloat16(), rtol=2**-7, atol=1e-8)
