"""Settings that cannot be meant together, one line for each."""

import pytest
from spec_texts import TEXT, TEXTS, edited, problem_lines, set_in

QUESTIONS = 'only for "msvd-qa" and "msrvtt-qa" and "own-qa"; '
RETRIEVAL = 'only for "msrvtt" and "didemo" and "own-retrieval"; '


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        pytest.param(
            [('"model.scaling" = "none" }', '"model.scaling" = "layer" }')],
            'variant.no-temporal-attention.model.scaling: "layer" acts on temporal attention, '
            'which is off; set it to "none"',
            id="scaling of an attention that is off",
        ),
        pytest.param(
            [('"model.time_embedding" = "none", ', "")],
            'variant.no-temporal-attention.model.time_embedding: "branch" acts on temporal '
            'attention, which is off; set it to "none"',
            id="time embedding of an attention that is off",
        ),
        pytest.param(
            [('time_embedding = "branch"', 'time_embedding = "stream"')],
            'model.time_embedding_scale: "stream" starts at 0, so that step 0 equals BLIP; '
            'use 0.0, or "branch"',
            id="stream that does not start at zero",
        ),
        pytest.param(
            [("choices_per_segment = 4", "")],
            'profile.paper.frames.cache: "sampled" would keep every frame, any of which may be '
            "drawn; set frames.choices_per_segment",
            id="compact cache of every frame",
        ),
        pytest.param(
            [('train_sampler = "segment-random"', 'train_sampler = "blip-uniform"')],
            'profile.paper.frames.choices_per_segment: "blip-uniform" chooses nothing; only for '
            '"segment-random"',
            id="choices of a sampler that has none",
        ),
        pytest.param(
            [("rerank_k = 128", "rerank_k = 1001")],
            "profile.paper.evaluate.rerank_k: 1001 is more than the gallery holds (1000)",
            id="more candidates than gallery",
        ),
        pytest.param(
            [('select = "last"', 'select = "best-validation"')],
            'profile.paper.train.select: "best-validation" needs validation clips, and the split '
            'has none; use "last"',
            id="selection on no validation clips",
        ),
        pytest.param(
            [set_in("profile.mini.train", "batch_size", "31")],
            "profile.mini.train.batch_size: 31 is odd; group_by_source fills a batch with pairs "
            "of clips",
            id="pairs in an odd batch",
        ),
        pytest.param(
            [
                set_in("profile.mini.train", "batch_size", "32"),
                ("train_clips = 1600", "train_clips = 16"),
            ],
            "profile.mini.train.batch_size: 32 is more than the training split holds (16 clips)",
            id="batch larger than the split",
        ),
        pytest.param(
            [set_in("profile.mini.train", "batch_size", "4\nhard_negatives = 4")],
            "profile.mini.train.hard_negatives: 4 are more than the other clips of a batch (3)",
            id="more negatives than others",
        ),
        pytest.param(
            [("queue_size = 57600", "queue_size = 57601")],
            "profile.paper.train.queue_size: 57601 is not a positive multiple of "
            "train.batch_size (64)",
            id="queue that no number of batches fills",
        ),
        pytest.param(
            [("[profile.mini.data.world]", "[data.world]")],
            "profile.paper.data.world: drawn clips belong in [profile.mini.data.world]",
            id="drawn clips for everybody",
        ),
        pytest.param(
            [set_in("profile.paper.model", "weights", '"mini-blip"')],
            'profile.paper.model.weights: "mini-blip" has seen drawings only; name a BLIP '
            "checkpoint",
            id="mini weights for the paper profile",
        ),
        pytest.param(
            [('root = "data/mini/msrvtt"', 'root = "data/msrvtt"')],
            "profile.mini.data.root: both profiles use this folder; drawn clips would mix with "
            "the real ones",
            id="one folder for both profiles",
        ),
    ],
)
def test_impossible_combination_is_one_line(tmp_path, edits, line):
    assert problem_lines(tmp_path, edited(*edits)) == [line]


def test_mini_profile_needs_its_world(tmp_path):
    start = TEXT.index("[profile.mini.data.world]")
    text = TEXT[:start] + TEXT[TEXT.index("[profile.mini.frames]") :]
    assert problem_lines(tmp_path, text) == [
        "profile.mini.data.world: missing; the mini profile draws its clips"
    ]


def test_inert_values_of_the_momentum_encoder_are_no_problem_where_it_is_off(tmp_path):
    text = edited(
        ("queue_size = 57600", "queue_size = 57601"),
        ("momentum_encoder = true", "momentum_encoder = false"),
    )
    assert problem_lines(tmp_path, text) == []


def test_momentum_encoder_needs_a_queue_and_says_so_where_none_is_given(tmp_path):
    assert problem_lines(tmp_path, edited(("queue_size = 57600\n", ""))) == [
        "profile.paper.train.queue_size: 0 is not a positive multiple of train.batch_size (64)"
    ]
    text = edited(("momentum = 0.995\nqueue_size = 57600\ndistillation_alpha = 0.4\n", ""))
    text = text.replace("momentum_encoder = true\n", "").replace("momentum_encoder = false\n", "")
    assert problem_lines(tmp_path, text) == []
    wrong = problem_lines(tmp_path, edited(("queue_size = 57600", 'queue_size = "many"')))
    assert wrong == ['train.queue_size: expected a whole number, got the string "many"']


# Keys of one data set or task

QA, DIDEMO = TEXTS["msvd_qa"], TEXTS["didemo"]
TEST_ROOT = 'root = "data/msvd_qa"'


def expected_without(name):
    """The edit that takes a number of questions out of the paper profile's counts."""
    start = QA.index("expected = {", QA.index("[profile.paper.data]"))
    old = QA[start : QA.index("}", start) + 1]
    kept = [part for part in old[12:-1].split(",") if not part.strip().startswith(name)]
    return old, f"expected = {{{','.join(kept)}}}"


@pytest.mark.parametrize(
    ("text", "edits", "line"),
    [
        pytest.param(
            TEXT, [('train_split = "9k"\n', "")],
            'data.train_split: missing; "msrvtt" needs it',
            id="msrvtt without a split",
        ),
        pytest.param(
            DIDEMO, [('dataset = "didemo"\n', 'dataset = "didemo"\ntrain_split = "7k"\n')],
            'data.train_split: only for "msrvtt"; the data set is "didemo"',
            id="split of msrvtt for didemo",
        ),
        pytest.param(
            QA, [('dataset = "msvd-qa"\n', 'dataset = "msvd-qa"\ntrain_split = "9k"\n')],
            'data.train_split: only for "msrvtt"; the data set is "msvd-qa"',
            id="split of msrvtt for questions",
        ),
        pytest.param(
            QA, [(TEST_ROOT, f'{TEST_ROOT}\nleave_out = ["vid1"]')],
            'profile.paper.data.leave_out: only for "didemo"; the data set is "msvd-qa"',
            id="clips left out by name",
        ),
        pytest.param(
            QA, [(TEST_ROOT, f'{TEST_ROOT}\nsentence_order = "file"')],
            'profile.paper.data.sentence_order: only for "didemo"; the data set is "msvd-qa"',
            id="order of sentences of one caption",
        ),
        pytest.param(
            QA, [set_in("profile.paper.data", "answers", None, QA)],
            'profile.paper.data.answers: missing; "msvd-qa" needs it',
            id="no answers in one profile",
        ),
        pytest.param(
            QA, [set_in("profile.paper.data", "answers", "{}", QA)],
            "profile.paper.data.answers.count: missing",
            id="answers without their number",
        ),
        pytest.param(
            QA, [set_in("profile.paper.data", "answers", "{ count = 0 }", QA)],
            "profile.paper.data.answers.count: expected at least 1, got 0",
            id="no answer allowed",
        ),
        pytest.param(
            QA, [set_in("profile.mini.data", "max_answer_tokens", None, QA)],
            'profile.mini.data.max_answer_tokens: missing; "msvd-qa" needs it',
            id="answers of any length",
        ),
        pytest.param(
            QA, [set_in("profile.mini.data", "max_answer_tokens", "2", QA)],
            "profile.mini.data.max_answer_tokens: expected at least 3, got 2",
            id="no room for an answer",
        ),
        *(
            pytest.param(
                QA, [expected_without(f"{split}_questions")],
                f'profile.paper.data.expected.{split}_questions: missing; "msvd-qa" needs it',
                id=f"{split} questions not counted",
            )
            for split in ("train", "validation", "test")
        ),
        pytest.param(
            QA, [set_in("profile.mini.data.world", "questions_per_clip", None, QA)],
            'profile.mini.data.world.questions_per_clip: missing; "msvd-qa" needs it',
            id="world without questions",
        ),
        pytest.param(
            QA, [set_in("profile.mini.data.world", "num_frames", "24\ncaptions_per_clip = 4", QA)],
            'profile.mini.data.world.captions_per_clip: only for "msrvtt"; the data set is '
            '"msvd-qa"',
            id="captions in a world of questions",
        ),
        pytest.param(
            QA, [("[evaluate]\n", '[evaluate]\nscore = "itm+itc"\n')],
            f'evaluate.score: {RETRIEVAL}the data set is "msvd-qa"',
            id="ranking score for questions",
        ),
        pytest.param(
            QA, [("[train]\n", "[train]\nmomentum_encoder = true\nqueue_size = 7\n")],
            "train.momentum_encoder: question answering learns from answers alone, nothing is "
            "queued; set it to false",
            id="queue for questions",
        ),
        pytest.param(
            QA, [("[train]\n", "[train]\nhard_negatives = 2\n")],
            "train.hard_negatives: question answering has no negatives; leave it out",
            id="negatives for questions",
        ),
        pytest.param(
            QA, [("[train]\n", "[train]\nmomentum_encoder = false\n")], None,
            id="momentum encoder said to be off",
        ),
        pytest.param(
            QA,
            [
                set_in("profile.paper.data", "answers", "{ count = 1000 }", QA),
                ("rerank_k = 128", "rerank_k = 1001"),
            ],
            "profile.paper.evaluate.rerank_k: 1001 is more than the answer list holds (1000)",
            id="more answers kept than listed",
        ),
        pytest.param(
            QA, [("rerank_k = 128", "rerank_k = 600")], None,
            id="more answers kept than there are test clips",
        ),
        pytest.param(
            QA, [set_in("profile.paper.train", "batch_size", "30934", QA)],
            "profile.paper.train.batch_size: 30934 is more than the training split holds "
            "(30933 questions)",
            id="batch of more questions than there are",
        ),
        pytest.param(
            QA, [set_in("profile.paper.train", "batch_size", "1200", QA)], None,
            id="batch of more questions than clips",
        ),
        pytest.param(
            QA, [set_in("profile.mini.train", "batch_size", "47", QA)], None,
            id="odd batch of questions",
        ),
        pytest.param(
            QA, [("validation_questions = 6415", "validation_questions = 0")],
            'profile.paper.train.select: "best-validation" needs validation questions, and the '
            'split has none; use "last"',
            id="selection on no validation questions",
        ),
        pytest.param(
            QA, [('metric = "accuracy"', 'metric = "t2v/R@1"')],
            'claim.temporal-attention-helps.metric: "t2v/R@1" is for retrieval; "msvd-qa" is not',
            id="claim about ranks of answers",
        ),
        pytest.param(
            TEXT, [('metric = "t2v/R@5"', 'metric = "type-majority/when"')],
            'target[1].metric: "type-majority/when" is for question answering; "msrvtt" is not',
            id="target about answers of retrieval",
        ),
        pytest.param(
            TEXT, [('train_split = "9k"', 'train_split = "9k"\nanswers = { count = 2000 }')],
            f'data.answers: {QUESTIONS}the data set is "msrvtt"',
            id="answers for retrieval",
        ),
        pytest.param(
            TEXT, [('train_split = "9k"', 'train_split = "9k"\nmax_answer_tokens = 8')],
            f'data.max_answer_tokens: {QUESTIONS}the data set is "msrvtt"',
            id="length of answers for retrieval",
        ),
        pytest.param(
            TEXT, [("test_clips = 1000 }", "test_clips = 1000, test_questions = 5 }")],
            f'profile.paper.data.expected.test_questions: {QUESTIONS}the '
            'data set is "msrvtt"',
            id="questions for retrieval",
        ),
        pytest.param(
            TEXT, [("captions_per_clip = 4", "captions_per_clip = 4\nquestions_per_clip = 2")],
            'profile.mini.data.world.questions_per_clip: only for "msvd-qa" and "msrvtt-qa"; the '
            'data set is "msrvtt"',
            id="questions in a world of captions",
        ),
        pytest.param(
            TEXT, [("captions_per_clip = 4\n", "")],
            'profile.mini.data.world.captions_per_clip: missing; "msrvtt" needs it',
            id="world without captions",
        ),
        pytest.param(
            TEXT, [('score = "itm+itc"\n', "")],
            'evaluate.score: missing; "msrvtt" needs it',
            id="ranking without a score",
        ),
        pytest.param(
            TEXT, [('train_split = "9k"', 'train_split = "9k"\nleave_out = []')], None,
            id="nothing left out",
        ),
        pytest.param(
            DIDEMO,
            [
                set_in("profile.mini.data", "max_tokens", '64\nleave_out = ["b", "a", "b"]', DIDEMO)
            ],
            "profile.mini.data.leave_out: named twice: b",
            id="clip left out twice",
        ),
        pytest.param(
            QA,
            [('root = "data/mini/msvd_qa"', 'root = "data/mini/msvd_qa"\ndataset = "msrvtt-qa"')],
            "profile.mini.data.dataset: both profiles use one data set, and differ in its scale",
            id="data set of one profile",
        ),
        pytest.param(
            QA, [('set = { "model.pooling" = "mean" }', 'set = { "data.answers.count" = 500 }')],
            "variant.mean-pooling.data.answers.count: all variants share clips and seeds, so that "
            "their runs can be paired",
            id="variant with its own answers",
        ),
        pytest.param(
            DIDEMO, [('set = { "model.pooling" = "mean" }', 'set = { "data.leave_out" = [] }')],
            "variant.mean-pooling.data.leave_out: all variants share clips and seeds, so that "
            "their runs can be paired",
            id="variant with its own clips",
        ),
        pytest.param(
            QA, [('set = { "model.pooling" = "mean" }', 'set = { "evaluate.score" = "itm-only" }')],
            f'variant.mean-pooling.evaluate.score: {RETRIEVAL}the data set is '
            '"msvd-qa"',
            id="variant that ranks",
        ),
    ],
)  # fmt: skip
def test_key_of_another_data_set_or_a_missing_one_of_its_own_is_one_line(
    tmp_path, text, edits, line
):
    assert problem_lines(tmp_path, edited(*edits, text=text)) == ([line] if line else [])


def test_spec_turned_to_another_task_is_told_everything_at_once(tmp_path):
    lines = problem_lines(tmp_path, edited(('dataset = "msrvtt"', 'dataset = "msrvtt-qa"')))
    told = {line.partition(": ")[0] for line in lines}
    assert told == {
        "data.train_split",
        "data.max_answer_tokens",
        "data.answers",
        "data.expected.train_questions",
        "data.expected.validation_questions",
        "data.expected.test_questions",
        "profile.mini.data.world.captions_per_clip",
        "profile.mini.data.world.questions_per_clip",
        "evaluate.score",
        "profile.paper.train.momentum_encoder",
        *(f"claim.{name}-helps.metric" for name in ("temporal-attention", "dynamic-scaling")),
        "claim.text-dependent-pooling-helps.metric",
        *(f"target[{index}].metric" for index in range(8)),
        *(f"published[{index}].values" for index in range(23)),
    }
    assert len([line for line in lines if line.startswith("published[0].values")]) == 1


@pytest.mark.parametrize("metric", ["majority", "answerable", "shuffle_sensitivity"])
def test_claim_is_about_what_a_model_can_be_better_at(tmp_path, metric):
    lines = problem_lines(
        tmp_path, edited(('metric = "accuracy"', f'metric = "{metric}"'), text=QA)
    )
    assert len(lines) == 1
    assert lines[0].startswith('claim.temporal-attention-helps.metric: expected "t2v/R@1", ')
