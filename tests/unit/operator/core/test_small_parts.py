"""Quantities, times, hashes, placement, memory: the parts that decisions are made of."""

import pytest

from finetune_contract.jobspec import World
from finetune_contract.progress import ProgressRecord
from finetune_operator.core.conditions import Condition, as_sentence, truncated, with_condition
from finetune_operator.core.identity import defaults_of, run_hash
from finetune_operator.core.memory import cures, predicted_bytes
from finetune_operator.core.objects import ChildJob, FineTuneJob, GpuClass, Node
from finetune_operator.core.placement import is_matched, is_member, why_none_matches
from finetune_operator.core.policies.reporting import progress_block
from finetune_operator.core.quantity import gib, parse_quantity
from tests.builders.children import train_child
from tests.builders.jobs import GPU, PRODUCT, JobBuilder, make_class, make_job, make_node, make_t4
from tests.builders.records import progress_record
from tests.builders.snapshots import DEFAULTS, NOW, make_snapshot


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
def spec_hash(job: JobBuilder, defaults: dict = DEFAULTS) -> str:  # type: ignore[type-arg]
    return run_hash(job.build()["spec"], defaults)


@pytest.mark.parametrize(
    ("job", "want_same"),
    [
        pytest.param(make_job().suspended(), True, id="suspension is no change of training"),
        pytest.param(make_job().with_retries(7), True, id="retries are none"),
        pytest.param(make_job().having("checkpoint.everySteps", 7), True, id="the checkpoint interval is none"),
        pytest.param(make_job().having("training.loggingSteps", 1), True, id="log lines are none"),
        pytest.param(make_job().having("training.epochs", 3), True, id="a default written out is none"),
        pytest.param(make_job().having("training.learningRate", 0.0001), False, id="the learning rate is one"),
        pytest.param(make_job().having("output.uri", "s3://other/faq"), False, id="the output is one"),
        pytest.param(make_job().having("storage.secretName", "other"), False, id="the Secret is one"),
        pytest.param(make_job().having("resources.memory", "8Gi"), False, id="the memory is one"),
        pytest.param(make_job().having("training.deepspeed", {"stage": 2}), False, id="a new block is one"),
    ],
)
def test_what_makes_a_new_run(job: JobBuilder, want_same: bool) -> None:
    assert (spec_hash(job) == spec_hash(make_job())) == want_same


def test_a_field_with_a_default_added_by_an_upgrade_makes_no_new_run() -> None:
    spec = make_job().build()["spec"]
    newer = {**spec, "training": {**spec["training"], "packing": False}, "drift": {"window": 7}}
    defaults = {**DEFAULTS, "training": {**DEFAULTS["training"], "packing": False}, "drift": {"window": 7}}
    assert run_hash(newer, defaults) == run_hash(spec, DEFAULTS)


def test_an_empty_block_that_is_required_says_something() -> None:
    assert run_hash({"method": {"lora": {}}}, {"method": {}}) != run_hash({"method": {}}, {"method": {}})


def test_a_whole_float_is_the_integer() -> None:
    assert run_hash({"a": {"b": 2.0}}, {}) == run_hash({"a": {"b": 2}}, {})


def test_a_quantity_without_quotes_is_the_one_with_them() -> None:
    quoted, plain = ({"resources": {"cpu": cpu, "nodes": 2}} for cpu in ("8", 8))
    assert run_hash(plain, {}) == run_hash(quoted, {})
    assert run_hash({"resources": {"cpu": 1}}, DEFAULTS) == run_hash({}, DEFAULTS)


def test_a_spec_without_its_blocks_has_a_hash() -> None:
    assert run_hash({}, {}) == run_hash({"suspend": True}, {})


def test_the_tree_of_defaults() -> None:
    schema = {
        "properties": {"a": {"type": "object", "properties": {"b": {"default": 1}, "c": {}}}, "d": {"default": 2}}
    }
    schema["properties"]["e"] = {"type": "object", "properties": {}}
    assert defaults_of(schema) == {"a": {"b": 1}, "d": 2}
    assert DEFAULTS["training"]["epochs"] == 3


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
    assert cures(FineTuneJob(job.build()).spec).startswith(want)


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
