"""What the project imports of an extra's packages, imported where the extra is installed.

A program: `python support_extra.py IMPORTS PACKAGES`, both JSON: pairs of a module and a name in it or "", and names of
distributions. Prints the distributions of which something was imported, as JSON.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from importlib import metadata

__all__ = ["tried"]


def tried(imports: list[tuple[str, str]], packages: list[str]) -> list[str]:
    """Distributions of `packages` that some of `imports` belong to. Raises what such an import raises."""
    owners, found = metadata.packages_distributions(), set()
    for module, name in imports:
        named = {re.sub(r"[-_.]+", "-", each).lower() for each in owners.get(module.split(".")[0], ())}
        if ours := named & set(packages):
            place = importlib.import_module(module)
            if name and not hasattr(place, name):
                importlib.import_module(f"{module}.{name}")
            found |= ours
    return sorted(found)


if __name__ == "__main__":
    print(json.dumps(tried(json.loads(sys.argv[1]), json.loads(sys.argv[2]))))
