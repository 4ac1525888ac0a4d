"""Damaged annotation files through the loaders and `litevl data check --annotations-only`."""

import csv
import io
import json
import os
import random
import shutil
import stat
import zipfile
from pathlib import Path

from benchmarks.fuzz import damage
from benchmarks.fuzz.workers import Kind, try_all
from litevl.cli import main
from litevl.data.annotations import Annotations
from litevl.data.checked import note_on_check, was_found_whole
from litevl.data.counting import count_clips
from litevl.data.didemo import load_didemo
from litevl.data.mini_annotations import read_twins
from litevl.data.msrvtt import load_msrvtt
from litevl.data.prepared import note_on_preparation, prepared_hash
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa

BOMB_BYTES = 2 << 30
NAME = "data-set.txt"  # says which data set the folder is one of


def damage_folder(seeds: Path, folder: Path, rng: random.Random) -> str:
    """Damage one or a few files of a data set's folder."""
    source = rng.choice(sorted((seeds / "annotations").iterdir()))
    root = folder / "root"
    shutil.copytree(source, root)
    (folder / NAME).write_text(source.name.partition(".")[0], encoding="utf-8")
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        file = damage.one_of(root, rng)
        ways = ["bytes", "lines", "text", "link", "moved"]
        ways += ["tree"] * 5 if file.suffix == ".json" else ["row"] * 3
        way = rng.choice(["zip"] * 4 + ["bytes"]) if file.suffix == ".zip" else rng.choice(ways)
        try:
            damage_file(file, way, rng)
        except Exception as error:  # damaged before, beyond what the way asked for can do
            way = f"bytes ({type(error).__name__})"
            file.write_bytes(damage.any_bytes(file.read_bytes(), rng))
        done.append(f"{file.name}: {way}")
    return f"{source.name}: " + ", ".join(done)


def damage_file(file: Path, way: str, rng: random.Random) -> None:
    """Damage one file in one way."""
    if way == "zip":
        file.write_bytes(damage_archive(file.read_bytes(), rng))
    elif way == "tree":
        content = damage.tree(json.loads(file.read_text(encoding="utf-8")), rng)
        file.write_text(json.dumps(content), encoding="utf-8")
    elif way == "row":
        rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
        rows = [
            [str(cell) for cell in row] for row in damage.tree(rows, rng) if isinstance(row, list)
        ]
        out = io.StringIO()
        csv.writer(out).writerows(rows)
        file.write_text(out.getvalue(), encoding="utf-8", errors="surrogatepass")
    elif way == "lines":
        file.write_text(damage.lines(file.read_text(encoding="utf-8"), rng), encoding="utf-8")
    elif way == "text":
        file.write_text(damage.text(file.read_text(encoding="utf-8"), rng), encoding="utf-8")
    elif way == "link":
        file.unlink()
        there = ["/etc/passwd", "/dev/zero", "nowhere", file.name, "..", "/proc/self/environ"]
        if rng.random() < 0.2:
            os.mkfifo(file)
        else:
            file.symlink_to(rng.choice(there))
    elif way == "moved":
        names = [
            "sub/x.json",
            "a b.csv",
            "-x.txt",
            "\u202ex.json",
            "x\n.json",
            "\x1b[31m.txt",
            "..json",
        ]
        to = file.with_name(rng.choice(names))
        to.parent.mkdir(exist_ok=True)
        file.rename(to)
    else:
        file.write_bytes(damage.any_bytes(file.read_bytes(), rng))


def damage_archive(content: bytes, rng: random.Random) -> bytes:
    """An archive with hostile names, links, passwords, sizes or bytes."""
    way = rng.randrange(8)
    if way == 0:
        names = [
            "../../outside.json",
            "/tmp/outside.json",
            "C:\\outside.json",
            "a/../../b.csv",
            "a\0b",
        ]
        return damage.rezip(content, lambda name, inside: (rng.choice([*names, name]), inside))
    if way == 1:
        return damage.bomb(BOMB_BYTES, start=b"[1]\n")
    if way == 2:
        return with_link(content, rng)
    if way == 3:  # the bit that says a member is encrypted, here and in the directory
        damaged = bytearray(content)
        for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = damaged.find(start)
            while place >= 0:
                damaged[place + at] |= 1
                place = damaged.find(start, place + 4)
        return bytes(damaged)
    if way == 4:  # another way of compression, most of which nobody has
        damaged = bytearray(content)
        number = rng.choice([1, 9, 12, 14, 93, 99])
        for start, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            place = damaged.find(start)
            if place >= 0:
                damaged[place + at] = number
        return bytes(damaged)
    if way == 5:
        return damage.rezip(content, lambda name, inside: (name, damage.any_bytes(inside, rng)))
    if way == 6:
        return damage.rezip(content, lambda name, inside: (f"{name}.zip", content + inside))
    return damage.any_bytes(content, rng)


def with_link(content: bytes, rng: random.Random) -> bytes:
    """The archive with one more member, a symbolic link out of the folder."""
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo("annotations/link.json")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, rng.choice(["/etc/passwd", "../../..", "train_data.json"]))
    return out.getvalue()


def read_folder(folder: Path, rng: random.Random) -> None:
    """Load it, check it as a user would, and read what checks and preparation left there."""
    dataset, root = (folder / NAME).read_text(encoding="utf-8"), folder / "root"
    answers = rng.choice([None, None, "answers.json", "../../answers.json", "/etc/passwd"])

    def load() -> None:
        if dataset == "msrvtt":
            found = load_msrvtt(root, rng.choice(["9k", "7k"]))
        elif dataset == "didemo":
            found = load_didemo(root, (), rng.choice(["annotator-mode", "file"]))
        else:
            loader = load_msvd_qa if dataset == "msvd-qa" else load_msrvtt_qa
            found = loader(root, 4, answers)
        look_for_clips(found)

    check = ["data", "check", dataset, "--root", str(root), "--annotations-only"]
    try_all(
        load,
        lambda: main(check),
        lambda: main([*check, "--json"]),
        lambda: read_twins(root),
        lambda: was_found_whole(root, dataset),
        lambda: note_on_check(root, dataset, "f" * 64),
        lambda: prepared_hash(root) and note_on_preparation(root, 5.0),
    )


def look_for_clips(found: Annotations) -> None:
    """Count clip files, none of which is there; none may lie outside the data set's folder."""
    count_clips(found, {split: len(clips) for split, clips in found.splits.items()})
    for clips in found.splits.values():
        for clip in clips:
            assert ".." not in clip.path.parts, clip.path
            assert clip.path.is_relative_to(Path.cwd()), clip.path


def warm_up(seeds: Path, folder: Path) -> None:
    """Read whole folders."""
    shutil.copytree(seeds / "annotations" / "didemo", folder / "root")
    (folder / NAME).write_text("didemo", encoding="utf-8")
    read_folder(folder, random.Random(0))


ANNOTATIONS = Kind("annotations", damage_folder, read_folder, warm_up)
