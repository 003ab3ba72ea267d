"""`faceq people` on the command line. The faces are coloured patches; the disk is real."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from adapters.artifacts_directory import DirectoryStore
from cli import people_commands
from client.frames import ReadingReport
from pipeline import gallery_storage
from pipeline.errors import BadInput, FaceqError, SetupError
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_storage import PHOTO_PREFIX
from tests.fakes import ColourEmbedder, PatchDetector
from tests.videos import write_video

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(*colours: tuple[int, int, int], tint: int = 0) -> bytes:
    """Return a dark PNG with a patch of each colour, each patch smaller than the one before it."""
    image = Image.new("RGB", (100 * max(1, len(colours)), 120), (tint, 0, 0))
    for number, colour in enumerate(colours):
        image.paste(colour, (100 * number + 5, 5, 100 * number + 95 - 10 * number, 105))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "gallery")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def faceq_people(tmp_path: Path) -> Callable[..., Result]:
    """Return how to run `faceq people ...`. A FaceqError, which `cli.main` would print, is the result's exception."""

    def run(*arguments: str, answer: str = "") -> Result:
        environment = {"FACEQ_GALLERY_DIR": str(tmp_path / "gallery"), "FACEQ_MODELS_DIR": str(tmp_path / "models")}
        result = CliRunner().invoke(people_commands.app, arguments, input=answer, env=environment)
        assert isinstance(result.exception, SystemExit | FaceqError | None), repr(result.exception)
        return result

    return run


def add(store: DirectoryStore, person: str, *paths: Path, largest: bool = False, keep_photos: bool = False) -> int:
    """Do what `faceq people add` does, with other networks."""
    return people_commands.add_photos(
        person,
        people_commands.photo_files(paths),
        store,
        PatchDetector(),
        ColourEmbedder(),
        max_pixels=1_000_000,
        largest=largest,
        keep_photos=keep_photos,
    )


def enrolled(store: DirectoryStore) -> dict[str, int]:
    current = gallery_storage.load(store)
    return {} if current is None else dict(current.people)


def save_two(store: DirectoryStore, model: str = "vggface2") -> Gallery:
    rows = [Photo("Ada", "ada[1].png", "0" * 64), Photo("Grace Hopper", "grace.png", "1" * 64)]
    two = Gallery.empty(model, "facenet-160", 0.9, 3).add(rows, np.eye(2, 3, dtype=np.float32))
    gallery_storage.save(store, two)
    return two


def test_photos_and_folders_of_them_are_enrolled_and_then_recognised(store: DirectoryStore, photos: Path) -> None:
    (photos / "deep").mkdir()
    (photos / "deep" / "a.png").write_bytes(picture(RED))
    (photos / "b.PNG").write_bytes(picture(RED, tint=9))
    (photos / "notes.txt").write_text("not a picture, not looked at")
    (photos.parent / "green.png").write_bytes(picture(GREEN))
    assert add(store, " Ada ", photos) == 0
    assert add(store, "Bo", photos.parent / "green.png") == 0
    assert enrolled(store) == {"Ada": 2, "Bo": 1}
    current = gallery_storage.load(store)
    assert current is not None
    assert {photo.source for photo in current.photos} == {"a.png", "b.PNG", "green.png"}
    assert (current.model, current.preprocessing, current.threshold) == ("stand-in", "facenet-160", 0.3)
    matches = current.nearest(np.eye(3, dtype=np.float32))
    assert [match.name for match in matches] == ["Ada", "Bo", None]


def test_each_unusable_photo_is_refused_with_a_reason_and_the_others_are_enrolled(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "nobody.png": (picture(), "No face was found"),
        "two.png": (picture(RED, GREEN), "2 faces were found"),
        "text.jpg": (b"no picture", ""),
        "cut.png": (picture(RED)[:200], ""),
        "empty.jpg": (b"", "The file is empty"),
        "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "cannot be decoded"),
        "big.png": (picture(*[RED] * 99), ""),
    }
    for name, (content, _) in files.items():
        (photos / name).write_bytes(content)
    (photos / "good.png").write_bytes(picture(RED))
    assert add(store, "Ada", photos, photos.parent / "absent.png") == len(files) + 1
    assert enrolled(store) == {"Ada": 1}
    out, err = capsys.readouterr()
    assert out == "Ada: 1 photo enrolled, 8 refused (model stand-in)\n"
    lines = err.splitlines()
    assert len(lines) == len(files) + 1
    for name, (_, reason) in {**files, "absent.png": (b"", "No such file")}.items():
        assert [line for line in lines if f"{name}' refused: " in line and reason in line], name


def test_a_picture_of_a_phone_is_enrolled_once_and_kept_as_it_was(store: DirectoryStore, photos: Path) -> None:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.open(io.BytesIO(picture(RED)))).save(buffer)
    (photos / "phone.heic").write_bytes(buffer.getvalue())
    assert add(store, "Ada", photos, keep_photos=True) == 0
    assert add(store, "Ada", photos, keep_photos=True) == 0
    assert enrolled(store) == {"Ada": 1}
    assert [store.read(name) for name in store.names() if name.startswith(PHOTO_PREFIX)] == [buffer.getvalue()]
    assert people_commands.renew_photos(store, PatchDetector(), ColourEmbedder(model="dlib"), max_pixels=1_000_000) == 0


def test_add_and_send_leave_out_the_same_files_of_a_folder_and_add_also_the_videos(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.other suffix", "._a.jpg", "@eaDir/a.jpg/THUMB.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(picture(RED))
    write_video(photos / "clip.avi", [np.zeros((48, 64, 3), np.uint8)])
    report = ReadingReport()
    assert [file.name for file in people_commands.photo_files([photos], report.skipped)] == ["a.jpg", "b.other suffix"]
    people_commands.show_skipped(report.skipped)
    assert capsys.readouterr().err == (
        "faceq: skipped 3 files: 1 metadata of macOS, 1 previews of a Synology disk station, 1 a video\n"
    )


def test_the_largest_of_several_faces_is_enrolled_on_request(store: DirectoryStore, photos: Path) -> None:
    (photos / "two.png").write_bytes(picture(GREEN, RED))
    assert add(store, "Bo", photos, largest=True) == 0
    current = gallery_storage.load(store)
    assert current is not None
    assert current.nearest(np.array([[0, 1, 0]], np.float32))[0].name == "Bo"


def test_a_photo_that_is_enrolled_already_changes_nothing_and_is_refused_under_another_name(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a.png").write_bytes(picture(RED))
    (photos / "copy.png").write_bytes(picture(RED))
    add(store, "Ada", photos)
    before = store.read(gallery_storage.MANIFEST)
    assert add(store, "Ada", photos) == 0
    assert add(store, "Bo", photos / "a.png") == 1
    assert store.read(gallery_storage.MANIFEST) == before
    out, err = capsys.readouterr()
    assert "Ada: 0 photos enrolled, 2 enrolled before" in out
    assert "is enrolled as Ada" in err


def test_photos_are_kept_only_on_request_and_removed_with_their_person(
    store: DirectoryStore, photos: Path, faceq_people: Callable[..., Result]
) -> None:
    (photos / "a.png").write_bytes(picture(RED))
    add(store, "Ada", photos)
    assert not [name for name in store.names() if name.startswith(PHOTO_PREFIX)]
    add(store, "Ada", photos, keep_photos=True)
    (kept,) = [name for name in store.names() if name.startswith(PHOTO_PREFIX)]
    assert store.read(kept) == picture(RED)
    assert json.loads(faceq_people("show", "Ada", "--json").stdout)["photos"][0]["kept"] is True
    assert faceq_people("remove", "Ada", "--yes").exit_code == 0
    assert len(store.names()) == 2
    assert enrolled(store) == {}


def test_a_gallery_of_another_model_is_refused_until_it_is_removed(
    store: DirectoryStore, photos: Path, faceq_people: Callable[..., Result]
) -> None:
    save_two(store, model="dlib")
    (photos / "a.png").write_bytes(picture(RED))
    with pytest.raises(SetupError, match="faceq people remove --all"):
        add(store, "Ada", photos)
    assert faceq_people("remove", "--all", "--yes").exit_code == 0
    assert add(store, "Ada", photos) == 0
    assert enrolled(store) == {"Ada": 1}


def test_renew_enrols_everyone_with_another_model_only_if_all_photos_were_kept(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "two.png").write_bytes(picture(GREEN, RED))
    (photos / "green.png").write_bytes(picture(GREEN))
    add(store, "Bo", photos / "two.png", largest=True, keep_photos=True)
    add(store, "Ada", photos / "green.png")
    before = store.read(gallery_storage.MANIFEST)

    def renew() -> int:
        return people_commands.renew_photos(store, PatchDetector(), ColourEmbedder(model="dlib"), max_pixels=1_000_000)

    assert renew() == 1
    assert "'green.png' refused: The photo was not kept. Remove Ada" in capsys.readouterr().err
    assert store.read(gallery_storage.MANIFEST) == before
    add(store, "Ada", photos / "green.png", keep_photos=True)
    assert renew() == 0
    current = gallery_storage.load(store)
    assert current is not None
    assert current.model == "dlib"
    assert dict(current.people) == {"Ada": 1, "Bo": 1}
    assert len([name for name in store.names() if name.startswith(PHOTO_PREFIX)]) == 2


def test_an_invalid_name_is_refused_before_any_network_is_loaded(
    faceq_people: Callable[..., Result], photos: Path
) -> None:
    (photos / "a.png").write_bytes(picture(RED))
    assert isinstance(faceq_people("add", "Unknown", str(photos)).exception, BadInput)


def test_a_folder_without_a_picture_is_refused(faceq_people: Callable[..., Result], photos: Path) -> None:
    refused = faceq_people("add", "Ada", str(photos)).exception
    assert isinstance(refused, BadInput)
    assert "contains no picture" in refused.message


@pytest.mark.parametrize(
    ("path", "advice"), [("-", "Save the photo"), ("rtsp://user:secret@camera/1", "ffmpeg -i ADDRESS")]
)
def test_what_is_no_file_is_refused_with_what_to_do(
    faceq_people: Callable[..., Result], path: str, advice: str
) -> None:
    refused = faceq_people("add", "Ada", path).exception
    assert isinstance(refused, BadInput)
    assert advice in refused.message
    assert "secret" not in refused.message


def test_list_shows_who_is_enrolled_or_how_to_enrol_someone(
    store: DirectoryStore, faceq_people: Callable[..., Result]
) -> None:
    assert "faceq people add NAME PHOTO" in faceq_people("list").stdout
    assert json.loads(faceq_people("list", "--json").stdout) == {"people": []}
    two = save_two(store)
    shown = faceq_people("list").stdout
    assert "Ada" in shown
    assert "2 people with 2 photos are enrolled (model vggface2, preprocessing facenet-160" in " ".join(shown.split())
    assert json.loads(faceq_people("list", "--json").stdout) == {
        "model": "vggface2",
        "preprocessing": "facenet-160",
        "threshold": 0.9,
        "version": two.version,
        "people": [{"name": "Ada", "photos": 1}, {"name": "Grace Hopper", "photos": 1}],
    }


def test_show_lists_the_photos_of_a_person(store: DirectoryStore, faceq_people: Callable[..., Result]) -> None:
    save_two(store)
    assert "ada[1].png" in faceq_people("show", "Ada").stdout
    assert json.loads(faceq_people("show", "Grace Hopper", "--json").stdout) == {
        "name": "Grace Hopper",
        "photos": [{"source": "grace.png", "sha256": "1" * 64, "kept": False}],
    }
    unknown = faceq_people("show", "grace hoper").exception
    assert isinstance(unknown, BadInput)
    assert "Did you mean Grace Hopper?" in unknown.message


def test_rename_merges_two_people_only_on_request(store: DirectoryStore, faceq_people: Callable[..., Result]) -> None:
    save_two(store)
    assert faceq_people("rename", "Ada", "Ada Lovelace").stdout == "Ada is Ada Lovelace now, with 1 photo\n"
    refused = faceq_people("rename", "Ada Lovelace", "Grace Hopper").exception
    assert isinstance(refused, BadInput)
    assert "--merge" in refused.message
    assert faceq_people("rename", "Ada Lovelace", "Grace Hopper", "--merge").exit_code == 0
    assert enrolled(store) == {"Grace Hopper": 2}


def test_remove_asks_first_and_removes_all_of_the_named_people_or_none(
    store: DirectoryStore, faceq_people: Callable[..., Result]
) -> None:
    save_two(store)
    assert faceq_people("remove", "Ada", answer="n\n").exit_code == 1
    assert isinstance(faceq_people("remove", "Ada", "Nobody", "--yes").exception, BadInput)
    assert len(enrolled(store)) == 2
    assert faceq_people("remove", "Ada", "Ada", answer="y\n").exit_code == 0
    assert enrolled(store) == {"Grace Hopper": 1}
    assert faceq_people("remove").exit_code == 2
    assert faceq_people("remove", "--all", "Ada").exit_code == 2


def test_a_broken_gallery_can_be_removed(store: DirectoryStore, faceq_people: Callable[..., Result]) -> None:
    save_two(store)
    store.write(gallery_storage.MANIFEST, b"{")
    broken = faceq_people("list").exception
    assert isinstance(broken, SetupError)
    assert "faceq people remove --all" in broken.message
    assert faceq_people("remove", "--all", "--yes").exit_code == 0
    assert store.names() == []


def test_an_exported_gallery_can_be_imported_repeatedly(
    store: DirectoryStore, tmp_path: Path, faceq_people: Callable[..., Result]
) -> None:
    assert isinstance(faceq_people("export", str(tmp_path / "out.json")).exception, BadInput)
    two = save_two(store)
    assert faceq_people("export", str(tmp_path / "out.json")).exit_code == 0
    assert isinstance(faceq_people("export", str(tmp_path / "out.json")).exception, BadInput)
    assert faceq_people("export", str(tmp_path / "out.json"), "--force").exit_code == 0
    gallery_storage.clear(store)
    for _ in range(2):
        imported = faceq_people("import", str(tmp_path / "out.json"))
        assert "2 people with 2 photos imported; 2 people with 2 photos are enrolled" in imported.stdout
        back = gallery_storage.load(store)
        assert back is not None
        assert back.version == two.version


def test_importing_into_a_gallery_of_another_model_changes_nothing(
    store: DirectoryStore, tmp_path: Path, faceq_people: Callable[..., Result]
) -> None:
    (tmp_path / "dlib.json").write_bytes(gallery_storage.export_json(save_two(store, model="dlib")))
    two = save_two(store)
    assert isinstance(faceq_people("import", str(tmp_path / "dlib.json")).exception, SetupError)
    assert isinstance(faceq_people("import", str(tmp_path / "absent.json")).exception, BadInput)
    back = gallery_storage.load(store)
    assert back is not None
    assert back.version == two.version
