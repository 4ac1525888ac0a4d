"""What a device computes in."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from small import write_weights
from small_questions import new_objective, question_sets, task_settings
from tiny import TOLERANCE, tiny_model

from litevl.engine.precision import compile_encoders, computing, repeatable, settle
from litevl.model.momentum import MomentumTeacher

CLOSE = TOLERANCE[torch.float32]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_named_precision_is_taken_as_it_is(precision, device):
    assert settle(precision, device) == precision


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")],
)
def test_auto_is_bf16_where_the_processor_multiplies_it(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert settle("auto", CPU) == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_gpu_multiplies_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert settle("auto", CUDA) == expected


def test_encoders_of_the_momentum_copy_are_compiled_with_the_models(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    model = tiny_model()
    teacher = MomentumTeacher(model, queue_size=4, momentum=0.9)
    compile_encoders([model, teacher])
    encoders = [(part.visual_encoder, part.text_encoder) for part in (model, teacher.slow)]
    assert [id(module) for module in compiled] == [id(one) for pair in encoders for one in pair]


def test_compiled_encoders_give_the_same_losses_and_gradients(tmp_path, monkeypatch):
    """Traced by torch.compile but not turned into kernels, which would take a C++ compiler."""
    write_weights(tmp_path, dropout=0.0)
    settings = task_settings(tmp_path, "msrvtt")
    clips = question_sets(tmp_path, Path(settings.model.weights))
    plain, compiled = new_objective(settings, clips), new_objective(settings, clips)
    compile_module = torch.nn.Module.compile
    graphs = []

    def traced(graph, _inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend=traced)
    )
    compile_encoders(compiled.parts().values())
    for step, batch in enumerate(islice(plain.batches(0), 2)):
        losses = [
            objective.backward(batch, step, torch.Generator().manual_seed(step))
            for objective in (plain, compiled)
        ]
        assert {k: v.item() for k, v in losses[1].items()} == pytest.approx(
            {k: v.item() for k, v in losses[0].items()}, rel=CLOSE
        )
    assert graphs
    gradients = [{n: p.grad for n, p in o.model.named_parameters()} for o in (plain, compiled)]
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=CLOSE, atol=CLOSE), name


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_products_are_computed_in_the_precision_and_only_inside(precision, dtype):
    square = torch.ones(2, 2)
    with computing(precision, CPU):
        assert (square @ square).dtype == dtype
    assert (square @ square).dtype == torch.float32


def test_precision_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), computing("bf16", CPU):
        _ = 1 / 0
    assert not torch.is_autocast_enabled("cpu")


def test_backward_of_indexing_is_the_same_each_time_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(16, 136, 128, generator=generator)
    index = torch.randint(16, (48,), generator=generator)
    towards = torch.randn(48, 136, 128, generator=generator)

    def gradient():
        leaf = source.clone().requires_grad_()
        leaf[index].backward(towards)
        return leaf.grad

    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(5))
    assert not torch.are_deterministic_algorithms_enabled()
