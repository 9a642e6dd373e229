"""Quantities, times, hashes, placement, memory: the parts that decisions are made of."""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest

from finetune_contract.jobspec import World
from finetune_contract.progress import ProgressRecord
from finetune_operator.core import defaults, identity
from finetune_operator.core.conditions import Condition, as_sentence, truncated, with_condition
from finetune_operator.core.identity import first_rule_hash, is_same_run, run_hash
from finetune_operator.core.memory import cures_of_bound, cures_of_running_out, predicted_bytes
from finetune_operator.core.objects import ChildJob, FineTuneJob, GpuClass, Node
from finetune_operator.core.placement import is_matched, is_member, why_none_matches
from finetune_operator.core.policies.reporting import progress_block
from finetune_operator.core.quantity import gib, parse_quantity
from finetune_operator.core.spec import Spec
from tests.builders.children import train_child
from tests.builders.jobs import GPU, PRODUCT, JobBuilder, Json, make_class, make_job, make_node, make_t4
from tests.builders.records import progress_record
from tests.builders.snapshots import NOW, make_snapshot
from tests.fakes.schema import schema_of, with_defaults


# --- quantities ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "want"),
    [("1", 1), ("80Gi", 80 * 1024**3), ("500m", 0.5), ("1e3", 1000), ("2k", 2000), (4, 4), ("1.5Gi", 1.5 * 1024**3)],
)
def test_a_quantity_is_a_number(text: str, want: float) -> None:
    assert parse_quantity(text) == want


@pytest.mark.parametrize("text", ["", "Gi", "1Xi", "one", "1ki", "5mi"])
def test_what_is_not_a_quantity_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)


def test_bytes_for_people() -> None:
    assert gib(13.04 * 1024**3) == "13.0 GiB"


# --- conditions ----------------------------------------------------------------------------------------------
def test_the_transition_time_moves_with_the_status_only() -> None:
    before = (Condition("Succeeded", "Unknown", "Preparing", "", 1, "2025-01-01T00:00:00Z"),)
    same = with_condition(before, Condition("Succeeded", "Unknown", "Training", "x" * 2000), NOW)
    assert same[0].last_transition_time == "2025-01-01T00:00:00Z"
    assert len(same[0].message) == 1024
    other = with_condition(before, Condition("Succeeded", "True", "Succeeded", ""), NOW)
    assert other[0].last_transition_time == "2026-01-01T00:05:00Z"


def test_a_short_message_is_left_alone() -> None:
    assert truncated("short") == "short"


@pytest.mark.parametrize(("text", "want"), [("no room", "no room."), ("Done.", "Done."), ("why?", "why?"), ("", "")])
def test_what_others_say_ends_with_a_stop(text: str, want: str) -> None:
    assert as_sentence(text) == want


# --- run identity --------------------------------------------------------------------------------------------
LATER = {("training", "packing"): False, ("drift",): {}, ("drift", "window"): 7}
"""As if these fields had been added after 0.1.0."""


def spec_of(job: JobBuilder) -> Json:
    spec: Json = job.build()["spec"]
    return spec


@pytest.mark.parametrize(
    ("job", "want_same"),
    [
        pytest.param(make_job().suspended(), True, id="suspension is no change of training"),
        pytest.param(make_job().with_retries(7), True, id="retries are none"),
        pytest.param(make_job().having("checkpoint.everySteps", 7), True, id="the checkpoint interval is none"),
        pytest.param(make_job().having("training.loggingSteps", 1), True, id="log lines are none"),
        pytest.param(make_job().having("training.epochs", 3), True, id="a default written out is none"),
        pytest.param(make_job().having("training.epochs", 3.0), True, id="a whole float is the integer"),
        pytest.param(make_job().having("resources.cpu", 1), True, id="a quantity without quotes is the one with them"),
        pytest.param(make_job().having("training.learningRate", 0.0001), False, id="the learning rate is one"),
        pytest.param(make_job().having("output.uri", "s3://other/faq"), False, id="the output is one"),
        pytest.param(make_job().having("storage.secretName", "other"), False, id="the Secret is one"),
        pytest.param(make_job().having("resources.memory", "8Gi"), False, id="the memory is one"),
        pytest.param(make_job().having("training.deepspeed", {"stage": 2}), False, id="a new block is one"),
    ],
)
@pytest.mark.parametrize("rule", [run_hash, first_rule_hash], ids=["rule 2", "rule 1"])
def test_what_makes_a_new_run(job: JobBuilder, want_same: bool, rule: Callable[[Json], str]) -> None:
    assert is_same_run(rule(spec_of(make_job())), spec_of(job)) == want_same


def test_the_hash_says_by_which_rule_it_was_made() -> None:
    assert re.fullmatch(r"v2:[0-9a-f]{16}", run_hash(spec_of(make_job())))


@pytest.mark.parametrize(
    ("job", "want"),
    [
        pytest.param(make_job(), "be99d2e2cbf97a77", id="defaults"),
        pytest.param(
            make_job()
            .having("method", {"type": "qlora", "lora": {}, "quantization": {"bits": 8}})
            .having("training.deepspeed", {"stage": 2})
            .having("training.epochs", 2.0)
            .having("resources.cpu", 8),
            "e7683a0826e2259b",
            id="fields of every kind",
        ),
    ],
)
def test_the_first_rule_gives_what_0_1_0_wrote(job: JobBuilder, want: str) -> None:
    """Constants, computed by 0.1.0: statuses with these are stored in clusters."""
    assert first_rule_hash(spec_of(job)) == want


@pytest.mark.parametrize(
    "recorded", [run_hash(spec_of(make_job())), first_rule_hash(spec_of(make_job()))], ids=["rule 2", "rule 1"]
)
def test_a_changed_default_of_the_crd_makes_no_new_run(recorded: str) -> None:
    """The object keeps the default that was written into it when it was created; only a new object gets another."""
    crd = deepcopy(dict(schema_of("finetunejobs")))
    crd["properties"]["spec"]["properties"]["training"]["properties"]["epochs"]["default"] = 5
    edited = with_defaults(crd, make_job().having("retries", 9).build())["spec"]
    assert edited["training"]["epochs"] == 3
    assert is_same_run(recorded, edited)
    replaced = with_defaults(crd, make_job().bare())["spec"]
    assert not is_same_run(recorded, replaced)  # without the field: what is trained has really changed


@pytest.mark.parametrize("rule", [run_hash, first_rule_hash], ids=["rule 2", "rule 1"])
@pytest.mark.parametrize(
    ("job", "want_same"),
    [
        pytest.param(make_job(), True, id="absent"),
        pytest.param(make_job().having("training.packing", False), True, id="written out with its default"),
        pytest.param(make_job().having("drift", {}), True, id="a block without its fields"),
        pytest.param(make_job().having("drift.window", 7), True, id="a block with its defaults"),
        pytest.param(make_job().having("training.packing", True), False, id="with another value"),
        pytest.param(make_job().having("drift.window", 8), False, id="a block with another value"),
    ],
)
def test_a_field_that_came_later_makes_a_new_run_only_with_another_value_than_its_default(
    job: JobBuilder, want_same: bool, rule: Callable[[Json], str]
) -> None:
    before = rule(spec_of(make_job()))
    assert is_same_run(before, spec_of(job), LATER) == want_same


def test_a_spec_without_its_blocks_has_a_hash() -> None:
    assert run_hash({}) == run_hash({"suspend": True})


# --- defaults of later fields --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "want"),
    [
        pytest.param({"training": {}}, {"training": {"packing": False}, "drift": {"window": 7}}, id="absent"),
        pytest.param(
            {"drift": {"window": 1}}, {"drift": {"window": 1}}, id="written out; a block that is absent stays so"
        ),
    ],
)
def test_a_later_field_gets_the_default_of_the_operator(spec: Json, want: Json) -> None:
    assert defaults.with_defaults(spec, LATER) == want


class SpecWithDrift(Spec):
    """A field of a later version: declared without a default."""

    drift: dict[str, int]


def test_a_spec_is_parsed_with_the_defaults_of_later_fields() -> None:
    of_drift = {path: LATER[path] for path in (("drift",), ("drift", "window"))}
    parsed = SpecWithDrift.parse(spec_of(make_job()), of_drift)
    assert isinstance(parsed, SpecWithDrift)
    assert parsed.drift == {"window": 7}


def test_the_crd_has_defaults_for_the_fields_of_0_1_0_alone() -> None:
    """A field that is added gets its default in core/defaults.py, and its description names it."""
    schema = schema_of("finetunejobs")["properties"]["spec"]
    in_schema = {path for path, part in _fields(schema) if "default" in part and part.get("type") != "object"}
    assert in_schema == {path for path, _ in _leaves(identity._DEFAULTS_OF_0_1_0)}
    described = {path: part.get("description", "") for path, part in _fields(schema)}
    for path, value in defaults.LATER_DEFAULTS.items():
        assert value == {} or f"Default: {json.dumps(value)}." in described[path]


def _fields(schema: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    for name, part in schema.get("properties", {}).items():
        yield (*path, name), part
        yield from _fields(part, (*path, name))


def _leaves(tree: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


# --- placement -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("operator", "values", "labels", "want"),
    [
        ("In", ["a", "b"], {"k": "b"}, True),
        ("In", ["a"], {}, False),
        ("NotIn", ["a"], {"k": "b"}, True),
        ("NotIn", ["a"], {}, True),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("Exists", None, {"k": ""}, True),
        ("Exists", None, {}, False),
        ("DoesNotExist", None, {}, True),
        ("DoesNotExist", None, {"k": "1"}, False),
        ("Gt", ["7"], {"k": "8"}, True),
        ("Gt", ["8"], {"k": "8"}, False),
        ("Gt", ["7"], {"k": "eight"}, False),
        ("Lt", ["8"], {"k": "7"}, True),
        ("Lt", ["7"], {}, False),
    ],
)
def test_a_label_is_matched_as_the_scheduler_does(
    operator: str, values: list[str] | None, labels: dict[str, str], want: bool
) -> None:
    expression = {"key": "k", "operator": operator} | ({"values": values} if values else {})
    assert is_matched(expression, labels) == want


def nodes_with(*labels: dict[str, str]) -> list[Node]:
    return [Node.parse(make_node(f"node-{index}", labels=each)) for index, each in enumerate(labels)]


def test_any_term_makes_a_member() -> None:
    t4 = GpuClass.parse(make_t4())
    gfd, gke, other = nodes_with(
        {PRODUCT: "Tesla-T4"}, {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}, {PRODUCT: "NVIDIA-L4"}
    )
    assert [is_member(node, t4) for node in (gfd, gke, other)] == [True, True, False]
    assert is_member(other, GpuClass.parse(make_class("cpu")))


def test_why_no_node_matches_names_label_value_and_count() -> None:
    why = why_none_matches(nodes_with({PRODUCT: "NVIDIA-L4"}, {}), GpuClass.parse(make_t4()))
    assert f"term 1: {PRODUCT} In [Tesla-T4] is not met by 2 of 2 nodes (found: NVIDIA-L4)" in why
    assert (
        "term 2: cloud.google.com/gke-accelerator In [nvidia-tesla-t4] is not met by 2 of 2 nodes (no node has" in why
    )


def test_many_other_values_are_cut() -> None:
    nodes = nodes_with(*({PRODUCT: f"GPU-{index}"} for index in range(6)))
    assert "(found: GPU-0, GPU-1, GPU-2, GPU-3, …)" in why_none_matches(nodes, GpuClass.parse(make_t4()))


def test_an_expression_that_all_nodes_meet_is_not_blamed() -> None:
    expressions = [{"key": "gpu", "operator": "Exists"}, {"key": "kind", "operator": "DoesNotExist"}]
    gpu_class = GpuClass.parse(make_class("x", nodeSelectorTerms=[{"matchExpressions": expressions}]))
    assert why_none_matches(nodes_with({"kind": "a"}), gpu_class).count("is not met") == 2
    assert why_none_matches(nodes_with({"gpu": "", "kind": "a"}), gpu_class).startswith("term 1: kind DoesNotExist")


def test_an_empty_cluster_says_so() -> None:
    assert why_none_matches([], GpuClass.parse(make_t4())) == "the cluster has no nodes"


def test_devices_of_a_node() -> None:
    assert Node.parse(make_node("a", gpus=4)).devices(GPU) == 4
    assert Node.parse(make_node("a")).devices(GPU) == 0


# --- memory --------------------------------------------------------------------------------------------------
QLORA8 = make_job().having("method", {"type": "qlora", "lora": {}, "quantization": {"bits": 8}})
FREEZE = make_job().having("method", {"type": "freeze", "freeze": {"trainableLayers": 2}})


def method(type_: str) -> JobBuilder:
    blocks = {"lora": {"lora": {}}, "qlora": {"lora": {}, "quantization": {"bits": 4}}, "full": {}}
    return make_job().having("method", {"type": type_, **blocks[type_]})


def zero(job: JobBuilder, stage: int) -> JobBuilder:
    return job.having("training.deepspeed", {"stage": stage})


@pytest.mark.parametrize(
    ("job", "want_bytes"),
    [
        pytest.param(method("full"), 16.0, id="full"),
        pytest.param(zero(method("full"), 1), 2 + 2 + 3, id="ZeRO-1 divides the optimizer"),
        pytest.param(zero(method("full"), 2), 2 + 0.5 + 3, id="ZeRO-2 the gradients as well"),
        pytest.param(zero(method("full"), 3), 4.0, id="ZeRO-3 everything"),
        pytest.param(method("lora"), 2.0, id="lora"),
        pytest.param(zero(method("lora"), 2), 2.0, id="ZeRO-2 does not divide frozen weights"),
        pytest.param(zero(method("lora"), 3), 0.5, id="ZeRO-3 does"),
        pytest.param(method("qlora"), 0.6, id="qlora in 4 bits"),
        pytest.param(zero(method("qlora"), 3), 0.15, id="qlora partitioned"),
        pytest.param(QLORA8, 1.1, id="qlora in 8 bits"),
        pytest.param(FREEZE, 4.0, id="freeze"),
    ],
)
def test_bytes_per_parameter(job: JobBuilder, want_bytes: float) -> None:
    world = World(nodes=1, processes_per_node=4, gpus_per_node=4)
    assert predicted_bytes(FineTuneJob(job.build()).spec, world, 1000) == pytest.approx(1000 * want_bytes)


@pytest.mark.parametrize(
    ("job", "want"),
    [
        (method("full"), "method.type lora or qlora, training.deepspeed.stage 3"),
        (method("lora"), "method.type qlora with quantization.bits 4, training.deepspeed.stage 3"),
        (QLORA8, "quantization.bits 4, training.deepspeed.stage 3"),
        (zero(method("qlora"), 3), "a GPU class with more memory"),
    ],
)
def test_cures_begin_with_the_smallest_change(job: JobBuilder, want: str) -> None:
    assert cures_of_bound(FineTuneJob(job.build()).spec).startswith(want)


@pytest.mark.parametrize(
    ("job", "want"),
    [
        pytest.param(make_job(), "a lower training.perDeviceBatchSize with", id="smaller batches first"),
        pytest.param(
            make_job().having("training.perDeviceBatchSize", 1).having("training.gradientCheckpointing", False),
            "training.gradientCheckpointing true, a lower training.maxLength, method.type qlora",
            id="then what makes a batch smaller, then the weights",
        ),
        pytest.param(None, "a lower training.perDeviceBatchSize with", id="a spec that cannot be read"),
    ],
)
def test_cures_of_memory_that_ran_out(job: JobBuilder | None, want: str) -> None:
    assert cures_of_running_out(FineTuneJob(job.build()).spec if job else None).startswith(want)


# --- progress ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "want"), [(0, None), (59, "59s"), (61, "1m1s"), (3_700, "1h1m"), (90_000, "1d1h"), (None, None)]
)
def test_the_time_that_is_left_is_shown_for_people(seconds: int | None, want: str | None) -> None:
    assert progress_block(progress_record(eta_seconds=seconds)).get("eta") == want


def test_progress_before_the_first_step_shows_what_there_is() -> None:
    bare = ProgressRecord(run=1, attempt=1, activity="loading")
    assert progress_block(bare) == {"stage": "loading", "step": 0, "totalSteps": 0, "percent": 0, "epoch": "0.00"}


# --- snapshots -----------------------------------------------------------------------------------------------
def test_what_was_created_or_deleted_is_seen_at_once() -> None:
    snapshot = make_snapshot().build()
    job = ChildJob.parse(train_child().build())
    with_it = snapshot.with_created(job).with_created(job)
    assert with_it.jobs == (job,)
    assert with_it.without_job(job.uid).jobs == ()
