"""Film strips of captions and of questions, whatever words and sizes the records hold."""

from pathlib import Path
from typing import Any

import numpy as np
from question_records import make_question_arrays, make_question_strips
from records import make_arrays, make_strips

from litevl.report import strips
from litevl.report.figures import WIDTH_INCHES, Figure, Picture
from litevl.report.runs import Run

HOSTILE = r"costs $5, $\frac$ more " * 12


def pictures_of(arrays: dict[str, Any], frames: dict[str, Any]) -> list[Picture]:
    return strips.strip_pictures(Run("x", "full", 0, Path("x.json"), arrays=arrays), frames)


def test_long_clips_and_hostile_captions_can_be_drawn() -> None:
    arrays = make_arrays("full", 0, num_queries=20) | {"captions": np.array([HOSTILE] * 20)}
    assert len(pictures_of(arrays, make_strips(arrays, num_frames=16, size_px=12))) >= 3


def test_long_clips_and_hostile_questions_and_answers_can_be_drawn() -> None:
    arrays = make_question_arrays("full", 0, num_questions=20)
    arrays |= {"questions": np.array([HOSTILE] * 20), "answers": np.array([HOSTILE] * 20)}
    arrays["answer_list"] = np.array([f"{HOSTILE} {i}" for i in range(10)])
    found = pictures_of(arrays, make_question_strips(arrays, num_frames=16, size_px=12))
    assert len(found) == 6
    assert len({picture.width_px for picture in found}) == 1


def test_strip_of_a_question_tells_question_answers_scores_and_clip() -> None:
    arrays = make_question_arrays("full", 0, num_questions=20)
    frames = make_question_strips(arrays, size_px=12)
    right, *_, wrong = pictures_of(arrays, frames)
    query = int(frames["queries"][0])
    best = arrays["answer_list"][arrays["top"][query, 0]]
    assert right.alt.startswith(f"{arrays['questions'][query]} Right answer: {best}.")
    assert f"Answers ranked first: {best} {arrays['top_scores'][query, 0]:.2f}, " in right.alt
    assert right.alt.endswith(f"Frames of {arrays['clip_ids'][query]}.")
    assert (right.stem, wrong.stem) == ("strip-right-0", "strip-wrong-5")
    assert right.width_px == round(WIDTH_INCHES * 200)


def test_strip_says_where_no_listed_answer_is_right(monkeypatch: Any) -> None:
    said: list[str] = []
    original = Figure.text
    monkeypatch.setattr(
        Figure,
        "text",
        lambda self, x, y, s, **how: said.append(s) or original(self, x, y, s, **how),
    )
    arrays = make_question_arrays("full", 0, num_questions=20)
    pictures_of(arrays, make_question_strips(arrays, size_px=12))
    assert said.count("right") == 3
    assert said.count("wrong") == 2
    assert said.count("wrong, the answer is not in the list") == 1  # that of question 0
    assert said.count("right answer: mauve") == 1


def test_large_frames_are_thinned_out_before_drawing() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    strips._film(axes, np.zeros((4, 448, 448, 3), np.uint8), "#000000")
    height, width, _ = axes.images[0].get_array().shape
    assert height == 112
    assert width == 4 * 112 + 3 * 3
