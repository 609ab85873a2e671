"""The list of advisories that is shipped, made of a checkout of the PyPA Advisory Database (CC-BY-4.0).

    git clone https://github.com/pypa/advisory-database
    python bench/advisories.py advisory-database

Of each advisory on a package of constraints.txt: its id, aliases and versions, none of its words.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from steelyard.trust.bill.advisories import SCHEMA, SHIPPED, from_folder

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "PyPA Advisory Database (CC-BY-4.0), https://github.com/pypa/advisory-database"


def main(checkout: Path) -> None:
    names = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().split() if "==" in line]
    found = from_folder(checkout / "vulns", names)
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%H %cs"]
    commit, date = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    document = {"schema": SCHEMA, "source": SOURCE, "commit": commit, "date": date, "packages": len(names)}
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in found.rows)
    head = json.dumps(document, indent=1)[:-2]
    SHIPPED.write_text(f'{head},\n "advisories": [\n{rows}\n]}}\n', encoding="utf-8")
    print(f"{len(found.rows)} advisories of {date}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
