"""Which packets of an H.264 clip have to be decoded for some of its frames.

Two kinds of pictures make that less than all from the first one on, and both are told by the first
byte of a coded picture (a NAL unit; ITU-T H.264, 7.4.1): no picture after an IDR picture refers to
one before it, and no picture at all refers to one whose nal_ref_idc is 0. A container's key frames
tell less: those of an open GOP are not IDR pictures. So nothing here depends on where a seek lands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Kind = Literal["idr", "reference", "disposable"]
SLICE, IDR_SLICE = 1, 5  # NAL unit types of whole pictures
PARTITIONS = (2, 3, 4)  # of a slice in three parts, which nobody uses: not told apart here


class Packet(Protocol):
    """What is looked at of an `av.Packet`."""

    @property
    def pts(self) -> int | None:
        """When it is shown."""

    @property
    def size(self) -> int:
        """Bytes; 0 for the mark at the end of a stream."""

    @property
    def is_discard(self) -> bool:
        """Whether an edit list cuts it off."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Its bytes."""


def needed_packets(
    packets: Sequence[Packet], extradata: bytes, frames: npt.NDArray[np.int64]
) -> tuple[list[list[int]], dict[int, int]] | None:
    """Packets to decode, by number, in runs before each of which the decoder starts afresh.

    packets: all of the stream, in the order of decoding. extradata: as the container has it.
    frames: numbers of the wanted frames, in the order of showing.
    Also returns the time (pts) of each wanted frame -> its number. None where it is not plain from
    the packets which frame is which or what refers to what, or where all are needed: decode them
    all and count.
    """
    shown = [place for place, some in enumerate(packets) if some.size and not some.is_discard]
    times = sorted(time for place in shown if (time := packets[place].pts) is not None)
    if len(times) < len(shown) or len(set(times)) < len(times) or frames[-1] >= len(times):
        return None
    kinds = [_kind(memoryview(some), _length_bytes(extradata)) for some in packets if some.size]
    if None in kinds:
        return None
    number_of = {times[number]: int(number) for number in frames}
    wanted = [place for place in shown if packets[place].pts in number_of]
    fresh = [place for place, kind in enumerate(kinds) if kind == "idr"]
    runs: list[list[int]] = []
    for place in wanted:
        before = int(np.searchsorted(fresh, place, side="right"))
        first = fresh[before - 1] if before else 0
        if runs and first <= runs[-1][-1] + 1:
            first = runs[-1][-1] + 1  # goes on where the last one ends
        else:
            runs.append([])
        runs[-1] += [n for n in range(first, place) if kinds[n] != "disposable"]
        runs[-1].append(place)
    return (runs, number_of) if sum(map(len, runs)) < len(kinds) else None


def _length_bytes(extradata: bytes) -> int:
    """Bytes of each length before a NAL unit; 0 where marks stand between them."""
    return (extradata[4] & 3) + 1 if extradata[:1] == b"\1" else 0


def _kind(content: memoryview, length_bytes: int) -> Kind | None:
    """What a packet's picture is to others; None where that is not plain."""
    kind: Kind | None = None
    for head in _heads(content, length_bytes):
        number, is_reference = head & 31, bool(head >> 5 & 3)
        if number in PARTITIONS:
            return None
        if number == IDR_SLICE:
            kind = "idr"
        elif number == SLICE and kind != "idr":
            kind = "reference" if is_reference or kind == "reference" else "disposable"
    return kind


def _heads(content: memoryview, length_bytes: int) -> Iterator[int]:
    """The first byte of each NAL unit: told by their lengths (MP4), or by the marks between."""
    if length_bytes:
        place = 0
        while place + length_bytes < len(content):
            yield content[place + length_bytes]
            place += length_bytes + int.from_bytes(content[place : place + length_bytes], "big")
        return
    whole = bytes(content)
    place = whole.find(b"\0\0\1")
    while 0 <= place < len(whole) - 3:
        yield whole[place + 3]
        place = whole.find(b"\0\0\1", place + 3)
