"""What the end of a child means: status of pods and Job → kind, reason, message."""

from dataclasses import dataclass

import pytest

from finetune_operator.core.classify import classify
from finetune_operator.core.objects import ChildJob, Pod
from finetune_operator.core.stages import PREPARE, TRAIN, EndKind, Stage
from tests.builders.children import ChildBuilder, PodBuilder, prepare_child, prepare_pod, train_child, train_pod
from tests.builders.records import failed_record, prepared_record, stopped_record, trained_record


@dataclass(frozen=True)
class Row:
    sentence: str
    child: ChildBuilder
    pods: tuple[PodBuilder, ...]
    want_kind: EndKind
    want_reason: str
    want_in_message: str = ""
    want_certain: bool = True
    stage: Stage = TRAIN


EARLY, LATE = "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"
UNSAVED = failed_record(75, "StoppedWithoutSave", "stopped on request, and steps 4 to 6 are not saved")
STORAGE = failed_record(75, "StorageUnavailable", "the bucket does not answer")

ROWS = [
    # --- success ---
    Row(
        "a preparation succeeds by its record",
        prepare_child().complete(),
        (prepare_pod().left(prepared_record()),),
        EndKind.SUCCEEDED,
        "Succeeded",
        stage=PREPARE,
    ),
    Row(
        "training succeeds by the record of rank 0",
        train_child().complete(),
        (train_pod(0).left(trained_record()), train_pod(1).ended(0)),
        EndKind.SUCCEEDED,
        "Succeeded",
    ),
    Row(
        "a complete Job without its pods has handed nothing over",
        train_child().complete(),
        (),
        EndKind.UNCOUNTED,
        "RecordMissing",
        want_certain=False,
    ),
    Row(
        "exit 0 without a record is no success",
        train_child().complete(),
        (train_pod().ended(0),),
        EndKind.UNCOUNTED,
        "RecordMissing",
        want_certain=False,
    ),
    Row(
        "a record of a preparation is no artifact",
        train_child().complete(),
        (train_pod().left(prepared_record()),),
        EndKind.UNCOUNTED,
        "RecordMissing",
        want_certain=False,
    ),
    # --- by record ---
    *(
        Row(
            f"code {code} with its record is final",
            train_child().failed(),
            (train_pod().left(failed_record(code, reason, "see field x")),),
            EndKind.FINAL,
            reason,
            "see field x",
        )
        for code, reason in ((2, "InvalidConfiguration"), (3, "InvalidRow"), (4, "NoValidCheckpoint"), (72, "Diverged"))
    ),
    Row(
        "a full accelerator is final, in the trainer's words",
        train_child().failed(),
        (train_pod().left(failed_record(71, "OutOfMemory", "2 GiB wanted.")),),
        EndKind.FINAL,
        "AcceleratorOutOfMemory",
        "2 GiB wanted.",
    ),
    Row(
        "a job file that the trainer does not know is nobody's mistake",
        train_child().failed(),
        (train_pod().left(failed_record(2, "InvalidJobFile", "version: 2 is unknown")),),
        EndKind.UNREADABLE,
        "InvalidJobFile",
        "version: 2 is unknown",
    ),
    Row(
        "a transient failure counts",
        train_child().failed(),
        (train_pod().left(STORAGE),),
        EndKind.COUNTED,
        "StorageUnavailable",
        "does not answer",
    ),
    Row(
        "a code that the contract does not know counts",
        train_child().failed(),
        (train_pod().left(failed_record(1, "InternalError", "a bug")),),
        EndKind.COUNTED,
        "InternalError",
    ),
    Row(
        "stopped after a save does not count",
        train_child().failed(),
        (train_pod().left(stopped_record(40)),),
        EndKind.UNCOUNTED,
        "Stopped",
    ),
    Row(
        "stopped by a drain says so",
        train_child().failed(),
        (train_pod().left(stopped_record(40)).disrupted("EvictionByEvictionAPI"),),
        EndKind.UNCOUNTED,
        "Evicted",
    ),
    Row(
        "a record of another code is not believed",
        train_child().failed(),
        (train_pod().ended(2, message=STORAGE.render().decode()),),
        EndKind.COUNTED,
        "Crashed",
        "exit code 2",
    ),
    # --- stopped before it could save ---
    Row(
        "a drained pod that could not save does not count, and says what is lost",
        train_child().failed(),
        (train_pod().left(UNSAVED).disrupted("EvictionByEvictionAPI"),),
        EndKind.UNCOUNTED,
        "Evicted",
        "steps 4 to 6 are not saved",
    ),
    Row(
        "a pod that was deleted before it could save does not count",
        train_child().failed(),
        (train_pod().left(UNSAVED).terminating(),),
        EndKind.UNCOUNTED,
        "StoppedWithoutSave",
        "steps 4 to 6 are not saved",
    ),
    Row(
        "a process that was stopped in a pod that nobody touched counts",
        train_child().failed(),
        (train_pod().left(UNSAVED),),
        EndKind.COUNTED,
        "StoppedWithoutSave",
        "steps 4 to 6 are not saved",
    ),
    Row(
        "a storage that was away before the pod was deleted counts",
        train_child().failed(),
        (train_pod().left(STORAGE).terminating(),),
        EndKind.COUNTED,
        "StorageUnavailable",
    ),
    Row(
        "a drained rank explains that its peers could not save",
        train_child().failed(),
        (train_pod(0).left(UNSAVED, EARLY), train_pod(1).left(UNSAVED, LATE).disrupted("EvictionByEvictionAPI")),
        EndKind.UNCOUNTED,
        "Evicted",
    ),
    Row(
        "a hang counts",
        train_child().failed(),
        (train_pod().left(failed_record(75, "Hung", "rank 0 showed no sign of life")),),
        EndKind.COUNTED,
        "Hung",
    ),
    # --- without a record ---
    Row(
        "codes of the interpreter are a crash",
        train_child().failed(),
        (train_pod().ended(2, message="usage: …"),),
        EndKind.COUNTED,
        "Crashed",
        "usage: …",
    ),
    Row(
        "a crash without words says where to look",
        train_child().failed(),
        (train_pod().ended(1),),
        EndKind.COUNTED,
        "Crashed",
        "kubectl logs faq-r1-a1-0-abcde",
    ),
    Row(
        "85 without a record does not count",
        train_child().failed(),
        (train_pod().ended(85),),
        EndKind.UNCOUNTED,
        "Stopped",
    ),
    Row(
        "killed for memory counts and names the limit",
        train_child().failed(),
        (train_pod().ended(137, "OOMKilled"),),
        EndKind.COUNTED,
        "OOMKilled",
        "memory limit of 4Gi",
    ),
    Row(
        "a container whose node was lost does not count",
        train_child().failed(),
        (train_pod().ended(137, "ContainerStatusUnknown"),),
        EndKind.UNCOUNTED,
        "NodeLost",
        "node-1",
    ),
    *(
        Row(
            f"disrupted by {reason} does not count",
            train_child().failed(),
            (train_pod().running().disrupted(reason, "making room"),),
            EndKind.UNCOUNTED,
            want,
            "making room",
        )
        for reason, want in (
            ("PreemptionByScheduler", "Preempted"),
            ("DeletionByTaintManager", "NodeLost"),
            ("DeletionByPodGC", "NodeLost"),
            ("EvictionByEvictionAPI", "Evicted"),
            ("TerminationByKubelet", "Evicted"),
            ("SomethingNew", "Disrupted"),
        )
    ),
    Row(
        "killed while it is drained does not count",
        train_child().failed(),
        (train_pod().ended(137, "Error").disrupted("EvictionByEvictionAPI"),),
        EndKind.UNCOUNTED,
        "Evicted",
        "disrupted",
    ),
    Row(
        "a pod that the node refuses does not count",
        train_child().failed(),
        (train_pod().rejected("OutOfcpu", "not enough cpu"),),
        EndKind.UNCOUNTED,
        "RejectedByNode",
        "not enough cpu",
    ),
    # --- several ranks ---
    Row(
        "bad data of one rank beats the stop of the others",
        train_child().failed(),
        (
            train_pod(0).left(stopped_record(40), EARLY),
            train_pod(1).left(failed_record(3, "InvalidRow", "row 7"), LATE),
        ),
        EndKind.FINAL,
        "InvalidRow",
    ),
    Row(
        "a drained rank explains the network errors of its peers",
        train_child().failed(),
        (
            train_pod(0).left(STORAGE, EARLY),
            train_pod(1).left(stopped_record(40), LATE).disrupted("EvictionByEvictionAPI"),
        ),
        EndKind.UNCOUNTED,
        "Evicted",
    ),
    Row(
        "memory of one rank explains the stop of its peers",
        train_child().failed(),
        (train_pod(0).left(stopped_record(40), EARLY), train_pod(1).ended(137, "OOMKilled", finished=LATE)),
        EndKind.COUNTED,
        "OOMKilled",
    ),
    Row(
        "among equals the first to end is the cause",
        train_child().failed(),
        (
            train_pod(0).left(failed_record(75, "Second", ""), LATE),
            train_pod(1).left(failed_record(75, "First", ""), EARLY),
        ),
        EndKind.COUNTED,
        "First",
    ),
    Row(
        "a rank that ended well or still runs says nothing",
        train_child().failed(),
        (train_pod(0).ended(0), train_pod(1).running(), train_pod(2).left(STORAGE)),
        EndKind.COUNTED,
        "StorageUnavailable",
    ),
    # --- the pods are gone ---
    Row(
        "a drain that took the pods along does not count",
        train_child().failed("Pod a/b has condition DisruptionTarget matching FailJob rule at index 0"),
        (),
        EndKind.UNCOUNTED,
        "Disrupted",
        want_certain=False,
    ),
    Row(
        "85 in the words of the Job controller does not count",
        train_child().failed("Container trainer for pod a/b failed with exit code 85 matching FailJob rule"),
        (),
        EndKind.UNCOUNTED,
        "Stopped",
        want_certain=False,
    ),
    Row(
        "another code in its words counts, and is not believed to be final",
        train_child().failed("Container trainer for pod a/b failed with exit code 3 matching FailJob rule"),
        (),
        EndKind.COUNTED,
        "Crashed",
        "exit code 3",
        want_certain=False,
    ),
    Row(
        "no words at all count",
        train_child().failed("", "BackoffLimitExceeded"),
        (),
        EndKind.COUNTED,
        "Crashed",
        "BackoffLimitExceeded",
        want_certain=False,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_classify(row: Row) -> None:
    job = ChildJob.parse(row.child.build())
    assert job.end is not None
    end = classify(job.end, [Pod.parse(pod.build()) for pod in row.pods], row.stage, "4Gi")
    assert (end.kind, end.reason) == (row.want_kind, row.want_reason)
    assert row.want_in_message in end.message
    assert end.is_certain == row.want_certain


@pytest.mark.parametrize(
    ("types", "want_complete"),
    [
        pytest.param(["FailureTarget"], False, id="the verdict is taken before the Job has failed"),
        pytest.param(["FailureTarget", "Failed"], False, id="failed"),
        pytest.param(["SuccessCriteriaMet"], True, id="success is taken before the Job is complete"),
        pytest.param(["Suspended"], None, id="other conditions are no end"),
    ],
)
def test_the_end_of_a_job(types: list[str], want_complete: bool | None) -> None:
    raw = train_child().build()
    raw["status"]["conditions"] = [{"type": type_, "status": "True"} for type_ in types]
    end = ChildJob.parse(raw).end
    assert (None if end is None else end.is_complete) == want_complete
