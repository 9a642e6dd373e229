"""Causes that libraries raise as errors of their own: recognised from top to bottom, the special before the general."""

import errno
from collections.abc import Sequence

from finetune_contract.exitcodes import ExitCode
from finetune_trainer.causes import sizes
from finetune_trainer.causes.cause import Cause

_CONFIGURATION, _TRANSIENT = ExitCode.INVALID_CONFIGURATION, ExitCode.TRANSIENT

RAISED_BY_LIBRARIES: Sequence[Cause] = (
    Cause(
        reason="SharedMemoryFull",
        code=_TRANSIENT,
        what="the pod's shared memory is full",
        part="/dev/shm, which counts as the pod's memory",  # noqa: S108
        cure="Raise spec.resources.memory",
        texts=r"(?i)shared memory \(shm\)|unable to (allocate|resize|open|mmap) shared memory|shared memory segment"
        r"|unable to write to file </torch_|No space left on device.*/(dev/shm|psm_)|killed by signal: Bus error",
        size=sizes.shared_memory,
    ),
    Cause(
        reason="HostOutOfMemory",
        code=_TRANSIENT,
        what="the pod ran out of main memory",
        part="spec.resources.memory",
        cure="Raise spec.resources.memory",
        kinds=frozenset({"MemoryError", "ArrowMemoryError"}),
        texts=r"DefaultCPUAllocator|Cannot allocate memory|Unable to allocate [\d.]+ .iB"
        r"|HOST_ALLOCATION_FAILED|cudaHostAlloc|cudaErrorHostMemory|realloc of size|malloc of size"
        r"|DataLoader worker .*(exited unexpectedly|killed by signal: (Killed|Aborted))",
        errnos=frozenset({errno.ENOMEM}),
        size=sizes.memory,
    ),
    Cause(
        reason="AcceleratorOutOfMemory",
        code=ExitCode.ACCELERATOR_OUT_OF_MEMORY,
        what="the accelerator ran out of memory",
        part="the memory of spec.resources.gpuClass",
        cure="The operator's message lists what helps for this job, a smaller batch first",
        kinds=frozenset({"OutOfMemoryError"}),
        texts=r"(CUDA|HIP|XPU|MPS backend|GPU) (error: )?out of memory|(CUDA|HIP) error: .*out of memory"
        r"|Cuda failure (\d+ )?'?out of memory|cudaErrorMemoryAllocation|hipErrorOutOfMemory"
        r"|CU(BLAS|DNN|SOLVER|SPARSE|FFT)_STATUS_ALLOC_FAILED|(hip|roc)blas_status_(alloc_failed|memory_error)"
        r"|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
        r"|NVML_SUCCESS == r INTERNAL ASSERT|Error in memory allocation.*bitsandbytes",
        in_own_words=True,
    ),
    Cause(
        reason="TokenOutOfRange",
        code=_CONFIGURATION,
        what="a token or a position lies beyond the model's tables",
        part="spec.model.source",
        cure="Name a model with an embedding for each token of its tokenizer, or lower spec.training.maxLength",
        texts=r"device-side assert|index out of range in self|srcIndex < srcSelectDimSize|t >= 0 && t < n_classes"
        r"|scatter gather kernel index out of bounds",
    ),
    Cause(
        reason="AcceleratorTooOld",
        code=_CONFIGURATION,
        what="the accelerator is not one that this trainer image computes on",
        part="spec.resources.gpuClass",
        cure="Name a class with newer devices in spec.resources.gpuClass, or use an image that is built for these",
        texts=r"no kernel image is available|cudaErrorNoKernelImageForDevice|device kernel image is invalid"
        r"|GPU is too old|unsupported toolchain|Feature .* requires .*sm_\d+",
    ),
    Cause(
        reason="AcceleratorFailed",
        code=_TRANSIENT,
        what="the accelerator or its driver failed",
        part="the accelerator of the node",
        cure="Another attempt may run elsewhere; when it happens on the same node again, drain it and look for Xid or "
        "ECC errors in its kernel log",
        kinds=frozenset({"AcceleratorError"}),
        texts=r"(?i)uncorrectable|\becc\b|\bxid\b|illegal memory access|illegal instruction|unspecified launch failure"
        r"|misaligned address|hardware stack error|invalid program counter|(gpu|device) (is|was) lost"
        r"|fallen off the bus|devices? (is|are) busy or unavailable|(cuda|hip) error: (unknown|initialization) error"
        r"|cuda (driver )?initialization|driver version is insufficient|nvidia driver on your system"
        r"|no cuda gpus are available|found no nvidia driver|no cuda-capable device|system not yet initialized"
        r"|launch timed out|nvlink|CU(BLAS|DNN|SOLVER|SPARSE|FFT)_STATUS_\w+|cudaError\w+|\b(cuda|hip|xpu) error:"
        r"|Cuda failure",
    ),
    Cause(
        reason="StorageFull",
        code=_TRANSIENT,
        what="no space left in the pod",
        part="the disk of the node behind /scratch",
        cure="Free the node's disk, or choose nodes with a larger one in spec.resources.gpuClass; model, checkpoint "
        "and result must fit at once",
        texts=r"No space left on device|Disk quota exceeded|\(os error (28|122)\)|PytorchStreamWriter failed writing"
        r"|inline_container\.cc.*unexpected pos|Not enough free disk space",
        errnos=frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}),
        size=sizes.disk,
    ),
    Cause(
        reason="TooManyOpenFiles",
        code=_TRANSIENT,
        what="too many files are open",
        part="the limit of open files of the node's container runtime",
        cure="Raise the limit (LimitNOFILE of the runtime), or store data and model in fewer files",
        texts=r"Too many open files|\(os error 2[34]\)|received 0 items of ancdata",
        errnos=frozenset({errno.EMFILE, errno.ENFILE}),
        size=sizes.open_files,
    ),
    Cause(
        reason="TooManyProcesses",
        code=_TRANSIENT,
        what="no further thread or process can be started",
        part="the pod's limit of processes",
        cure="Raise the kubelet's podPidsLimit, or use fewer processes per node",
        texts=r"can't start new thread|Resource temporarily unavailable|pthread_create failed",
        errnos=frozenset({errno.EAGAIN}),
        size=sizes.processes,
    ),
    Cause(
        reason="VolumeFailed",
        code=_TRANSIENT,
        what="a volume of the pod failed or became read-only",
        part="the node's disk, or the claim of a pvc:// source",
        cure="Look at the events of the pod and its volumes; another attempt may run on another node",
        texts=r"Read-only file system|Stale file handle|Input/output error|Remote I/O error|Transport endpoint"
        r"|\(os error (5|30|107|116|121)\)",
        errnos=frozenset({errno.EROFS, errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN}),
        size=sizes.disk,
    ),
    Cause(
        reason="PeersUnreachable",
        code=_TRANSIENT,
        what="the other ranks could not be reached",
        part="the network between the pods, or the rank that left",
        cure="Look at the pods of the other ranks first; a NetworkPolicy must let the pods of a job talk to each other",
        kinds=frozenset({"DistNetworkError", "DistStoreError"}),
        texts=r"\[c10d\].*(timed? ?out|failed to connect)|client socket has (timed out|failed)",
        follows=True,
    ),
    Cause(
        reason="CollectiveFailed",
        code=_TRANSIENT,
        what="another rank is gone, or the network to it",
        part="the network between the pods, or the rank that left",
        cure="Look at the pods of the other ranks first; another attempt resumes from the last checkpoint",
        kinds=frozenset({"DistBackendError"}),
        texts=r"(?i)\bgloo\b|\bnccl\w*(error| error| communicator|Error:)|\bnccl(system|remote|internal|unhandled)\w*"
        r"|connection closed by peer|watchdog caught collective|(recv|send) operation to complete",
        follows=True,
    ),
    Cause(
        reason="NetworkFailed",
        code=_TRANSIENT,
        what="a connection failed",
        part="the network to the storage or the hub",
        cure="Another attempt is made; when it goes on, check DNS, proxies and NetworkPolicies",
        kinds=frozenset(
            {
                "ConnectionError",
                "TimeoutError",
                "gaierror",
                "SSLError",
                "HTTPClientError",  # botocore
                "TransportError",  # httpx
                "ProtocolError",  # urllib3
                "IncompleteRead",
                "HfHubHTTPError",
                "RequestException",
            }
        ),
        errnos=frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ETIMEDOUT}),
    ),
    Cause(
        reason="PackageMissing",
        code=_CONFIGURATION,
        what="the model needs a package, or a version of one, that the trainer image does not have",
        part="spec.model.source, or the trainer image",
        cure="Name a model in spec.model.source that does without, or build an image with the package",
        kinds=frozenset({"ImportError", "PackageNotFoundError"}),
        texts=r"pip install|requires the .* (library|package)|cannot open shared object file",
    ),
    Cause(
        reason="CompileFailed",
        code=_CONFIGURATION,
        what="the model's layers cannot be compiled",
        part="spec.training.compile",
        cure="Set spec.training.compile to false",
        kinds=frozenset(
            {"TorchDynamoException", "InductorError", "CppCompileError", "CompilationError", "OutOfResources"}
        ),
        texts=r"torch\._dynamo|torch\._inductor|TorchDynamo|Failed to find C compiler|No valid triton configs",
    ),
    Cause(
        reason="WeightsNotUsed",
        code=_CONFIGURATION,
        what="the rows do not reach all weights that are to be trained",
        part="spec.method",
        cure="Train only layers that text passes through: name them in spec.method.lora.targets",
        texts=r"Expected to have finished reduction|does not require grad and does not have a grad_fn"
        r"|optimizer got an empty parameter list",
    ),
    Cause(
        reason="PrecisionNotSupported",
        code=_CONFIGURATION,
        what="a layer of the model does not compute in this precision",
        part="spec.training.precision",
        cure="Use another spec.training.precision; fp32 always works",
        texts=r"not implemented for '(Half|BFloat16|Float8\w*|Char|Byte)'|expected scalar type"
        r"|(to|must) have the same dtype|Input type .* and (bias|weight) type",
    ),
    Cause(
        reason="ModelNotLoadable",
        code=_CONFIGURATION,
        what="the weights cannot be loaded",
        part="spec.model.source",
        cure="Check the files of spec.model.source",
        kinds=frozenset({"SafetensorError", "UnpicklingError"}),
        texts=r"Cannot copy out of meta tensor|PytorchStreamReader failed|size mismatch for|Weights only load failed",
    ),
)
