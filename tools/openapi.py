"""Write the OpenAPI document for the browser's types: `python tools/openapi.py [--check]`.

`explorer/openapi.json` is what `npm run types` reads; CI fails when either differs from the code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aviary.web.app import make_web

FILE = Path(__file__).parent.parent / "explorer" / "openapi.json"


def document() -> str:
    """The document as the gateway serves it, without the version, which changes for itself."""
    nothing = SimpleNamespace(fleet=None, keys=None)
    found: dict[str, Any] = make_web(cast("Any", nothing)).openapi()
    found["info"]["version"] = "0"
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file, or say whether it is as it should be."""
    text = document()
    if "--check" not in sys.argv:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        sys.exit("explorer/openapi.json is not up to date: python tools/openapi.py")


if __name__ == "__main__":
    main()
