# SPDX-License-Identifier: Apache-2.0
"""Installs the peers of the comparison, one by one, into an environment on top of this one.

One that cannot be installed is named and left out; the benchmark says so in its results.
"""

from __future__ import annotations

import site
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
HEADING = "# == "


def sections(text: str) -> dict[str, list[str]]:
    """The requirements of each peer."""
    found: dict[str, list[str]] = {}
    for section in text.split(f"\n{HEADING}")[1:]:
        name, *lines = section.splitlines()
        found[name] = [line for line in lines if line and not line.startswith("#")]
    return found


def lend_packages(environment: Path) -> None:
    """Let an environment see all packages of the one that runs this, behind its own."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = environment / "lib" / python / "site-packages"
    (folder / "lent.pth").write_text("\n".join(site.getsitepackages()) + "\n")


def install(environment: Path, requirements: list[str]) -> bool:
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--quiet"]
    return subprocess.run([*command, "--disable-pip-version-check", *requirements]).returncode == 0


def main() -> None:
    environment = Path(sys.argv[1])
    lend_packages(environment)
    for name, requirements in sections(REQUIREMENTS.read_text()).items():
        print(f"   {name}", flush=True)
        if not install(environment, requirements):
            print(f"   {name} cannot be installed here: left out", flush=True)


if __name__ == "__main__":
    main()
