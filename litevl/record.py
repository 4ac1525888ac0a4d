"""One run, one record: a JSON file of a few kB, and beside it the value of every query as `.npz`.

`write_record` leaves either a whole record or none: each file is written under a temporary name,
flushed to disk and renamed, the JSON last, so that a JSON file means that all of it is there.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from litevl.errors import DataError
from litevl.schema import (
    ARRAY_TABLES,
    SCHEMA,
    STRIPS_TABLES,
    Arrays,
    Part,
    PlanFile,
    Record,
    Tables,
    array_problems,
)
from litevl.tasks import Task, task_of
from litevl.whole import write_bytes

__all__ = [
    "PlanFile",
    "Record",
    "code_state",
    "hardware",
    "package_versions",
    "read_arrays",
    "read_json",
    "read_plan",
    "read_record",
    "read_strips",
    "usable_cores",
    "write_plan",
    "write_record",
]

PACKAGES = (
    "accelerate",
    "av",
    "decord",
    "huggingface-hub",
    "matplotlib",
    "numpy",
    "pandas",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)

MAX_BYTES = 1 << 30  # of all arrays of a file; those of 72,821 questions have about 0.2 GB

AnyPart = TypeVar("AnyPart", bound=Part)


def write_record(
    folder: Path,
    record: Record | Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]] | None = None,
    strips: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Write `<run id>.json`, its `.npz` and `.strips.npz` into the folder; returns the JSON's path.

    arrays: see ARRAY_TABLES, needed for a complete run.   strips: see STRIPS_TABLES. Which table of
    the two applies is the task of the record's data set; a record without data has neither file.
    Raises ValueError for a record or arrays that do not fit the schema (our mistake), RunError
    when the disk is full or the folder cannot be written. Files of other runs are never touched.
    """
    checked = record if isinstance(record, Record) else Record.model_validate(dict(record))
    if checked.status == "complete" and arrays is None:
        raise ValueError("a complete run needs its per-query arrays")
    path = folder / f"{checked.run.id}.json"
    files = [(".strips.npz", strips), (".npz", arrays)]
    for suffix, content in files:
        if content is None:
            continue
        if checked.data is None:
            raise ValueError(f"{path.stem}{suffix}: the record does not say of which data set")
        problems = array_problems(content, *_tables(suffix, task_of(checked.data.dataset)))
        if problems:
            raise ValueError(f"{path.stem}{suffix}: " + "; ".join(problems))
    for suffix, content in files:
        if content is not None:
            write_bytes(path.with_suffix(suffix), _as_npz(content))
    write_bytes(path, _as_json(checked))
    return path


def write_plan(folder: Path, profile: str, plan: PlanFile | Mapping[str, Any]) -> Path:
    """Write `<profile>.plan.json` into the folder of records; returns its path. Errors as above."""
    checked = plan if isinstance(plan, PlanFile) else PlanFile.model_validate(dict(plan))
    path = folder / f"{profile}.plan.json"
    write_bytes(path, _as_json(checked))
    return path


def read_record(path: Path) -> Record:
    """The record in a JSON file. DataError, naming the file, if it is not a whole record."""
    return read_json(path, Record)


def read_plan(path: Path) -> PlanFile:
    """The plan in a `<profile>.plan.json`. DataError, naming the file, if it is not one."""
    return read_json(path, PlanFile)


def read_arrays(path: Path) -> Arrays:
    """The per-query arrays beside a record; path: its JSON or its .npz. DataError if damaged.

    Those of question answering are the ones that hold "answer_list".
    """
    return _read_npz(path, ".npz")


def read_strips(path: Path) -> Arrays | None:
    """The film strips beside a record's JSON, None if it has none. DataError if damaged.

    Those of retrieval are the ones that hold "top": several clips for each query.
    """
    return _read_npz(path, ".strips.npz") if path.with_suffix(".strips.npz").exists() else None


def _tables(suffix: str, task: Task) -> Tables:
    """The required and the optional arrays of one kind of file."""
    return (STRIPS_TABLES if suffix == ".strips.npz" else ARRAY_TABLES)[task]


def _task_of_arrays(suffix: str, arrays: Mapping[str, NDArray[Any]]) -> Task:
    """Which task left these arrays, told by one that only it has."""
    is_answers = "top" not in arrays if suffix == ".strips.npz" else "answer_list" in arrays
    return "question-answering" if is_answers else "retrieval"


def _as_json(part: Part) -> bytes:
    document = part.model_dump(mode="json", by_alias=True)
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _as_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer, named = io.BytesIO(), dict[str, Any](arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def read_json(path: Path, model: type[AnyPart]) -> AnyPart:
    """The part in a JSON file. DataError, naming the file and the first problem, if it is none."""
    way_out = "Move the file away and run again to make a new one."
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if where == "schema":
            first["msg"] = f"this version reads schema {SCHEMA}, found {first['input']!r}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DataError(
            f"{path}: damaged, or written by another version: {where}: {first['msg']}{more}\n"
            f"  {way_out}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {way_out}") from error


def _read_npz(path: Path, suffix: str) -> Arrays:
    path = path.with_suffix(suffix)
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(info.file_size for info in archive.infolist())
        if num_bytes > MAX_BYTES:
            raise ValueError(f"{num_bytes >> 20} MiB unpacked, more than any run's")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if strange:
            raise ValueError(f"{strange[0]} is no array")
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a damaged file
        raise DataError(
            f"{path}: the per-query values cannot be read ({error}).\n"
            "  Remove it together with its .json and run again."
        ) from error
    problems = array_problems(arrays, *_tables(suffix, _task_of_arrays(suffix, arrays)))
    if problems:
        raise DataError(f"{path}: damaged, or written by another version: " + "; ".join(problems))
    return arrays


def code_state(repo: Path, *more: str) -> dict[str, Any]:
    """What code runs: {"version", "commit", "dirty"}, for `Code`.

    repo: the folder that holds the package `litevl`. Outside git, `commit` is "source:" and a hash
    of the package's Python files, which names the code as exactly. dirty: the package or the
    reproductions differ from the commit, or one of `more`; other files cannot change a number.
    """
    version = _version("litevl") or "not installed"
    tracked = _output_of("git", "-C", str(repo), "ls-files", "litevl/__init__.py")
    commit = _output_of("git", "-C", str(repo), "rev-parse", "HEAD")
    if not tracked or not commit:  # also an environment inside somebody else's checkout
        digest = hashlib.sha256()
        for path in sorted((repo / "litevl").rglob("*.py")):
            digest.update(path.relative_to(repo).as_posix().encode() + b"\0" + path.read_bytes())
        return {"version": version, "commit": f"source:{digest.hexdigest()[:40]}", "dirty": False}
    changes = _output_of(
        *("git", "--no-optional-locks", "-C", str(repo)),
        *("status", "--porcelain", "--", "litevl", "reproductions", *more),
    )
    return {"version": version, "commit": commit, "dirty": changes != ""}


def package_versions() -> dict[str, str]:
    """Installed version of every package a number could depend on; absent ones are left out."""
    return {name: found for name in PACKAGES if (found := _version(name)) is not None}


def hardware(device: str) -> dict[str, Any]:
    """The machine a run used, for `Hardware`. device: as torch names it, "cpu" or "cuda:0"."""
    import torch  # only a run comes here, and it has torch already

    if device.startswith("cuda"):
        device = f"{device} ({torch.cuda.get_device_name(device)})"
    return {
        "device": device,
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def usable_cores() -> int:
    """Cores this process may run on; a container or `taskset` can allow fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output_of(*command: str) -> str | None:
    """What a command prints, without the line end; None if it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """The processor's trade name on Linux and macOS, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        (named[0] if named else None)
        or _output_of("sysctl", "-n", "machdep.cpu.brand_string")
        or platform.processor()
        or platform.machine()
    )


def _memory_bytes() -> int:
    """Physical memory of the machine; 0 where neither POSIX nor sysctl tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a name this system does not have
        return int(_output_of("sysctl", "-n", "hw.memsize") or 0)
