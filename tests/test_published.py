"""The winners' published checkpoints, from a server of this machine (networks/published.py)."""

import contextlib
import hashlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dfdc import locks
from networks import published
from networks.checkpoint import save_checkpoint
from networks.model import build_network
from networks.published import DownloadError, download
from networks.spec import ModelSpec

ENCODER = "test_resnet.r160_in1k"


class Server(ThreadingHTTPServer):
    """A server of files with ranges and ETags, and with the faults of real ones.

    Attributes:
        files: name -> content.
        faults: for the next requests, one each: "cut" (half of what was asked for, then the connection ends), "busy"
            (503), "shifted" (another range than the one asked for), "none" (no fault).
        ranges: the Range headers that came.
        joins: it ignores If-Range, so that it sends the end of one version to somebody who has the start of another.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.ranges, self.joins = {}, [], [], False
        self.content_type, self.etags, self.lengths = "application/octet-stream", True, Counter()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, name = self.server, self.path.strip("/")
        fault = server.faults.pop(0) if server.faults else "none"
        if name not in server.files:
            self.send_error(404)
            return
        if fault == "busy":
            self.send_error(503)
            return
        data = server.files[name]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        same = server.joins or self.headers.get("If-Range") == etag
        start = int(wanted[6:-1]) if wanted and same else 0
        if start and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start - 1 if fault == "shifted" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(body) + server.lengths[name]))
        if server.etags:
            self.send_header("ETag", etag)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may hang up first
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "checkpoint"
    spec = ModelSpec("DeepFakeClassifier", ENCODER, 64)
    save_checkpoint(path, build_network(spec.network, ENCODER), spec, epoch=1, bce_best=0.5, metrics={})
    return path.read_bytes()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(published, "_ENCODER", ENCODER)
    monkeypatch.setattr(published, "_WAIT_S", 0.0)


def hidden(folder):
    return sorted(path.name for path in folder.glob(".*") if path.name != ".download.lock")


def test_the_five_are_one_of_each_seed_and_all_are_b7s():
    assert len(published.SEVEN) == 7
    assert [name.split("_")[1] for name in published.FIVE] == ["111", "555", "777", "888", "999"]
    assert set(published.FIVE) < set(published.SEVEN)
    assert published.SEVEN[0] == "final_111_DeepFakeClassifier_tf_efficientnet_b7_ns_0_36"


def test_a_file_comes_whole_with_its_checksum(server, content, tmp_path, capsys):
    server.files["one"] = content
    download(["one"], tmp_path / "weights", server.url + "/")
    target = tmp_path / "weights" / "one"
    assert target.read_bytes() == content
    assert (tmp_path / "weights" / "one.sha256").read_text() == f"{hashlib.sha256(content).hexdigest()}  one\n"
    assert hidden(target.parent) == []
    download(["one"], tmp_path / "weights", server.url)
    assert server.ranges == [None]  # it was not asked for again
    assert capsys.readouterr().out == (
        f"1 of 1: {target}\n{target}: downloaded\n{target}: already there, SHA-256 verified\n"
    )


def test_cut_connections_are_resumed_where_they_ended(server, content, tmp_path):
    server.files["one"] = content
    server.faults = ["cut", "cut", "busy", "cut"]
    download(["one"], tmp_path, server.url)
    assert (tmp_path / "one").read_bytes() == content
    piece, half = published._PIECE, len(content) // 2
    first = half // piece * piece
    second = first + (len(content) - first) // 2 // piece * piece
    assert server.ranges[:3] == [None, f"bytes={first}-", f"bytes={second}-"]


def test_a_run_that_gave_up_is_resumed_by_the_next(server, content, tmp_path):
    server.files["one"] = content
    server.faults = ["cut"] + ["busy"] * published._ATTEMPTS
    with pytest.raises(
        DownloadError, match=r"503 Service Unavailable\. \d+ bytes are kept; run the same command again"
    ):
        download(["one"], tmp_path, server.url)
    assert not (tmp_path / "one").exists()
    kept = (tmp_path / ".one.part").read_bytes()
    assert len(kept) > len(content) // 2 - published._PIECE
    assert kept == content[: len(kept)]
    download(["one"], tmp_path, server.url)
    assert (tmp_path / "one").read_bytes() == content
    assert server.ranges[-1] == f"bytes={len(kept)}-"


@pytest.mark.parametrize(("etags", "joins"), [(True, False), (False, False), (True, True)])
def test_two_versions_are_never_joined(server, content, tmp_path, etags, joins):
    server.files["one"], server.etags, server.joins = b"another version" * 1000, etags, joins
    server.faults = ["cut"] + ["busy"] * published._ATTEMPTS
    with pytest.raises(DownloadError):
        download(["one"], tmp_path, server.url)
    server.files["one"] = content
    download(["one"], tmp_path, server.url)
    assert (tmp_path / "one").read_bytes() == content


@pytest.mark.parametrize(("more", "requests"), [(b"", 1), (b"more", 2)])
def test_a_part_that_is_whole_is_taken_and_one_that_is_too_long_begins_anew(server, content, tmp_path, more, requests):
    server.files["one"] = content
    (tmp_path / ".one.part").write_bytes(content + more)
    (tmp_path / ".one.etag").write_text(f'"{hashlib.md5(content).hexdigest()}"')
    download(["one"], tmp_path, server.url)
    assert (tmp_path / "one").read_bytes() == content
    assert len(server.ranges) == requests


def test_the_rate_of_a_resumed_download_is_that_of_its_own_bytes(server, content, tmp_path, monkeypatch):
    server.files["one"] = content
    (tmp_path / ".one.part").write_bytes(content[:1000])
    (tmp_path / ".one.etag").write_text(f'"{hashlib.md5(content).hexdigest()}"')
    bars = []
    make = published.progress_bar
    monkeypatch.setattr(published, "progress_bar", lambda **options: bars.append(make(**options)) or bars[-1])
    download(["one"], tmp_path, server.url)
    (bar,) = bars
    assert (bar.n, bar.total, bar.initial) == (len(content), len(content), 1000)
    assert bar.last_print_n >= 1000


def test_another_range_than_the_one_asked_for_is_not_appended(server, content, tmp_path):
    server.files["one"] = content
    server.faults = ["cut", "shifted"]
    download(["one"], tmp_path, server.url)
    assert (tmp_path / "one").read_bytes() == content


def test_a_length_that_is_never_reached_is_an_error(server, content, tmp_path):
    server.files["one"], server.lengths["one"] = content, 10
    with pytest.raises(DownloadError, match=r"one: .*run the same command again"):
        download(["one"], tmp_path, server.url)
    assert not (tmp_path / "one").exists()


def test_a_shortened_file_is_refused_and_leaves_nothing(server, content, tmp_path):
    server.files["one"] = content[:-100]
    with pytest.raises(DownloadError, match=r"as a checkpoint.* may not be the file"):
        download(["one"], tmp_path, server.url)
    assert list(tmp_path.glob("*one*")) == []


def test_a_flipped_bit_is_found(server, content, tmp_path):
    place = len(content) // 2
    server.files["one"] = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    with pytest.raises(DownloadError, match=r"its member .* has a wrong checksum"):
        download(["one"], tmp_path, server.url)


def test_a_web_page_instead_of_a_file(server, tmp_path):
    server.files["one"], server.content_type = b"<!DOCTYPE html><title>Sign in</title>", "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="received a web page instead of a checkpoint"):
        download(["one"], tmp_path, server.url)
    server.content_type = "application/octet-stream"  # and one that does not say so
    with pytest.raises(DownloadError, match="can't be read safely as a checkpoint"):
        download(["one"], tmp_path, server.url)
    assert list(tmp_path.glob("*one*")) == []


def test_a_missing_file_and_a_wrong_address_end_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match="two: the server answered 404 Not Found; check the address"):
        download(["two"], tmp_path, server.url)
    with pytest.raises(DownloadError, match="not a valid HTTP URL"):
        download(["two"], tmp_path, "ftp://x")
    with pytest.raises(DownloadError, match="not a valid HTTP URL"):
        download(["two"], tmp_path, "x")


def test_no_server(server, tmp_path):
    url = server.url
    server.server_close()
    with pytest.raises(
        DownloadError, match=r"one: no connection \(\[Errno \d+\] Connection refused\)\. 0 bytes are kept"
    ):
        download(["one"], tmp_path, url)


def test_a_checkpoint_of_another_network_is_refused(server, content, tmp_path, monkeypatch):
    server.files["one"] = content
    monkeypatch.setattr(published, "_ENCODER", "tf_efficientnet_b7.ns_jft_in1k")
    with pytest.raises(DownloadError, match=f"a checkpoint of {ENCODER}, not of tf_efficientnet_b7"):
        download(["one"], tmp_path, server.url)


def test_a_file_that_changed_since_is_named(server, content, tmp_path):
    server.files["one"] = content
    download(["one"], tmp_path, server.url)
    (tmp_path / "one").write_bytes(content + b"x")
    with pytest.raises(DownloadError, match=r"one: its SHA-256 differs from the one in one\.sha256\. Remove both"):
        download(["one"], tmp_path, server.url)


def test_a_file_that_was_put_there_by_hand_is_checked(server, content, tmp_path, capsys):
    (tmp_path / "one").write_bytes(content)
    download(["one"], tmp_path, server.url)
    assert capsys.readouterr().out.endswith("one: already there, a valid B7 checkpoint\n")
    assert (tmp_path / "one.sha256").read_text().startswith(hashlib.sha256(content).hexdigest())
    (tmp_path / "two").write_bytes(b"text")
    with pytest.raises(DownloadError, match=r"two can't be read safely.*remove it and run again"):
        download(["two"], tmp_path, server.url)


def test_two_downloads_into_one_folder(tmp_path, server):
    held = locks.only_one(tmp_path / ".download.lock", None)
    with held, pytest.raises(DownloadError, match=r"another download is writing here \(process \d+ on"):
        download(["one"], tmp_path, server.url)


def test_a_full_disk_is_an_error_before_anything_is_written(server, content, tmp_path, monkeypatch):
    server.files["one"] = content
    monkeypatch.setattr(published, "_SPARE", 1 << 60)
    with pytest.raises(DownloadError, match=r"MB are free; .* MB are needed"):
        download(["one"], tmp_path, server.url)
    assert list(tmp_path.glob("*one*")) == []
