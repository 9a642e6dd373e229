"""What names a built thing: the same content, the same name; any other, another."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from dev.localcluster import archive, baseimage, gobuild, images
from dev.localcluster.gobuild import digest_of
from dev.localcluster.images import content_digest
from dev.localcluster.layout import ROOT


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/a.py").write_text("a = 1\n")
    (tmp_path / "lock").write_text("pinned\n")
    return tmp_path


def digest(root: Path) -> str:
    return content_digest(root, ("lock", "package"))


def test_times_and_bytecode_do_not_matter(code: Path) -> None:
    before = digest(code)
    os.utime(code / "package/a.py", (1, 1))
    (code / "package/__pycache__").mkdir()
    (code / "package/__pycache__/a.cpython-312.pyc").write_bytes(b"x")
    (code / "beside").write_text("not an input")
    assert digest(code) == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "package/a.py").write_text("a = 2\n"), id="content"),
        pytest.param(lambda root: (root / "package/a.py").rename(root / "package/b.py"), id="name"),
        pytest.param(lambda root: (root / "package/a.py").chmod(0o755), id="mode"),
        pytest.param(lambda root: (root / "package/new.py").touch(), id="an empty file more"),
        pytest.param(lambda root: (root / "lock").write_text("pinned\na"), id="a boundary between two files"),
    ],
)
def test_a_change_of_code_changes_the_tag(code: Path, change: object) -> None:
    before = digest(code)
    assert callable(change)
    change(code)
    assert digest(code) != before


def test_go_sources_come_in_any_order_and_flags_count() -> None:
    files = [("go.mod", b"module x"), ("main.go", b"package main")]
    assert digest_of(files, "-s") == digest_of(reversed(files), "-s")
    assert digest_of(files, "-s") != digest_of(files, "-w")
    assert digest_of([("a", b"bc")]) != digest_of([("ab", b"c")])


@pytest.mark.parametrize("program", ["KUBERNETES", "ETCD", "COREDNS", "HELM", "PAUSE"])
def test_every_go_program_has_a_key(program: str) -> None:
    each = getattr(gobuild, program)
    assert {"go.mod", "go.sum"} <= {path.name for path in each.sources}
    assert len(gobuild.key_of(each)) == 16


def test_images_are_named_by_content() -> None:
    full = images.reference("trainer", "localhost")
    assert full.startswith("localhost/finetune-operator/trainer:")
    assert images.reference("base", "localhost").endswith(baseimage.digest())


def test_every_input_of_an_image_exists_and_reaches_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for image in images.IMAGES.values():
        for path in image.inputs:
            assert (ROOT / path).exists()
            assert f"!{path}" in ignored or path == image.dockerfile


def test_an_unknown_image_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match=r"no image serving: know operator, trainer, base"):
        images.tag("serving")


def test_the_archive_is_one_that_docker_load_understands(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    archive.write(tmp_path / "image.tar", "localhost/pause:1", program)
    with tarfile.open(tmp_path / "image.tar") as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(tar.extractfile(manifest[0]["Config"]))  # type: ignore[arg-type]
        assert {manifest[0]["Config"], "manifest.json", *manifest[0]["Layers"]} == set(tar.getnames())
    assert manifest[0]["RepoTags"] == ["localhost/pause:1"]
    assert config["config"]["User"].isdigit()  # runAsNonRoot can judge a number only
