"""A hub on this machine: as much of its HTTP interface as huggingface_hub speaks here.

Downloads: the repository's description with all files' sizes and checksums, `resolve` with the
headers that the client goes by, and files of Git LFS behind a redirect to another host, as the
hub's are. Uploads: a repository is created, its card checked, each file sorted into small and
large, the large ones taken by Git LFS, and all of them appear by one commit. Not Xet, the hub's
newer way to take large files: the client goes by LFS where HF_HUB_DISABLE_XET is set.
"""

import base64
import contextlib
import hashlib
import json
import re
import types
from urllib.parse import unquote, urlsplit

from web import body_of, files, reply, send_file, serve

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
    .head: the newest commit, COMMIT until something is pushed.   .revisions: its other names.
    .cuts, .ranges, .statuses: see `web.files`.
    .lies: file name -> bytes served in its place.   .tokens: token -> owners it may write for.
    .private: repositories not for everybody.   .cards: model cards that were checked.
    """
    site = files({})
    site.__dict__.update(
        contents=repositories, requests=[], sent=0, gated=[], revisions=["main", "v1"], lies={},
        tokens={"hf_mine": ["me"]}, private=set(), cards=[], uploaded={}, head=COMMIT,
    )  # fmt: skip

    def handle(request):
        url = urlsplit(request.path)
        path = unquote(url.path)
        site.requests.append((request.command, path, request.headers.get("Range")))
        body = body_of(request)
        if site.statuses:
            return reply(request, site.statuses.pop(0))
        if request.command in ("POST", "PUT"):
            return take(request, path, body)
        described = re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/revision/(.+))?", path)
        listed = re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)", path)
        resolved = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if listed:
            return tree(request, *listed.groups())
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
        elif revision not in (site.head, *site.revisions):
            reply(request, 404, X_Error_Code="RevisionNotFound", X_Error_Message="no revision")
        else:
            return False
        return True

    def describe(request, name, revision):
        if not refused(request, name, revision):
            siblings = [sibling(*each) for each in site.contents[name].items()]
            body = {"id": name.removeprefix("datasets/"), "sha": site.head, "siblings": siblings}
            body["private"] = name in site.private
            reply(request, 200, json.dumps(body).encode(), Content_Type="application/json")

    def tree(request, name, revision):
        """The files of a commit, one by one, as newer clients ask for them."""
        if not refused(request, name, revision):
            rows = [sibling(*each) for each in site.contents[name].items()]
            answer(request, [
                {"type": "file", "path": row["rfilename"], "size": row["size"],
                 "oid": row["blobId"]} | ({"lfs": {**row["lfs"], "oid": row["lfs"]["sha256"]}}
                                          if "lfs" in row else {})
                for row in rows
            ])  # fmt: skip

    def resolve(request, name, revision, file):
        if refused(request, name, revision):
            return
        if file not in site.contents[name]:
            reply(request, 404, X_Error_Code="EntryNotFound", X_Error_Message="no file")
            return
        content = site.contents[name][file]
        if len(content) < LARGE:
            headers = {"X_Repo_Commit": site.head, "ETag": f'"{blob_id(content)}"'}
            send(request, site.lies.get(file, content), **headers)
            return
        site.by_hash = {sha256(content): site.lies.get(file, content)}
        cdn = site.url.replace("127.0.0.1", "localhost")
        reply(
            request, 302, Location=f"{cdn}/cdn/{sha256(content)}", X_Repo_Commit=site.head,
            X_Linked_Etag=f'"{sha256(content)}"', X_Linked_Size=len(content),
        )  # fmt: skip

    def send(request, content, **headers):
        site.sent += send_file(request, content, site, **headers)

    def take(request, path, body):
        """Everything that a client sends."""
        if path.startswith("/upload/"):  # goes to another host: no token, the address is secret
            site.uploaded[path.removeprefix("/upload/")] = body
            return reply(request, 200)
        if path == "/api/validate-yaml":
            site.cards.append(json.loads(body)["content"])
            return answer(request, {"warnings": [], "errors": []})
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in site.tokens:
            return reply(
                request, 401, X_Error_Message="Invalid credentials in Authorization header"
            )
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            return writes(request, token, name) and create(request, name, asked)
        large = re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
        changed = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        name = (large or changed)[1]
        if not writes(request, token, name):
            return None
        if large:
            objects = json.loads(body)["objects"]
            actions = {each["oid"]: {"upload": {"href": f"{site.url}/upload/{each['oid']}"}}
                       for each in objects}  # fmt: skip
            objects = [{**each, "actions": actions[each["oid"]]} for each in objects]
            return answer(request, {"transfer": "basic", "objects": objects})
        return (sort if changed[2] == "preupload" else commit)(request, name, body)

    def answer(request, body, status=200):
        reply(request, status, json.dumps(body).encode(), Content_Type="application/json")

    def writes(request, token, name):
        """Whether the token may write there; says no where it may not."""
        if name.partition("/")[0] in site.tokens[token]:
            return True
        reply(request, 403, X_Error_Message="You have no right to write there")
        return False

    def create(request, name, asked):
        is_new = name not in site.contents
        if is_new:
            site.contents[name] = {".gitattributes": b""}
            site.private |= {name} if asked.get("visibility") == "private" else set()
        answer(request, {"url": f"{site.url}/{name}"}, 200 if is_new else 409)

    def sort(request, _name, body):
        """Say of each file whether it is one of Git LFS."""
        files = [
            {"path": each["path"], "shouldIgnore": False,
             "uploadMode": "lfs" if each["size"] >= LARGE else "regular"}
            for each in json.loads(body)["files"]
        ]  # fmt: skip
        answer(request, {"files": files})

    def commit(request, name, body):
        """Make all files of a commit appear at once; none, where one of them never arrived."""
        lines = [json.loads(line) for line in body.splitlines()]
        new = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if sha256(site.uploaded.get(value["oid"], b"")) != value["oid"]:
                    return reply(request, 400, X_Error_Message="a large file is missing")
                new[value["path"]] = site.uploaded[value["oid"]]
        site.contents[name].update(new)
        site.head = hashlib.sha1(body).hexdigest()
        address = f"{site.url}/{name}/commit/{site.head}"
        return answer(request, {"commitUrl": address, "commitOid": site.head})

    with serve(handle) as url:
        site.url = url
        yield site


def usage(free):
    """What shutil.disk_usage says of a disk with that many bytes free."""
    return types.SimpleNamespace(total=free, used=0, free=free)
