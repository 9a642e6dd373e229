"""Whose fault an end is: each cause provoked for real, or by the library's own words at its boundary."""

# ruff: noqa: E501 - the libraries' words are not broken into lines

import ast
import errno
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
import transformers
from botocore.exceptions import EndpointConnectionError

import finetune_trainer
from finetune_contract.exitcodes import ExitCode
from finetune_operator.core.classify import classify
from finetune_operator.core.objects import ChildJob, Pod
from finetune_operator.core.stages import EXITS, TRAIN, EndKind
from finetune_trainer.causes.foreseeing import foreseen, foreseen_ends
from finetune_trainer.causes.table import TABLE
from finetune_trainer.errors import AcceleratorOutOfMemory, Diverged
from finetune_trainer.model import loading
from finetune_trainer.model.source import ModelFiles
from finetune_trainer.pod import outcome
from finetune_trainer.pod.preemption import StopRequest
from finetune_trainer.rank.device import Process, cpu
from finetune_trainer.rank.settings import resolve
from finetune_trainer.start import Start
from tests.builders.children import train_child, train_pod
from tests.builders.records import failed_record
from tests.trainer.builders import make_job

CODES = {cause.reason: cause.code for cause in TABLE}
WORDS = Path(finetune_trainer.__file__).parent


# --- for real --------------------------------------------------------------------------------------------------------
def _too_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        while True:
            held.append(open(os.devnull))  # noqa: SIM115 - until there is none left
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _full_disk() -> None:
    with open("/dev/full", "wb", buffering=0) as disk:
        disk.write(b"x")


def _full_disk_in_torch() -> None:
    with open("/dev/full", "wb") as disk:  # opened, not named: a writer that renames would replace the device
        torch.save(torch.zeros(1 << 20), disk)


def _peers_do_not_come() -> None:
    from datetime import timedelta

    torch.distributed.TCPStore("127.0.0.1", 1, 2, is_master=False, timeout=timedelta(milliseconds=1))


def _connection_refused() -> None:
    import socket

    socket.create_connection(("127.0.0.1", 1), timeout=5)


def _token_beyond_the_vocabulary() -> None:
    torch.nn.Embedding(4, 2)(torch.tensor([4]))


def _broken_safetensors() -> None:
    safetensors.deserialize(b"\xff" * 64)


def _nothing_to_train() -> None:
    torch.zeros(1).sum().backward()  # type: ignore[no-untyped-call]


def _product_of_two_precisions() -> None:
    torch.mm(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bfloat16))


def _half_on_a_cpu() -> None:
    torch.linalg.qr(torch.zeros(2, 2, dtype=torch.half))


def _package() -> None:
    import optimum_that_is_not_installed  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize(
    ("provoke", "reason", "says"),
    [
        pytest.param(lambda: torch.empty(1 << 50), "HostOutOfMemory", "spec.resources.memory", id="memory, torch"),
        pytest.param(lambda: np.zeros((1 << 48,)), "HostOutOfMemory", "spec.resources.memory", id="memory, numpy"),
        pytest.param(lambda: bytearray(1 << 60), "HostOutOfMemory", "spec.resources.memory", id="memory, Python"),
        pytest.param(_too_many_files, "TooManyOpenFiles", "LimitNOFILE", id="open files"),
        pytest.param(_full_disk, "StorageFull", "Free the node's disk", id="disk, Python"),
        pytest.param(_full_disk_in_torch, "StorageFull", "Free the node's disk", id="disk, torch"),
        pytest.param(_peers_do_not_come, "PeersUnreachable", "NetworkPolicy", id="ranks that do not come"),
        pytest.param(_connection_refused, "NetworkFailed", "DNS", id="a refused connection"),
        pytest.param(_token_beyond_the_vocabulary, "TokenOutOfRange", "embedding for each token", id="a token"),
        pytest.param(_broken_safetensors, "ModelNotLoadable", "spec.model.source", id="broken safetensors"),
        pytest.param(_nothing_to_train, "WeightsNotUsed", "spec.method.lora.targets", id="no gradient"),
        pytest.param(lambda: torch.optim.AdamW([]), "WeightsNotUsed", "spec.method", id="no parameter"),
        pytest.param(_product_of_two_precisions, "PrecisionNotSupported", "precision", id="two precisions"),
        pytest.param(_half_on_a_cpu, "PrecisionNotSupported", "precision", id="a missing kernel"),
        pytest.param(_package, "PackageMissing", "'optimum_that_is_not_installed'", id="a package"),
    ],
)
def test_what_libraries_raise_for_real(provoke: Callable[[], Any], reason: str, says: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is
        provoke()
    record = outcome.failure("train", raised.value)
    assert (record.reason, record.exit_code) == (reason, CODES[reason]), record.message
    assert says in record.message
    assert "\n" not in record.message


# --- in the libraries' words -----------------------------------------------------------------------------------------
TRAILER = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call.\nCompile with `TORCH_USE_CUDA_DSA`"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # accelerator memory
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB", "AcceleratorOutOfMemory"),
        ("CUDA error: out of memory" + TRAILER, "AcceleratorOutOfMemory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "AcceleratorOutOfMemory"),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "AcceleratorOutOfMemory"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "AcceleratorOutOfMemory"),
        ("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`", "AcceleratorOutOfMemory"),
        ("HIP out of memory. Tried to allocate 20.00 MiB", "AcceleratorOutOfMemory"),
        ("NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:2006, unhandled cuda error (run with "
         "NCCL_DEBUG=INFO for details), NCCL version 2.21.5\nncclUnhandledCudaError: Call to CUDA function failed.\n"
         "Last error:\nCuda failure 2 'out of memory'", "AcceleratorOutOfMemory"),
        # the accelerator itself
        ("CUDA error: uncorrectable ECC error encountered" + TRAILER, "AcceleratorFailed"),
        ("CUDA error: an illegal memory access was encountered" + TRAILER, "AcceleratorFailed"),
        ("CUDA error: unspecified launch failure" + TRAILER, "AcceleratorFailed"),
        ("CUDA error: misaligned address" + TRAILER, "AcceleratorFailed"),
        ("CUDA error: unknown error", "AcceleratorFailed"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "AcceleratorFailed"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`", "AcceleratorFailed"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "AcceleratorFailed"),
        ("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", "AcceleratorFailed"),
        ("The NVIDIA driver on your system is too old (found version 11040)", "AcceleratorFailed"),
        ("NCCL error: unhandled cuda error\nCuda failure 'uncorrectable ECC error encountered'", "AcceleratorFailed"),
        ("CUDA error: no kernel image is available for execution on the device" + TRAILER, "AcceleratorTooOld"),
        # tokens
        ("CUDA error: device-side assert triggered" + TRAILER, "TokenOutOfRange"),
        ("index out of range in self", "TokenOutOfRange"),
        # resources of the pod
        ("unable to write to file </torch_218_1530>: No space left on device (28)", "SharedMemoryFull"),
        ("DataLoader worker (pid 91) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
         "shared memory. Please try to raise your shared memory limit.", "SharedMemoryFull"),
        ("unable to allocate shared memory(shm) for file </torch_12>: Resource temporarily unavailable (11)", "SharedMemoryFull"),
        ("NCCL error: unhandled system error\nError while creating shared memory segment /dev/shm/nccl-Xy (size 9637888)", "SharedMemoryFull"),
        ("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
         "9 bytes. Error code 12 (Cannot allocate memory)", "HostOutOfMemory"),
        ("DataLoader worker (pid 91) is killed by signal: Killed. ", "HostOutOfMemory"),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 0", "StorageFull"),
        ("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: file write failed", "StorageFull"),
        ("Error while serializing: I/O error: No space left on device (os error 28)", "StorageFull"),
        ("I/O error: Too many open files (os error 24)", "TooManyOpenFiles"),
        ("can't start new thread", "TooManyProcesses"),
        ("I/O error: Read-only file system (os error 30)", "VolumeFailed"),
        # other ranks
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.1.2.3]:44870", "CollectiveFailed"),
        ("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete", "CollectiveFailed"),
        ("NCCL communicator was aborted on rank 1.", "CollectiveFailed"),
        ("NCCL error in: ProcessGroupNCCL.cpp:1275, remote process exited or there was a network error, NCCL version 2.21.5\n"
         "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.", "CollectiveFailed"),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5, OpType=ALLREDUCE)", "CollectiveFailed"),
        # the model
        ("Expected to have finished reduction in the prior iteration before starting a new one.", "WeightsNotUsed"),
        ("Cannot copy out of meta tensor; no data!", "ModelNotLoadable"),
        ("Loading a GPTQ quantized model requires optimum (`pip install optimum`)", "PackageMissing"),
    ],
)  # fmt: skip
def test_what_libraries_raise_in_their_words(text: str, reason: str) -> None:
    record = outcome.failure("train", RuntimeError(text))
    assert (record.reason, record.exit_code) == (reason, CODES[reason]), record.message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(torch.OutOfMemoryError("Allocation on device"), "AcceleratorOutOfMemory", id="torch's own class"),
        pytest.param(torch.AcceleratorError("CUDA error: out of memory"), "AcceleratorOutOfMemory", id="its newer class"),
        pytest.param(torch.AcceleratorError("CUDA error: something new"), "AcceleratorFailed", id="an unknown CUDA error"),
        pytest.param(torch.distributed.DistNetworkError("timed out"), "PeersUnreachable", id="DistNetworkError"),
        pytest.param(torch.distributed.DistBackendError("NCCL error"), "CollectiveFailed", id="DistBackendError"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), "StorageFull", id="a quota"),
        pytest.param(OSError(errno.ENFILE, "Too many open files in system"), "TooManyOpenFiles", id="of the node"),
        pytest.param(OSError(errno.ENOMEM, "Cannot allocate memory"), "HostOutOfMemory", id="fork"),
        pytest.param(OSError(errno.EROFS, "Read-only file system"), "VolumeFailed", id="read-only"),
        pytest.param(OSError(errno.EIO, "Input/output error"), "VolumeFailed", id="a disk that breaks"),
        pytest.param(OSError(errno.ESTALE, "Stale file handle"), "VolumeFailed", id="NFS"),
        pytest.param(ConnectionResetError(104, "Connection reset by peer"), "NetworkFailed", id="a reset connection"),
        pytest.param(EndpointConnectionError(endpoint_url="http://s3"), "NetworkFailed", id="botocore"),
        pytest.param(ImportError("cannot import name 'x' from 'transformers'"), "PackageMissing", id="another version"),
    ],
)  # fmt: skip
def test_what_libraries_raise_by_class(error: Exception, reason: str) -> None:
    record = outcome.failure("train", error)
    assert (record.reason, record.exit_code) == (reason, CODES[reason])


def test_a_cause_below_another_exception_counts() -> None:
    outer = RuntimeError("saving failed")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert outcome.failure("train", outer).reason == "StorageFull"
    outer.__cause__ = Diverged("no number")
    assert outcome.failure("train", outer).exit_code == 72


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError("list index out of range"), TypeError("no"), ValueError("no"), AssertionError()]
)
def test_a_bug_stays_a_bug(error: Exception) -> None:
    assert foreseen(error) is None
    record = outcome.failure("train", error)
    assert (record.exit_code, record.reason) == (1, "InternalError")


# --- the table -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cause", TABLE, ids=lambda cause: cause.reason)
def test_the_operator_does_what_the_code_of_a_cause_says(cause: Any) -> None:
    pod, child = train_pod().left(failed_record(int(cause.code), cause.reason, "m")), train_child().failed()
    job = ChildJob.parse(child.build())
    assert job.end is not None
    end = classify(job.end, [Pod.parse(pod.build())], TRAIN, "8Gi")
    if cause.reason not in {"InvalidJobFile", "StoppedWithoutSave"}:  # the operator's own rules
        assert end.kind is EXITS[cause.code]
    assert end.kind in {EndKind.FINAL, EndKind.COUNTED, EndKind.UNCOUNTED, EndKind.UNREADABLE}


def test_a_reason_has_one_row() -> None:
    assert len(CODES) == len(TABLE)


def test_every_reason_of_the_code_is_in_the_table() -> None:
    """A literal `reason=…`: given, or a default."""
    found = set()
    for path in WORDS.rglob("*.py"):
        if path.parent.name == "causes":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                found.add(node.value.value)
    assert found - set(CODES) == {"Succeeded"}


def test_a_message_has_at_most_three_sentences() -> None:
    for cause in TABLE:
        assert len(re.findall(r"[.!?](?= |$)", cause.message("what the library said") + ".")) <= 3
    assert ExitCode.SUCCEEDED not in CODES.values()


@pytest.mark.parametrize("activity", ["loading", "training", "evaluating"])
def test_running_out_of_accelerator_memory_says_where_and_how_much(
    activity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator adds what helps."""
    monkeypatch.setenv("FINETUNE_METRICS_PORT", "0")
    monkeypatch.setenv("FINETUNE_CREDENTIALS_DIR", str(tmp_path))
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / key).write_text("x")
    start = Start(make_job(), tmp_path, StopRequest())

    def run_out() -> Any:
        start.enter(activity)
        with foreseen_ends():
            raise torch.AcceleratorError("CUDA error: out of memory" + TRAILER)

    monkeypatch.setattr(start, "_run", run_out)
    with pytest.raises(AcceleratorOutOfMemory) as error:
        start.run()
    said = re.fullmatch(r"CUDA error: out of memory \(while (\w+), peak memory ([\d.]+) GiB\)", error.value.message)
    assert said
    assert said[1] == activity
    assert float(said[2]) > 0
    assert error.value.reason == "AcceleratorOutOfMemory"


def test_running_out_while_the_weights_are_loaded_is_not_the_models_fault(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", run_out)
    settings, process = resolve(make_job(), cpu(), rows=1, longest_row=8), Process(0, 0, 1)
    files = ModelFiles(tiny_model, None, trust_remote_code=False)
    with pytest.raises(AcceleratorOutOfMemory):
        loading.load_model(
            files, settings, cpu(), process, None, tiny_model, source="file:///model", report=lambda line: None
        )
