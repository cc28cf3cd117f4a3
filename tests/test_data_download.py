"""llmc.data.download: a missing network is detected within seconds, and an interrupted download is continued."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from data_tools import decode_bytes, some_text, tokens_of
from script_tools import run_script

from llmc.data import tinyshakespeare
from llmc.data.download import download
from llmc.errors import DataError

# --- Without a network ---


@contextmanager
def dead_proxy(silent: bool):
    """A proxy that refuses connections, or accepts them and never answers; independent of the machine's network."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield {name: address for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")} | {
            "no_proxy": "",
            "NO_PROXY": "",
            "ALL_PROXY": "",
            "all_proxy": "",
        }


@pytest.mark.parametrize(
    "script, silent, says",
    [
        ("tinyshakespeare.py", True, ["raw.githubusercontent.com", "--file", "pystdlib.py"]),
        ("tinystories.py", False, ["huggingface.co (Connection refused)", "--file", "pystdlib.py"]),
        ("fineweb.py", False, ["huggingface.co", "--file", "pystdlib.py"]),
        ("hellaswag.py", False, ["raw.githubusercontent.com (Connection refused)", "hellaswag_val.jsonl as FILE"]),
        (
            "pystdlib.py --tokenizer gpt2",
            True,
            [
                "TIKTOKEN_CACHE_DIR",
                "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
                "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
                "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
                "--tokenizer byte",
            ],
        ),
    ],
)
def test_without_a_network_scripts_say_so_within_seconds(tmp_path, script, silent, says):
    name, *arguments = script.split()
    if arguments:
        pytest.importorskip("tiktoken")
    with dead_proxy(silent) as proxy:
        start = time.monotonic()
        result = run_script(
            f"dev/data/{name}",
            *arguments,
            "--out",
            tmp_path / "out",
            env={**proxy, "TIKTOKEN_CACHE_DIR": str(tmp_path / "none")},
        )
        seconds = time.monotonic() - start
    assert result.returncode == 3
    assert seconds < 8  # 4 seconds of waiting, and the start of Python on a busy machine
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in says), result.stderr
    assert not list(tmp_path.glob("out/*"))


class Server(http.server.BaseHTTPRequestHandler):
    content = some_text(5, 3000).encode()
    give = None  # bytes to send before the connection breaks
    requests: list[str | None] = []  # noqa: RUF012 (of the test, not of an instance)

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        wanted = self.headers.get("Range")
        Server.requests.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        past_end = start >= len(self.content)
        self.send_response(404 if "missing" in self.path else 416 if past_end else 206 if start else 200)
        self.send_header("Content-Length", str(max(0, len(self.content) - start)))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.give if self.give else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        Server.requests.clear()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_shows_lines_in_a_pipe(server, tmp_path, capsys):
    download(f"{server}/file.txt", tmp_path / "file.txt")
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err
    assert [line[:10] for line in err.splitlines()] == ["file.txt: "] * len(err.splitlines())
    assert "  0%" in err.splitlines()[0] and "100%" in err.splitlines()[-1]


def test_download_resumes(server, tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.txt"
    monkeypatch.setattr(Server, "give", 1000)
    with pytest.raises(DataError, match="run the same command again"):
        download(f"{server}/file.txt", path)
    assert not path.exists()
    assert path.with_name("file.txt.part").stat().st_size == 1000
    monkeypatch.setattr(Server, "give", None)
    download(f"{server}/file.txt", path)
    assert path.read_bytes() == Server.content
    assert Server.requests == [None, "bytes=1000-"]
    download("http://nowhere.invalid/file.txt", path)  # an existing file is not downloaded
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_download_begins_anew_behind_a_wrong_part(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * (len(Server.content) + 5))
    assert download(f"{server}/f", tmp_path / "f").read_bytes() == Server.content


def test_download_of_a_missing_file(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        download(f"{server}/missing", tmp_path / "f")


def test_tinyshakespeare_by_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tinyshakespeare, "URL", f"{server}/input.txt")
    monkeypatch.setattr(tinyshakespeare, "VAL_TOKENS", 100)
    tinyshakespeare.main(["--out", str(tmp_path), "--tokenizer", "byte"])
    tokens = np.concatenate([tokens_of(tmp_path, "tinyshakespeare", split) for split in ("val", "train")])
    assert decode_bytes(tokens) == Server.content
