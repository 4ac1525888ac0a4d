"""A web server on this machine that serves bytes and has every fault a test asks for."""

import contextlib
import hashlib
import re
import socket
import struct
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serve(handle):
    """Serve on a free port; handle(request) answers each. Yields the address, without a slash."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            handle(self)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_):
            """Nothing: the tests look at what was asked for, not at a log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hang_up(request):
    """Reset the connection: what a router that forgot it, or a killed server, does."""
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.close_connection = True


def reply(request, status, body=b"", **headers):
    """Send a whole reply; header names are written with "_" for "-"."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def body_of(request):
    """Bytes that came with a request, whole or in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    chunks = []
    while size := int(request.rfile.readline(), 16):
        chunks.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(chunks)


def send_file(request, content, faults, **headers):
    """Send a file, or from `Range` on; faults: see `files`. Returns how many bytes went out."""
    start = 0
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if asked and faults.ranges:
        start = int(asked[1]) + (faults.shifts.pop(0) if faults.shifts else 0)
        if start >= len(content):
            reply(request, 416, Content_Range=f"bytes */{len(content)}")
            return 0
    body = content[start:]
    request.send_response(206 if asked and faults.ranges else 200)
    if asked and faults.ranges and faults.says_range:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if faults.length:
        request.send_header("Content-Length", str(len(body)))
    else:
        request.close_connection = True
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    if request.command == "HEAD":
        return 0
    if faults.cuts:
        body = body[: faults.cuts.pop(0)]
        request.wfile.write(body)
        request.close_connection = True
    else:
        request.wfile.write(body)
    return len(body)


def files(contents):
    """A site of files, and the handler that serves it.

    .contents: bytes by path.   .requests: (path, Range) of each request, in order.   .sent: bytes
    served by path.   .statuses: what to answer first instead, in order ("reset": nothing).
    .cuts: bytes after which the next replies break off.   .ranges, .length, .etag: whether the
    server knows such headers.   .says_range: whether a part of a file comes with its place.
    .shifts: by how much the next parts begin elsewhere than asked.   .moved: address to send on to,
    by path.   .kind: Content-Type.   .held: the first reply waits until it is set.
    """
    site = types.SimpleNamespace(
        contents=dict(contents), requests=[], sent={}, statuses=[], cuts=[], ranges=True,
        says_range=True, shifts=[], length=True, etag=True, moved={},
        kind="application/octet-stream", held=threading.Event(),
    )  # fmt: skip
    site.held.set()

    def handle(request):
        site.requests.append((request.path, request.headers.get("Range")))
        if len(site.requests) == 1:
            site.held.wait(timeout=60)
        if site.statuses and site.statuses[0] == "reset":
            site.statuses.pop(0)
            hang_up(request)
        elif site.statuses:
            reply(request, site.statuses.pop(0))
        elif request.path in site.moved:
            reply(request, 302, Location=site.moved[request.path])
        elif request.path not in site.contents:
            reply(request, 404)
        else:
            content = site.contents[request.path]
            headers = {"Content_Type": site.kind}
            if site.etag:
                headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
            num_bytes = send_file(request, content, site, **headers)
            site.sent[request.path] = site.sent.get(request.path, 0) + num_bytes

    site.handle = handle
    return site
