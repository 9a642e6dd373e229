"""Images go from the build store to a node without a copy, and only as they were built."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.localcluster import LocalCluster, buildstore, handover, images
from dev.localcluster.buildstore import DamagedLayerError, Layer, StoredImage, sha256
from dev.localcluster.commands import output_of

FILES = {"etc/": None, "etc/motd": b"hello\n", "usr/": None, "usr/lib": b"x" * 3_000_000}


def archive(files: dict[str, bytes | None]) -> bytes:
    """A layer as a tar archive; None is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def recipe(tar: bytes) -> Iterator[dict[str, object]]:
    """What tar-split keeps of an archive: everything but the files' contents, which it names."""
    end = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            yield {"type": 2, "payload": base64.b64encode(tar[end : member.offset_data]).decode()}
            yield {"type": 1, "name": member.name, "size": member.size}
            end = member.offset_data + member.size
    yield {"type": 2, "payload": base64.b64encode(tar[end:]).decode()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A build store with one image of two layers."""
    records = []
    for name, parent, files in (("lower", None, FILES), ("upper", "lower", {"etc/": None, "etc/motd": b"changed\n"})):
        tar = archive(files)
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            opened.extractall(tmp_path / "overlay" / name / "diff", filter="fully_trusted")
        (tmp_path / "overlay-layers").mkdir(exist_ok=True)
        with gzip.open(tmp_path / f"overlay-layers/{name}.tar-split.gz", "wt") as file:
            file.writelines(f"{json.dumps(entry)}\n" for entry in recipe(tar))
        records.append({"id": name, "diff-digest": sha256(tar), **({"parent": parent} if parent else {})})
    (tmp_path / "overlay-layers/layers.json").write_text(json.dumps(records))
    (tmp_path / "overlay-images").mkdir()
    digest = hashlib.sha256(config(tmp_path)).hexdigest()
    image = {"id": digest, "layer": "upper", "names": ["localhost/finetune-operator/trainer:0123456789ab"]}
    (tmp_path / "overlay-images/images.json").write_text(json.dumps([image]))
    return tmp_path


def config(store: Path) -> bytes:
    layers = json.loads((store / "overlay-layers/layers.json").read_text())
    return json.dumps({"rootfs": {"diff_ids": [layer["diff-digest"] for layer in layers]}}).encode()


def read(store: Path, configuration: bytes | None = None) -> StoredImage:
    manifest = json.dumps({"mediaType": "application/x", "config": {"digest": sha256(config(store))}}).encode()
    return buildstore.read(store, "localhost/i:1", manifest=manifest, config=configuration or config(store))


def test_layers_are_found_from_the_base_up_and_verify(store: Path) -> None:
    image = read(store)
    assert [layer.folder.parent.name for layer in image.layers] == ["lower", "upper"]
    lower, upper = (layer.digest for layer in image.layers)
    assert image.chain_ids == [lower, sha256(f"{lower} {upper}".encode())]
    for layer in image.layers:
        buildstore.verify(layer)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda file: file.write_bytes(b"hullo\n"), id="other bytes of the same size"),
        pytest.param(lambda file: file.write_bytes(b""), id="a file cut short"),
    ],
)
def test_a_changed_file_is_found(store: Path, change: object) -> None:
    assert callable(change)
    layer: Layer = read(store).layers[0]
    change(layer.folder / "etc/motd")
    with pytest.raises(DamagedLayerError, match="changed after the build"):
        buildstore.verify(layer)


def test_a_configuration_of_another_image_is_refused(store: Path) -> None:
    with pytest.raises(DamagedLayerError, match="not the one of its manifest"):
        read(store, b'{"rootfs": {"diff_ids": []}}')


def test_layers_of_another_image_are_refused(store: Path) -> None:
    layers = json.loads((store / "overlay-layers/layers.json").read_text())
    wanted = config(store)
    layers[1]["diff-digest"] = sha256(b"another")
    (store / "overlay-layers/layers.json").write_text(json.dumps(layers))
    manifest = json.dumps({"config": {"digest": sha256(wanted)}}).encode()
    with pytest.raises(DamagedLayerError, match="not those of its configuration"):
        buildstore.read(store, "localhost/i:1", manifest=manifest, config=wanted)


def test_names_are_those_of_the_store(store: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert buildstore.names(store) == {"localhost/finetune-operator/trainer:0123456789ab"}
    assert buildstore.names(tmp_path_factory.mktemp("empty")) == set()


@pytest.mark.parametrize(
    ("mount", "want"),
    [
        pytest.param("mount -t bind /c/snapshots/7/fs / -o rw,rbind", "/c/snapshots/7/fs", id="the lowest layer"),
        pytest.param(
            "mount -t overlay overlay / -o index=off,workdir=/c/8/work,upperdir=/c/8/fs,lowerdir=/c/7/fs",
            "/c/8/fs",
            id="a layer above another",
        ),
    ],
)
def test_the_folder_of_a_snapshot_is_read_from_its_mount_command(mount: str, want: str) -> None:
    assert handover.upper_folder(mount) == want


def test_outdated_images_are_those_of_the_same_name_with_another_content() -> None:
    current = "localhost/finetune-operator/trainer:0123456789ab"
    old = ["localhost/finetune-operator/trainer:ba9876543210", "localhost:5000/finetune-operator/trainer:ba9876543210"]
    others = ["localhost/finetune-operator/operator:ba9876543210", "localhost/finetune-base:ba9876543210"]
    assert images.outdated([current, *old, *others], "trainer", current) == old


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_both_nodes_and_the_build_store_share_the_files(cluster: LocalCluster) -> None:
    reference = cluster.image("base")
    for node in cluster.nodes:
        assert reference in output_of(*cluster.ctr(node, "images", "list", "--quiet")).split()
    cache = cluster.layout.cache
    store, *nodes = (
        {path.stat().st_ino for path in folder.glob(f"{pattern}/usr/bin/python3.*")}
        for folder, pattern in (
            (cache / "buildah/overlay", "*/diff"),
            *(
                (cache / "nodes" / node / "io.containerd.snapshotter.v1.overlayfs/snapshots", "*/fs")
                for node in cluster.nodes
            ),
        )
    )
    for inodes in nodes:
        assert inodes
        assert inodes <= store
