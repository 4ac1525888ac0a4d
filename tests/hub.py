"""A hub on this machine: as much of its HTTP interface as huggingface_hub's downloads speak.

The repository's description with all files' sizes and checksums, `resolve` with the headers that
the client goes by, and files of Git LFS behind a redirect to another host, as the hub's are.
"""

import contextlib
import hashlib
import json
import re
import types
from urllib.parse import unquote, urlsplit

from web import files, reply, send_file, serve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000  # from here a file is one of Git LFS


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(name, content):
    """What the hub says of one file."""
    entry = {"rfilename": name, "size": len(content), "blobId": blob_id(content)}
    if len(content) >= LARGE:
        entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


@contextlib.contextmanager
def hub(repositories):
    """Serve repositories: {"datasets/me/clips": {file: bytes}, "me/model": {...}}.

    Yields the address with: .contents (as given, to be changed).   .requests: (method, path, Range)
    in order.   .sent: bytes of file content served.   .gated: repositories only for some.
    .revisions: names of COMMIT besides itself.   .cuts, .ranges, .statuses: see `web.files`.
    .lies: file name -> bytes served in its place.
    """
    site = files({})
    site.__dict__.update(
        contents=repositories, requests=[], sent=0, gated=[], revisions=["main", "v1"], lies={}
    )

    def handle(request):
        url = urlsplit(request.path)
        path = unquote(url.path)
        site.requests.append((request.command, path, request.headers.get("Range")))
        if site.statuses:
            return reply(request, site.statuses.pop(0))
        described = re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/revision/(.+))?", path)
        resolved = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if described:
            kind, name, revision = described.groups()
            name = name if kind == "models" else f"datasets/{name}"
            return describe(request, name, revision or "main")
        if resolved:
            return resolve(request, *resolved.groups())
        if path.startswith("/cdn/"):
            return send(request, site.by_hash[path.removeprefix("/cdn/")])
        return reply(request, 404)

    def refused(request, name, revision):
        if name in site.gated:
            message = f"Access to {name} is restricted."
            reply(request, 401, X_Error_Code="GatedRepo", X_Error_Message=message)
        elif name not in site.contents:
            reply(request, 401, X_Error_Code="RepoNotFound", X_Error_Message="not found")
        elif revision not in (COMMIT, *site.revisions):
            reply(request, 404, X_Error_Code="RevisionNotFound", X_Error_Message="no revision")
        else:
            return False
        return True

    def describe(request, name, revision):
        if not refused(request, name, revision):
            siblings = [sibling(*each) for each in site.contents[name].items()]
            body = {"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings}
            reply(request, 200, json.dumps(body).encode(), Content_Type="application/json")

    def resolve(request, name, revision, file):
        if refused(request, name, revision):
            return
        if file not in site.contents[name]:
            reply(request, 404, X_Error_Code="EntryNotFound", X_Error_Message="no file")
            return
        content = site.contents[name][file]
        if len(content) < LARGE:
            headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{blob_id(content)}"'}
            send(request, site.lies.get(file, content), **headers)
            return
        site.by_hash = {sha256(content): site.lies.get(file, content)}
        cdn = site.url.replace("127.0.0.1", "localhost")
        reply(
            request, 302, Location=f"{cdn}/cdn/{sha256(content)}", X_Repo_Commit=COMMIT,
            X_Linked_Etag=f'"{sha256(content)}"', X_Linked_Size=len(content),
        )  # fmt: skip

    def send(request, content, **headers):
        site.sent += send_file(request, content, site, **headers)

    with serve(handle) as url:
        site.url = url
        yield site


def usage(free):
    """What shutil.disk_usage says of a disk with that many bytes free."""
    return types.SimpleNamespace(total=free, used=0, free=free)
