"""Hand an image from buildah's store to a node's containerd without a copy.

Both keep a layer as a folder of its files, below the same cache folder. So the node's folder is filled with hard links:
one image on two nodes takes the room of one, and no registry, compression or transfer stands between. containerd gets
manifest and configuration by an ordinary import; that a layer's own archive is absent is what it is used to from
`discard_unpacked_layers`. Lower layers are read-only to containers, so nobody writes through a link.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterable
from contextlib import suppress

from dev.localcluster import buildstore
from dev.localcluster.buildstore import Layer, StoredImage, sha256
from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.node import Node

_ROOT = "containerd.io/gc.root"  # what has this label is not collected; `ctr` sets it on all that it makes
_TOP = "containerd.io/gc.ref.snapshot.overlayfs"


def images_on(node: Node) -> dict[str, str]:
    """Every name that the node has for an image → the digest of its manifest."""
    rows = (line.split() for line in output_of(*node.ctr("images", "list")).splitlines()[1:])
    return {row[0]: row[2] for row in rows}


def hand_over(image: StoredImage, nodes: Iterable[Node]) -> None:
    """Make the nodes hold the image. Each layer is verified once, before the first node gets it."""
    verified: set[str] = set()
    for node in nodes:
        parent = ""
        present = _snapshots(node)
        for layer, chain_id in zip(image.layers, image.chain_ids, strict=True):
            if chain_id not in present:
                if layer.digest not in verified:
                    buildstore.verify(layer)
                    verified.add(layer.digest)
                _link(node, layer, chain_id, parent)
            parent = chain_id
        _run(node, "images", "import", "--no-unpack", "-", stdin=_archive(image))
        _run(node, "content", "label", sha256(image.config), f"{_TOP}={parent}")
        for chain_id in image.chain_ids:  # from now on they live as long as the image
            _run(node, "snapshots", "label", chain_id, f"{_ROOT}=")


def remove(node: Node, references: Iterable[str]) -> None:
    """Drop images, unless a container was made from them; their layers go with the last name they have."""
    names = images_on(node)
    used = {names.get(word) for word in output_of(*node.ctr("containers", "list")).split()}
    unused = {names[each] for each in references if each in names} - used
    if doomed := [name for name, digest in names.items() if digest in unused]:
        _run(node, "images", "remove", "--sync", *doomed)


def _snapshots(node: Node) -> set[str]:
    lines = output_of(*node.ctr("snapshots", "list")).splitlines()[1:]
    return {words[0] for line in lines if (words := line.split())[-1] == "Committed"}


def _link(node: Node, layer: Layer, chain_id: str, parent: str) -> None:
    """A committed snapshot whose files are the layer's own."""
    key = f"handover-{chain_id}"
    with suppress(CommandError):
        _run(node, "snapshots", "remove", key)  # of one that was interrupted
    _run(node, "snapshots", "prepare", key, *filter(None, [parent]))
    target = upper_folder(output_of(*node.ctr("snapshots", "mounts", "/", key)))
    output_of("cp", "--archive", "--link", f"{layer.folder}/.", target)
    _run(node, "snapshots", "commit", chain_id, key)


def upper_folder(mount: str) -> str:
    """The writable folder of a snapshot, from the `mount` command that containerd proposes for it."""
    words = mount.split()
    options = words[words.index("-o") + 1].split(",")
    upper = [option.removeprefix("upperdir=") for option in options if option.startswith("upperdir=")]
    return upper[0] if upper else words[words.index("-o") - 2]  # the lowest layer is bound, not overlaid


def _archive(image: StoredImage) -> bytes:
    """An OCI layout with manifest and configuration, and without layers."""
    described = {
        "mediaType": json.loads(image.manifest)["mediaType"],
        "digest": sha256(image.manifest),
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": image.reference},
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [described]}).encode(),
        **{f"blobs/{sha256(blob).replace(':', '/')}": blob for blob in (image.manifest, image.config)},
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _run(node: Node, *words: str, stdin: bytes | None = None) -> None:
    argv = node.ctr(*words)
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=600, check=False)
    if done.returncode:
        raise CommandError(argv, done.returncode, (done.stdout + done.stderr).decode(errors="replace"))
