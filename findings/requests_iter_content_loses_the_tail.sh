#!/usr/bin/env bash
# requests 2.34.2 with urllib3 2.8.0: a download that breaks off loses what iter_content had already received.
#
# Expected: the bytes that arrived before the connection broke are handed out, then comes the error; a later request
#           continues behind them.
# Happens:  iter_content(1 << 20) collects whole chunks. If the connection breaks after 1,500,000 bytes it hands out
#           1,048,576 and raises; the other 451,424 bytes are gone. response.raw.read hands out all 1,500,000.
# Matters:  a resumable download of gigabytes on a bad line fetches up to a chunk again at each break, and makes no
#           progress where lines break within one. python/llmc/data/download.py reads response.raw.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check requests==2.34.2 urllib3==2.8.0 2>/dev/null
echo "requests 2.34.2, a body of 3,000,000 bytes of which 1,500,000 arrive. Expected: 1,500,000. What happens:"
"$folder/venv/bin/python" - <<'PY'
import socket, sys, threading
import requests, urllib3

SENT, SAID = 1_500_000, 3_000_000


def serve(listener):
    for _ in range(2):
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SAID + bytes(SENT))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
url = f"http://127.0.0.1:{listener.getsockname()[1]}/"


def by_iter_content(response):
    yield from response.iter_content(1 << 20)


def by_raw(response):
    while block := response.raw.read(1 << 20, decode_content=False):
        yield block


got = {}
for read in (by_iter_content, by_raw):
    got[read] = 0
    try:
        for block in read(requests.get(url, stream=True)):
            got[read] += len(block)
        print(f"{read.__name__:16} {got[read]:9,} bytes, no error")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        print(f"{read.__name__:16} {got[read]:9,} bytes, then {type(error).__name__}")
same = got[by_iter_content] == 1 << 20 and got[by_raw] == SENT
sys.exit(0 if same else "changed: iter_content no longer loses the bytes before the break")
PY
