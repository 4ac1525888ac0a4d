"""Figures: right sizes, the same bytes, and content that follows from the records."""

import struct
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from records import VARIANTS, write_study

from litevl.report import figures
from litevl.report.figures import (
    ablation_pictures,
    cost_pictures,
    curve_pictures,
    look,
    scale_pictures,
    smoothed,
)
from litevl.report.runs import Study, load_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = write_study(tmp_path_factory.mktemp("study"), seeds=[0, 1])
    return load_study(folder.parent, "msrvtt", "mini")


def size_in(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return struct.unpack(">II", png[16:24])  # the header chunk's first two numbers


def test_every_picture_has_the_size_it_states_and_no_metadata_that_ages(study: Study) -> None:
    pictures = [
        *ablation_pictures(study),
        *cost_pictures(study),
        *curve_pictures(study),
        *scale_pictures(study),
    ]
    assert len(pictures) == 3 + 1 + 3 + 1
    assert len({picture.stem for picture in pictures}) == len(pictures)
    for picture in pictures:
        assert size_in(picture.png) == (picture.width_px, picture.height_px)
        assert not any(chunk in picture.png for chunk in (b"tEXt", b"tIME", b"iTXt"))
        assert picture.alt


def test_drawing_again_gives_the_same_bytes_and_leaves_settings_alone(study: Study) -> None:
    with mpl.rc_context({"font.size": 30}):
        first = ablation_pictures(study)
        assert mpl.rcParams["font.size"] == 30
    assert first == ablation_pictures(study)


def test_a_variant_looks_the_same_whatever_else_is_drawn(study: Study) -> None:
    looks = [look(study, name) for name in VARIANTS]
    assert len(set(looks)) == len(VARIANTS)
    fewer = replace(study, runs=study.runs[2:])
    assert [look(fewer, name) for name in VARIANTS] == looks


def test_alternative_text_gives_the_numbers(study: Study) -> None:
    recall, difference, order = ablation_pictures(study)
    assert recall.alt.startswith("Text-to-video R@1 (%): full ")
    assert "full" not in difference.alt.split(": ")[1]
    assert order.alt.count(";") == len(VARIANTS) - 1


def test_smoothing_keeps_a_line_and_takes_out_the_jitter() -> None:
    line = [(step, 2.0 * step) for step in range(0, 400)]
    steps, means = zip(*smoothed(line), strict=True)
    assert steps == tuple(range(5, 396))
    assert means == pytest.approx([2.0 * first + 9.0 for first in range(391)])  # ten steps each
    jitter = [(step, float(step % 2)) for step in range(400)]
    assert [value for _, value in smoothed(jitter)] == pytest.approx([0.5] * 391)
    assert smoothed(line[:10]) == line[:10]


def test_no_published_run_gives_no_figures(study: Study) -> None:
    empty = replace(study, runs=())
    assert ablation_pictures(empty) == curve_pictures(empty) == scale_pictures(empty) == []


def test_scale_is_averaged_over_seeds(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(figures, "_scale_picture", lambda *given: seen.append(given))
    scale_pictures(study)
    (name, scale, num_seeds) = seen[0]
    records = [run.record for run in study.published("full") if run.record]
    assert (name, num_seeds) == ("full", 2)
    assert np.allclose(scale, np.mean([record.temporal_scale for record in records], axis=0))


def test_many_layers_and_frames_widen_the_heat_map() -> None:
    picture = figures._scale_picture("full", np.ones((12, 16)), 1)
    assert picture.width_px > figures.WIDTH_INCHES * figures.DOTS_PER_INCH
