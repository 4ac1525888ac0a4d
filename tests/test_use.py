"""A trained model on one's own clips: index, search, ask."""

import errno
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from small import new_model
from small_questions import ANSWERS, new_answerer, task_settings

from litevl import index as indexing
from litevl.ask import ask
from litevl.cli import main
from litevl.engine.rerank import pair_logits
from litevl.errors import DataError, WeightsError
from litevl.index import VideoIndex
from litevl.model.litevl import similarities
from litevl.model.tokenizer import Tokenizer
from litevl.run import save_model
from litevl.trained import Trained, use_of

pytestmark = pytest.mark.usefixtures("in_this_process")
README = Path(__file__).parents[1] / "README.md"
TEXT = "a red square moves left"
FOREIGN = "\u65e5\u672c"  # no word of the vocabulary, and no letters of one


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """What runs of both tasks leave, by task: folders of tiny untrained models."""
    found = {}
    for task, dataset, new in (
        ("retrieval", "msrvtt", new_model),
        ("question-answering", "msvd-qa", new_answerer),
    ):
        folder = tmp_path_factory.mktemp(task)
        settings = task_settings(folder, dataset)
        tokenizer = Tokenizer.for_weights(settings.model.weights)
        save_model(new(settings), folder / "model", use_of(settings, ANSWERS), tokenizer)
        found[task] = folder / "model"
    return found


@pytest.fixture
def clips(small, tmp_path) -> Path:
    """A folder with nine clips, one of them twice and one below another folder."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    drawn = sorted((small / "world").rglob("*.mp4"))[:9]
    for number, path in enumerate(drawn):
        shutil.copy(path, folder / f"{number}.mp4")
    shutil.copy(drawn[0], folder / "more" / "again.MP4")
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """How many clips were encoded."""
    counts, encode = [], indexing.LiteVLForRetrieval.encode_video

    def encode_video(model, frames):
        counts.append(len(frames))
        return encode(model, frames)

    monkeypatch.setattr(indexing.LiteVLForRetrieval, "encode_video", encode_video)
    return counts


# What a run leaves


def test_model_folder_is_all_it_takes(models):
    trained = Trained.load(models["question-answering"])
    assert trained.use.task == "question-answering"
    assert trained.use.answers == ANSWERS
    assert not trained.model.training
    assert len(trained.tokenizer) == trained.model.config.vocab_size
    words = trained.tokens([TEXT]).input_ids
    assert torch.equal(words, Trained.load(models["retrieval"]).tokens([TEXT]).input_ids)


def test_words_that_a_model_cannot_express_are_told(models):
    trained = Trained.load(models["retrieval"])
    assert trained.unknown_words(f"a red {FOREIGN} moves") == [FOREIGN]


def test_folder_without_its_use_is_refused(models, tmp_path):
    shutil.copytree(models["retrieval"], tmp_path / "model")
    (tmp_path / "model" / "use.json").unlink()
    with pytest.raises(WeightsError, match=r"lacks use.json\n.*reports/runs/<run id>/model"):
        Trained.load(tmp_path / "model")


@pytest.mark.parametrize("content", ["{", '{"task": "singing"}', "[]"])
def test_use_that_makes_no_sense_is_named(models, tmp_path, content):
    shutil.copytree(models["retrieval"], tmp_path / "model")
    (tmp_path / "model" / "use.json").write_text(content)
    with pytest.raises(WeightsError, match=r"use.json: "):
        Trained.load(tmp_path / "model")


# Search


def test_search_ranks_the_clips_of_a_folder_as_the_model_does(models, clips):
    index = VideoIndex.build(clips, models["retrieval"])
    hits = index.search(TEXT, top=10)
    assert len(index) == len(hits) == 10
    trained = index.trained
    paths = [hit.path for hit in hits]
    with torch.no_grad():
        frames = np.stack([trained.frames(path) for path in paths])
        video = trained.model.encode_video(trained.clips(frames))
        words = trained.tokens([TEXT])
        text = trained.model.encode_text(words.input_ids, words.attention_mask)
        places = torch.arange(10)
        itm = pair_logits(trained.model, video, text, torch.zeros_like(places), places, 4)
        expected = itm + similarities(text.embedding, video.embedding)[0]
    assert [hit.score for hit in hits] == pytest.approx(expected.tolist(), abs=2e-3)
    assert [hit.rank for hit in hits] == list(range(1, 11))
    assert sorted(paths) == sorted([*clips.glob("*.mp4"), clips / "more" / "again.MP4"])


def test_readme_s_example_of_search_runs(models, clips, monkeypatch, capsys):
    monkeypatch.chdir(clips.parent)
    example = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(example.replace("reports/runs/<run id>/model", str(models["retrieval"])), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list("12345")


def test_index_is_opened_again_and_finds_the_same(models, clips):
    built = VideoIndex.build(clips, models["retrieval"]).search(TEXT)
    assert VideoIndex.open(clips).search(TEXT) == built
    assert VideoIndex.open(clips / indexing.FOLDER).search(TEXT) == built


def test_clips_are_encoded_once_and_only_what_is_new(models, clips, encoded):
    VideoIndex.build(clips, models["retrieval"])
    assert sum(encoded) == 9  # one lies there twice
    (clips / "0.mp4").unlink()
    shutil.copy(clips / "1.mp4", clips / "renamed.mp4")
    index = VideoIndex.build(clips, models["retrieval"])
    assert sum(encoded) == 9
    assert len(index) == 10
    assert clips / "renamed.mp4" in [hit.path for hit in index.search(TEXT, top=10)]


def test_indexing_that_was_killed_goes_on_where_it_stopped(models, clips, encoded, monkeypatch):
    monkeypatch.setattr(indexing, "CLIPS_PER_PART", 2)
    write, parts = indexing.write_bytes, []

    def write_bytes(path, content):
        if path.suffix == ".safetensors":
            parts.append(path)
            if len(parts) == 3:
                raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as broken:
        broken.setattr(indexing, "write_bytes", write_bytes)
        with pytest.raises(KeyboardInterrupt):
            VideoIndex.build(clips, models["retrieval"])
    before = sum(encoded)
    assert len(VideoIndex.build(clips, models["retrieval"])) == 10
    assert sum(encoded) - before == 9 - 2 * 2


@pytest.mark.usefixtures("with_processes")
def test_clip_that_cannot_be_decoded_is_named_and_the_others_are_found(models, clips, capsys):
    (clips / "3.mp4").write_bytes(b"no video")
    assert main(["index", str(clips), "--model", str(models["retrieval"])]) == 0
    told = capsys.readouterr()
    assert f"not indexed: {clips / '3.mp4'}: not a video file" in told.err
    assert told.out.endswith("9 clips can be searched, 1 cannot be decoded\n")


def test_clips_that_are_not_in_the_index_are_told(models, clips, tmp_path, capsys, caplog):
    VideoIndex.build(clips, models["retrieval"], tmp_path / "index")
    with (clips / "3.mp4").open("ab") as changed:
        changed.write(b"x")
    shutil.copy(clips / "3.mp4", clips / "new.mp4")
    assert main(["search", str(tmp_path / "index"), TEXT, "--json", "--top", "10"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8 + 1
    model = models["retrieval"]
    again = f"litevl index {clips} --model {model} --index {tmp_path / 'index'}"
    assert caplog.messages[-1] == (
        f"2 clips are new, changed or cannot be decoded, and not searched; to add them: {again}"
    )
    caplog.clear()
    assert main(again.split()[1:]) == 0
    assert main(["search", str(tmp_path / "index"), TEXT]) == 0
    assert "not searched" not in caplog.text


def test_index_without_any_clip_that_is_there_is_an_error(models, clips, tmp_path, capsys):
    VideoIndex.build(clips, models["retrieval"])
    for clip in clips.glob("**/*.[mM]*"):
        clip.write_bytes(clip.read_bytes() + b"x")
    strip = tmp_path / "found.png"
    assert main(["search", str(clips), TEXT, "--json", "--strip", str(strip)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"none of the 10 clips in {clips} is in the index" in told.err
    assert told.err.endswith(f"litevl index {clips} --model {models['retrieval']}\n")


def test_clip_that_cannot_be_read_is_told_and_the_others_are_found(models, clips, monkeypatch):
    digest = hashlib.file_digest

    def damaged(file, name):
        if file.name == str(clips / "3.mp4"):
            raise OSError(errno.EIO, "Input/output error")
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", damaged)
    built = VideoIndex.build(clips, models["retrieval"])
    assert len(built) == 9
    (problem,) = built.problems
    assert problem.startswith(f"{clips / '3.mp4'}: cannot be read: Input/output error")


def test_folder_may_be_moved_together_with_its_index(models, clips, tmp_path, encoded):
    hits = VideoIndex.build(clips, models["retrieval"]).search(TEXT)
    moved = clips.rename(tmp_path / "moved")
    found = VideoIndex.open(moved).search(TEXT)
    assert [hit.score for hit in found] == [hit.score for hit in hits]
    assert [hit.path for hit in found] == [moved / hit.path.relative_to(clips) for hit in hits]
    assert len(VideoIndex.build(moved, models["retrieval"])) == 10
    assert sum(encoded) == 9


def test_clips_of_cameras_and_broadcasts_are_found(tmp_path):
    names = ["a.3gp", "b.MTS", "c.m2ts", "d.ts", "e.ogv"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in indexing.video_files(tmp_path, tmp_path / "index")] == names


def test_other_model_needs_another_index(models, clips, tmp_path):
    VideoIndex.build(clips, models["retrieval"])
    other = tmp_path / "model"
    shutil.copytree(models["retrieval"], other)
    use = json.loads((other / "use.json").read_text())
    (other / "use.json").write_text(json.dumps(use | {"sampler": "blip-uniform"}))
    with pytest.raises(WeightsError, match="an index by another model"):
        VideoIndex.build(clips, other)
    assert len(VideoIndex.build(clips, other, tmp_path / "second")) == 10
    (other / "use.json").write_text(json.dumps(use))
    with pytest.raises(WeightsError, match="no longer the model that made the index"):
        VideoIndex.open(tmp_path / "second")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"3", b'{"model": "m"}'])
def test_damaged_note_of_the_model_says_which_file_and_what_to_do(
    models, clips, tmp_path, content, capsys
):
    place = tmp_path / "index"
    place.mkdir()
    (place / "index.json").write_bytes(content)
    command = ["index", str(clips), "--model", str(models["retrieval"]), "--index", str(place)]
    for given in (command, ["search", str(place), TEXT]):
        assert main(given) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"DataError: {place / 'index.json'}: damaged")
        assert f"Delete {place}" in told
    assert (place / "index.json").read_bytes() == content


def test_damaged_part_is_made_again(models, clips, encoded):
    hits = VideoIndex.build(clips, models["retrieval"]).search(TEXT)
    (part,) = (clips / indexing.FOLDER).glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:100])
    assert VideoIndex.build(clips, models["retrieval"]).search(TEXT) == hits
    assert sum(encoded) == 18


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no video files; looked for .mp4, .avi"),
    ],
)
def test_folder_without_clips_is_refused(models, tmp_path, make, message):
    make(tmp_path / "none")
    with pytest.raises(DataError, match=message):
        VideoIndex.build(tmp_path / "none", models["retrieval"])


def test_folder_without_an_index_says_how_to_make_one(clips):
    with pytest.raises(
        DataError, match=r"holds no index\n  Make one: litevl index .*--model MODEL"
    ):
        VideoIndex.open(clips)


def test_question_answering_model_does_not_search(models, clips):
    with pytest.raises(WeightsError, match="searching takes a retrieval model"):
        VideoIndex.build(clips, models["question-answering"])


def test_search_prints_json_and_draws_what_was_found(models, clips, tmp_path, capsys):
    assert main(["index", str(clips), "--model", str(models["retrieval"])]) == 0
    capsys.readouterr()
    strip = tmp_path / "found.png"
    options = ["--top", "3", "--json", "--strip", str(strip)]
    assert main(["search", str(clips), f"{TEXT} {FOREIGN}", *options]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    assert all(Path(hit["clip"]).is_file() for hit in found)
    assert told.err == f"words that the model does not know: {FOREIGN}\n"
    picture = imread(strip)
    assert picture.shape[:2] == (3 * 32, 4 * 32)
    assert picture[..., :3].std() > 0.05


@pytest.mark.parametrize("name", ["found.xyz", "nowhere/found.png"])
def test_picture_that_cannot_be_written_is_no_traceback(models, clips, tmp_path, name, capsys):
    VideoIndex.build(clips, models["retrieval"])
    assert main(["search", str(clips), TEXT, "--strip", str(tmp_path / name)]) == 2
    assert f"DataError: {tmp_path / name}: " in capsys.readouterr().err


def test_index_that_cannot_be_written_is_no_traceback(models, clips, monkeypatch, capsys):
    def refuse(*_args):
        raise OSError(errno.EROFS, "Read-only file system", str(clips))

    monkeypatch.setattr("litevl.locks._taken", refuse)
    assert main(["index", str(clips), "--model", str(models["retrieval"])]) == 1
    err = capsys.readouterr().err
    assert err.endswith(f"RunError: {clips}: Read-only file system.\n  Make it a folder you may "
                        "write to.\n")  # fmt: skip


def test_index_may_be_the_folder_one_is_in(models, clips, tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    monkeypatch.chdir(tmp_path / "index")
    assert len(VideoIndex.build(clips, models["retrieval"], ".")) == 10


def test_search_prints_a_line_for_each_clip(models, clips, capsys):
    VideoIndex.build(clips, models["retrieval"])
    assert main(["search", str(clips), TEXT, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert all(line.endswith((".mp4", ".MP4")) for line in lines)


@pytest.mark.parametrize("text", ["", FOREIGN, "red " * 80])
def test_text_that_says_nothing_is_refused(models, clips, text, capsys):
    VideoIndex.build(clips, models["retrieval"])
    assert main(["search", str(clips), text]) == 2
    assert "DataError" in capsys.readouterr().err


# Questions


def test_answers_come_with_probabilities_that_add_up(models, clips):
    trained = Trained.load(models["question-answering"])
    found = ask(trained, clips / "0.mp4", "what is red?", top=len(ANSWERS))
    assert sorted(answer.text for answer in found) == sorted(ANSWERS)
    shares = [answer.probability for answer in found]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)
    assert ask(trained, clips / "0.mp4", "what is red?", top=2) == found[:2]


def test_answers_may_be_given(models, clips, capsys):
    model, clip = str(models["question-answering"]), str(clips / "0.mp4")
    given = ["--answer", "red ring", "--answer", "no"]
    assert main(["ask", clip, "what is red?", "--model", model, *given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {answer["text"] for answer in found} == {"red ring", "no"}
    assert sum(answer["probability"] for answer in found) == pytest.approx(1.0)


def test_free_answer_is_what_the_model_writes_and_has_no_probability(models, clips, capsys):
    model, clip = models["question-answering"], clips / "0.mp4"
    asked = ["ask", str(clip), "what is red?", "--model", str(model), "--free", "--json"]
    assert main(asked) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["probability"] is None
    trained = Trained.load(model)
    frames, question = trained.clips(trained.frames(clip)[None]), trained.query("what is red?")
    written = trained.model.generate(frames, question, trained.tokenizer.end_id).input_ids[0]
    pieces = trained.tokenizer.bert.convert_ids_to_tokens(written)
    letters = "".join(piece for piece in pieces if piece not in ("[DEC]", "[SEP]", "[PAD]"))
    assert answer["text"]
    assert re.sub(r"##| ", "", answer["text"]) == letters.replace("##", "")


def test_answers_are_printed_line_by_line(models, clips, capsys):
    model, clip = str(models["question-answering"]), str(clips / "0.mp4")
    assert main(["ask", clip, "what is red?", "--model", model, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("%" in line for line in lines)


def test_retrieval_model_answers_no_question(models, clips):
    with pytest.raises(WeightsError, match="questions take one of a question answering run"):
        ask(Trained.load(models["retrieval"]), clips / "0.mp4", "what is red?")


@pytest.mark.parametrize(
    ("clip", "question", "answers", "message"),
    [
        ("none.mp4", "what is red?", (), "missing: no such file"),
        ("0.mp4", "", (), "empty"),
        ("0.mp4", FOREIGN, (), "the model knows none of these words"),
        ("0.mp4", "what is red?", (FOREIGN,), "has a word outside the vocabulary"),
    ],
)
def test_question_that_cannot_be_answered_says_why(models, clips, clip, question, answers, message):
    with pytest.raises(DataError, match=message):
        ask(Trained.load(models["question-answering"]), clips / clip, question, answers)
