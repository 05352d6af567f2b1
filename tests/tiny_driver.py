"""The command line with tiny settings and a checkpoint after every episode, for tests that kill it.

python -m tests.tiny_driver '{"fit": {"updates": 9}}' train own/ShortCart-v0 ...
"""

from __future__ import annotations

import json
import sys

import pytest

from ode_rl.callbacks import RunRecorder
from ode_rl.cli import main
from ode_rl.settings import merged
from tests.tiny_runs import TINY, use_tiny_settings

if __name__ == "__main__":
    use_tiny_settings(pytest.MonkeyPatch(), merged(TINY, json.loads(sys.argv[1])))
    RunRecorder._is_due = lambda self: self._episode_ended or self._saved_at < 0  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
