"""`litevl submit`: tasks through submitit's local executor, and what Slurm would be told."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from small import the_record

from litevl import cluster
from litevl.cli import main
from litevl.cluster import Needs, Task, submit_tasks
from litevl.errors import ClusterError
from litevl.locks import held
from litevl.record import read_plan

SPEC = str(Path(__file__).parents[1] / "reproductions" / "msrvtt.toml")
LOCAL = Needs("local", None, 0, 1, 5, {})


def script(code: str, *arguments: object) -> Task:
    """A task that is a few lines of Python."""
    return Task([sys.executable, "-c", code, *map(str, arguments)])


def wait_for(path: Path) -> str:
    """The content of a file that a task writes."""
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path} is not written"
        time.sleep(0.05)
    return path.read_text()


@pytest.fixture
def submitted(monkeypatch) -> list:
    """The tasks that would be submitted."""
    tasks = []

    class Job:
        job_id = "7_0"
        paths = type("Paths", (), {"stdout": "7_0.out"})

    def submit(given, needs, folder):
        tasks.extend((task.command, needs, folder) for task in given)
        return [Job() for _ in given]

    monkeypatch.setattr(cluster, "submit_tasks", submit)
    return tasks


# Tasks


def test_task_runs_its_command_and_a_failed_one_is_a_failed_job(tmp_path):
    tasks = [script("print('trained')"), script("import sys; sys.exit(3)")]
    good, bad = submit_tasks(tasks, LOCAL, tmp_path)
    good.wait()
    bad.wait()
    assert good.exception() is None
    assert "trained" in good.stdout()
    assert "exit code 3" in str(bad.exception())


CHECKPOINTS = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(*_):
    (folder / "checkpoint").write_text("half of it")
    sys.exit(75)
if (folder / "checkpoint").exists():
    print("goes on")
else:
    signal.signal(signal.SIGTERM, stop)
    (folder / "pid").write_text(str(os.getppid()))
    time.sleep(60)
"""


def test_task_whose_time_is_up_writes_its_checkpoint_and_is_queued_again(tmp_path):
    (job,) = submit_tasks([script(CHECKPOINTS, tmp_path)], LOCAL, tmp_path / "tasks")
    os.kill(int(wait_for(tmp_path / "pid")), signal.SIGUSR2)  # as Slurm does 90 s ahead
    job.wait()
    assert job.exception() is None
    assert (tmp_path / "checkpoint").read_text() == "half of it"
    assert "goes on" in job.stdout()


IGNORES = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


def test_process_that_does_not_end_when_told_to_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "GRACE_SECONDS", 0.1)
    task = script(IGNORES, tmp_path / "pid")

    def interrupt(_seconds):
        wait_for(tmp_path / "pid")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            task()
    assert task.process.wait(10) == -signal.SIGKILL


def test_signals_meant_for_submitit_do_not_end_the_training_process(tmp_path):
    """Slurm sends them to every process of a task."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('still here')"
    (job,) = submit_tasks([script(code)], LOCAL, tmp_path)
    job.wait()
    assert "still here" in job.stdout()


# What is submitted


def test_each_run_that_is_not_done_is_a_task_of_its_own(tmp_path, submitted, capsys):
    options = ["--seed", "0", "--seed", "1", "--max-steps", "3", "--output", str(tmp_path)]
    options += ["--allow-missing", "--profile", "mini"]
    assert main(["submit", SPEC, *options, "--slurm", "account=vision"]) == 0
    assert len(submitted) == 10
    command, needs, folder = submitted[5]
    assert command == [
        sys.executable, "-m", "litevl", "run", SPEC, "--profile", "mini", "--variant", "full",
        "--seed", "1", "--max-steps", "3", "--output", str(tmp_path), "--allow-missing",
        "--no-report",
    ]  # fmt: skip
    assert needs == Needs("slurm", None, 1, 8, 1440, {"account": "vision"})
    assert folder == tmp_path / "tasks"
    planned = read_plan(tmp_path / "records" / "msrvtt" / "mini.plan.json")
    assert len(planned.ids) == 10
    out = capsys.readouterr().out
    assert "job 7_0, log 7_0.out" in out
    assert "10 runs submitted to slurm, 0 done before\n" in out
    assert f"litevl report {tmp_path}" in out


def test_several_gpus_train_one_run_through_torchrun(tmp_path, submitted):
    options = ["--variant", "full", "--gpus-per-node", "4", "--output", str(tmp_path)]
    assert main(["submit", SPEC, *options]) == 0
    ((command, needs, _),) = submitted
    assert needs.gpus == 4
    assert command[1:8] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", "litevl",
    ]  # fmt: skip
    assert command[8:10] == ["run", SPEC]


def test_run_that_a_process_is_busy_with_is_left_to_it(tmp_path, submitted, capsys):
    options = ["--variant", "full", "--seed", "0", "--seed", "1", "--output", str(tmp_path)]
    assert main(["submit", SPEC, *options]) == 0
    busy = read_plan(tmp_path / "records" / "msrvtt" / "mini.plan.json").ids[0]
    submitted.clear()
    with held(tmp_path / "runs" / f"{busy}.lock"):
        assert main(["submit", SPEC, *options]) == 0
    assert [command[command.index("--seed") + 1] for command, *_ in submitted] == ["1"]
    assert "1 runs submitted to slurm, 0 done before, 1 running already" in capsys.readouterr().out


def test_submitted_run_trains_and_leaves_its_record(small, tmp_path, monkeypatch, capsys):
    jobs = []

    def submit(*arguments):
        jobs.append(submit_tasks(*arguments))
        return jobs[-1]

    monkeypatch.setattr(cluster, "submit_tasks", submit)
    options = ["--variant", "full", "--max-steps", "1", "--subset", "2", "--gpus-per-node", "0"]
    options += ["--executor", "local", "--output", str(tmp_path)]
    assert main(["submit", str(small / "spec.toml"), *options]) == 0
    ((job,),) = jobs
    job.wait()
    assert job.exception() is None, job.stderr()
    assert the_record(tmp_path).status == "complete"
    assert not (tmp_path / "msrvtt-mini").exists()  # the report is another command's
    capsys.readouterr()
    assert main(["submit", str(small / "spec.toml"), *options]) == 0
    assert "0 runs submitted to local, 1 done before" in capsys.readouterr().out
    assert len(jobs) == 1


# Slurm


SBATCH = """#!/bin/sh
cp "$1" {folder}/submitted
echo Submitted batch job 4321
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A stand-in for Slurm's commands; returns the file that holds what sbatch was given."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH.format(folder=tmp_path), "srun": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "submitted"


def test_slurm_is_asked_for_one_array_with_what_each_run_needs(tmp_path, slurm):
    needs = Needs("slurm", "gpu", 4, 16, 90, {"account": "vision", "qos": "low"})
    jobs = submit_tasks([script(""), script("")], needs, tmp_path / "tasks")
    assert [job.job_id for job in jobs] == ["4321_0", "4321_1"]
    lines = slurm.read_text().splitlines()
    for option in (
        "array=0-1%2", "partition=gpu", "gpus-per-node=4", "cpus-per-task=16", "time=90",
        "account=vision", "qos=low", "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines


def test_machine_without_slurm_is_told_of_the_other_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", SPEC, "--variant", "full", "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ClusterError: the runs cannot be submitted to slurm: ")
    assert "--executor local" in err


def test_option_that_slurm_refuses_is_one_message(tmp_path, slurm):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid account >&2\nexit 1\n")
    needs = Needs("slurm", None, 1, 1, 5, {"account": "nobody"})
    with pytest.raises(ClusterError, match=r"submitted to slurm: (.|\n)*invalid account"):
        submit_tasks([script("")], needs, tmp_path / "tasks")
    assert not slurm.exists()


def test_missing_extra_says_what_to_install_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["submit", SPEC, "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'litevl[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--slurm", "account"], ["--gpus-per-node", "-1"]])
def test_wrong_option_is_a_users_mistake(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["submit", SPEC, *option])
    assert stopped.value.code == 2
    assert option[0] in capsys.readouterr().err
