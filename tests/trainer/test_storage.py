"""Storage against a real S3 server: what it reads and writes, and which field its errors name."""

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError, TrainerError, Transient
from tests.trainer.conftest import S3

FIELD = "spec.dataset.train[0].source"


# --- reading and writing ---------------------------------------------------------------------------------------------
def test_an_object_is_fetched_as_a_file(s3: S3, storage: Storage, tmp_path: Path) -> None:
    uri = s3.prefix()
    storage.put_bytes(f"{uri}/rows.jsonl", b"{}\n")
    path = storage.fetch(f"{uri}/rows.jsonl", tmp_path / "in", field=FIELD)
    assert path == tmp_path / "in" / "rows.jsonl"
    assert path.read_bytes() == b"{}\n"


def test_a_prefix_is_fetched_as_a_folder_with_its_subfolders(s3: S3, storage: Storage, tmp_path: Path) -> None:
    uri = s3.prefix()
    for name in ("a.txt", "deep/er/b.txt"):
        storage.put_bytes(f"{uri}/model/{name}", name.encode())
    storage.put_bytes(f"{uri}/model-other/c.txt", b"a prefix is a folder, not the beginning of a name")
    path = storage.fetch(f"{uri}/model", tmp_path / "in", field=FIELD)
    assert {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} == {"a.txt", "deep/er/b.txt"}


def test_a_large_file_goes_up_in_parts_and_comes_back_the_same(s3: S3, storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    source.write_bytes(bytes(range(256)) * (40 << 12))
    uri = f"{s3.prefix()}/big.bin"
    storage.put_file(source, uri)
    assert "-" in s3.client().head_object(Bucket="team", Key=uri.removeprefix("s3://team/"))["ETag"]
    assert storage.fetch(uri, tmp_path / "in", field=FIELD).read_bytes() == source.read_bytes()


def test_a_prefix_is_listed_and_deleted(s3: S3, storage: Storage) -> None:
    uri = s3.prefix()
    storage.put_bytes(f"{uri}/a", b"1")
    storage.put_bytes(f"{uri}/sub/b", b"22")
    assert [(item.path, item.size) for item in storage.list(uri)] == [("a", 1), ("sub/b", 2)]
    storage.delete_prefix(uri)
    assert storage.list(uri) == ()
    assert not storage.exists(f"{uri}/a")


def test_a_listing_has_more_than_one_page(s3: S3, storage: Storage) -> None:
    uri = s3.prefix()
    for number in range(1003):
        storage.put_bytes(f"{uri}/{number:05d}", b"")
    assert len(storage.list(uri)) == 1003


def test_bytes_are_written_once_on_request(s3: S3, storage: Storage) -> None:
    uri = f"{s3.prefix()}/one"
    assert storage.put_bytes(uri, b"first", if_none_match=True)
    assert not storage.put_bytes(uri, b"second", if_none_match=True)
    assert storage.get_bytes(uri) == b"first"


def test_a_missing_object_has_no_bytes(s3: S3, storage: Storage) -> None:
    assert storage.get_bytes(f"{s3.prefix()}/none") is None


def test_a_corrupted_upload_is_refused_by_the_server(s3: S3, storage: Storage) -> None:
    def flip(request: Any, **_: Any) -> None:
        request.body = b"HELLO"

    storage = s3.storage(budget_seconds=0)
    storage._client.meta.events.register("before-send.s3.PutObject", flip)
    uri = f"{s3.prefix()}/x"
    with pytest.raises(Transient):
        storage.put_bytes(uri, b"hello")
    assert not s3.storage().exists(uri)


def test_local_sources_are_used_in_place(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CLAIMS_DIR", str(tmp_path))
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    for uri in (f"file://{tmp_path}/models/tiny", "pvc://models/tiny"):
        assert s3.storage().fetch(uri, tmp_path / "in", field=FIELD) == tmp_path / "models" / "tiny"


# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("uri", "want_in_message"),
    [
        pytest.param("s3://team/no/such/rows.jsonl", ("s3://team/no/such/rows.jsonl", "upload"), id="no such object"),
        pytest.param("file:///no/such/file", ("file:///no/such/file", "does not exist"), id="no such file"),
        pytest.param("pvc://claim/no/such", ("below the root of the claim",), id="no such path on a claim"),
        pytest.param("pvc://claim/../../etc", ("leads out",), id="a path that leads out of the claim"),
        pytest.param("ftp://host/file", ("s3://bucket/key",), id="a scheme that is not known"),
        pytest.param("s3://", ("s3://bucket/prefix",), id="no bucket"),
    ],
)
def test_a_missing_source_names_its_field(
    storage: Storage, tmp_path: Path, uri: str, want_in_message: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        storage.fetch(uri, tmp_path, field=FIELD)
    assert caught.value.field == FIELD
    for part in (FIELD, *want_in_message):
        assert part in str(caught.value)


def test_a_run_that_can_write_passes_the_probe(s3: S3, storage: Storage) -> None:
    storage.probe(s3.prefix())


def test_a_wrong_secret_key_names_the_secret(s3: S3) -> None:
    storage = s3.storage(credentials_dir=s3.credentials("user-key", "wrong"))
    error = _refused(storage, "s3://team/x")
    assert error.field == "spec.storage.secretName"
    assert error.reason == "StorageKeysRefused"
    assert "'s3-keys'" in str(error)
    assert "AWS_SECRET_ACCESS_KEY" in str(error)


def test_an_unknown_access_key_names_the_secret(s3: S3) -> None:
    error = _refused(s3.storage(credentials_dir=s3.credentials("nobody", "x")), "s3://team/x")
    assert (error.field, error.reason) == ("spec.storage.secretName", "StorageKeysRefused")


def test_a_missing_bucket_names_the_output(s3: S3) -> None:
    access, secret = "admin-key", "admin-secret"
    error = _refused(s3.storage(credentials_dir=s3.credentials(access, secret)), "s3://nowhere/x")
    assert (error.field, error.reason) == ("spec.output.uri", "BucketNotFound")
    assert "Create it" in str(error)
    buckets = {bucket["Name"] for bucket in s3.client("admin").list_buckets()["Buckets"]}
    assert "nowhere" not in buckets, "the probe created the bucket that it should have reported missing"


def test_a_bucket_that_the_keys_do_not_reach_names_both_fields(s3: S3, storage: Storage) -> None:
    error = _refused(storage, "s3://elsewhere/x")
    assert (error.field, error.reason) == ("spec.output.uri", "StorageAccessDenied")
    assert "spec.storage.secretName" in str(error)


def test_an_unreachable_endpoint_is_named_and_transient(s3: S3) -> None:
    storage = s3.storage(endpoint="http://127.0.0.1:1", budget_seconds=0)
    with pytest.raises(Transient) as caught:
        storage.probe("s3://team/x")
    assert caught.value.code == 75
    assert "spec.storage.endpoint" in str(caught.value)
    assert "http://127.0.0.1:1" in str(caught.value)


def test_an_endpoint_that_is_not_a_url_is_a_configuration_error(s3: S3) -> None:
    with pytest.raises(ConfigurationError) as caught:
        s3.storage(endpoint="s3.example.com:9000")
    assert caught.value.field == "spec.storage.endpoint"


def test_a_secret_without_keys_says_which_key_it_lacks(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("user-key\n")
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY") as caught:
        s3.storage(credentials_dir=tmp_path)
    assert caught.value.field == "spec.storage.secretName"


def test_what_botocore_does_not_retry_is_retried_within_the_budget(s3: S3) -> None:
    lines: list[str] = []
    storage = s3.storage(report=lines.append, budget_seconds=30)
    damage = iter([b"HELLO", b"hEllo"])

    def flip(request: Any, **_: Any) -> None:
        request.body = next(damage, request.body)

    storage._client.meta.events.register("before-send.s3.PutObject", flip)
    uri = f"{s3.prefix()}/x"
    assert storage.put_bytes(uri, b"hello")
    assert storage.get_bytes(uri) == b"hello"
    assert len(lines) == 2
    assert all("next try in" in line for line in lines)


def _refused(storage: Storage, output: str) -> ConfigurationError:
    with pytest.raises(TrainerError) as caught:
        storage.probe(output)
    assert isinstance(caught.value, ConfigurationError), caught.value
    assert caught.value.code == 2
    assert caught.value.field in str(caught.value)
    return caught.value
