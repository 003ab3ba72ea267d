"""The accuracy of a model on somebody's photos, `python -m bench.accuracy`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.accuracy import Photos, main, plot, rates_at, search


def on_a_line(*rows: tuple[str, float]) -> Photos:
    """Photos whose embeddings lie on a line, so that distances can be read off."""
    return Photos([name for name, _ in rows], np.array([[place] for _, place in rows], np.float32), 0, 0)


def test_a_person_is_right_within_the_threshold_and_unknown_beyond_it() -> None:
    searches = search(on_a_line(("Ann", 0.0), ("Ann", 0.3), ("Bob", 5.0), ("Bob", 5.9)))
    rates = rates_at(searches, 0.5)
    assert (rates.right, rates.wrong, rates.unknown) == (2, 0, 2)
    assert rates.misses == 0.5


def test_a_nearer_photo_of_another_person_is_a_wrong_name() -> None:
    searches = search(on_a_line(("Ann", 0.0), ("Ann", 1.0), ("Bob", 1.1), ("Bob", 9.0)))
    rates = rates_at(searches, 1.05)
    # Ann's second photo is nearer to Bob's, and Bob's first is nearer to Ann's; Bob's other photo is far from all.
    assert (rates.right, rates.wrong, rates.unknown) == (1, 2, 1)


def test_a_stranger_is_named_only_if_somebody_else_is_within_the_threshold() -> None:
    searches = search(on_a_line(("Ann", 0.0), ("Bob", 0.4), ("Cid", 3.0)))
    rates = rates_at(searches, 0.5)
    assert (rates.strangers_named, rates.strangers_unknown) == (2, 1)
    assert rates.false_matches == pytest.approx(2 / 3)


def test_a_person_with_one_photo_is_never_searched_as_a_known_person() -> None:
    searches = search(on_a_line(("Ann", 0.0), ("Ann", 0.1), ("Bob", 3.0)))
    assert len(searches.own) == 2
    assert len(searches.stranger) == 3


def test_a_larger_threshold_never_has_more_unknown_people_or_fewer_named_strangers() -> None:
    generator = np.random.default_rng(7)
    names = [f"person {number // 3}" for number in range(60)]
    searches = search(Photos(names, generator.normal(size=(60, 4)).astype(np.float32), 0, 0))
    rates = [rates_at(searches, threshold) for threshold in np.linspace(0, 5, 30)]
    assert [each.unknown for each in rates] == sorted((each.unknown for each in rates), reverse=True)
    assert [each.strangers_named for each in rates] == sorted(each.strangers_named for each in rates)
    assert all(each.right + each.wrong + each.unknown == len(searches.own) for each in rates)


def test_the_plot_is_a_picture_of_the_format_that_its_suffix_names(tmp_path: Path) -> None:
    searches = search(on_a_line(("Ann", 0.0), ("Ann", 0.3), ("Bob", 2.0), ("Bob", 2.2)))
    for suffix in ("svg", "png"):
        plot(searches, rates_at(searches, 0.5), "dlib", tmp_path / f"plot.{suffix}")
    assert (tmp_path / "plot.svg").read_text().lstrip().startswith("<?xml")
    assert Image.open(tmp_path / "plot.png").size[0] > 100


@pytest.mark.usefixtures("model")
def test_photos_without_a_second_person_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "notes.txt").write_text("no picture")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("shows faces of 0 people; two are needed, each in a folder.\n")


@pytest.mark.usefixtures("model")
def test_two_people_are_distinguished_on_real_photos(
    photos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, photo in photos.items():
        (tmp_path / name).mkdir()
        picture = Image.open(photo).convert("RGB")
        picture.save(tmp_path / name / "as it is.png")
        picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(tmp_path / name / "smaller.jpg")
        (tmp_path / name / "empty.jpg").write_bytes(b"")
    assert main([str(tmp_path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["people"], figures["photos"], figures["unreadable"]) == (2, 4, 2)
    assert (figures["right"], figures["strangers_named"]) == (4, 0)
