"""Runs as tasks of a cluster, one each, through submitit: Slurm, or this machine to try it out.

A task is the command `litevl run` for one run, in a process of its own. Stopped before its time, it
is queued again and the run goes on from its checkpoint.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Literal

from litevl.errors import ClusterError
from litevl.plan import PlannedRun, state
from litevl.sharing import is_held

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

GRACE_SECONDS = 60.0  # to write a checkpoint; submitit asks Slurm to tell 90 seconds ahead


@dataclass(frozen=True)
class Needs:
    """What each run needs of the cluster. gpus: 0 for none.   slurm: other options of sbatch."""

    executor: Literal["slurm", "local"]
    partition: str | None
    gpus: int
    cpus: int
    timeout_min: int
    slurm: dict[str, str]


class Task:
    """What submitit executes, and executes again after an interruption."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        # Slurm signals every process of a task; what is meant for submitit would end this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
        try:
            self.process = subprocess.Popen(self.command)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            while self.process.poll() is None:
                sleep(0.5)
        finally:
            self.stop()
        if code := self.process.returncode:
            raise RuntimeError(f"exit code {code}: see what the command said; {self.command}")

    def checkpoint(self) -> DelayedSubmission:
        """What to queue again, when the training process has written its checkpoint."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(Task(self.command))

    def stop(self) -> None:
        """End the process: politely, then by force."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()


def expect_submitit() -> None:
    """ClusterError where the extra is not installed."""
    if importlib.util.find_spec("submitit") is None:
        raise ClusterError(
            "litevl submit needs submitit, which is not installed\n  pip install 'litevl[cluster]'"
        )


def command_of(arguments: Sequence[str], num_gpus: int) -> list[str]:
    """The command that runs `litevl` with these arguments, one process for each GPU."""
    several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(num_gpus), "-m"]
    return [sys.executable, "-m", *(several if num_gpus > 1 else []), "litevl", *arguments]


def submit_left(
    runs: Sequence[tuple[PlannedRun, Sequence[str]]], needs: Needs, output: Path
) -> None:
    """Submit what is not done, and print where each run is found.

    runs: each with its arguments of `litevl`. One that a process is busy with is left to it.
    Raises ClusterError where there is no Slurm, or where it refuses.
    """
    left = [(run, given) for run, given in runs if state(run, output / "records") != "done"]
    free = [(run, given) for run, given in left if not is_held(run, output)]
    tasks = [Task(command_of(given, needs.gpus)) for _, given in free]
    jobs = submit_tasks(tasks, needs, output / "tasks") if tasks else []
    for (run, _), job in zip(free, jobs, strict=True):
        print(f"  {run.id}: job {job.job_id}, log {job.paths.stdout}")
    counts = f"{len(free)} runs submitted to {needs.executor}, {len(runs) - len(left)} done before"
    num_busy = len(left) - len(free)
    print(counts + (f", {num_busy} running already" if num_busy else ""))


def submit_tasks(tasks: Sequence[Task], needs: Needs, folder: Path) -> list[Job[None]]:
    """Hand over all tasks at once, to Slurm as one array; errors as above.

    folder: for logs and what submitit keeps.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    given: dict[str, Any] = {
        "name": "litevl",
        "timeout_min": needs.timeout_min,
        "cpus_per_task": needs.cpus,
        "slurm_partition": needs.partition,
        "slurm_additional_parameters": needs.slurm,
        **({"gpus_per_node": needs.gpus} if needs.gpus else {}),
    }
    # A folder for each job, but on this machine: there submitit may start a job before its folder.
    own = folder / "%j" if needs.executor == "slurm" else folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(own, cluster=needs.executor)
        executor.update_parameters(**given)
        with executor.batch():
            return [executor.submit(task) for task in tasks]
    except (RuntimeError, FailedJobError) as error:
        raise ClusterError(
            f"the runs cannot be submitted to {needs.executor}: {error}\n"
            "  `--executor local` starts them on this machine, all at once."
        ) from error
