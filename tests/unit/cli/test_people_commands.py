"""`faceq people` on the command line. The faces are coloured patches; the disk is real."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import typer
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from adapters.artifacts_directory import DirectoryStore
from adapters.models.catalogue import CATALOGUE
from adapters.models.installed import recogniser_facts, write_file, write_manifest
from cli import people_commands
from client.enrolment import import_gallery, photo_files, photos_by_folder
from client.frames import ReadingReport
from pipeline import gallery_storage
from pipeline.errors import BadInput, FaceqError, SetupError
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import FaceEmbedder
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

    def run(*arguments: str, answer: str = "", model: str = "") -> Result:
        environment = {
            "FACEQ_GALLERY_DIR": str(tmp_path / "gallery"),
            "FACEQ_MODELS_DIR": str(tmp_path / "models"),
            "FACEQ_MODEL": model,
        }
        result = CliRunner().invoke(people_commands.app, arguments, input=answer, env=environment)
        assert isinstance(result.exception, SystemExit | FaceqError | None), repr(result.exception)
        return result

    return run


def add(
    store: DirectoryStore,
    person: str,
    *paths: Path,
    largest: bool = False,
    keep_photos: bool = False,
    anyway: bool = False,
    embedder: FaceEmbedder | None = None,
    group_seconds: float = 5,
) -> int:
    """Do what `faceq people add` does, with other networks."""
    return people_commands.add_photos(
        [(person, file) for file in photo_files(paths)],
        store,
        PatchDetector(),
        embedder or ColourEmbedder(),
        max_pixels=1_000_000,
        largest=largest,
        keep_photos=keep_photos,
        anyway=anyway,
        group_seconds=group_seconds,
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
    add(store, "Ada", photos / "green.png", anyway=True)
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


class InterruptingEmbedder(ColourEmbedder):
    """Is interrupted, as by Ctrl-C, when it embeds its n-th face."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        return super().embed(crops)


class CountingStore(DirectoryStore):
    """Counts how often the gallery is read and written."""

    reads = writes = 0

    def read(self, name: str) -> bytes:
        self.reads += name == gallery_storage.MANIFEST
        return super().read(name)

    def write(self, name: str, content: bytes) -> None:
        self.writes += name == gallery_storage.MANIFEST
        super().write(name, content)


def red_pictures(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(RED, tint=number))


def test_photos_are_written_to_the_gallery_in_groups_and_not_each_by_itself(tmp_path: Path, photos: Path) -> None:
    store = CountingStore(tmp_path / "gallery")
    red_pictures(photos, 12)
    assert add(store, "Ada", photos, group_seconds=60) == 0
    assert enrolled(store) == {"Ada": 12}
    assert store.writes == 1
    assert store.reads <= 3
    assert add(store, "Ada", photos, group_seconds=60) == 0
    assert store.writes == 1, "nothing new, nothing written"


@pytest.mark.parametrize(("group_seconds", "committed"), [(0, 3), (60, 0)])
def test_after_an_interruption_the_committed_groups_are_kept_and_named_and_a_second_run_continues(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str], group_seconds: float, committed: int
) -> None:
    red_pictures(photos, 6)
    add(store, "Bo", photos.parent / "absent.png")
    (photos.parent / "bo.png").write_bytes(picture(GREEN))
    add(store, "Bo", photos.parent / "bo.png")
    capsys.readouterr()
    with pytest.raises(typer.Exit) as ended:
        add(store, "Ada", photos, embedder=InterruptingEmbedder(at=4), group_seconds=group_seconds)
    assert ended.value.exit_code == 130
    assert enrolled(store) == {"Bo": 1} | ({"Ada": committed} if committed else {})
    message = capsys.readouterr().err
    assert f"Interrupted after {committed} of 6 photos: {committed} photos enrolled" in message
    assert f"{committed}.png' and what follows it is not" in message
    assert add(store, "Ada", photos) == 0
    assert enrolled(store) == {"Ada": 6, "Bo": 1}
    assert f"Ada: {6 - committed} photos enrolled" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_enrolment_keeps_the_groups_that_were_committed(
    store: DirectoryStore, photos: Path, number: signal.Signals
) -> None:
    red_pictures(photos, 6)
    code = (
        "import sys; from pathlib import Path; from cli import people_commands; import tests.unit.cli."
        "test_people_commands as t\n"
        "class Slow(t.ColourEmbedder):\n"
        "    faces = 0\n"
        "    def embed(self, crops):\n"
        "        self.faces += 1\n"
        "        if self.faces == 4: print('three', flush=True); sys.stdin.read()\n"
        "        return super().embed(crops)\n"
        "with people_commands.interrupted_by_termination():\n"
        "    t.add(t.DirectoryStore(Path(sys.argv[1])), 'Ada', Path(sys.argv[2]), embedder=Slow(), group_seconds=0)\n"
    )
    command = [sys.executable, "-c", code, str(photos.parent / "gallery"), str(photos)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "three\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert enrolled(store) == {"Ada": 3}
    if number == signal.SIGTERM:
        assert "Interrupted after 3 of 6 photos: 3 photos enrolled" in err
    assert add(store, "Ada", photos) == 0
    assert enrolled(store) == {"Ada": 6}


def test_another_writer_between_two_groups_loses_nothing(tmp_path: Path, photos: Path) -> None:
    store, other = DirectoryStore(tmp_path / "gallery"), DirectoryStore(tmp_path / "gallery")
    red_pictures(photos, 3)
    (photos.parent / "green.png").write_bytes(picture(GREEN))

    class Meanwhile(ColourEmbedder):
        faces = 0

        def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.faces += 1
            if self.faces == 2:
                add(other, "Bo", photos.parent / "green.png", photos / "2.png", anyway=True, keep_photos=True)
            return super().embed(crops)

    assert add(store, "Ada", photos, embedder=Meanwhile(), keep_photos=True) == 1, "2.png is Bo's by then"
    assert enrolled(store) == {"Ada": 2, "Bo": 2}
    assert len([name for name in store.names() if name.startswith(PHOTO_PREFIX)]) == 4


def test_a_photo_of_somebody_else_is_refused_with_both_names_and_the_distance(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red_pictures(photos, 2)
    assert add(store, "Ada", photos / "0.png") == 0
    assert add(store, "Bo", photos / "1.png") == 1
    err = capsys.readouterr().err
    assert "1.png' refused: It shows Ada, not Bo: the distance to Ada's photo 0.png is 0.0" in err
    assert enrolled(store) == {"Ada": 1}
    assert add(store, "Bo", photos / "1.png", anyway=True) == 0
    assert enrolled(store) == {"Ada": 1, "Bo": 1}


def test_one_run_refuses_the_photo_of_somebody_whom_it_has_just_enrolled(store: DirectoryStore, photos: Path) -> None:
    red_pictures(photos, 2)
    requested = [("Ada", photos / "0.png"), ("Bo", photos / "1.png")]
    assert people_commands.add_photos(requested, store, PatchDetector(), ColourEmbedder(), max_pixels=10**6) == 1
    assert enrolled(store) == {"Ada": 1}


def test_a_second_person_under_one_name_is_warned_about(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        (photos / f"{name}.png").write_bytes(picture(colour))
    assert add(store, "Ada", photos / "red.png") == 0
    assert "enrolled, but" not in capsys.readouterr().err
    assert add(store, "Ada", photos / "green.png") == 0
    assert "green.png' enrolled, but: It may show another person than Ada's other photos" in capsys.readouterr().err
    assert add(store, "Ada", photos / "blue.png", anyway=True) == 0
    assert capsys.readouterr().err == ""
    assert enrolled(store) == {"Ada": 3}


def test_each_folder_is_enrolled_under_its_name_and_one_table_sums_up(
    store: DirectoryStore, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, colour in (("Ada", RED), ("Bo", GREEN), (".hidden", BLUE)):
        (photos / name).mkdir()
        (photos / name / "a.png").write_bytes(picture(colour))
    (photos / "Bo" / "nobody.png").write_bytes(picture())
    requested = photos_by_folder(photos)
    for added in (2, 0):
        refused = people_commands.add_photos(
            requested, store, PatchDetector(), ColourEmbedder(), max_pixels=1_000_000, group_seconds=60
        )
        assert refused == 1
        out, err = capsys.readouterr()
        assert "nobody.png' refused: No face was found" in err
        rows = [
            line.split() for line in out.replace("│", " ").splitlines() if line.strip("│ ").startswith(("Ada", "Bo"))
        ]
        had = 0 if added else 1
        assert rows == [["Ada", str(1 - had), str(had), "0"], ["Bo", str(1 - had), str(had), "1"]]
        assert f"2 people: {added} photos enrolled" in out
    assert enrolled(store) == {"Ada": 1, "Bo": 1}


def test_each_needs_folders_whose_names_are_names(faceq_people: Callable[..., Result], photos: Path) -> None:
    for problem in ("contains no folders", "reserved for results"):
        refused = faceq_people("add", "--each", str(photos)).exception
        assert isinstance(refused, BadInput)
        assert problem in refused.message
        (photos / "Unknown").mkdir(exist_ok=True)
    assert faceq_people("add", "Ada", str(photos), "--each", str(photos)).exit_code == 2
    assert faceq_people("add", "Ada").exit_code == 2


def test_check_lists_what_is_wrong_in_a_gallery(store: DirectoryStore, faceq_people: Callable[..., Result]) -> None:
    assert isinstance(faceq_people("check").exception, BadInput)
    two = save_two(store)
    clean = faceq_people("check")
    assert (clean.exit_code, clean.stdout) == (0, "2 people with 2 photos checked: nothing to look at\n")
    extra = [Photo(name, f"{name}-2.png", digit * 64) for name, digit in (("Bo", "2"), ("Ada", "3"), ("Ada", "4"))]
    vectors = np.array([[0.9, 0.1, 0], [1, 0.01, 0], [0, 0, 1]], np.float32)
    gallery_storage.save(store, two.add(extra, vectors))
    shown = faceq_people("check")
    assert shown.exit_code == 1
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("two names, one face: ")
    assert "Bo (Bo-2.png)" in lines[0]
    assert lines[-1] == (
        "3 people with 5 photos checked: faces under two names: 1, photos that stand apart: 1, near duplicates: 1"
    )
    found = json.loads(faceq_people("check", "--json").stdout)
    assert found["threshold"] == 0.9
    assert {photo["person"] for photo in found["same_face"][0]["photos"]} == {"Ada", "Bo"}
    assert found["outliers"] == [
        {
            "photo": {"person": "Ada", "source": "Ada-2.png", "sha256": "4" * 64},
            "nearest": pytest.approx(1.414, abs=1e-2),
        }
    ]
    assert [photo["sha256"][0] for photo in found["near_duplicates"][0]["photos"]] == ["0", "3"]


def test_threshold_shows_and_sets_the_distance_beside_the_models_own(
    store: DirectoryStore, faceq_people: Callable[..., Result]
) -> None:
    assert isinstance(faceq_people("threshold").exception, BadInput)
    save_two(store)
    assert faceq_people("threshold").stdout == "threshold 0.9 (model vggface2; the model's own is 0.7)\n"
    for wrong in ("0", "nan", "inf", "many"):
        assert faceq_people("threshold", wrong).exit_code == 2
    assert faceq_people("threshold", "0.65").stdout.startswith("threshold 0.65, was 0.9 (")
    current = gallery_storage.load(store)
    assert current is not None
    assert (current.threshold, len(current.photos)) == (0.65, 2)
    shown = json.loads(faceq_people("threshold", "--json").stdout)
    assert shown == {"threshold": 0.65, "model": "vggface2", "model_threshold": 0.7}


def test_importing_another_models_gallery_into_an_empty_one_is_refused_with_the_command(
    store: DirectoryStore, tmp_path: Path
) -> None:
    other = save_two(store, model="vggface2")
    gallery_storage.clear(store)
    with pytest.raises(SetupError, match=r"faceq models get vggface2.*FACEQ_MODEL=vggface2") as refused:
        import_gallery(store, other, model="dlib")
    assert refused.value.code == "other_model"
    assert gallery_storage.load(store) is None
    assert import_gallery(store, other, model="vggface2").version == other.version
    gallery_storage.clear(store)
    assert import_gallery(store, other, model=None).version == other.version


def test_import_compares_the_file_with_the_installed_model(
    store: DirectoryStore, tmp_path: Path, faceq_people: Callable[..., Result]
) -> None:
    (tmp_path / "people.json").write_bytes(gallery_storage.export_json(save_two(store, model="vggface2")))
    gallery_storage.clear(store)
    write_file(tmp_path / "models" / "stand-in" / "net.onnx", b"weights")
    write_manifest(
        "stand-in",
        recogniser_facts(CATALOGUE["stand-in"], tmp_path / "models" / "stand-in" / "net.onnx"),
        {"network": tmp_path / "models" / "stand-in" / "net.onnx"},
        tmp_path / "models",
    )
    refused = faceq_people("import", str(tmp_path / "people.json"), model="stand-in").exception
    assert isinstance(refused, SetupError)
    assert "the model in use is 'stand-in'" in refused.message
    assert faceq_people("import", str(tmp_path / "people.json"), "--anyway", model="stand-in").exit_code == 0
    assert enrolled(store) == {"Ada": 1, "Grace Hopper": 1}
