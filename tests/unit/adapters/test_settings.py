"""The variables: their defaults, what they accept, and one line that names a value they do not accept."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.settings import (
    VARIABLES,
    ModelSettings,
    Paths,
    Ports,
    QueueSettings,
    S3Place,
    log_names,
    port,
    stack_name,
    template_parameters,
)
from adapters.settings_page import FILE, page
from pipeline.errors import SetupError
from pipeline.images import MAX_PIXELS
from template.lambda_facts import MB_PER_PROCESSOR

FOLDERS = {"FACEQ_MODELS_DIR": "/models", "FACEQ_GALLERY_DIR": "/gallery"}


def test_without_variables_the_documented_defaults_apply() -> None:
    settings = ModelSettings.from_environment({})
    assert (settings.engine, settings.model, settings.min_face_size) == ("onnx", "auto", 20)
    assert settings.max_pixels == MAX_PIXELS
    assert not settings.try_rotations
    assert settings.threads == os.cpu_count()
    paths = Paths.from_environment({})
    assert (settings.models, settings.gallery) == (paths.models, paths.gallery)
    assert all(path.is_absolute() for path in (paths.models, paths.gallery, paths.state))
    assert "faceq" in paths.models.parts


def test_an_empty_variable_counts_as_not_set() -> None:
    names = [
        "FACEQ_ENGINE",
        "FACEQ_MODEL",
        "FACEQ_MODELS_DIR",
        "FACEQ_GALLERY",
        "FACEQ_GALLERY_DIR",
        "FACEQ_MIN_FACE_SIZE",
        "FACEQ_MAX_PIXELS",
        "FACEQ_THREADS",
        "FACEQ_TRY_ROTATIONS",
    ]
    assert ModelSettings.from_environment(dict.fromkeys(names, "")) == ModelSettings.from_environment({})


def test_every_variable_is_read() -> None:
    settings = ModelSettings.from_environment(
        {
            **FOLDERS,
            "FACEQ_ENGINE": "torch",
            "FACEQ_MODEL": "dlib",
            "FACEQ_MIN_FACE_SIZE": "12",
            "FACEQ_MAX_PIXELS": "100",
            "FACEQ_THREADS": "3",
            "FACEQ_TRY_ROTATIONS": "true",
        }
    )
    assert settings == ModelSettings("torch", "dlib", Path("/models"), Path("/gallery"), 12, 100, 3, True)


@pytest.mark.parametrize("others", [{}, {"FACEQ_GALLERY_DIR": "/gallery"}], ids=["alone", "with the other folder"])
def test_every_part_reads_a_folder_in_the_same_way(
    others: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in ("~/models", "models", str(tmp_path / "models")):
        environ = {"FACEQ_MODELS_DIR": text, **others}
        assert Paths.from_environment(environ).models == tmp_path / "models"
        assert ModelSettings.from_environment(environ).models == tmp_path / "models"


def test_a_function_whose_folders_are_set_does_not_import_platformdirs() -> None:
    code = (
        "import sys; from adapters.settings import ModelSettings; "
        f"ModelSettings.from_environment({FOLDERS!r}); sys.exit('platformdirs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://faceq-123456789012-us-east-1/gallery", S3Place("faceq-123456789012-us-east-1", "gallery")),
        ("s3://b.c/two/deep/", S3Place("b.c", "two/deep")),
    ],
)
@pytest.mark.parametrize("others", [{}, FOLDERS], ids=["alone", "with the folders"])
def test_a_gallery_on_s3_takes_precedence_over_the_folder(text: str, place: S3Place, others: dict[str, str]) -> None:
    settings = ModelSettings.from_environment({"FACEQ_GALLERY": text, **others})
    assert settings.gallery == place
    assert str(place) == text.removesuffix("/")


@pytest.mark.parametrize(
    "text",
    [
        "gallery",
        "bucket/gallery",
        "s3://bucket",
        "s3://bucket/",
        "s3:///gallery",
        "s3://bucket//gallery",
        "s3://Bucket/gallery",
        "s3://ab/gallery",
        "s3://bucket/gal lery",
        "https://bucket/gallery",
    ],
)
def test_an_invalid_place_on_s3_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"FACEQ_GALLERY is .*; set it to s3://BUCKET/PREFIX"):
        ModelSettings.from_environment({"FACEQ_GALLERY": text, **FOLDERS})


@pytest.mark.parametrize(
    ("memory_mb", "processors"),
    [("128", 1), (str(MB_PER_PROCESSOR), 1), (str(MB_PER_PROCESSOR + 1), 2), ("10240", 6)],
)
def test_threads_follow_the_processors_that_lambda_gives_for_the_memory_size(memory_mb: str, processors: int) -> None:
    settings = ModelSettings.from_environment({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": memory_mb})
    assert settings.threads == min(processors, os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FACEQ_ENGINE", "tensorflow"),
        ("FACEQ_ENGINE", "ONNX"),
        ("FACEQ_MIN_FACE_SIZE", "11"),
        ("FACEQ_MIN_FACE_SIZE", "twenty"),
        ("FACEQ_MIN_FACE_SIZE", "-20"),
        ("FACEQ_MIN_FACE_SIZE", "20.5"),
        ("FACEQ_MIN_FACE_SIZE", "٢٠"),
        ("FACEQ_MIN_FACE_SIZE", "²"),
        ("FACEQ_MAX_PIXELS", "0"),
        ("FACEQ_MAX_PIXELS", "1e6"),
        ("FACEQ_THREADS", "0"),
        ("FACEQ_THREADS", "1025"),
        ("FACEQ_MIN_FACE_SIZE", "1000000000"),
        ("FACEQ_TRY_ROTATIONS", "yes"),
        ("FACEQ_TRY_ROTATIONS", "1"),
    ],
)
def test_the_refusal_of_an_invalid_value_names_the_variable_and_the_value(name: str, value: str) -> None:
    with pytest.raises(SetupError) as refused:
        ModelSettings.from_environment({name: value})
    assert refused.value.code == "bad_setting"
    assert name in refused.value.message
    assert value in refused.value.message
    assert "set it to" in refused.value.message


def test_a_missing_queue_is_named() -> None:
    environ = {"REQUEST_QUEUE_URL": "http://127.0.0.1:1/q"}
    with pytest.raises(SetupError, match="RESPONSE_QUEUE_URL"):
        QueueSettings.from_environment(environ, "REQUEST_QUEUE_URL", "RESPONSE_QUEUE_URL")
    settings = QueueSettings.from_environment(environ, "REQUEST_QUEUE_URL")
    assert settings == QueueSettings("us-east-1", "http://127.0.0.1:1/q", "", "", "", 5)


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, "a"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "b"}, "b"),
        ({}, "us-east-1"),
    ],
)
def test_the_region_comes_from_awss_variables_or_is_the_default(environ: dict[str, str], region: str) -> None:
    assert QueueSettings.from_environment(environ).region == region


@pytest.mark.parametrize(("text", "logged"), [(None, True), ("", True), ("true", True), ("false", False)])
def test_names_are_logged_unless_that_is_switched_off(text: str | None, logged: bool) -> None:
    assert log_names({} if text is None else {"FACEQ_LOG_NAMES": text}) == logged


@pytest.mark.parametrize("text", ["no", "False", "0"])
def test_a_value_that_might_be_meant_to_switch_names_off_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=f"FACEQ_LOG_NAMES is '{text}'; set it to true or false"):
        log_names({"FACEQ_LOG_NAMES": text})


@pytest.mark.parametrize("value", ["0", "five"])
def test_a_receive_count_is_at_least_one(value: str) -> None:
    with pytest.raises(SetupError, match="MAX_RECEIVE_COUNT"):
        QueueSettings.from_environment({"MAX_RECEIVE_COUNT": value})


def test_parameters_of_the_template_are_separated_by_spaces() -> None:
    assert template_parameters({}) == {}
    assert template_parameters({"FACEQ_PARAMETERS": " Prefix=a  BatchSize=1 "}) == {"Prefix": "a", "BatchSize": "1"}


@pytest.mark.parametrize("text", ["Prefix", "=a", "Prefix = a"])
def test_an_invalid_parameter_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="write Name=Value"):
        template_parameters({"FACEQ_PARAMETERS": text})


def test_a_port_is_a_number_up_to_65535() -> None:
    assert port({}, "FACEQ_PORT", 8000) == 8000
    assert port({"FACEQ_PORT": "81"}, "FACEQ_PORT", 8000) == 81
    for text in ("x", "0", "65536"):
        with pytest.raises(SetupError, match="FACEQ_PORT"):
            port({"FACEQ_PORT": text}, "FACEQ_PORT", 8000)


def test_the_default_gallery_of_a_clone_is_the_folder_that_compose_mounts() -> None:
    assert Paths.from_environment({}).gallery == Path(__file__).parents[3] / "gallery"


def test_a_number_of_any_length_is_refused_in_a_short_line() -> None:
    with pytest.raises(SetupError, match="at most 999999999") as refused:
        ModelSettings.from_environment({"FACEQ_MAX_PIXELS": "9" * 5000})
    assert len(refused.value.message) < 200


def test_ports_come_from_options_then_variables_then_defaults() -> None:
    assert Ports.from_environment({}) == Ports(8000, 8001, 9324)
    variables = {"FACEQ_PORT": "18000", "FACEQ_API_PORT": "18001", "FACEQ_QUEUE_PORT": "19324"}
    assert Ports.from_environment(variables) == Ports(18000, 18001, 19324)
    assert Ports.from_environment(variables, 1, 2, 3) == Ports(1, 2, 3)
    assert Ports.from_environment({"FACEQ_PORT": "18000"}) == Ports(18000, 8001, 9324)


def test_a_free_function_url_and_a_stack_with_a_name_take_free_ports() -> None:
    assert Ports.from_environment({"FACEQ_PORT": "0"}) == Ports.from_environment({}, 0) == Ports(0, 0, 0)
    assert Ports.from_environment({"FACEQ_PORT": "0", "FACEQ_API_PORT": "18001"}) == Ports(0, 18001, 0)
    assert Ports.from_environment({"FACEQ_API_PORT": "18001"}, 0) == Ports(0, 0, 0)
    assert Ports.from_environment({}, 0, 5, 6) == Ports(0, 5, 6)
    assert Ports.from_environment({"FACEQ_NAME": "two"}) == Ports(0, 0, 0)
    assert Ports.from_environment({"FACEQ_NAME": "two", "FACEQ_PORT": "18000"}) == Ports(18000, 0, 0)


@pytest.mark.parametrize("name", ["FACEQ_PORT", "FACEQ_API_PORT", "FACEQ_QUEUE_PORT"])
@pytest.mark.parametrize("text", ["x", "-1", "65536", "8000.5"])
def test_an_invalid_port_is_refused(name: str, text: str) -> None:
    with pytest.raises(SetupError, match=f"{name} is '{text}'"):
        Ports.from_environment({name: text})


def test_stacks_of_different_names_share_only_the_models() -> None:
    environ = {"FACEQ_STATE_DIR": "/state"}
    unnamed, one, two = (Paths.from_environment({**environ, "FACEQ_NAME": name}) for name in ("", "one", "two"))
    assert unnamed == Paths.from_environment(environ)
    assert len({unnamed.state, one.state, two.state}) == len({unnamed.gallery, one.gallery, two.gallery}) == 3
    assert unnamed.models == one.models == two.models
    assert one.state == Path("/state/stacks/one")


def test_a_gallery_that_is_set_is_used_whatever_the_name() -> None:
    assert Paths.from_environment({**FOLDERS, "FACEQ_NAME": "one"}).gallery == Path("/gallery")


@pytest.mark.parametrize("text", ["One", "a_b", "-a", "a/b", "..", "a" * 32, "é", " "])
def test_an_invalid_name_of_a_stack_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="FACEQ_NAME is "):
        stack_name({"FACEQ_NAME": text})
    with pytest.raises(SetupError, match="FACEQ_NAME is "):
        Paths.from_environment({"FACEQ_NAME": text})


ROOT = Path(__file__).parents[3]


def test_the_page_of_settings_is_what_the_code_says() -> None:
    """`make settings-page` writes it."""
    assert FILE.read_text() == page()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page(), re.MULTILINE)) == sorted(VARIABLES)


def test_the_page_has_every_variable_that_code_compose_file_and_example_use() -> None:
    packages = ("pipeline", "template", "adapters", "client", "local", "deploy", "cli", "bench")
    code = [file.read_text() for package in packages for file in (ROOT / package).rglob("*.py")]
    files = [ROOT / name for name in ("docker-compose.yml", ".env.example", "Dockerfile", "deploy/template.yaml")]
    names = {
        *re.findall(r"\"(FACEQ_[A-Z_]+)\"", "\n".join(code)),
        *re.findall(r"\b(FACEQ_[A-Z_]+)\b", "\n".join(file.read_text() for file in files)),
    }
    assert names == {name for name in VARIABLES if name.startswith("FACEQ_")}


def test_only_the_settings_name_the_variables() -> None:
    """Other modules import the names, so none is read that the page lacks."""
    packages = ("pipeline", "template", "adapters", "client", "local", "deploy", "cli", "bench")
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    naming = {file.relative_to(ROOT).as_posix() for file in files if re.search(r"\"FACEQ_[A-Z_]+\"", file.read_text())}
    assert naming == {"adapters/settings.py"}
