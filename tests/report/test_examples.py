"""Examples of captions and of questions, whatever words and sizes the records hold."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from question_records import make_question_arrays, make_question_strips
from records import make_arrays, make_strips

from litevl.report.examples import Example, examples_of, film_strip
from litevl.report.runs import Run


def found_in(arrays: dict[str, Any], strips: dict[str, Any]) -> list[Example]:
    return examples_of(Run("x", "full", 0, Path("x.json"), arrays=arrays), strips)


@pytest.fixture(name="captions")
def _captions() -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = make_arrays("full", 0, num_queries=20)
    return arrays, make_strips(arrays, size_px=16)


@pytest.fixture(name="questions")
def _questions() -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = make_question_arrays("full", 0, num_questions=20)
    return arrays, make_question_strips(arrays, size_px=16)


def test_example_of_a_caption_has_the_clips_ranked_first(captions: Any) -> None:
    arrays, strips = captions
    examples = found_in(arrays, strips)
    assert len(examples) == len(strips["queries"])
    for place, example in enumerate(examples):
        query = int(strips["queries"][place])
        rank = int(arrays["t2v_ranks"][query, 1])
        is_first = bool(strips["right"][place])
        assert example.query == arrays["captions"][query]
        assert example.kind == ("right" if is_first else "wrong")
        assert example.outcome == ("right clip first" if is_first else f"right clip at rank {rank}")
        assert [answer.text for answer in example.answers] == [
            arrays["gallery_ids"][clip] for clip in strips["top"][place]
        ]
        assert [float(answer.score) for answer in example.answers] == pytest.approx(
            strips["scores"][place], abs=0.005
        )
        truth = arrays["truth"][query]
        assert [a.is_right for a in example.answers] == [c == truth for c in strips["top"][place]]
        assert len(list(example.films)) == len(example.answers)


def test_example_of_a_question_has_its_clip_and_the_answers_ranked_first(questions: Any) -> None:
    arrays, strips = questions
    for place, example in enumerate(found_in(arrays, strips)):
        query = int(strips["queries"][place])
        listed = arrays["answer_list"][arrays["top"][query]]
        gold = str(arrays["answers"][query])
        assert (example.query, example.gold) == (arrays["questions"][query], gold)
        assert example.clip == arrays["clip_ids"][query]
        assert [answer.text for answer in example.answers] == listed.tolist()
        assert [answer.is_right for answer in example.answers] == (listed == gold).tolist()
        assert list(example.films) == [example.film]


def test_question_without_a_listed_answer_says_so(questions: Any) -> None:
    arrays, strips = questions
    arrays["in_list"][strips["queries"][3]] = 0
    outcomes = [example.outcome for example in found_in(arrays, strips)]
    assert outcomes[3] == "wrong, the answer is not in the list"
    assert outcomes[0] == "right"


def test_film_shows_frames_in_their_order_with_their_weights(captions: Any) -> None:
    arrays, strips = captions
    film = next(found_in(arrays, strips)[2].films)
    assert (film.width_px, film.height_px) == (8 * 16, 16)
    picture = imread(io.BytesIO(film.jpeg), format="jpeg")
    assert picture.shape == (16, 128, 3)
    frames = strips["frames"][2, 0]
    means = picture.reshape(16, 8, 16, 3).mean((0, 2))
    assert np.abs(means - frames.mean((1, 2))).max() < 12
    assert [float(weight) for weight in film.weights] == pytest.approx(
        strips["frame_weights"][2, 0], abs=0.005
    )
    tallest = strips["frame_weights"][2].max()
    assert max(max(film.heights) for film in found_in(arrays, strips)[2].films) == 100
    assert film.heights[1] == round(100 * strips["frame_weights"][2, 0, 1] / tallest)


def test_veil_is_darker_where_patches_weigh_less(captions: Any) -> None:
    arrays, strips = captions
    film = next(found_in(arrays, strips)[0].films)
    start = "data:image/png;base64,"
    assert film.veil.startswith(start)
    png = imread(io.BytesIO(base64.b64decode(film.veil.removeprefix(start))))
    weights = strips["patch_weights"][0, 0]
    assert png.shape == (8, 8, 4)
    assert png[..., :3].max() == 0
    assert png[..., 3].ravel() == pytest.approx(0.7 * (1 - weights / weights.max()), abs=0.003)


def test_equal_or_unrecorded_weights_of_patches_cover_nothing(captions: Any) -> None:
    arrays, strips = captions
    ones = strips | {"patch_weights": np.ones_like(strips["patch_weights"])}
    odd = strips | {"patch_weights": strips["patch_weights"][..., :63]}
    old = {name: array for name, array in strips.items() if name != "patch_weights"}
    for changed in (ones, odd, old):
        assert all(film.veil == "" for e in found_in(arrays, changed) for film in e.films)


def test_large_frames_are_thinned_out() -> None:
    assert film_strip(np.zeros((4, 448, 448, 3), np.uint8)).shape == (112, 4 * 112, 3)
    assert film_strip(np.zeros((4, 336, 336, 3), np.uint8)).shape == (112, 4 * 112, 3)
    assert film_strip(np.zeros((4, 225, 225, 3), np.uint8)).shape == (75, 4 * 75, 3)
