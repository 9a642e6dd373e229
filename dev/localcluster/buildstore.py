"""buildah's store on disk: the layers of an image, where they lie, and whether they are still what was built."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class DamagedLayerError(RuntimeError):
    """A layer's files are no longer those that its digest stands for."""


@dataclass(frozen=True)
class Layer:
    """One layer: a folder with its files, and the recipe that puts them together to the archive it was made from."""

    digest: str  # of the uncompressed archive, as the image's configuration names it
    folder: Path
    recipe: Path


@dataclass(frozen=True)
class StoredImage:
    """An image as it was committed. `layers` begin with the base."""

    reference: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def chain_ids(self) -> list[str]:
        """What each layer together with all below it is called (OCI image specification, "Layer ChainID")."""
        chain: list[str] = []
        for layer in self.layers:
            chain.append(sha256(f"{chain[-1]} {layer.digest}".encode()) if chain else layer.digest)
        return chain


def names(store: Path) -> set[str]:
    """The references of all images."""
    try:
        images = json.loads((store / "overlay-images/images.json").read_text())
    except FileNotFoundError:
        return set()
    return {name for image in images for name in image.get("names") or []}


def sha256(content: bytes) -> str:
    """The digest in the notation of image manifests."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read(store: Path, reference: str, *, manifest: bytes, config: bytes) -> StoredImage:
    """The image with this manifest and configuration (of `buildah inspect`); DamagedLayerError if they do not fit."""
    described = json.loads(manifest)
    if described["config"]["digest"] != sha256(config):
        raise DamagedLayerError(f"{reference}: the configuration in {store} is not the one of its manifest")
    wanted = json.loads(config)["rootfs"]["diff_ids"]
    layers = tuple(_layers(store, sha256(config).removeprefix("sha256:")))
    if [layer.digest for layer in layers] != wanted:
        raise DamagedLayerError(f"{reference}: the layers in {store} are not those of its configuration")
    return StoredImage(reference, manifest, config, layers)


def _layers(store: Path, image: str) -> Iterator[Layer]:
    records = {record["id"]: record for record in json.loads((store / "overlay-layers/layers.json").read_text())}
    images = json.loads((store / "overlay-images/images.json").read_text())
    chain: list[dict[str, Any]] = []
    top = next((each["layer"] for each in images if each["id"] == image), None)
    while top:
        chain.append(records[top])
        top = records[top].get("parent")
    for record in reversed(chain):
        name = record["id"]
        yield Layer(
            record["diff-digest"], store / "overlay" / name / "diff", store / f"overlay-layers/{name}.tar-split.gz"
        )


def verify(layer: Layer) -> None:
    """DamagedLayerError unless the files give the layer's digest. Reads every byte: some 3 s a gigabyte.

    The recipe (tar-split's format) holds the archive's headers and padding, and names the file that comes between them.
    """
    digest = hashlib.sha256()
    with gzip.open(layer.recipe) as recipe:
        for line in recipe:
            entry = json.loads(line)
            if entry["type"] == 2:  # a piece of the archive itself
                digest.update(base64.b64decode(entry["payload"]))
            elif entry.get("size"):
                with (layer.folder / entry["name"]).open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
    if (found := f"sha256:{digest.hexdigest()}") != layer.digest:
        raise DamagedLayerError(
            f"{layer.folder} should be {layer.digest} and is {found}: files were changed after the build; "
            "drop the images by `python -m dev.localcluster prune` and build again"
        )
