"""Settings of the whole suite: no hub, no progress bars, one thread per process (small models crawl
when threads compete)."""

import atexit
import os
import shutil
import signal
import tempfile

import pytest

pytest.register_assert_rewrite("runs", "toy_runs")  # so that what a helper compared is shown when it differs

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "SB3_LOGDIR" not in os.environ:  # Stable-Baselines3 makes a folder for the logs of each learner, and leaves it
    os.environ["SB3_LOGDIR"] = tempfile.mkdtemp(prefix="coevo-tests-")
    atexit.register(shutil.rmtree, os.environ["SB3_LOGDIR"], True)

# A shell that starts the suite in the background lets it ignore Ctrl-C, and what some tests press
# is Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
