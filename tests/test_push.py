"""Models to the hub and back, by the real client and a hub on this machine; their cards."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub import hub
from huggingface_hub import ModelCard
from records import change_record, make_arrays, make_record
from small import new_model
from small_questions import ANSWERS, new_answerer, task_settings

from litevl import LiteVLForRetrieval
from litevl.card import model_card
from litevl.cli import main
from litevl.errors import DataError, HubError, RunError, WeightsError
from litevl.index import VideoIndex
from litevl.model.tokenizer import Tokenizer
from litevl.push import push
from litevl.record import read_record
from litevl.run import save_model
from litevl.trained import Trained, use_of

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
NAME = "me/litevl-msrvtt"
FILES = {
    "README.md", "config.json", "model.safetensors", "record.json", "use.json", "vocab.txt",
}  # fmt: skip


def leave_run(output: Path, dataset: str) -> Path:
    """What a run of a tiny untrained model leaves: the model's folder, and its record."""
    settings = task_settings(output.parent / f"{output.name}-start", dataset)
    arrays = make_arrays("full", 0)
    record = make_record("full", 0, arrays)
    record["data"]["dataset"] = dataset
    record["spec"]["frames"] = {"num_frames": 4}
    is_retrieval = dataset == "msrvtt"
    folder = output / "runs" / record["run"]["id"] / "model"
    model = (new_model if is_retrieval else new_answerer)(settings)
    tokenizer = Tokenizer.for_weights(settings.model.weights)
    save_model(model, folder, use_of(settings, ANSWERS), tokenizer)
    record["metrics"]["test"] = {
        key: {"value": value, "low": low, "high": high, "n": 60}
        for key, value, low, high in (
            [("t2v/R@1", 36.75, 30.25, 41.5), ("t2v/MdR", 3.0, None, None)]
            if is_retrieval
            else [("accuracy", 41.25, 35.0, 48.5)]
        )
    }
    path = output / "records" / "msrvtt" / f"{record['run']['id']}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record), encoding="utf-8")
    read_record(path)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of models that runs left, by data set; not to be changed."""
    output = tmp_path_factory.mktemp("runs")
    return {each: leave_run(output / each, each) for each in ("msrvtt", "msvd-qa")}


@pytest.fixture
def own(runs, tmp_path) -> Path:
    """A model's folder that may be changed, with its record beside it."""
    shutil.copytree(runs["msrvtt"].parents[2], tmp_path / "own")
    return next((tmp_path / "own").glob("runs/*/model"))


def change(model: Path, edit) -> None:
    """Edit the record of a model's run."""
    change_record(model.parents[2] / "records" / "msrvtt", model.parent.name, edit)


def configure(model: Path, options: dict) -> None:
    """Change options in a model's configuration."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | options))


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A hub, with me logged in to it."""
    with hub({}) as site:
        file = "{repo_id}/resolve/{revision}/{filename}"
        known = {
            "ENDPOINT": site.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{site.url}/{file}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }
        for constant, value in known.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{constant}", value)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield site


# The card


def test_card_s_front_matter_has_every_number_of_the_record(runs):
    card = model_card(runs["msrvtt"], NAME)
    data = card.data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "litevl", "en")
    assert data.pipeline_tag == "feature-extraction"
    assert {"litevl", "video-text-retrieval", "arxiv:2210.11929"} <= set(data.tags)
    assert data.model_name == "litevl-msrvtt"
    assert data.base_model is None  # mini-BLIP is on no hub
    assert data.datasets is None  # nor are drawn scenes
    found = {each.metric_type: each for each in data.eval_results}
    assert found["t2v/R@1"].metric_value == 36.75
    assert found["t2v/R@1"].metric_args == {"n": 60, "low": 30.25, "high": 41.5}
    assert found["t2v/MdR"].metric_args == {"n": 60}
    assert found["t2v/R@1"].dataset_type == "msrvtt-mini"  # never taken for the real one
    assert len(found) == 2


def test_card_tells_what_a_stranger_has_to_know(runs):
    text = model_card(runs["msrvtt"], NAME).text
    record = read_record(next(runs["msrvtt"].parents[2].glob("records/*/*.json")))
    for told in (
        record.run.id,
        record.code.commit,
        record.weights.sha256,
        "mini-blip",
        "| t2v/R@1 | 36.8 | 30.2 to 41.5 | 60 |",
        "| t2v/MdR | 3.0 | - | 60 |",
        "| train | 1,200 | 1,200 | 3,600 | - |",
        'model.scaling = "dynamic"',
        "With temporal attention; scaling: dynamic; pooling: text",
        "not comparable with the paper's",
        "drawn scenes",
        "Apache-2.0",
    ):
        assert told in text, told


def test_card_of_blip_s_weights_is_under_its_licence_with_its_notice(own, tmp_path):
    change(own, lambda record: record["run"].update(profile="paper"))
    change(own, lambda record: record["data"].update(notes=["1k-A protocol"]))
    change(own, lambda record: record["weights"].update(source="data/weights/model_base_14M.pth"))
    card = model_card(own, NAME)
    assert card.data.license == "bsd-3-clause"
    assert "Salesforce" in card.text
    assert "no licence text is in the official archives" in card.text  # the data set's terms
    assert "drawn" not in card.text
    assert card.data.eval_results[0].dataset_type == "msrvtt"
    assert main(["push", str(own), NAME, "--dry-run", str(tmp_path / "out")]) == 0
    notice = (tmp_path / "out" / "LICENSE-BLIP.txt").read_text()
    assert "Copyright (c) 2021, Salesforce.com, Inc." in notice
    assert "THIS SOFTWARE IS PROVIDED" in notice


def test_card_of_a_variant_claims_no_part_that_it_lacks(own):
    options = {"temporal_attention": False, "pooling": "concat"}
    change(own, lambda record: record["spec"]["model"].update(options))
    configure(own, options)
    text = model_card(own, NAME).text
    assert "- Without temporal attention; scaling: dynamic; pooling: concat\n" in text


def test_card_of_own_data_takes_them_for_no_public_ones(own):
    change(own, lambda record: record["run"].update(profile="own"))
    change(own, lambda record: record["data"].update(dataset="own-retrieval", notes=[]))
    use = json.loads((own / "use.json").read_text())
    (own / "use.json").write_text(json.dumps(use | {"dataset": "own-retrieval"}))
    card = model_card(own, NAME)
    assert card.data.datasets is None
    assert card.data.eval_results[0].dataset_type == "own-retrieval"
    assert "whose terms are the owner's to tell" in card.text
    assert "drawn" not in card.text
    assert "the internet" not in card.text


def test_what_a_run_leaves_claims_no_licence(runs):
    card = ModelCard.load(runs["msrvtt"] / "README.md")
    assert card.data.library_name == "litevl"
    assert card.data.license is None


def test_card_of_other_weights_claims_no_licence(own):
    change(own, lambda record: record["weights"].update(source="hub:you/start"))
    card = model_card(own, NAME)
    assert (card.data.license, card.data.base_model) == ("other", "you/start")
    assert "does not know" in card.text


def test_card_of_a_limited_run_says_that_it_is_not_comparable(own):
    why = ["subset: first 8 clips"]
    change(own, lambda r: r["run"].update(comparable=False, not_comparable_because=why))
    assert "Not comparable with other runs: subset: first 8 clips" in model_card(own, NAME).text


def test_what_a_record_quotes_stays_text(own):
    change(own, lambda record: record["run"].update(title="<script>alert(1)</script> | a\n# b"))
    card = model_card(own, NAME)
    assert "<script>" not in card.text
    assert "\n# b" not in card.text
    assert card.data.eval_results  # the front matter is still read


# There and back


def test_pushed_model_comes_back_the_same(runs, site):
    assert push(runs["msrvtt"], NAME) == f"{site.url}/{NAME}"
    pushed = site.contents[NAME]
    assert set(pushed) == FILES | {".gitattributes"}
    assert pushed["model.safetensors"] == (runs["msrvtt"] / "model.safetensors").read_bytes()
    assert str(ModelCard(pushed["README.md"].decode())) == str(model_card(runs["msrvtt"], NAME))
    assert site.cards == [pushed["README.md"].decode()]
    assert NAME not in site.private
    there, here = Trained.load(NAME), Trained.load(runs["msrvtt"])
    assert there.use == here.use
    assert there.tokenizer.words() == here.tokenizer.words()
    for key, value in here.model.state_dict().items():
        assert torch.equal(there.model.state_dict()[key], value)
    again = LiteVLForRetrieval.from_pretrained(NAME)
    assert again.config == here.model.config
    assert torch.equal(again.vision_proj.weight, here.model.vision_proj.weight)


def test_large_weights_go_by_lfs(runs, site, monkeypatch):
    monkeypatch.setattr("hub.LARGE", 1000)
    push(runs["msrvtt"], NAME)
    assert site.uploaded
    assert site.contents[NAME]["model.safetensors"] in site.uploaded.values()


def test_pushing_again_renews_the_model(runs, own, site):
    push(runs["msrvtt"], NAME)
    change(own, lambda record: record["run"].update(title="Another title"))
    push(own, NAME)
    assert b"Another title" in site.contents[NAME]["README.md"]


def test_private_model_is_private(runs, site, capsys):
    assert main(["push", str(runs["msrvtt"]), NAME, "--private"]) == 0
    assert site.private == {NAME}
    assert capsys.readouterr().out == f"{site.url}/{NAME}\n"


def test_dry_run_writes_what_would_be_pushed_and_asks_nobody(runs, site, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    folder = tmp_path / "out"
    assert main(["push", str(runs["msrvtt"]), NAME, "--dry-run", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == FILES
    assert not site.requests
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    push(runs["msrvtt"], NAME)
    for path in folder.iterdir():
        assert site.contents[NAME][path.name] == path.read_bytes()
    assert Trained.load(folder).use.dataset == "msrvtt"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("dataset", ["msrvtt", "msvd-qa"])
def test_card_s_examples_run(runs, small, dataset, tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    clip = sorted((small / "world").rglob("*.mp4"))[0]
    for place in ("clip.mp4", "clips/1.mp4"):
        shutil.copy(clip, tmp_path / place)
    monkeypatch.chdir(tmp_path)
    push(runs[dataset], NAME)
    examples = re.findall(r"```python\n(.*?)```", model_card(runs[dataset], NAME).text, re.DOTALL)
    assert len(examples) == (2 if dataset == "msrvtt" else 1)
    for example in examples:
        exec(example, {})
        assert capsys.readouterr().out


def test_examples_of_the_page_on_python_run(runs, site, small, tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    for number, clip in enumerate(sorted((small / "world").rglob("*.mp4"))[:3]):
        shutil.copy(clip, tmp_path / "clips" / f"{number}.mp4")
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    page = page.replace("reports/runs/<run id>/model", str(runs["msrvtt"]))
    page = page.replace("reports/runs/<run id of msvd_qa>/model", str(runs["msvd-qa"]))
    page = page.replace("OWNER/NAME", NAME)
    names: dict = {}
    printed = []
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, names)
        printed.append(capsys.readouterr().out)
    assert printed[0] == "retrieval msrvtt 4\n"
    assert names["similarity"].shape == names["match"].shape == (1, 2)
    assert names["strip"].shape == (3 * 32, 4 * 32, 3)
    assert len(printed[3].splitlines()) == 3
    assert printed[4] == f"torch.Size([1, {names['video'].embedding.shape[1]}])\n"
    assert printed[5] == f"{site.url}/{NAME}\n"
    assert site.private == {NAME}
    assert (tmp_path / "card.md").read_bytes() == site.contents[NAME]["README.md"]


@pytest.mark.usefixtures("site")
def test_index_of_a_hub_s_model_is_opened_again(runs, small, tmp_path):
    push(runs["msrvtt"], NAME)
    (tmp_path / "clips").mkdir()
    shutil.copy(sorted((small / "world").rglob("*.mp4"))[0], tmp_path / "clips" / "1.mp4")
    built = VideoIndex.build(tmp_path / "clips", NAME).search("a red square moves left")
    assert VideoIndex.open(tmp_path / "clips").search("a red square moves left") == built
    push(runs["msvd-qa"], NAME)  # the model is another now
    with pytest.raises(WeightsError, match=f"{NAME}: no longer the model that made the index"):
        VideoIndex.open(tmp_path / "clips")


# What goes wrong


@pytest.mark.usefixtures("site")
def test_model_that_is_nowhere_is_told():
    with pytest.raises(WeightsError, match=r"no folder here, and from the hub: you/none"):
        Trained.load("you/none")


def test_model_that_xet_cannot_fetch_is_told(monkeypatch):
    def break_off(*_args, **_options):
        raise RuntimeError("Task error: CAS Client Error: error sending request")

    monkeypatch.setattr("huggingface_hub.snapshot_download", break_off)
    with pytest.raises(WeightsError, match=r"from the hub: me/litevl-msrvtt: .*Task error"):
        Trained.load(NAME)


def test_nobody_logged_in(runs, site, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"nobody is logged in.*\n.*hf auth login"):
        push(runs["msrvtt"], NAME)
    assert not site.requests


def test_token_that_the_hub_does_not_know(runs, site, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert main(["push", str(runs["msrvtt"]), NAME]) == 2
    assert "does not know this token" in capsys.readouterr().err
    assert not site.contents


def test_somebody_else_s_name(runs, site):
    with pytest.raises(HubError, match="no right to write there"):
        push(runs["msrvtt"], "you/litevl")
    assert not site.contents


def test_repository_with_something_else_is_left_alone(runs, site):
    before = {"pytorch_model.bin": b"weights", "README.md": b"mine"}
    site.contents[NAME] = dict(before)
    with pytest.raises(HubError, match=r"holds something else, 2 files without use\.json"):
        push(runs["msrvtt"], NAME)
    assert site.contents[NAME] == before


def test_private_push_to_a_public_repository_is_refused(runs, site):
    site.contents[NAME] = {".gitattributes": b""}
    with pytest.raises(HubError, match=r"there already, and public\n  Nothing was pushed"):
        push(runs["msrvtt"], NAME, private=True)
    assert set(site.contents[NAME]) == {".gitattributes"}


def test_hub_that_fails_can_be_tried_again(runs, site):
    site.statuses = [500]
    with pytest.raises(RunError, match="could not be reached"):
        push(runs["msrvtt"], NAME)
    push(runs["msrvtt"], NAME)
    assert set(site.contents[NAME]) >= FILES


@pytest.mark.parametrize("name", ["litevl", "me/", "/me", "me/a b", "me/a/b", "../me", "hub:me/a"])
def test_name_that_is_none_is_told(runs, name, tmp_path, capsys):
    assert main(["push", str(runs["msrvtt"]), name, "--dry-run", str(tmp_path / "out")]) == 2
    assert "expected OWNER/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_model_without_its_record_says_where_it_was_looked_for(runs, own, tmp_path):
    (record,) = own.parents[2].glob("records/*/*.json")
    record.rename(tmp_path / "elsewhere.json")
    with pytest.raises(DataError, match=r"no records of this model's run in .*\n.*--record"):
        model_card(own, NAME)
    card = model_card(own, NAME, record=tmp_path / "elsewhere.json")
    assert str(card) == str(model_card(runs["msrvtt"], NAME))


def test_record_of_another_run_is_refused(runs):
    (record,) = runs["msvd-qa"].parents[2].glob("records/*/*.json")
    with pytest.raises(DataError, match="a run on msvd-qa, but the model was trained on msrvtt"):
        model_card(runs["msrvtt"], NAME, record)


def test_record_of_another_variant_is_refused(own):
    configure(own, {"pooling": "mean", "num_frames": 8})
    message = r"another model's run\n  pooling: text in the record, mean for .*\n  num_frames: 4 in"
    with pytest.raises(DataError, match=message):
        model_card(own, NAME)


def test_record_of_another_seed_is_refused(own, tmp_path):
    (record,) = own.parents[2].glob("records/*/*.json")
    other = own.parents[1] / "msrvtt-mini-full-s1" / "model"
    own.parent.rename(other.parent)
    with pytest.raises(DataError, match=f"another model's run\n  run: {record.stem} in the record"):
        model_card(other, NAME, record)
    shutil.copytree(other, tmp_path / "elsewhere")  # nothing tells of which seed it is
    assert model_card(tmp_path / "elsewhere", NAME, record)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_card_of_a_damaged_configuration_says_which_file(own, content):
    (own / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"model/config\.json: "):
        model_card(own, NAME)


def test_run_that_failed_has_no_card(own):
    change(own, lambda record: record.update(status="failed", error="loss is not finite"))
    with pytest.raises(DataError, match="the run failed"):
        model_card(own, NAME)


def test_folder_that_is_no_model_is_refused(tmp_path, capsys):
    assert main(["push", str(tmp_path), NAME]) == 2
    assert "lacks config.json, model.safetensors, use.json, vocab.txt" in capsys.readouterr().err
