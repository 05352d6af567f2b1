"""The page of a run: whole in itself, safe with any content, and seen as it should be in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from ode_rl.cli import main
from ode_rl.evaluate import evaluate_agent
from ode_rl.files import write_json
from ode_rl.load_agent import load_agent
from ode_rl.plots import plot_learning_curve
from ode_rl.report_html import write_html
from ode_rl.run import Episode, RunFolder
from tests.fakes import Push
from tests.test_report import Modelless

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 390)
# Loads the page in frames of the widths asked for, and says what is in them.
PROBE = """<!doctype html><link rel="icon" href="data:,"><body>%s<script>
const measure = frame => {
  const page = frame.contentDocument, root = page.documentElement;
  const box = node => node.getBoundingClientRect();
  const seen = node => box(node).width > 50 && box(node).height > 50;
  const plays = video => video.readyState >= 1 && !video.error && seen(video);
  const shown = [...page.images].map(i => i.complete && i.naturalWidth > 0 && seen(i));
  const text = [...page.querySelectorAll("p, td, dd, dt, figcaption")];
  return {
    width: frame.clientWidth, overflow: root.scrollWidth - root.clientWidth, images: shown,
    videos: [...page.querySelectorAll("video")].map(plays),
    smallest: Math.min(...text.map(node => parseFloat(getComputedStyle(node).fontSize))),
    narrowest: Math.min(...[...page.images].map(i => box(i).width)),
    outside: [...page.querySelectorAll("h1, h2, p, dl, figure, .scroll")].filter(
      node => box(node).right > root.clientWidth + 1).length,
  };
};
addEventListener("load", () => setTimeout(() => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>";
}, 1500));
</script></body>"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a curve, a video, a report on a world model and a sweep, all small."""
    run = RunFolder.create("Pendulum-v1", "mpc", 3, tmp_path / "run")
    settings = {
        "model": {"structure": "ode"},
        "note": "</pre><script>console.error('in')</script>" + "x" * 300,
    }
    config = {"env_id": "Pendulum-v1", "agent": "mpc", "dt": 0.05, "seed": 3, "steps": 400}
    run.write_config({**config, "settings": settings})
    run.append_episode(Episode(1, 200, 10.0, -900.0, 200, False, 1.0))
    write_json(run.evaluation, evaluate_agent(Push(), "Pendulum-v1", 2).to_json())
    plot_learning_curve(run)
    writer = imageio_ffmpeg.write_frames(str(run.video), (160, 120), fps=20, ffmpeg_log_level="error")
    writer.send(None)
    for k in range(10):
        writer.send(np.full((120, 160, 3), 20 * k, np.uint8))
    writer.close()
    _world_model(run)
    _sweep(run)
    return run


def _picture(path: Path, size: tuple[int, int] = (1200, 500)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, "#0072B2").save(path)


def _world_model(run: RunFolder) -> None:
    folder = run.path / "report"
    _picture(folder / "horizon.png")
    found = {"times": [0.1, 1.0], "error": [0.1, 0.5], "no_change": [0.4, None], "spread": [0.1, 0.3]}
    row = {"ratio": 2.0, "seen": False, "error": 0.25, "no_change": 0.75}
    report = {
        "model": "ode",
        "members": 5,
        "error_against_horizon": {"sources": {"random actions": found}},
        "error_against_dt": {"rows": [row]},
        "figures": ["horizon.png"],
        "video": {"file": None},
    }
    write_json(folder / "report.json", report)


def _sweep(run: RunFolder) -> None:
    _picture(run.path / "sweeps" / "mass.png", (1350, 540))
    own = {"mean_return": 3.0, "std_return": 1.0, "return_per_second": 0.3}
    row = {"label": "x2", "evaluation": own, "random_mean_return": 1.0}
    rows = [{**row, "share_kept": 0.5, "share_interval": [0.25, 0.75]}]
    rows.append({**row, "share_kept": None, "share_interval": None})
    write_json(
        run.path / "sweeps" / "mass.json", {"sweep": "mass", "axis": "mass / that of training", "rows": rows}
    )


def test_everything_that_is_there_is_in_the_page(run: RunFolder) -> None:
    page = write_html(run).read_text()
    assert page.count("data:image/png;base64,") == 3
    assert page.count("data:video/mp4;base64,") == 1
    for text in (
        "Pendulum-v1",
        "mpc on ode",
        "Interquartile mean",
        "50.0%",
        "25.0% to 75.0%",
        "&#34;seed&#34;: 3",
    ):
        assert text in page, text
    for package in json.loads(run.versions.read_text()).values():
        assert package in page


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(run: RunFolder) -> None:
    page = write_html(run).read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page  # what the configuration holds is text
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links
    assert all(link.startswith("data:") for link in links)


def test_a_run_with_nothing_but_its_configuration_has_a_page(tmp_path: Path) -> None:
    bare = RunFolder.create("Pendulum-v1", "sac", 0, tmp_path / "bare")
    bare.write_config({"env_id": "Pendulum-v1", "agent": "sac"})
    page = write_html(bare).read_text()
    assert "Final evaluation" not in page
    assert "World model" not in page
    assert "Configuration" in page


def test_an_agent_without_a_world_model_has_a_page_and_no_report(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(load_agent.__globals__["AGENTS"], "mpc", "tests.test_report:Modelless")
    shutil.rmtree(run.path / "report")
    Modelless().save(run.checkpoint)
    assert main(["report", str(run.path)]) == 0
    assert f"{run.path / 'report.html'}" in capsys.readouterr().out
    assert not (run.path / "report").exists()


# --- in a browser ------------------------------------------------------------------------------------------


def browse(url: str, *more: str) -> Any:
    assert CHROMIUM is not None
    flags: tuple[str, ...] = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    )
    flags += ("--enable-logging=stderr", "--v=0", "--allow-file-access-from-files", "--mute-audio")
    command = [CHROMIUM, *flags, *more, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_page_is_seen_whole_at_both_widths_without_errors(run: RunFolder, tmp_path: Path) -> None:
    page = write_html(run)
    frames = "".join(f'<iframe width="{w}" height="900" src="{page.as_uri()}"></iframe>' for w in WIDTHS)
    (tmp_path / "probe.html").write_text(PROBE % frames)
    done = browse(
        (tmp_path / "probe.html").as_uri(),
        "--dump-dom",
        "--window-size=1800,1000",
        "--virtual-time-budget=8000",
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found, done.stdout[:2000]
    for width, seen in zip(WIDTHS, json.loads(html.unescape(found[1])), strict=True):
        assert seen["width"] == width
        assert seen["overflow"] <= 0, f"the page is {seen['overflow']} px too wide at {width} px"
        assert seen["outside"] == 0
        assert seen["images"] == [True, True, True]
        assert seen["videos"] == [True]
        assert seen["smallest"] >= 14
        assert seen["narrowest"] >= 600


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_browser_is_asked_for_what_would_be_an_error(tmp_path: Path) -> None:
    """The test above would notice: an image that is missing, a page too wide."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<img src="gone.png"><p style="width:3000px">wide</p><script>console.error("said")</script>'
    )
    (tmp_path / "probe.html").write_text(
        PROBE % f'<iframe width="390" height="900" src="{bad.as_uri()}"></iframe>'
    )
    done = browse((tmp_path / "probe.html").as_uri(), "--dump-dom", "--virtual-time-budget=8000")
    assert "CONSOLE" in done.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found
    (seen,) = json.loads(html.unescape(found[1]))
    assert seen["overflow"] > 2000
    assert seen["images"] == [False]
