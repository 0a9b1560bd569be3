"""Downloads: resumed after a break, made once however many processes ask, and checked at the end."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from vanishing import files, locks
from vanishing.console import duration
from vanishing.data.archives import SourceError, one_line

TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""

PAUSES = (1.0, 2.0, 5.0)
"""Seconds before the next tries; after a try that received bytes, they are counted from the first again."""

PIECE = 1 << 16
"""Bytes read at once: what the throttled official server sends in a second, so that progress shows."""

INTERVAL = 10.0
"""Seconds between lines of progress where standard error is no terminal."""

LIMIT = 1 << 30
"""Bytes of the largest archive accepted; CIFAR-100 takes 0.17 GB."""

TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of errors that pass."""

BUNDLE = "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names that file: correct or unset it"
LOGIN = "the proxy wants a login: set HTTPS_PROXY and HTTP_PROXY to http://USER:PASSWORD@HOST:PORT"
CLOCK = "check this machine's clock"
TRUST = "where your network puts in its own, set REQUESTS_CA_BUNDLE to the file that holds the network's certificate"
MALFORMED = (
    "the address or a proxy's is malformed: check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; in a password, write %23 for "
    "#, %2F for / and %40 for @"
)
"""What to do where a try has failed and a later one cannot do better."""

CERTIFICATE = {9: CLOCK, 10: CLOCK, 18: TRUST, 19: TRUST, 20: TRUST, 21: TRUST}
"""By OpenSSL's number of what is wrong with a certificate (X509_V_ERR in its x509_vfy.h)."""

TLS = {
    "NO_CERTIFICATE_OR_CRL_FOUND": f"no certificate in the file of trusted ones; {BUNDLE}",
    "WRONG_VERSION_NUMBER": "what answers speaks no TLS; if it is your proxy, begin HTTPS_PROXY with http://",
}
"""By the name of OpenSSL's error."""

Report = Callable[[str], None]


class _BrokenError(Exception):
    """An attempt ended early; the next one may continue."""


def fetch(url: str, sha256: str | None, cache: Path, report: Report, pauses: tuple[float, ...] = PAUSES) -> Path:
    """Return the file of `url` in the folder `cache`, after downloading what is missing of it.

    The unfinished file has a fixed name and a lock: one of many processes downloads, and a later run continues
    where this one stopped. A file whose hash is not `sha256`, where that is given, is deleted. Raises `SourceError`.
    """
    target = cache / _file_name(url)
    partial = target.with_name(target.name + ".partial")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(target, report):
            if _is_there(target, sha256):
                report(f"{url}: downloaded before, {target}")
                return target
            _download(url, partial, report, pauses)
            _check(partial, sha256)
            partial.replace(target)
    except OSError as error:
        raise SourceError(f"cannot be kept in {cache}: {error.strerror or one_line(error)}") from None
    return target


def _file_name(url: str) -> str:
    """Name the file after its address, with a hash that keeps two servers' files of one name apart."""
    base = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(urlsplit(url).path).name)[-80:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{base}"


@contextlib.contextmanager
def _locked(target: Path, report: Report) -> Iterator[None]:
    lock = target.with_name(target.name + ".lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locks.hold(lock, wait=0))
        except locks.Held as holder:
            report(f"{target.name}: is being downloaded by {holder}; waiting")
            held.enter_context(locks.hold(lock, wait=float("inf")))
        yield


def _is_there(target: Path, sha256: str | None) -> bool:
    if not target.exists():
        return False
    if sha256 is None or files.sha256(target) == sha256:
        return True
    target.unlink()
    return False


def _check(partial: Path, sha256: str | None) -> None:
    found = files.sha256(partial)
    if sha256 is not None and found != sha256:
        partial.unlink()
        raise SourceError(f"found SHA-256 {found}, expected {sha256}; the file is deleted")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(url: str, partial: Path, report: Report, pauses: tuple[float, ...]) -> None:
    failures, most = 0, _size(partial)
    while True:
        try:
            return _attempt(url, partial, report)
        except (requests.RequestException, urllib3.exceptions.HTTPError, _BrokenError) as error:
            if _size(partial) > most:
                failures, most = 0, _size(partial)
            kept = f"; {_megabytes(_size(partial))} MB are kept for the next try" if _size(partial) else ""
            if hopeless := _hopeless(error):
                raise SourceError(f"{hopeless}{kept}") from None
            if failures == len(pauses):
                raise SourceError(f"the download broke off: {_reason(error)}{kept}") from None
            report(f"{url}: broke off ({_reason(error)}); next try in {pauses[failures]:g} s")
            time.sleep(pauses[failures])
            failures += 1


def _hopeless(error: BaseException) -> str | None:
    """Say what a later try cannot change, and what to set; None if the error may pass."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            help_ = CERTIFICATE.get(cause.verify_code, "use another source")
            return f"the server's certificate is not trusted: {cause.verify_message}; {help_}"
        if isinstance(cause, ssl.SSLError) and cause.reason in TLS:
            return TLS[cause.reason]
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            host = re.search(r"Failed to resolve '([^']*)'", str(error))
            name = f"the name {host[1]}" if host else "the server's name"
            return f"{name} cannot be resolved: {cause.strerror}; behind a proxy, set HTTPS_PROXY"
        answer = re.match(r"Tunnel connection failed: ((\d+).*)", str(cause))
        if answer and int(answer[2]) not in TRY_AGAIN:
            return LOGIN if int(answer[2]) == 407 else f"the proxy refuses the connection: {answer[1]}"
        if isinstance(cause, ValueError | requests.TooManyRedirects):
            # whose own text may hold a part of a password
            unparsed = isinstance(cause, requests.exceptions.InvalidURL | urllib3.exceptions.LocationParseError)
            return (
                MALFORMED
                if unparsed
                else f"{one_line(cause)}; look at the address, and at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it wraps: urllib3 hands them on as arguments or as causes."""
    yield error
    for inner in (*error.args, error.__cause__):
        if isinstance(inner, BaseException):
            yield from _causes(inner)


def _reason(error: Exception) -> str:
    """Say why a connection broke, once: urllib3 repeats its text in the cause that it wraps."""
    if isinstance(error, requests.ConnectionError) and isinstance(error.args[0], urllib3.exceptions.MaxRetryError):
        # not in urllib3's words: a page of nested causes, which names the address again and again
        *_, last = _causes(error)
        what = "the proxy" if isinstance(error, requests.exceptions.ProxyError) else "the server"
        return f"{what} cannot be reached: {getattr(last, 'strerror', None) or one_line(last)}"
    inner = error.args[0] if isinstance(error, urllib3.exceptions.ProtocolError) and error.args else error
    return one_line(inner)


def _attempt(url: str, partial: Path, report: Report) -> None:
    """Download the rest of `partial` by one request, or raise."""
    start = _size(partial)
    # with a content encoding, ranges would count other bytes than the file's
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        raise
    except (ValueError, TypeError):
        raise SourceError(MALFORMED) from None  # of a proxy's address: urllib3 and Python's urllib do not catch all
    except OSError as error:
        raise SourceError(f"{one_line(error)}; {BUNDLE}") from None  # looked for before anything is sent
    with answer as response:
        first, total = _range(response)
        if response.status_code == requests.codes.requested_range_not_satisfiable and start and total == start:
            return
        if response.status_code not in (200, 206):
            _refuse(response, partial)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise SourceError(
                "sends a web page instead of an archive: where the network or the server wants a login, log in first"
            )
        if response.status_code == 206 and first != start:
            partial.unlink(missing_ok=True)
            raise _BrokenError(f"the server sent the bytes from {first} instead of {start}")
        if total is not None and total > LIMIT:
            raise SourceError(f"has {total:,} bytes; the limit is {LIMIT:,}")
        _write(response, partial, start if response.status_code == 206 else 0, total, report)


def _range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the offset of the answer's first byte and the size of the file, each None if the server omits it."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    first, total = match.groups()
    return None if first is None else int(first), None if total == "*" else int(total)


def _refuse(response: requests.Response, partial: Path) -> None:
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        partial.unlink(missing_ok=True)
        raise _BrokenError(f"{status}: the unfinished file is longer than the server's, so it starts again")
    if response.status_code in TRY_AGAIN:
        raise _BrokenError(status)
    if response.status_code == requests.codes.proxy_authentication_required:
        raise SourceError(LOGIN)
    raise SourceError(status)


def _write(response: requests.Response, partial: Path, start: int, total: int | None, report: Report) -> None:
    done = start
    with partial.open("ab" if start else "wb") as handle, _progress(response.url, start, total, report) as advance:
        for piece in response.raw.stream(PIECE, decode_content=False):
            handle.write(piece)
            done += len(piece)
            advance(len(piece))
            if done > LIMIT:
                raise SourceError(f"sends more than the limit of {LIMIT:,} bytes")
    if total is not None and done != total:
        raise _BrokenError(f"received {done:,} of {total:,} bytes")


@contextlib.contextmanager
def _progress(url: str, start: int, total: int | None, report: Report) -> Iterator[Callable[[int], object]]:
    """Yield the function that reports received bytes: by a bar on a terminal, else by a line every `INTERVAL`."""
    if sys.stderr.isatty():
        name = PurePosixPath(urlsplit(url).path).name
        with tqdm(desc=name, total=total, initial=start, unit="B", unit_scale=True, file=sys.stderr) as bar:
            yield bar.update
        return
    began = told = time.monotonic()
    received = 0
    report(f"{url}: downloading{f' from {_megabytes(start)} MB on' if start else ''}")

    def advance(size: int) -> None:
        nonlocal told, received
        received += size
        now = time.monotonic()
        if now - told >= INTERVAL:
            told = now
            report(f"{url}: {describe(start + received, total, received / (now - began))}")

    yield advance


def describe(done: int, total: int | None, rate: float) -> str:
    """Say how far a download is: bytes `done` of `total`, at `rate` bytes a second."""
    speed = f"{rate / 1e3:,.0f} kB/s"
    if total is None:
        return f"{_megabytes(done)} MB, {speed}"
    seconds = (total - done) / max(rate, 1.0)
    return f"{_megabytes(done)} of {_megabytes(total)} MB, {speed}, {duration(seconds)} left"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
