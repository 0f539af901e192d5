"""Convert the training data of the PyPI package usaddress to a file for `throughtime train --task tag`.

The data are addresses with hand-labeled tokens (MIT License). Only the package's source distribution contains them:

    pip download --no-deps --no-binary usaddress usaddress==0.5.16
    python benchmarks/tagging.py usaddress-0.5.16.tar.gz addresses.bio
    throughtime train addresses.bio --test-share 0.1
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_LABELED = "/training/labeled.xml"
_OUTSIDE = "NotAddress"


def sequences(archive: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield each address as (token, BIO tag) pairs; successive tokens with the same label form one span."""
    with tarfile.open(archive) as files:
        name = next(name for name in files.getnames() if name.endswith(_LABELED))
        member = files.extractfile(name)
        assert member is not None
        root = ElementTree.parse(io.BytesIO(member.read())).getroot()
    seen = set()
    for address in root:
        found, before = [], _OUTSIDE
        for token in address:
            for word in (token.text or "").split():
                prefix = "I" if token.tag == before else "B"
                found.append((word, "O" if token.tag == _OUTSIDE else f"{prefix}-{token.tag}"))
                before = token.tag
        # A duplicate address could land on both sides of the train/test split.
        if found and tuple(found) not in seen:
            seen.add(tuple(found))
            yield found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the source distribution of usaddress")
    parser.add_argument("out", type=Path, help="the file to write")
    given = parser.parse_args()
    addresses = list(sequences(given.archive))
    text = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in address) for address in addresses)
    given.out.write_text(text, encoding="utf-8")
    print(f"{len(addresses):,} addresses, {sum(map(len, addresses)):,} tokens")
