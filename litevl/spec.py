"""A reproduction as data: one TOML file, validated whole, every problem reported at once.

The top-level tables hold the method. `[profile.mini]` and `[profile.paper]` add or replace what
differs in scale, and a variant changes a few dotted keys on top: `resolve` puts the three together.

One's own data have one scale only: there is no [profile], and it goes by the name "own".

A spec may come from anybody: it holds no code, and the only places that it names outside the
output are data.root, data.annotations and model.weights, which may lie anywhere. Every other file
lies below these.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from litevl.errors import SpecError
from litevl.model.config import FreshPart, Pooling, PoolingSpace, Scaling, TimeEmbedding
from litevl.spec_problems import (
    FETCH_PATTERN,
    NAME_PATTERN,
    flat,
    merged,
    nested,
    problems,
    read_toml,
    suggestion,
)
from litevl.tasks import AnyDataset, ClaimMetric, SentenceOrder, TargetMetric
from litevl.tasks import Task as Task
from litevl.tasks import task_of as task_of

Profile = Literal["mini", "paper", "own"]
PROFILES: tuple[Profile, ...] = ("mini", "paper")  # tables of a published data set's spec
SECTIONS = ("data", "frames", "model", "train", "evaluate")

Sampler = Literal["blip-uniform", "lavis-uniform", "segment-middle", "segment-random"]
# The frames of an evaluation are the same each time, so nothing random is offered.
EvalSampler = Literal["blip-uniform", "lavis-uniform", "segment-middle"]
Precision = Literal["fp32", "bf16", "auto"]  # auto: bf16 where the machine multiplies it natively

Text = Annotated[str, Field(min_length=1)]
# Names end up in file names, which have 255 letters at most.
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
LARGEST = 2**32 - 1  # what every random generator takes as a seed, and far above any count
Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Seeds = Annotated[tuple[CountOrZero, ...], Field(min_length=1, strict=False)]


class Table(BaseModel):
    """A TOML table: no unknown keys, no conversions, no change after reading."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Expected(Table):
    """The numbers of questions are for question answering only, which needs them."""

    train_clips: Count
    validation_clips: CountOrZero
    test_clips: Count
    train_questions: Count | None = None
    validation_questions: CountOrZero | None = None
    test_questions: Count | None = None


class World(Table):
    """The mini profile's drawn clips: each scene gives a clip and its time-reversed twin."""

    seed: CountOrZero
    train_scenes: Count
    validation_scenes: CountOrZero
    test_scenes: Count
    captions_per_clip: Annotated[int, Field(ge=1, le=8)] | None = None
    """msrvtt only. There are 8 ways to say what happens in a scene."""
    questions_per_clip: Annotated[int, Field(ge=1, le=5)] | None = None
    """Question answering only. There is one question of each type."""
    num_frames: Count
    frames_per_second: Count
    size_px: Count


class AnswerList(Table):
    """The answers that a question may have; question answering only, which needs it."""

    count: Count
    file: Text | None = None
    """Below data.root: a JSON list, a JSON object answer -> label, or one answer per line. Without
    it, the most frequent answers of the training questions."""


class DataSpec(Table):
    dataset: AnyDataset
    root: Text
    """Folder of clips and annotation files, relative to the working directory."""
    annotations: Text | None = None
    """own-retrieval and own-qa only, which need it: the file of texts, relative to the working
    directory; docs/own-data.md describes it."""
    train_split: Literal["9k", "7k"] | None = None
    """msrvtt only, which needs it."""
    leave_out: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """didemo only: ids of clips that the protocol leaves out by name."""
    sentence_order: SentenceOrder | None = None
    """didemo only: sentences of a paragraph by the moment most annotators gave, or as in the file;
    "annotator-mode" where it is not given."""
    first_seconds: Positive | None = None
    """What a clip shows later is not used; without it, clips count whole."""
    max_tokens: Annotated[int, Field(ge=3, le=512)]
    """Longest caption or question in word pieces, [CLS] and [SEP] included."""
    max_answer_tokens: Annotated[int, Field(ge=3, le=64)] | None = None
    """Longest answer, counted alike; question answering only, which needs it."""
    answers: AnswerList | None = None
    expected: Expected
    """Clips and questions each split must hold; a run over fewer is not comparable."""
    world: World | None = None
    """How the clips are drawn; mini profile only."""


class FramesSpec(Table):
    num_frames: Count
    size_px: Count
    train_sampler: Sampler
    eval_sampler: EvalSampler
    decoder: Literal["decord", "pyav"]
    cache: Literal["whole", "sampled", "none"] = "whole"
    """Decoded once and kept: all frames of each clip, those that the samplers may ask for, or
    none, which are then decoded when they are needed. The same numbers each way."""
    choices_per_segment: Count | None = None
    """"segment-random" only: draw each frame among so many of its segment's frames, evenly spaced;
    without it, among all of them."""


class ModelSpec(Table):
    weights: Text
    """"mini-blip", the path of a BLIP checkpoint, "blip:NAME" or "hub:OWNER/NAME[@REVISION]"."""
    fresh: Annotated[tuple[FreshPart, ...], Field(strict=False)] = ()
    """Parts that start at random because the weights lack them."""
    temporal_attention: bool
    time_embedding: TimeEmbedding
    time_embedding_scale: Annotated[float, Field(ge=0)]
    """Standard deviation at the start."""
    scaling: Scaling
    pooling: Pooling
    pooling_temperature: Positive
    pooling_space: PoolingSpace


class TrainSpec(Table):
    epochs: Count
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)]
    """Clip-caption pairs, of which one alone has no negatives, or questions."""
    learning_rate: Positive
    temporal_learning_rate: Positive
    """For the parameters that BLIP does not have."""
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_fraction: Fraction
    """Of all steps."""
    max_grad_norm: Positive
    precision: Precision
    recompute: bool = False
    """The backward pass computes each vision block again instead of keeping what is inside: much
    less memory, a third more work in the image encoder, the same numbers."""
    compile: bool = False
    """torch.compile for the encoders: minutes at the start, less time in each step."""
    device_batch_size: Count | None = None
    """Most of the batch that a device holds at once; the rest of its share is accumulated. Losses
    and gradients stay those of the whole batch, up to rounding and dropout's masks."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """From one checkpoint to the next within an epoch; each epoch ends with one anyway."""
    momentum_encoder: bool = False
    """Retrieval only."""
    momentum: Fraction = 0.995
    queue_size: CountOrZero = 0
    """Read only with momentum_encoder; so are momentum and distillation_alpha."""
    distillation_alpha: Fraction = 0.4
    hard_negatives: Count | None = None
    """Retrieval only: captions drawn for each clip, and clips for each caption, to be told from the
    right ones by the cross-encoder; one, as BLIP draws, where nothing is said."""
    group_by_source: bool
    """Clips cut from the same source video, or questions about them, share a batch."""
    seeds: Seeds
    select: Literal["last", "best-validation"]


class EvaluateSpec(Table):
    rerank_k: Count
    """Candidates scored in full: clips by the cross-encoder, answers once chosen by first token."""
    score: Literal["itm+itc", "itm-only", "itc-only"] | None = None
    """Retrieval only, which needs it."""
    batch_size: Count
    precision: Precision
    features: Literal["disk"] | None = None
    """Retrieval only: keep clips' tokens on the disk, in half precision, between encoding and
    re-ranking, for galleries larger than memory; without it they are in memory."""


class Settings(Table):
    """Everything that decides a run's numbers, except seed and limits."""

    data: DataSpec
    frames: FramesSpec
    model: ModelSpec
    train: TrainSpec
    evaluate: EvaluateSpec


class Resolved(Settings):
    """One variant of one spec under one profile, every value settled."""

    name: str
    title: str
    profile: Profile
    variant: str


class Variant(Table):
    name: Name
    title: Text
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value."""


class Provenance(Table):
    source: Literal["paper", "secondary", "reconstructed"]
    note: Text


class Start(Table):
    """Weights that the paper may have started from; `--start` chooses among them."""

    name: Name
    title: Text
    weights: Text
    """Takes the place of the paper profile's model.weights."""
    fetch: Annotated[str, Field(pattern=FETCH_PATTERN)]
    """The file's name for `litevl data fetch`, a command that is shown to be copied."""
    provenance: Provenance


class TargetProvenance(Table):
    source: Literal["paper", "secondary", "reconstructed", "unknown"]
    """"unknown": no published number could be read."""
    note: Text


class Target(Table):
    """A published number, for the paper profile only; without a value where it is unknown."""

    metric: TargetMetric
    variant: str = "full"
    start: str | None = None
    """The start that the number belongs to; None for any."""
    value: float | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    provenance: TargetProvenance


class Published(Table):
    """A system's published row, shown beside ours under the paper profile."""

    system: Text
    values: Annotated[dict[TargetMetric, float], Field(min_length=1)]
    flags: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """What keeps the row from being compared with another without a word."""
    provenance: Provenance


class Claim(Table):
    """`better` beats `worse` on `metric`, or it does not."""

    name: Name
    better: str
    worse: str
    metric: ClaimMetric
    sentence: Text


class Profiles(Table):
    mini: dict[str, Any]
    paper: dict[str, Any]


class Spec(Table):
    """The file as written; `resolve` gives the typed settings of one variant and profile."""

    name: Name
    title: Text
    paper: Text
    data: dict[str, Any] = Field(default_factory=dict)
    frames: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)
    variant: Annotated[tuple[Variant, ...], Field(min_length=1, strict=False)]
    start: Annotated[tuple[Start, ...], Field(strict=False)] = ()
    target: Annotated[tuple[Target, ...], Field(strict=False)] = ()
    published: Annotated[tuple[Published, ...], Field(strict=False)] = ()
    claim: Annotated[tuple[Claim, ...], Field(strict=False)] = ()
    provenance: dict[str, Provenance] = Field(default_factory=dict)
    profile: Profiles | None = None
    """Only one's own data are without."""


def load_spec(path: Path) -> Spec:
    """Read and check a reproduction file; every problem in one SpecError."""
    try:
        document = with_dotted_keys(read_toml(path))
        found = problems(document, Spec, Settings)
    except RecursionError:
        raise SpecError(f"{path}: arrays or tables nested too deep to be a spec") from None
    if found:
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        lines = [f"  {key}: {what}" for key, what in found]
        raise SpecError("\n".join([f"{path}: {count}", *lines]))
    return Spec.model_validate(document)


def resolve(spec: Spec, profile: Profile, variant: str) -> Resolved:
    """The settings of one variant under one profile; SpecError for a name the spec lacks."""
    by_name = {entry.name: entry for entry in spec.variant}
    if variant not in by_name:
        hint = suggestion(variant, by_name)
        raise SpecError(f"{spec.name}: no variant '{variant}'{hint} (it has: {', '.join(by_name)})")
    shared = {section: getattr(spec, section) for section in SECTIONS}
    scales = {} if spec.profile is None else dict(spec.profile)
    settings = merged(merged(shared, scales.get(profile, {})), nested(by_name[variant].set))
    header = {"name": spec.name, "title": spec.title, "profile": profile, "variant": variant}
    return Resolved.model_validate(header | settings)


def as_dict(resolved: Resolved) -> dict[str, Any]:
    """Plain JSON values, as records store them."""
    return resolved.model_dump(mode="json")


def model_options(settings: Resolved) -> dict[str, Any]:
    """The fields of LiteVLConfig that the spec decides; the others come with the weights."""
    options = settings.model.model_dump(exclude={"weights"})
    return options | {
        "num_frames": settings.frames.num_frames,
        "image_size_px": settings.frames.size_px,
    }


def json_schema() -> dict[str, Any]:
    """JSON Schema of a reproduction file, for editors.

    A table may be completed by a profile, so inside the five sections no key is required.
    """
    sections = Settings.model_json_schema()
    for definition in sections["$defs"].values():
        definition.pop("required", None)
    schema = Spec.model_json_schema()
    schema["$defs"] |= sections["$defs"]
    schema["properties"] |= sections["properties"]
    scale = {"type": "object", "properties": sections["properties"], "additionalProperties": False}
    schema["$defs"]["Profiles"]["properties"] = dict.fromkeys(PROFILES, scale)
    return schema


def with_dotted_keys(document: dict[str, Any]) -> dict[str, Any]:
    """The document with provenance and variant.set keyed by dotted key, quoted in the file or not.

    TOML reads `model.scaling = ...` as a table in a table and `"model.scaling" = ...` as one key.
    """
    document = dict(document)
    if isinstance(document.get("provenance"), dict):
        document["provenance"] = provenance_by_key(document["provenance"])
    if isinstance(document.get("variant"), list):
        document["variant"] = [
            entry | {"set": flat(entry["set"])}
            if isinstance(entry, dict) and isinstance(entry.get("set"), dict)
            else entry
            for entry in document["variant"]
        ]
    return document


def provenance_by_key(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"scaling": {"source": ...}}} -> {"model.scaling": {"source": ...}}."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        is_parent = isinstance(value, dict) and not value.keys() & Provenance.model_fields.keys()
        found |= provenance_by_key(value, f"{prefix}{key}.") if is_parent else {prefix + key: value}
    return found
