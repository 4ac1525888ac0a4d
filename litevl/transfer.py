"""One file over HTTP: written beside its name, and continued where an earlier try broke off."""

import http.client
import json
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from litevl import __version__
from litevl.errors import DataError, RunError

__all__ = ["CHUNK", "require_space", "state_path", "transfer"]

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # waited before the second try, the third, ...
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)  # may be gone at the next try
CHUNK = 1 << 20
SPARE_BYTES = 64 << 20  # left free on the disk, for records and the system


def transfer(
    url: str, part: Path, *, num_bytes: int | None, has_checksum: bool, progress: bool
) -> None:
    """Write what the file at an address holds into `part`, continuing what is there of it.

    num_bytes: its length where known, else None.   has_checksum: whether the caller can tell two
    versions of the file apart, which also allows to continue where the server does not mark them.
    DataError: what is there cannot be the file. RunError: the connection failed time and again, or
    the disk has no room.
    """
    require_space(part.parent, (num_bytes or 0) - _size(part))
    problem = ""
    for seconds in (0.0, *BACKOFF_SECONDS):
        time.sleep(seconds)
        try:
            _stream(url, part, num_bytes, has_checksum, progress)
            return
        except _InterruptedError as error:
            problem = str(error)
    way_on = f"{_mb(_size(part))} are kept in {part}; the same command continues from there."
    if not _size(part):
        way_on = "Nothing of it was fetched. Repeat the command once there is a connection."
    raise RunError(f"{url}: {problem} (tried {1 + len(BACKOFF_SECONDS)} times).\n  {way_on}")


class _InterruptedError(Exception):
    """A try that failed and may succeed when repeated."""


def _stream(
    url: str, part: Path, num_bytes: int | None, has_checksum: bool, progress: bool
) -> None:
    """One try: ask for what is missing, or for all where that cannot be continued."""
    before = _read_state(part)
    have = _size(part)
    # Without a mark of the version or a checksum, two versions could be joined unnoticed.
    marked = before.get("etag") or before.get("modified") or has_checksum
    if have and not (marked and before.get("url") == url):
        part.unlink()
        have = 0
    if have and have == before.get("num_bytes"):
        return
    request = urllib.request.Request(url, headers={"User-Agent": f"litevl/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _open(request, part) as response:
        state = {"url": url, "etag": response.headers.get("ETag")}
        state["modified"] = response.headers.get("Last-Modified")
        start, state["num_bytes"] = _extent(response)
        if start and (start != have or state != before):
            part.unlink()
            raise _InterruptedError("the file changed while it was being fetched")
        if num_bytes is not None and state["num_bytes"] not in (None, num_bytes):
            raise DataError(
                f"{url}: the file there has {state['num_bytes']:,} bytes; {num_bytes:,} are "
                "expected.\n  It is another file, or another version of it."
            )
        if response.headers.get_content_type() == "text/html":
            raise DataError(f"{url}: a web page is there instead of the file. It may have moved.")
        if state["num_bytes"] is not None:
            require_space(part.parent, state["num_bytes"] - start)
        if not start:
            part.unlink(missing_ok=True)  # never an old file's bytes beside a new file's state
        state_path(part).write_text(json.dumps(state), encoding="utf-8")
        _copy(response, part, start, state["num_bytes"], progress)


def _open(request: urllib.request.Request, part: Path) -> Any:
    """Send a request; _InterruptedError for what may pass, DataError for what will not."""
    url = request.full_url
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing of the file is where we would continue
            part.unlink(missing_ok=True)
        if error.code == 416 or error.code in PASSING_STATUS:
            raise _InterruptedError(f"the server says {error.code} {error.reason}") from error
        raise DataError(f"{url}: {_refusal(error.code, str(error.reason))}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DataError(f"{url}: the server's certificate is not valid: {reason}") from error
        raise _InterruptedError(f"no connection: {reason or type(error).__name__}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to http and https only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        schemes = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            raise DataError(f"{req.full_url}: sends on to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refusal(status: int, reason: str) -> str:
    """An HTTP status that will not pass, as a message with the way out."""
    if status in (404, 410):
        return f"there is no such file ({status} {reason}). It may have moved."
    if status in (401, 403):
        return f"the server does not give it to everyone ({status} {reason})."
    return f"the server says {status} {reason}."


def _extent(response: Any) -> tuple[int, int | None]:
    """Where in the file a reply starts, and how long the whole file is, None if not said."""
    if response.status == 206:
        match = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip()
        )
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(response: Any, part: Path, start: int, num_bytes: int | None, progress: bool) -> None:
    """Write a reply into `part` from byte `start` on; _InterruptedError if it ends too early."""
    from tqdm import tqdm

    bar = tqdm(
        total=num_bytes, initial=start, desc=part.stem, unit="B", unit_scale=True,
        disable=None if progress else True,
    )  # fmt: skip
    with bar, part.open("ab" if start else "wb") as file:
        while True:
            try:
                chunk = response.read1(CHUNK)  # what has come, so that a break loses nothing
            except (http.client.HTTPException, OSError) as error:
                raise _InterruptedError(f"the connection broke: {error!r}") from error
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if num_bytes is not None and _size(part) != num_bytes:
        raise _InterruptedError(
            f"the connection broke after {_size(part):,} of {num_bytes:,} bytes"
        )


def require_space(folder: Path, num_bytes: int) -> None:
    """RunError if a disk has no room for that many bytes more; the folder need not exist yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if num_bytes + SPARE_BYTES > free and num_bytes > 0:
        raise RunError(
            f"{folder}: not enough space: {_mb(num_bytes)} more are needed, {_mb(free)} are free "
            f"({_mb(SPARE_BYTES)} are left to the system).\n"
            "  Free some space, or choose a folder on another disk."
        )


def state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.state")  # not JSON to loaders that look for it


def _read_state(part: Path) -> dict[str, Any]:
    """What was known of the file when `part` was begun; empty if that is lost."""
    try:
        return dict(json.loads(state_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mb(num_bytes: int) -> str:
    return f"{max(num_bytes, 0) / 1e6:,.1f} MB"
