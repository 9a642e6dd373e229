"""Runs once while the image is built: compiles DeepSpeed's shared-memory collectives for CPU into its package.

Otherwise every DeepSpeed run on a CPU node compiles them first, for about a minute on each node.
They choose their vector instructions at run time, so one build runs on any x86-64 (or any arm64) node.
"""

import py_compile
import shutil
import tempfile
from pathlib import Path

import torch
from deepspeed import git_version_info_installed, ops
from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder
from torch.utils.cpp_extension import load


def main() -> None:
    builder = ShareMemCommBuilder()
    name = builder.absolute_name().rpartition(".")[2]
    sources = [builder.deepspeed_src_path(path) for path in builder.sources()]
    includes = [builder.deepspeed_src_path(path) for path in builder.include_paths()]
    flags = [*builder.cxx_args(), "-UC10_USE_GLOG"]  # as DeepSpeed's own just-in-time build has it
    package = Path(ops.__file__).parent / "comm"
    package.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        load(name, sources, extra_include_paths=includes, extra_cflags=flags, build_directory=folder)
        shutil.copy2(f"{folder}/{name}.so", package)

    # DeepSpeed loads it when its installation record names it, with the version of torch that it was built for.
    record = Path(git_version_info_installed.__file__)
    version = ".".join(torch.__version__.split(".")[:2])
    lines = (
        f"installed_ops[{builder.NAME!r}] = True",
        f"torch_info['version'] = {version!r}",
        "accelerator_name = 'cpu'",
    )
    record.write_text("\n".join([record.read_text(), *lines, ""]))
    py_compile.compile(str(record))


main()
