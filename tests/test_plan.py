"""Which runs a spec means, how they are named, and what their records say of them."""

import json
from pathlib import Path

import pytest
from records import make_arrays, make_record

from litevl.errors import SpecError
from litevl.plan import plan, planned, record_path, state
from litevl.record import write_record
from litevl.spec import Resolved, Spec, as_dict, load_spec, resolve

SHIPPED = sorted((Path(__file__).parent.parent / "reproductions").glob("*.toml"))
MSRVTT = SHIPPED[0].with_name("msrvtt.toml")


@pytest.fixture(scope="module")
def msrvtt() -> Spec:
    return load_spec(MSRVTT)


@pytest.fixture(scope="module")
def run(msrvtt):
    return planned(resolve(msrvtt, "mini", "full"), 0, None, None)


def ids(spec, *, variants=(), seeds=(), subset=None, max_steps=None):
    return [r.id for r in plan(spec, "mini", variants, seeds, subset, max_steps)]


def changed(spec: Spec, section: str, key: str, value: object) -> Spec:
    """The spec with one value of its mini profile changed."""
    mini = spec.profile.mini
    mini = mini | {section: mini.get(section, {}) | {key: value}}
    return spec.model_copy(update={"profile": spec.profile.model_copy(update={"mini": mini})})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_plan_without_a_choice_is_every_variant_with_the_seeds_of_the_profile(path):
    spec = load_spec(path)
    assert len(spec.variant) == 5
    for profile, seeds in (("mini", (0,)), ("paper", (0, 1, 2))):
        runs = plan(spec, profile, [], [], None, None)
        assert [(r.seed, r.resolved.variant) for r in runs] == [
            (seed, variant.name) for seed in seeds for variant in spec.variant
        ]
        assert len({r.id for r in runs}) == len(runs)
        assert all(r.id.startswith(f"{spec.name}-{profile}-") for r in runs)


def test_plan_runs_what_was_asked_for_once_and_in_that_order(msrvtt):
    runs = plan(msrvtt, "mini", ["no-scaling", "full", "no-scaling"], [5, 5], 16, 3)
    assert [(r.resolved.variant, r.seed) for r in runs] == [("no-scaling", 5), ("full", 5)]
    assert {(r.subset, r.max_steps) for r in runs} == {(16, 3)}


def test_unknown_variants_are_told_together(msrvtt):
    with pytest.raises(SpecError, match=r"no such variant: a, b \(it has: full, no-temp"):
        plan(msrvtt, "mini", ["a", "full", "b"], [], None, None)


def test_id_names_spec_profile_variant_and_seed(msrvtt):
    (run_id,) = ids(msrvtt, variants=["no-scaling"], seeds=[3])
    name, _, key = run_id.rpartition("-")
    assert name == "msrvtt-mini-no-scaling-s3"
    assert len(key) == 8
    assert int(key, 16) >= 0


def test_where_frames_are_kept_is_no_part_of_an_id_and_what_is_drawn_among_is(msrvtt):
    assert not set(ids(changed(msrvtt, "evaluate", "features", "disk"))) & set(ids(msrvtt))
    fewer = changed(msrvtt, "frames", "choices_per_segment", 4)
    assert ids(changed(msrvtt, "frames", "cache", "sampled")) == ids(msrvtt)
    assert ids(changed(fewer, "frames", "cache", "sampled")) == ids(fewer)
    assert not set(ids(fewer)) & set(ids(msrvtt))
    assert not set(ids(changed(msrvtt, "frames", "choices_per_segment", 5))) & set(ids(fewer))


def test_id_is_the_same_on_every_machine_and_day():
    # Records are found by id: if this value changes, every run ever recorded has to run again.
    settings = {
        "name": "tiny",
        "title": "any",
        "profile": "mini",
        "variant": "full",
        "data": {
            "dataset": "msrvtt",
            "root": "clips",
            "train_split": "9k",
            "max_tokens": 32,
            "expected": {"train_clips": 4, "validation_clips": 2, "test_clips": 2},
        },
        "frames": {
            "num_frames": 4,
            "size_px": 32,
            "train_sampler": "segment-random",
            "eval_sampler": "segment-middle",
            "decoder": "decord",
        },
        "model": {
            "weights": "tiny.safetensors",
            "temporal_attention": True,
            "time_embedding": "branch",
            "time_embedding_scale": 0.5,
            "scaling": "dynamic",
            "pooling": "text",
            "pooling_temperature": 0.1,
            "pooling_space": "hidden",
        },
        "train": {
            "epochs": 1,
            "batch_size": 2,
            "learning_rate": 1e-4,
            "temporal_learning_rate": 1e-3,
            "weight_decay": 0.05,
            "warmup_fraction": 0.1,
            "max_grad_norm": 1.0,
            "precision": "fp32",
            "momentum_encoder": False,
            "momentum": 0.995,
            "queue_size": 0,
            "distillation_alpha": 0.4,
            "group_by_source": True,
            "seeds": (0,),
            "select": "last",
        },
        "evaluate": {"rerank_k": 2, "score": "itm+itc", "batch_size": 2, "precision": "fp32"},
    }
    run = planned(Resolved.model_validate(settings), 1, 2, None)
    assert run.id == "tiny-mini-full-s1-153cfa31"


def test_every_run_of_a_plan_has_its_own_id(msrvtt):
    found = [
        run_id
        for subset in (None, 1)
        for max_steps in (None, 1)
        for run_id in ids(msrvtt, seeds=[0, 1], subset=subset, max_steps=max_steps)
    ]
    assert len(set(found)) == len(found) == 40


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("train", "learning_rate"),
        ("train", "epochs"),
        ("frames", "num_frames"),
        ("model", "pooling_temperature"),
        ("evaluate", "rerank_k"),
        ("data", "max_tokens"),
    ],
)
def test_changing_what_decides_numbers_changes_every_id(msrvtt, section, key):
    now = as_dict(resolve(msrvtt, "mini", "full"))[section][key]
    assert not set(ids(msrvtt)) & set(ids(changed(msrvtt, section, key, 2 * now)))


def test_changing_one_variant_changes_its_id_only(msrvtt):
    variants = tuple(
        v.model_copy(update={"set": {"model.pooling": "text-spatial"}})
        if v.name == "mean-pooling"
        else v
        for v in msrvtt.variant
    )
    before, after = ids(msrvtt), ids(msrvtt.model_copy(update={"variant": variants}))
    assert [b == a for b, a in zip(before, after, strict=True)] == [True, True, True, False, True]


def test_titles_seeds_claims_and_number_style_leave_ids_alone(msrvtt):
    other = changed(msrvtt, "train", "seeds", [7, 8]).model_copy(update={"title": "x", "claim": ()})
    assert ids(other, seeds=[0]) == ids(msrvtt, seeds=[0])
    assert ids(changed(msrvtt, "train", "weight_decay", 1), seeds=[0]) == ids(
        changed(msrvtt, "train", "weight_decay", 1.0), seeds=[0]
    )


# What the record says


def write(run, folder, **changes):
    """A record of the run as `write_record` leaves it; returns its path."""
    arrays = make_arrays("full", 0)
    record = make_record("full", 0, arrays)
    record["run"]["id"] = run.id
    record |= changes
    return write_record(folder / run.resolved.name, record, arrays)


def test_run_without_a_record_is_missing(run, tmp_path):
    assert state(run, tmp_path) == "missing"


def test_run_with_a_whole_record_is_done(run, tmp_path):
    assert write(run, tmp_path) == record_path(run, tmp_path)
    assert state(run, tmp_path) == "done"


def test_run_whose_record_says_failed_is_failed(run, tmp_path):
    write(run, tmp_path, status="failed", error="loss not finite")
    assert state(run, tmp_path) == "failed"


def test_interrupted_run_is_missing(run, tmp_path):
    write(run, tmp_path, status="interrupted")
    assert state(run, tmp_path) == "missing"


def test_record_without_its_per_query_values_is_missing(run, tmp_path):
    write(run, tmp_path).with_suffix(".npz").unlink()
    assert state(run, tmp_path) == "missing"


def test_damaged_record_is_failed_and_never_done(run, tmp_path):
    path = write(run, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    assert state(run, tmp_path) == "failed"


def test_record_of_another_run_under_this_name_is_missing(msrvtt, run, tmp_path):
    other = planned(resolve(msrvtt, "mini", "full"), 1, None, None)
    path = write(other, tmp_path)
    for suffix in (".json", ".npz"):
        path.with_suffix(suffix).rename(record_path(run, tmp_path).with_suffix(suffix))
    assert state(run, tmp_path) == "missing"


def test_another_mini_blip_or_another_way_to_draw_is_another_run(tmp_path, monkeypatch):
    spec = load_spec(MSRVTT)
    before = plan(spec, "mini", ["full"], [0], None, None)[0].id
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"sha256": "another"}))
    with monkeypatch.context() as patch:
        patch.setattr("litevl.plan.MINI_BLIP", tmp_path / "model.safetensors")
        other_weights = plan(spec, "mini", ["full"], [0], None, None)[0].id
    monkeypatch.setattr("litevl.data.mini.WORLD_VERSION", -1)
    other_clips = plan(spec, "mini", ["full"], [0], None, None)[0].id
    assert len({before, other_weights, other_clips}) == 3
