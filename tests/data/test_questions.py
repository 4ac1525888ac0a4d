"""Questions about scenes: every answer is read again from the states that are drawn."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import numpy as np
import pytest

from litevl.data.annotations import QUESTION_TYPES
from litevl.data.drawing import COLOURS, State, Thing
from litevl.data.questions import about_order, ask, ask_about_still, how_many, place
from litevl.data.scenes import TURNS, Scene, draw_scene, states
from litevl.data.stills import vocabulary
from litevl.model.tokenizer import Tokenizer

NUM_SCENES = 600
NUM_FRAMES = 20
SPELLED = {"things", "are", "there"}  # the vocabulary has their letters only


@dataclass(frozen=True)
class Seen:
    """A thing and its state in each frame that shows it or does not."""

    thing: Thing
    states: list[State]

    def is_there(self) -> bool:
        """Whether it can be seen in any frame."""
        return any(state.opacity >= 0.4 for state in self.states)

    def travels(self) -> bool:
        """Whether its place changes."""
        return len({(round(state.x, 6), round(state.y, 6)) for state in self.states}) > 1

    def changes(self) -> bool:
        """Whether anything about it changes."""
        return len(set(self.states)) > 1


def seen_in(scene: Scene) -> list[Seen]:
    """The two things of a scene as its clip shows them."""
    return [
        Seen(scene.actor, states(scene, NUM_FRAMES)),
        Seen(scene.other, [scene.other_state] * NUM_FRAMES),
    ]


def only(names: list[str]) -> str:
    """The one name that is left; a question with two answers is a mistake."""
    assert len(names) == 1, names
    return names[0]


def naive_answer(question: str, things: list[Seen]) -> str:
    """The answer to a question, from nothing but its words and what the frames show."""
    words = question.removesuffix("?").split()
    here = [seen for seen in things if seen.is_there()]
    match words:
        case ["what", "colour", "is", "the", shape]:
            return only([seen.thing.colour for seen in here if seen.thing.shape == shape])
        case ["what" | "who", "is", colour]:
            return only([seen.thing.shape for seen in here if seen.thing.colour == colour])
        case ["who", "stays", "still"]:
            return only([seen.thing.shape for seen in here if not seen.changes()])
        case ["who", "moves"]:
            return only([seen.thing.shape for seen in here if seen.travels()])
        case ["how", "many", colour, "things", "are", "there"]:
            return ["no", "one", "two"][sum(seen.thing.colour == colour for seen in here)]
        case ["how", "large", "is", "the", shape]:
            return only([size_of(seen.states) for seen in here if seen.thing.shape == shape])
        case ["where", "is", "the", shape]:
            return only([place_of(seen.states) for seen in here if seen.thing.shape == shape])
        case ["when", "is" | "does", "the", colour, shape, *rest]:
            named = Thing(colour, shape)
            (asked,) = [seen for seen in things if seen.thing == named]
            return when(" ".join(rest), asked.states)
    raise AssertionError(f"nobody asks {question!r}")


def size_of(moments: list[State]) -> str:
    """Its size, where all frames agree on one."""
    return only(list({"small" if state.radius < 0.17 else "large" for state in moments}))


def place_of(moments: list[State]) -> str:
    """Where it stands: the third of the picture from left to right, else that from top to bottom.

    Things stand away from the lines between the thirds, except where they move.
    """

    def of(state: State) -> str:
        across = ("left", "middle", "right")[int(np.digitize(state.x, [0.35, 0.65]))]
        down = ("top", "middle", "bottom")[int(np.digitize(state.y, [0.35, 0.65]))]
        return down if across == "middle" else across

    return only(list({of(state) for state in moments}))


def when(what: str, moments: list[State]) -> str:
    """At which end of the clip something holds of a thing: in the mean, frames say so earlier."""
    is_so: dict[str, Callable[[State], bool]] = {
        "on the left": lambda state: state.x < 0.5,
        "at the top": lambda state: state.y < 0.5,
        "large": lambda state: state.radius > 0.17,
    }
    frames = list(enumerate(moments))
    if what == "in view":
        holds = {frame: state.opacity > 0.5 for frame, state in frames}
    elif what == "move":
        steps = pairwise(moments)
        holds = {frame: (a.x, a.y) != (b.x, b.y) for frame, (a, b) in enumerate(steps)}
    else:
        holds = {frame: is_so[what](state) for frame, state in frames if state.opacity > 0}
    true, false = ([frame for frame, held in holds.items() if held == side] for side in (1, 0))
    if what == "move":  # nothing moves at the very ends either; what else happens is the rest
        false = [frame for frame in false if 0.12 < (frame + 0.5) / (len(moments) - 1) < 0.88]
    assert true, f"it is never {what}"
    assert false, f"it is always {what}"
    return "first" if np.mean(true) < np.mean(false) else "last"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Many random scenes."""
    rng = np.random.default_rng(11)
    return [draw_scene(rng) for _ in range(NUM_SCENES)]


@pytest.fixture(scope="module")
def asked(scenes):
    """Each scene with everything that is asked about it."""
    rng = np.random.default_rng(12)
    return [(scene, ask(scene, 5, rng)) for scene in scenes]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """The mini world's own."""
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    return Tokenizer.from_vocabulary(path)


# Answers


def test_every_answer_follows_from_the_states_that_are_drawn(asked):
    for scene, questions in asked:
        shown = seen_in(scene)
        for text, answer, _ in questions:
            assert naive_answer(text, shown) == answer, (text, scene.events)


def test_every_answer_about_the_twin_follows_from_the_twins_states(asked):
    for scene, questions in asked:
        shown = seen_in(scene.twin())
        for text, _, of_twin in questions:
            assert naive_answer(text, shown) == of_twin, (text, scene.events)


def test_twins_answer_alike_but_for_the_order_of_time(asked):
    opposite = {"first": "last", "last": "first"}
    for _, questions in asked:
        for text, answer, of_twin in questions:
            if text.split()[0] == "when":
                assert of_twin == opposite[answer]
            else:
                assert of_twin == answer


def test_answers_about_frames_do_not_depend_on_their_order(asked):
    """The same states in any order give the same answers, except to "when"."""
    rng = np.random.default_rng(3)
    for scene, questions in asked[:150]:
        actor, other = seen_in(scene)
        shuffled = [
            Seen(actor.thing, [actor.states[k] for k in rng.permutation(NUM_FRAMES)]),
            other,
        ]
        for text, answer, _ in questions:
            if text.split()[0] != "when":
                assert naive_answer(text, shuffled) == answer


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.18, 0.18, "left"),
        (0.82, 0.82, "right"),
        (0.18, 0.5, "left"),
        (0.5, 0.18, "top"),
        (0.5, 0.82, "bottom"),
        (0.5, 0.5, "middle"),
        (0.36, 0.36, "middle"),
        (0.64, 0.66, "bottom"),
    ],
)
def test_place_is_the_side_and_left_or_right_come_first(x, y, words):
    assert place(State(x, y, 0.13, 0.0, 1.0)) == words


def test_each_clause_about_order_is_asked_and_answered_both_ways(asked):
    found: dict[str, set[str]] = {}
    for scene, questions in asked:
        for text, answer, _ in questions:
            if text.startswith("when"):
                name = f"the {scene.actor.colour} {scene.actor.shape}"
                found.setdefault(text.replace(name, "it"), set()).add(answer)
    assert found == {
        f"when {clause}?": {"first", "last"}
        for clause in ("is it on the left", "is it at the top", "is it large", "is it in view",
                       "does it move")
    }  # fmt: skip


# Which questions


def test_there_is_one_question_of_each_type_and_order_comes_first(asked):
    for scene, questions in asked:
        kinds = [text.split()[0] for text, _, _ in questions]
        only_turns = set(scene.events) <= set(TURNS)
        assert len(kinds) == len(set(kinds)) == (4 if only_turns else 5)
        assert set(kinds) == set(QUESTION_TYPES) - ({"when"} if only_turns else set())
        assert only_turns or kinds[0] == "when"


def test_scene_that_only_turns_is_not_asked_about_order(scenes):
    rng = np.random.default_rng(0)
    turning = [scene for scene in scenes if set(scene.events) <= set(TURNS)]
    assert len(turning) > 20
    assert all(about_order(scene, rng) is None for scene in turning)
    others = [scene for scene in scenes if not set(scene.events) <= set(TURNS)]
    assert all(about_order(scene, rng) is not None for scene in others)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_as_many_questions_as_wanted_of_different_types(scenes, count):
    rng, kinds = np.random.default_rng(1), Counter()
    for scene in scenes:
        questions = ask(scene, count, rng)
        assert len(questions) == min(count, 5 - (set(scene.events) <= set(TURNS)))
        kinds.update(text.split()[0] for text, _, _ in questions)
        assert len({text.split()[0] for text, _, _ in questions}) == len(questions)
    assert set(kinds) == set(QUESTION_TYPES)  # with one question, those of scenes that turn


def test_same_generator_asks_the_same_and_another_something_else(scenes):
    def drawn(seed):
        rng = np.random.default_rng(seed)
        return [ask(scene, 3, rng) for scene in scenes[:50]]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


# Balance: the words of a question do not give its answer away


def test_how_many_is_answered_one_and_no_alike_often_for_every_colour():
    rng, pairs = np.random.default_rng(4), list(permutations(COLOURS, 2))
    answers: dict[str, list[str]] = {colour: [] for colour in COLOURS}
    for one, other in pairs * 40:
        text, answer = how_many((Thing(one, "ring"), Thing(other, "star")), rng)
        answers[text.split()[2]].append(answer)
    every = Counter(answer for several in answers.values() for answer in several)
    assert every.keys() == {"one", "no"}
    assert abs(every["one"] / every.total() - 0.5) < 0.03
    for colour, several in answers.items():
        assert len(several) > 200, colour
        assert abs(several.count("one") / len(several) - 0.5) < 0.09, colour


def test_colours_asked_for_are_there_or_not_as_the_answer_says():
    things = (Thing("red", "ring"), Thing("blue", "star"))
    rng, found = np.random.default_rng(0), set()
    for _ in range(200):
        text, answer = how_many(things, rng)
        found.add((text.split()[2], answer))
    assert found == {(name, "one" if name in ("red", "blue") else "no") for name in COLOURS}


# Words


def test_every_word_is_in_the_vocabulary_and_every_answer_is_one_piece(asked, tokenizer):
    expect_words({text for _, questions in asked for text, _, _ in questions}, tokenizer)
    answers = {answer for _, questions in asked for _, *both in questions for answer in both}
    assert {"first", "last", "one", "no", "left", "right", "top", "bottom"} <= answers
    for answer in answers:
        assert tokenizer.bert.tokenize(answer) == [answer]


def expect_words(texts: set[str], tokenizer: Tokenizer) -> None:
    """Every word is one piece of the vocabulary, or one of the few that are spelled."""
    words = {word for text in texts for word in text.removesuffix("?").split()}
    for word in words | {"?"}:
        pieces = tokenizer.bert.tokenize(word)
        assert "[UNK]" not in pieces
        assert pieces == [word] or word in SPELLED
        assert "".join(piece.removeprefix("##") for piece in pieces) == word


def test_questions_fit_the_types_of_the_published_data_sets(asked):
    for _, questions in asked:
        for text, _, _ in questions:
            assert text.split()[0] in QUESTION_TYPES
            assert text == text.lower().strip()
            assert text.endswith("?")


# Stills


@pytest.fixture(scope="module")
def asked_of_stills(scenes):
    """Moments of scenes with all that is asked about each: (scene, state, questions)."""
    rng = np.random.default_rng(13)
    found = []
    for scene in scenes:
        state = states(scene, 33)[int(rng.integers(33))]
        found.append((scene, state, ask_about_still(scene, state, 4, rng)))
    return found


def test_answers_about_a_still_follow_from_what_it_shows(asked_of_stills):
    for scene, state, questions in asked_of_stills:
        shown = [Seen(scene.actor, [state]), Seen(scene.other, [scene.other_state])]
        for text, answer in questions:
            assert naive_answer(text, shown) == answer, (text, state)


def test_still_is_asked_one_question_of_each_type_and_never_when(asked_of_stills):
    for _, _, questions in asked_of_stills:
        kinds = sorted(text.split()[0] for text, _ in questions)
        assert kinds == ["how", "what", "where", "who"]


def test_actor_that_cannot_be_seen_is_never_named_except_as_an_absent_colour(asked_of_stills):
    unseen = [found for found in asked_of_stills if found[1].opacity < 0.4]
    assert len(unseen) > 20
    absent = 0
    for scene, _, questions in unseen:
        for text, answer in questions:
            named = set(text.removesuffix("?").split()) | {answer}
            assert scene.actor.shape not in named
            if scene.actor.colour in named:
                assert (text.split()[:2], answer) == (["how", "many"], "no")
                absent += 1
    assert absent > 0


@pytest.mark.parametrize(("opacity", "is_named"), [(0.39, False), (0.4, True), (1.0, True)])
def test_actor_is_named_from_the_opacity_from_which_captions_name_it(opacity, is_named):
    rng = np.random.default_rng(5)
    scene = draw_scene(rng)
    state = replace(scene.track[0], opacity=opacity)
    texts = [text for _ in range(40) for text, _ in ask_about_still(scene, state, 4, rng)]
    assert any(scene.actor.shape in text for text in texts) == is_named


def test_size_is_asked_where_it_is_special_and_the_thing_can_be_seen(asked_of_stills):
    sizes = Counter()
    for scene, state, questions in asked_of_stills:
        for text, answer in questions:
            if text.startswith("how large"):
                assert text == f"how large is the {scene.actor.shape}?"
                assert abs(state.radius - 0.17) > 0.03
                sizes[answer] += 1
    assert sizes.keys() == {"small", "large"}
    assert min(sizes.values()) > 5


def test_size_of_an_actor_that_cannot_be_seen_is_not_asked():
    rng = np.random.default_rng(6)
    scene = draw_scene(rng)
    small = replace(scene.track[0], radius=0.1)
    for opacity, is_asked in ((0.1, False), (1.0, True)):
        state = replace(small, opacity=opacity)
        texts = [text for _ in range(40) for text, _ in ask_about_still(scene, state, 4, rng)]
        assert any(text.startswith("how large") for text in texts) == is_asked


def test_words_about_stills_are_in_the_vocabulary(asked_of_stills, tokenizer):
    pairs = {pair for _, _, questions in asked_of_stills for pair in questions}
    expect_words({text for text, _ in pairs}, tokenizer)
    for answer in {answer for _, answer in pairs}:
        assert tokenizer.bert.tokenize(answer) == [answer]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_as_many_questions_about_a_still_as_wanted(scenes, count):
    rng, kinds = np.random.default_rng(2), set()
    for scene in scenes[:100]:
        questions = ask_about_still(scene, scene.track[0], count, rng)
        assert len(questions) == count
        kinds |= {text.split()[0] for text, _ in questions}
    assert kinds == {"what", "who", "how", "where"}
