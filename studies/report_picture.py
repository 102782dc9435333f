"""Takes the README's pictures: the page of a run in which one layer has a wrong sign.

    python -m studies.report_picture

The mutant is one of the catalogue's; its run is the main job's, on a copy of the project, and the
page is what that writes. Needs a Caffe, and a chromium on the PATH.
"""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from studies.mutation.catalogue import ROOT, mutated, read

PICTURES = ROOT / "docs" / "pictures"
MUTANT = "py-one-sign"
VARIANTS = "caffe-python or caffe-convolution or caffe-reduction or torch-module"
SELECTION = f"channel_sum and not exact and ({VARIANTS})"
WIDTH, HEIGHT = 960, 1345  # pixels of CSS
QUALITY = 55  # of WebP, up to 100


def page_of_a_run(copy: Path) -> Path:
    """Runs the main job on a copy of the project with the mutant; returns the page."""
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "parity-report"))
    [mutant] = (each for each in read() if each.name == MUTANT)
    edited = copy / mutant.file
    edited.write_text(mutated(edited.read_text(), mutant))
    command = [sys.executable, "-m", "parity_tests", "-q", "-k", SELECTION]
    as_tox = {**os.environ, "TOX_ENV_NAME": "parity", "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=as_tox)
    assert done.returncode == 1, "the mutant must be found"
    return copy / "parity-report" / "index.html"


def main() -> None:
    """Writes report-light.webp and report-dark.webp."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = page_of_a_run(Path(folder) / "project")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT},
                device_scale_factor=1.25,
                color_scheme=scheme,
            )
            shown = context.new_page()
            shown.goto(page.as_uri())
            taken = context.new_cdp_session(shown).send(
                "Page.captureScreenshot", {"format": "webp", "quality": QUALITY}
            )
            file = PICTURES / f"report-{scheme}.webp"
            file.write_bytes(base64.b64decode(taken["data"]))
            print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
