"""The way of a case from rows to a published result, and what a case can say about it."""

from tests.trainer.cases.trying import Bench


def test_a_good_case_is_prepared_trained_and_published(bench: Bench) -> None:
    attempt = bench.case("00-smoke")
    prepared = attempt.prepare()
    assert (prepared.code, prepared.crashed) == (0, False), prepared.record.message
    assert all(runs[-1].endswith("<|im_end|>") for runs in attempt.learned())
    trained = attempt.train()
    assert (trained.code, trained.crashed) == (0, False), trained.record.message
    assert attempt.artifact() is not None
    assert (attempt.download() / "adapter_model.safetensors").exists()
