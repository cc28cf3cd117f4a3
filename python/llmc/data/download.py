"""Downloads that fail within seconds if there is no network, and that continue where they stopped.

All downloads use `requests`, also those from Hugging Face: huggingface_hub 2.4 needs 23 seconds to detect that there is
no network (its retries cannot be shortened), and it starts an interrupted download again from the first byte.
"""

from __future__ import annotations

import threading
import urllib.parse
from pathlib import Path
from typing import Any

import requests
import urllib3

from llmc.errors import DataError
from llmc.progress import counter

OFFLINE_ALTERNATIVE = "python dev/data/pystdlib.py makes a data set without a network"
PROBE_SECONDS = 4
# identity: the bytes of a range must be those of the file, not of a compressed response
HEADERS = {"User-Agent": "llmc-mup", "Accept-Encoding": "identity"}


def host_of(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def unreachable(url: str) -> str:
    """Why the host of `url` cannot be reached, or "" if it answers. Takes at most PROBE_SECONDS, with name lookup."""
    reasons: list[str] = []

    def attempt() -> None:
        try:
            requests.head(url, headers=HEADERS, timeout=PROBE_SECONDS)  # any status is an answer
            reasons.append("")
        except (requests.RequestException, OSError, ValueError) as error:
            reasons.append(reason_of(error))

    thread = threading.Thread(target=attempt, daemon=True)  # a name lookup has no timeout: the thread is left running
    thread.start()
    thread.join(PROBE_SECONDS)
    return reasons[0] if reasons else f"no answer within {PROBE_SECONDS} seconds"


def reason_of(error: BaseException) -> str:
    """The innermost cause: requests wraps "Connection refused" in three exceptions with long texts."""
    seen: set[int] = set()
    cause: object = error
    while isinstance(cause, BaseException) and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
        inner = getattr(cause, "reason", None)
        arguments = [each for each in cause.args if isinstance(each, BaseException)]
        cause = inner if isinstance(inner, BaseException) else arguments[0] if arguments else cause.__context__
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def require_network(url: str, hint: str = "") -> None:
    reason = unreachable(url)
    if reason:
        raise DataError(f"cannot reach {host_of(url)} ({reason}): {hint}{OFFLINE_ALTERNATIVE}")


def fetch_json(url: str) -> Any:
    """The JSON behind a small URL."""
    try:
        response = requests.get(url, headers=HEADERS, timeout=30)
        response.raise_for_status()
        return response.json()
    except (requests.RequestException, ValueError) as error:
        raise DataError(f"no usable answer from {url} ({error}): try again later, or {OFFLINE_ALTERNATIVE}") from None


def download(url: str, path: Path, hint: str = "") -> Path:
    """Fetches `url` to `path` if it does not exist. A later call continues an interrupted download."""
    if path.exists():
        return path
    require_network(url, hint)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        expected = _fetch(url, part)
    except requests.HTTPError as error:
        answer = error.response
        raise DataError(
            f"{host_of(url)} answers {answer.status_code} {answer.reason} for {url}: {hint}{OFFLINE_ALTERNATIVE}"
        ) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DataError(
            f"the download of {url} broke off ({reason_of(error)}): run the same command again to continue from {part}"
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
    """Appends the missing bytes of `url` to `part`. Returns the size of the whole file, if it is known."""
    have = part.stat().st_size if part.exists() else 0
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 416 and have:  # the file is shorter: `part` is from another file
            part.unlink()
            return _fetch(url, part)
        response.raise_for_status()
        if response.status_code != 206:  # the server sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length else None
        with (
            open(part, "ab" if have else "wb") as file,
            counter(expected, part.stem, done=have, unit="B", scale=True) as progress,
        ):
            # raw: iter_content drops an incomplete block when the connection breaks
            while block := response.raw.read(1 << 20, decode_content=False):
                file.write(block)
                progress.update(len(block))
    return expected
