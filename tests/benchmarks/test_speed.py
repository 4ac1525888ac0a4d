"""The benchmarks at small sizes, and the page that is rendered from what they leave."""

import json
from dataclasses import replace

import pytest
import torch
from benchmark_records import make_benchmark

from benchmarks import galleries, speed
from benchmarks.encoder import block_linears, num_products
from benchmarks.harness import flops_of, ratio_figure
from benchmarks.page import page, plots, render
from benchmarks.reranking import gallery_of, score_difference, ways_to_rerank
from benchmarks.training import training_row
from benchmarks.worlds import TINY, Setting, random_frames, random_model
from litevl.benchmark_record import read_benchmark, read_benchmarks
from litevl.engine.gallery import top_k
from litevl.errors import DataError

CPU = torch.device("cpu")
QUICK = Setting(CPU, quick=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder that the two cheapest benchmarks leave."""
    output = tmp_path_factory.mktemp("benchmarks")
    only = ["--only", "re-ranking", "--only", "encoder"]
    threads = ["--threads", str(torch.get_num_threads())]
    assert speed.main([*only, *threads, "--quick", "--device", "cpu", "--output", str(output)]) == 0
    return output / "quick"


def test_a_benchmark_leaves_a_record_with_rows_figures_and_machine(measured):
    record = read_benchmark(measured / "re-ranking.json")
    assert record.quick
    assert [row.name for row in record.rows] == ["fp32", "bf16"]
    for row in record.rows:
        assert [each.name for each in row.contenders] == ["ours", "straightforward", "blip"]
        assert {ratio.slower for ratio in row.ratios} == {"straightforward", "blip"}
        assert row.rounds == 3
        assert all(each.flops for each in row.contenders)
    figures = {figure.name: figure for figure in record.figures}
    vs_blip = next(ratio for ratio in record.rows[0].ratios if ratio.slower == "blip")
    assert figures["re-ranking-vs-blip-fp32"].value == vs_blip.times.median
    assert figures["re-ranking-same-scores"].is_met
    assert [each.name for each in read_benchmarks(measured)] == ["encoder", "re-ranking"]


def test_ours_takes_fewer_operations_a_pair_than_its_peers():
    gallery = gallery_of(replace(TINY, text_depth=3), 8, 8, QUICK)
    ours, straightforward, blip = (
        flops_of(way.call) / way.items for way in ways_to_rerank(gallery, 8, 2, "fp32", CPU)
    )
    assert ours < straightforward < blip


def test_scores_are_compared_with_those_of_the_peer():
    gallery = gallery_of(TINY, 8, 8, QUICK)
    assert score_difference(gallery, CPU) < 1e-5
    assert score_difference(replace(gallery, tokens=1.1 * gallery.tokens), CPU) > 1e-3


def test_a_blocks_products_are_counted_as_torch_counts_them():
    model, frames = random_model(TINY, CPU).requires_grad_(False), random_frames(TINY, 2, CPU)
    counted = sum(
        flops_of(lambda layer=layer, rows=rows: layer(torch.zeros(rows, layer.in_features)))
        for layer, rows in block_linears(model, frames)
    )
    assert num_products(model, frames) == counted
    # All linear layers of a block: what else it multiplies are attention's two products.
    block = flops_of(lambda: model.visual_encoder.blocks[0](torch.zeros(2, 8, 5, 32), None))
    assert 0.9 * block < counted < block


def test_training_steps_of_both_sides_are_timed():
    row = training_row("tiny", "tiny", TINY, 2, "fp32", QUICK)
    names = [each.name for each in row.contenders]
    assert names == ["ours", "blip", "blip-with-our-encoder"]
    assert row.conditions["batch_size"] == 2
    # Without a backward pass or a momentum encoder it would be fewer than three forward passes.
    frames = random_frames(TINY, 2, CPU)
    forward = flops_of(lambda: random_model(TINY, CPU).visual_encoder(frames))
    assert all(each.flops > 3 * forward for each in row.contenders)


def test_emulated_bf16_is_left_out_and_its_figures_say_why(monkeypatch):
    monkeypatch.setattr("benchmarks.worlds.settle", lambda *_: "fp32")
    setting = Setting(CPU, quick=False)
    assert setting.can("fp32")
    assert not setting.can("bf16")
    figure = ratio_figure("ours", "Ours against theirs, bf16", 1.0, None, "theirs")
    assert figure.value is None
    assert "bf16" in figure.why_not


def test_galleries_are_of_as_many_clips_as_asked_for_and_ways_find_the_same_in_them():
    model = random_model(TINY, CPU)
    with torch.inference_mode():
        rows = [(list(rows), some) for rows, some in galleries.encoded(model, 25)]
    assert [row for part, _ in rows for row in part] == list(range(25))
    assert sum(len(some.embedding) for _, some in rows) == 25
    captions, clips = galleries.unit_vectors(7, 0), galleries.unit_vectors(10_500, 1)
    assert torch.allclose(clips.norm(dim=1), torch.ones(10_500))
    ours, _ = top_k(captions, clips, galleries.NUM_NEAREST)
    assert torch.equal(ours, galleries.all_at_once(captions, clips))
    assert galleries.rerank_gallery(20, quick=True) > 0


def test_the_whole_reproduction_is_left_out_unless_it_is_asked_for(monkeypatch, tmp_path):
    done, rows = [], make_benchmark().rows
    for name, benchmark in speed.BENCHMARKS.items():
        stand_in = replace(benchmark, measure=lambda _, name=name: done.append(name) or (rows, []))
        monkeypatch.setitem(speed.BENCHMARKS, name, stand_in)
    threads = ["--threads", str(torch.get_num_threads())]
    speed.main(["--quick", *threads, "--output", str(tmp_path)])
    assert done == [name for name in speed.BENCHMARKS if name != "reproduction"]
    done.clear()
    speed.main(["--quick", *threads, "--output", str(tmp_path), "--only", "reproduction"])
    assert done == ["reproduction"]


def test_an_unknown_benchmark_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        speed.main(["--only", "everything"])
    assert "re-ranking" in capsys.readouterr().err


# The page


def test_the_page_says_of_every_figure_whether_it_is_met():
    met, missed = make_benchmark(ours=2, peer=12), make_benchmark(ours=2, peer=11.8)
    assert "| at least 6 times | 6 times | met |" in page([met], [])
    assert "| at least 6 times | 5.9 times | **not met** |" in page([missed], [])
    lacking = met.figures[0].model_copy(update={"value": None, "why_not": "no GPU at hand"})
    text = page([met.model_copy(update={"figures": (lacking,)})], [])
    assert "| not measured: no GPU at hand |  |" in text


def test_the_page_has_machine_commit_rates_and_ratios():
    text = page([make_benchmark()], [])
    assert "Some Processor, 2 cores, 2 threads, 23.4 GiB, cpu; torch 2.13.0" in text
    assert "commit aaaaaaaaaaaa." in text
    assert "| ours | 32 pairs/s | 2 (1.8 to 2.2) | 0.0156 |" in text
    assert "6.00 times as fast (5.40 to 6.60)" in text
    assert "mean nothing" not in text
    assert "mean nothing" in page([make_benchmark(quick=True)], [])


def test_rows_that_grow_become_a_plot_and_the_same_records_the_same_bytes(tmp_path):
    document = make_benchmark().model_dump(mode="json", by_alias=True)
    rows = [
        document["rows"][0] | {"name": f"{kind}/{n}"} for kind in ("k", "frames") for n in (2, 4)
    ]
    path = tmp_path / "growth.json"
    path.write_text(json.dumps(document | {"name": "growth", "rows": rows}))
    assert [picture.stem for picture in plots(read_benchmark(path))] == [
        "growth-k",
        "growth-frames",
    ]
    written = render(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {"growth-k.png", "growth-frames.png", "README.md"} < set(before)
    assert "](growth-k.png)" in written.read_text()
    render(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_damaged_record_is_named_not_left_out(tmp_path):
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(DataError, match=r"encoder\.json"):
        render(tmp_path)
