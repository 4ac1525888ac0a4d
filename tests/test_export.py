"""The exported encoders, run by a process that cannot import litevl."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from small import new_model
from small_questions import ANSWERS, new_answerer, task_settings
from tiny import tiny_model

from litevl.cli import main
from litevl.export import ABOUT_FILE, TEXT_FILE, VIDEO_FILE, text_program
from litevl.model.tokenizer import Tokenizer
from litevl.run import save_model
from litevl.trained import Trained, use_of

TEXTS = ["a red square moves left", "a disc", "a green ring grows and then a blue star vanishes"]
ELSEWHERE = """
import json, sys
sys.modules["litevl"] = None  # importing it fails
import numpy as np, torch
folder = sys.argv[1]
about = json.load(open(f"{folder}/export.json"))
given = np.load(f"{folder}/given.npz")
found = {}
with torch.no_grad():
    for encoder in ("video_encoder", "text_encoder"):
        run = torch.export.load(f"{folder}/{about[encoder]['file']}").module()
        for case in ("one", "three", "padded"):
            names = [each["name"] for each in about[encoder]["inputs"]]
            if f"{case}-{names[0]}" in given:
                inputs = [torch.from_numpy(given[f"{case}-{name}"]) for name in names]
                found[f"{encoder}-{case}"] = run(*inputs).numpy()
np.savez(f"{folder}/found.npz", **found)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """What runs of both tasks leave, by data set: folders of tiny untrained models."""
    found = {}
    for dataset, new in (("msrvtt", new_model), ("msvd-qa", new_answerer)):
        folder = tmp_path_factory.mktemp(dataset)
        settings = task_settings(folder, dataset)
        tokenizer = Tokenizer.for_weights(settings.model.weights)
        model = new(settings)
        with torch.no_grad():  # else what temporal attention adds is nothing
            for block in model.visual_encoder.blocks:
                block.temporal_attn.proj.weight.normal_(generator=torch.manual_seed(1))
        save_model(model, folder / "model", use_of(settings, ANSWERS), tokenizer)
        found[dataset] = folder / "model"
    return found


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """The folder of the exported encoders."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", str(models["msrvtt"]), str(folder)]) == 0
    return folder


def test_encoders_give_the_same_embeddings_without_litevl(models, exported):
    trained = Trained.load(models["msrvtt"])
    model, config = trained.model, trained.model.config
    rng = np.random.default_rng(0)
    size = config.image_size_px
    frames = rng.integers(0, 256, (3, config.num_frames, size, size, 3), dtype=np.uint8)
    clips, words, single = trained.clips(frames), trained.tokens(TEXTS), trained.tokens(TEXTS[:1])
    longer = trained.tokens([" ".join(["red"] * 20), *TEXTS[:2]])
    given, wanted = {}, {}
    with torch.no_grad():
        for case, some in (("one", clips[:1]), ("three", clips)):
            given[f"{case}-frames"] = some
            wanted[f"video_encoder-{case}"] = model.encode_video(some).embedding
        for case, some in (("one", single), ("three", words), ("padded", longer)):
            given |= {f"{case}-{name}": getattr(some, name) for name in vars(some)}
            text = model.encode_text(some.input_ids, some.attention_mask)
            wanted[f"text_encoder-{case}"] = text.embedding
    np.savez(exported / "given.npz", **{key: value.numpy() for key, value in given.items()})
    command = [sys.executable, "-c", ELSEWHERE, str(exported)]
    subprocess.run(command, check=True, cwd=exported)
    found = np.load(exported / "found.npz")
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert np.abs(found[key] - value.numpy()).max() <= 1e-5, key
        assert np.linalg.norm(found[key], axis=1) == pytest.approx(1.0, abs=1e-5)
    order = trained.clips(frames[:, ::-1].copy())
    with torch.no_grad():  # else a program without temporal attention would pass
        turned = model.encode_video(order).embedding
    assert (turned - wanted["video_encoder-three"]).abs().max() > 1e-3


def test_what_goes_in_and_out_is_told(models, exported):
    about = json.loads((exported / ABOUT_FILE).read_text())
    config = Trained.load(models["msrvtt"]).model.config
    (frames,) = about["video_encoder"]["inputs"]
    size = config.image_size_px
    assert frames["shape"] == ["batch", config.num_frames, 3, size, size]
    assert frames["dtype"] == "float32"
    assert [each["name"] for each in about["text_encoder"]["inputs"]] == [
        "input_ids", "attention_mask",
    ]  # fmt: skip
    black = (0 - np.array(about["frames"]["mean"])) / np.array(about["frames"]["std"])
    shown = Trained.load(models["msrvtt"]).clips(np.zeros((1, 1, 1, 1, 3), np.uint8))
    assert shown.flatten().numpy() == pytest.approx(black, abs=1e-6)
    words = (exported / about["tokenizer"]["file"]).read_text().split()
    assert words[about["tokenizer"]["start_id"]] == "[CLS]"
    assert words[about["tokenizer"]["end_id"]] == "[SEP]"
    assert words[about["tokenizer"]["padding_id"]] == "[PAD]"


def test_programs_hold_what_they_need_and_nothing_at_random(exported):
    for file in (VIDEO_FILE, TEXT_FILE):
        program = torch.export.load(exported / file)
        steps = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert steps
        drawn = [
            node for node in program.graph.nodes if "dropout" in str(node.target) and node.args[2]
        ]
        assert not drawn
        assert not [step for step in steps if "rand" in step or "bernoulli" in step]
        taken = [node for node in program.graph.nodes if node.op == "placeholder"]
        assert not [node.name for node in taken if not node.users]  # weights or inputs not used
        assert "autocast" not in str(steps)


def test_model_that_answers_questions_has_nothing_to_export(models, tmp_path, capsys):
    assert main(["export", str(models["msvd-qa"]), str(tmp_path / "out")]) == 2
    assert "has no embeddings to export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_told(models, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert main(["export", str(models["msrvtt"]), str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_texts_of_any_length_pass_a_program_of_several_layers():
    # The last layer asks for the first word alone: with a single layer no length would matter.
    model = tiny_model().eval()
    assert model.config.text_depth > 1
    program = text_program(model).module()
    for words in (2, 5, model.config.max_positions):
        ids = torch.arange(3 * words).view(3, words) % model.config.vocab_size
        mask = torch.ones_like(ids)
        with torch.no_grad():
            expected = model.encode_text(ids, mask).embedding
        assert (program(ids, mask) - expected).abs().max() < 1e-5
