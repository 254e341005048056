"""Suites on a cluster: the same folders, also when a machine dies in the middle. Needs the extra
`ray`."""

from __future__ import annotations

import os
import threading
import time

import pytest
from test_executor import jobs, metrics

from coevo_agents.launch.executor import run_all as here
from coevo_env.errors import MissingExtraError


def test_without_ray_it_says_what_to_install(monkeypatch):
    import sys

    from coevo_agents.launch.ray import run_all

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"coevo-env\[ray\]"):
        run_all([])


@pytest.mark.slow
def test_a_cluster_of_two_of_which_one_dies_makes_the_same_runs(tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from coevo_agents.launch.ray import run_all

    given = {"seeds": range(4), "iterations": 300, "save_every": 20}
    local = jobs(tmp_path / "here", **given)
    here(local, workers=2)
    os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    remote = jobs(tmp_path / "there", **given)

    def kill() -> None:
        began = time.monotonic()
        while time.monotonic() - began < 120:
            if any((job.folder / "checkpoints").is_dir() for job in remote):
                cluster.remove_node(nodes[0], allow_graceful=False)
                return
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        outcomes = run_all(remote, workers=2)
    finally:
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    assert [outcome.error for outcome in outcomes] == [None] * 4
    for one, other in zip(local, remote, strict=True):
        assert metrics(one) == metrics(other)
        assert (one.folder / "summary.json").read_bytes() == (other.folder / "summary.json").read_bytes()
