"""What the settings choose."""

from pathlib import Path

import boto3
import pytest

from adapters import artifacts_s3
from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import S3Store
from adapters.settings import ModelSettings
from adapters.wiring import gallery_store
from tests.aws_server import AwsServer


def test_the_gallery_is_in_the_place_that_the_variables_name(
    tmp_path: Path, aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"FACEQ_MODELS_DIR": str(tmp_path), "FACEQ_GALLERY_DIR": str(tmp_path)}
    in_folder = gallery_store(ModelSettings.from_environment(folders))
    assert isinstance(in_folder, DirectoryStore)
    in_folder.write("a", b"in a folder")
    assert (tmp_path / "a").read_bytes() == b"in a folder"
    for name, value in aws_server.variables.items():
        monkeypatch.setenv(name, value)
    aws_server.create_bucket("bucket")
    on_s3 = gallery_store(ModelSettings.from_environment({**folders, "FACEQ_GALLERY": "s3://bucket/gallery"}))
    assert isinstance(on_s3, S3Store)
    on_s3.write("a", b"on S3")
    assert aws_server.client("s3").get_object(Bucket="bucket", Key="gallery/a")["Body"].read() == b"on S3"


def test_a_gallery_on_s3_is_asked_for_in_the_functions_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert artifacts_s3.s3_client(boto3.Session()).meta.region_name == "eu-west-1"
