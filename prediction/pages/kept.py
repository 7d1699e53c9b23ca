"""Pages of an earlier run: which of them still show what a new page would show?

A page stores a digest of everything that it shows in a <meta> tag.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dfdc import identity, imaging, scoring, text
from dfdc import pages as shared
from prediction import conclusion
from prediction import verdict as verdicts
from prediction.pages.views import Made
from prediction.verdict import Verdict

_HEAD_BYTES = 1 << 17  # the style sheet and the image of the first person
_END = b"</html>"
_DIGEST = re.compile(rb'<meta name="digest" content="([0-9a-f]{32})">')
# Names of files can't imitate this: templates escape < and ".
_LEAD = re.compile(rb'<img class="lead"[^<>]* src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)">')


@dataclass(frozen=True)
class KeptPage:
    """A page that is still valid, and the JPEG of its first person (None without one)."""

    thumbnail: bytes | None


def digest_of_page(verdict: Verdict, made: Made, recorded: Any, fault: str) -> str:
    """A digest of everything that a video's page shows.

    Args:
        recorded: the file's fingerprint when the video was scored. Its time does not count, nor does the path.
        fault: why the video can't be read again, or empty.
    """
    shown = repr(replace(verdict, path=""))  # ten times as fast as asdict
    file = recorded
    if isinstance(recorded, Mapping) and "xxh3" in recorded:
        file = {key: value for key, value in recorded.items() if key != "mtime_ns"}
    # Lists keep the order of settings and checkpoints, which a page shows.
    settings = [list(part.items()) for part in (made.settings, made.hashes, made.versions)]
    return identity.digest_of([shown, settings, list(made.warnings), file, fault, _code()])


def read_kept(page: Path, digest: str) -> KeptPage | None:
    """The page at this path if it is complete and has this digest."""
    try:
        identity.regular(page)
        with page.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
            found = _DIGEST.search(head)
            if not found or found[1].decode() != digest:
                return None
            handle.seek(-len(_END), 2)
            if handle.read() != _END:  # cut by a power failure: pages are not synced to the disk
                return None
    except OSError:
        return None
    lead = _LEAD.search(head)
    return KeptPage(base64.b64decode(lead[1]) if lead else None)


@cache
def _code() -> str:
    """A digest of the templates and of the modules that make texts and images of pages."""
    modules = (conclusion, imaging, scoring, text, verdicts)
    own = [path for folder in (Path(__file__), Path(shared.__file__)) for path in folder.parent.iterdir()]
    files = [path for path in own if path.suffix in (".py", ".j2", ".css")]
    files += [Path(str(module.__file__)) for module in modules]
    return identity.digest_of([[path.name, identity.file_checksum(path)] for path in sorted(files)])
