"""The model card of a trained model: what it is, what it learned from, how good it is, whose it is.

    model_card("reports/runs/<run id>/model", "OWNER/NAME").save("card.md")

Its numbers are those of the run's record. The front matter is written by huggingface_hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from litevl.data.sources import sources
from litevl.errors import DataError
from litevl.model.checkpoints import read_config
from litevl.model.places import fetch_command, hub_name
from litevl.record import read_record
from litevl.schema import DataPart, Record, RunPart, Value, Weights
from litevl.spec_problems import flat
from litevl.tasks import OWN_TASKS
from litevl.trained import HUB_NAME, Use, model_folder, read_use

PIPELINES = {"retrieval": "feature-extraction", "question-answering": "video-text-to-text"}
TAGS = {"retrieval": "video-text-retrieval", "question-answering": "video-question-answering"}


@dataclass(frozen=True)
class Licence:
    """What the hub is told of a licence, and what the card says about it."""

    hub_id: str
    sentence: str
    name: str | None = None  # where the hub has no id for it
    notice: str | None = None  # that has to go with the weights: its text


@dataclass(frozen=True)
class Told:
    """What a card is made of."""

    use: Use
    path: Path  # of the record
    record: Record
    run: RunPart
    data: DataPart
    weights: Weights
    licence: Licence


def model_card(model: str | Path, name: str, record: str | Path | None = None) -> ModelCard:
    """The card of a trained model as the repository `name` on the hub shows it.

    model: what a run left, `reports/runs/<run id>/model`. name: OWNER/NAME. record: the run's
    record, by default the one that the run wrote beside `runs`. Raises WeightsError where the
    folder holds no model, DataError where there is no record, or one of another run.
    """
    expect_hub_name(name)
    return card_of(told(model, record), name)


def expect_hub_name(name: str) -> None:
    """Raise DataError for what is no name of a repository on the hub."""
    if not HUB_NAME.fullmatch(name):
        raise DataError(f"{name!r}: expected OWNER/NAME, as in litevl/msrvtt-mini")


def card_of(found: Told, name: str) -> ModelCard:
    """The card of a model of which everything is known already."""
    environment = Environment(
        loader=PackageLoader("litevl", "assets"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = as_markdown
    body = environment.get_template("card.md.jinja").render(
        name=name,
        title=name.rpartition("/")[2],
        told=found,
        options=found.record.spec["model"],
        metrics=[(key, *shown(value)) for key, value in found.record.metrics.test.items()],
        data_terms=data_terms(found),
        settings=[
            f"{key} = {json.dumps(value)}"
            for key, value in flat(found.record.spec).items()
            if value is not None
        ],
    )
    return ModelCard(f"---\n{front_matter(found, name).to_yaml()}\n---\n\n{body}")


def front_matter(found: Told, name: str) -> ModelCardData:
    """What the hub itself reads of a card.

    A start that is not on the hub is no `base_model`, and drawn scenes are none of its data sets.
    """
    task, is_mini = found.use.task, found.run.profile == "mini"
    source = found.weights.source
    return ModelCardData(
        language="en",
        license=found.licence.hub_id,
        license_name=found.licence.name,
        library_name="litevl",
        pipeline_tag=PIPELINES[task],
        tags=["litevl", TAGS[task], f"profile-{found.run.profile}", "arxiv:2210.11929"],
        datasets=None if is_mini else hub_data_sets(found.data.dataset),
        base_model=hub_name(source)[0] if source.startswith("hub:") else None,
        model_name=name.rpartition("/")[2],
        eval_results=list(eval_results(found)),
    )


def eval_results(found: Told) -> Iterator[EvalResult]:
    """Every metric on the test split, for the front matter's model-index."""
    drawn = found.run.profile == "mini"  # and must not be taken for the real thing
    for key, value in found.record.metrics.test.items():
        interval = {} if value.low is None else {"low": value.low, "high": value.high}
        yield EvalResult(
            task_type=PIPELINES[found.use.task],
            task_name=found.use.task,
            dataset_type=f"{found.data.dataset}-mini" if drawn else found.data.dataset,
            dataset_name=f"{found.run.title}, drawn" if drawn else found.run.title,
            dataset_split="test",
            metric_type=key,
            metric_value=value.value,
            metric_args={"n": value.n, **interval},
        )


def told(model: str | Path, record: str | Path | None) -> Told:
    """Everything that a card says about a model; errors as for `model_card`."""
    place = model_folder(model)
    use = read_use(place)
    path = Path(record) if record is not None else record_beside(Path(model))
    found = read_record(path)
    if found.data is None or found.weights is None or found.status != "complete":
        raise DataError(
            f"{path}: the run {found.status}, so that nothing is known of how good the model is\n"
            "  Run it again, and push what it leaves then."
        )
    if found.data.dataset != use.dataset:
        raise DataError(
            f"{path}: of a run on {found.data.dataset}, but the model was trained on "
            f"{use.dataset}\n"
            "  Name the model's own record with --record."
        )
    expect_of_this_model(found, path, place)
    return Told(use, path, found, found.run, found.data, found.weights, licence_of(found.weights))


def expect_of_this_model(record: Record, path: Path, place: Path) -> None:
    """Raise DataError for the record of a run that made another model than the one in a folder."""
    config, spec, differences = read_config(place / "config.json"), record.spec, list[str]()
    run = place.absolute().parent
    if run.parent.name == "runs" and run.name != record.run.id:
        differences.append(f"run: {record.run.id} in the record, {run.name} for the model")
    frames = spec.get("frames", {})
    sizes = {"num_frames": frames.get("num_frames"), "image_size_px": frames.get("size_px")}
    for key, wanted in {**spec["model"], **sizes}.items():
        if wanted is not None and key in config and config[key] != wanted:
            differences.append(f"{key}: {wanted} in the record, {config[key]} for the model")
    if differences:
        lines = [f"{path}: the record of another model's run", *differences]
        raise DataError("\n  ".join([*lines, "Name the model's own record with --record."]))


def record_beside(model: Path) -> Path:
    """The record of the run that left a model in `<output>/runs/<run id>/model`."""
    run = model.absolute().parent
    output = run.parent.parent
    found = sorted(output.glob(f"records/*/{run.name}.json"))
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{model}: {len(found) or 'no'} records of this model's run in {output / 'records'}\n"
        f"  Looked for <reproduction>/{run.name}.json; name the record with --record."
    )


def licence_of(weights: Weights) -> Licence:
    """Under which licence a model is that was trained from these weights."""
    source = weights.source
    if source == "mini-blip":
        return Licence(
            "apache-2.0",
            "The weights are under Apache-2.0, as are litevl and mini-BLIP, from which they were "
            "trained.",
        )
    known = fetch_command(source) or ""
    if "blip:" in known:
        checkpoint = sources(known.rpartition(" ")[2])
        return Licence(
            "bsd-3-clause",
            f"The weights were trained from BLIP's, and its licence holds for them. "
            f"{' '.join(checkpoint.licence.split())} Whoever passes these weights on keeps "
            "LICENSE-BLIP.txt with them. litevl itself is under Apache-2.0.",
            notice=blip_notice(),
        )
    return Licence(
        "other",
        f"The weights were trained from {source}, and its licence holds for them; litevl does not "
        "know which that is. litevl itself is under Apache-2.0.",
        name="that-of-the-start-weights",
    )


def blip_notice() -> str:
    """What has to stand with weights that come from BLIP."""
    from importlib import resources

    return resources.files("litevl.assets").joinpath("LICENSE-BLIP.txt").read_text("utf-8")


def data_terms(found: Told) -> str:
    """What is known of the terms of the clips and texts that a model learned from."""
    if found.run.profile == "mini":
        return "Its clips and texts were made by litevl: nobody else has rights in them."
    if found.data.dataset in OWN_TASKS:
        return "These are somebody's own clips and texts, whose terms are the owner's to tell."
    return " ".join(sources(found.data.dataset).licence.split())


def hub_data_sets(dataset: str) -> list[str] | None:
    """The hub's data sets with a public data set's files; None where there are none."""
    if dataset in OWN_TASKS:
        return None
    known = sources(dataset)
    files = [*known.files, *(file for files in known.clips.values() for file in files)]
    return sorted({file.hub for file in files if file.hub}) or None


def shown(value: Value) -> tuple[str, str, str]:
    """A metric's value, interval and number of queries, as a table shows them."""
    interval = "-" if value.low is None else f"{value.low:.1f} to {value.high:.1f}"
    return f"{value.value:.1f}", interval, f"{value.n:,}"


def as_markdown(text: object) -> str:
    """Text as Markdown shows it, whatever it holds."""
    from litevl.report.page import markdown

    return str(markdown(str(text)))
