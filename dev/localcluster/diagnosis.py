"""Tell from a failed program's output what a person can cure: no network, no room."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dev.localcluster.commands import CommandError
from dev.localcluster.errors import CurableError

_LINE = 300  # characters of evidence
_KNOWN: Sequence[tuple[str, str, str]] = (
    (
        r"no space left on device|disk quota exceeded",
        "the disk is full",
        "Make room, or set XDG_CACHE_HOME to a folder on a larger disk, and run the command again. "
        "`python -m dev.localcluster prune` drops what earlier runs have built.",
    ),
    (
        r"certificate (?:signed by unknown|verify failed|is not trusted)|UnknownIssuer|x509: certificate",
        "a package registry shows a certificate that is not trusted here",
        "Add your network's certificate authority to /etc/ssl/certs/ca-certificates.crt by "
        "`update-ca-certificates`: image builds read it too.",
    ),
    (
        r"no such host|could not resolve|failed to lookup address|temporary failure (?:in name resolution|resolving)"
        r"|name or service not known|network is unreachable|connection (?:refused|timed out|reset)|i/o timeout"
        r"|tls handshake timeout|error sending request|failed to fetch|cannot initiate the connection",
        "a package registry cannot be reached",
        "Check the network and the proxy (HTTPS_PROXY, GOPROXY, /etc/pip.conf, /etc/uv/uv.toml, /etc/apt), then run "
        "the command again: what is finished is not built twice.",
    ),
)


def diagnose(doing: str, error: CommandError) -> CommandError | CurableError:
    """What to raise when `doing` ("build trainer image") has failed: the error itself where no cure is known."""
    for pattern, why, cure in _KNOWN:
        lines = [line.strip() for line in error.output.splitlines() if re.search(pattern, line, re.IGNORECASE)]
        if lines:
            return CurableError(f"{doing} failed because {why}: {lines[-1][-_LINE:]}", cure)
    return error
