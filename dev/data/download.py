"""Downloads that fail within seconds when the network is out of reach, and resume where they stopped."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from errors import DataError

OFFLINE_ALTERNATIVE = "python dev/data/pystdlib.py makes a data set without a network"
PROBE_SECONDS = 4
AGENT = {"User-Agent": "llmc-mup"}


def host_of(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def unreachable(url: str) -> str:
    """Why the host of `url` is out of reach, or "" if it answers. Takes PROBE_SECONDS at most, name lookup and all."""
    reasons: list[str] = []

    def attempt() -> None:
        request = urllib.request.Request(url, method="HEAD", headers=AGENT)
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            reasons.append("")
        except urllib.error.HTTPError:  # an answer; whether the file is there, the download itself will tell
            reasons.append("")
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(str(getattr(error, "reason", "") or error) or type(error).__name__)

    thread = threading.Thread(target=attempt, daemon=True)  # a name lookup cannot be given a timeout: leave it behind
    thread.start()
    thread.join(PROBE_SECONDS)
    return reasons[0] if reasons else f"no answer within {PROBE_SECONDS} seconds"


def require_network(url: str, hint: str = "") -> None:
    reason = unreachable(url)
    if reason:
        raise DataError(f"cannot reach {host_of(url)} ({reason}): {hint}{OFFLINE_ALTERNATIVE}")


def fetch_json(url: str):
    """The JSON behind a small URL."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=AGENT), timeout=30) as response:
            return json.load(response)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(f"no usable answer from {url} ({error}): try again later, or {OFFLINE_ALTERNATIVE}") from None


def download(url: str, path: Path, hint: str = "") -> Path:
    """Fetches `url` to `path` unless it is there. An interrupted download leaves `path`.part and continues from it."""
    if path.exists():
        return path
    require_network(url, hint)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        expected = _fetch(url, part)
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{host_of(url)} answers {error.code} {error.reason} for {url}: {hint}{OFFLINE_ALTERNATIVE}"
        ) from None
    except (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"the download of {url} broke off ({error}): run the same command again to continue from {part}"
        ) from None
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise DataError(
            f"the download of {url} ended after {size:,} of {expected:,} bytes: run the same command again "
            f"to continue from {part}"
        )
    if expected is not None and size > expected:
        part.unlink()
        raise DataError(f"the download of {url} has {size:,} bytes instead of {expected:,}: it was removed, run again")
    part.replace(path)
    return path


def _fetch(url: str, part: Path) -> int | None:
    """Appends what is missing of `url` to `part`. Returns the size the whole file has to have, where it is known."""
    have = part.stat().st_size if part.exists() else 0
    headers = AGENT | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing lies behind the bytes we have, so they are not this file's
            raise
        part.unlink()
        return _fetch(url, part)
    with response:
        if response.status != 206:  # the server sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file:
            while block := response.read(1 << 20):
                file.write(block)
                have += len(block)
                if sys.stderr.isatty():
                    of = f" of {expected / 1e6:,.1f}" if expected else ""
                    print(f"\r{part.stem}: {have / 1e6:,.1f}{of} MB ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return expected
