"""What training and evaluation come to on several processes; tests start it as a process.

python tests/several_processes.py FOLDER

forks each group's processes from this one, which has loaded torch for all of them, and tells
them what torchrun would. They train each case for ten steps in fp32, score the test split, and
leave on rank 0 what came out in FOLDER/<case>-<number of processes>.pt.
"""

import faulthandler
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from unittest import mock

import torch
import torch._dynamo  # every optimiser loads it, which takes seconds: here once for all
from small_questions import new_answerer, new_model, question_sets, task_settings, with_train

from litevl import measure_answers, measure_retrieval
from litevl.engine import train as engine
from litevl.engine.answering import AnsweringObjective
from litevl.engine.distributed import Group, join_group, leave_group
from litevl.engine.precision import repeatable
from litevl.engine.retrieval import RetrievalObjective
from litevl.model.text import AttentionHeads
from litevl.spec import task_of

MOMENTUM = {"momentum_encoder": True, "momentum": 0.9, "queue_size": 24, "distillation_alpha": 0.4}
BATCH = {"epochs": 8, "batch_size": 8, "select": "best-validation", "precision": "fp32"}
UNEVEN = {"batch_size": 12}  # 16 clips: the second batch of an epoch has 4
# 16 clips: the second batch has 1, so that of three processes two have nothing of it.
IDLE = {"batch_size": 15, "group_by_source": False}
CASES = {
    "idle": ("msrvtt", IDLE),
    "retrieval": ("msrvtt", {}),
    "uneven": ("msrvtt", UNEVEN),
    "momentum": ("msrvtt", MOMENTUM),
    "accumulated": ("msrvtt", {"device_batch_size": 2}),
    "momentum-accumulated": ("msrvtt", MOMENTUM | {"device_batch_size": 2}),
    "answering": ("msvd-qa", {"batch_size": 12}),
    "answering-accumulated": ("msvd-qa", {"batch_size": 12, "device_batch_size": 3}),
}
# Number of processes -> cases
GROUPS = {
    2: [case for case in CASES if case != "idle"],
    3: ["idle"],
    4: ["uneven", "momentum", "answering"],
}
STEPS = 10
FORK = multiprocessing.get_context("fork")
SECONDS = 300  # a process that takes longer hangs


def settings_of(case: str, folder: Path):
    """The case's settings; its weights have no dropout, whose draws differ between processes."""
    dataset, changes = CASES[case]
    return with_train(task_settings(folder, dataset), **(BATCH | changes))


def outcome(case: str, folder: Path, output: Path, group: Group, **changes) -> dict:
    """Losses of every step, the first step's gradients, the trained weights, the test metrics."""
    own = folder / f"rank-{group.rank}"  # the same files for each, which write them themselves
    own.mkdir(exist_ok=True)
    settings = with_train(settings_of(case, own), **changes)
    clips = question_sets(own, Path(settings.model.weights))
    is_retrieval = task_of(settings.data.dataset) == "retrieval"
    model = (new_model if is_retrieval else new_answerer)(settings)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, AttentionHeads):
            module.dropout = 0.0
    kind = RetrievalObjective if is_retrieval else AnsweringObjective
    objective = kind(model, settings, clips["train"], clips["validation"], 0, group)
    gradients: dict[str, torch.Tensor] = {}
    summed = Group.sum_gradients

    def sum_gradients(self, parameters):
        summed(self, parameters)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(name, parameter.grad.clone())

    score = (measure_retrieval if is_retrieval else measure_answers).score_run
    with (
        repeatable(torch.device("cpu")),
        mock.patch.object(engine, "LOG_EVERY_STEPS", 1),
        mock.patch.object(Group, "sum_gradients", sum_gradients),
    ):
        history = engine.train(objective, settings.train, 0, STEPS, output, "test", group)
        scored = score(model, settings, clips, 0, group)
    return {
        "losses": [point["loss"] for point in history.steps],
        "validations": history.validations,
        "gradients": gradients,
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "teacher": objective.parts().get("teacher") and objective.parts()["teacher"].state_dict(),
        "metrics": scored.metrics,
    }


def work(folder: Path, size: int, rank: int, port: int) -> None:
    """Life of one process of a group: its cases."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in own.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = join_group()
    for case in GROUPS[size]:
        found = outcome(case, folder, folder / f"{case}-{size}", group)
        found["ranks"] = group.each({k: v.sum().item() for k, v in found["weights"].items()})
        if group.is_main:
            torch.save(found, folder / f"{case}-{size}.pt")
    leave_group()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main(folder: Path) -> None:
    """Run one group after the other; an error where one of its processes ends badly."""
    for size in GROUPS:
        port = free_port()
        ranks = [FORK.Process(target=work, args=(folder, size, n, port)) for n in range(size)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        codes = [rank.exitcode for rank in ranks]
        if any(codes):
            sys.exit(f"{size} processes ended with {codes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
