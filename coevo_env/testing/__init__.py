"""A kit for people who plug in something of their own: checks of tasks, rewards and learners, and a
tiny language model to try them with.

One idea: a check is a list of small promises, each tried on real objects, and the first broken one
is reported as a sentence with what was tried, what came back and what was expected. Nothing here
knows a particular task or algorithm, and nothing needs pytest: call it from whatever runs your
tests.
"""

from __future__ import annotations

from ..errors import CheckFailed
from ..lm.tiny import tiny_lm
from .learners import check_learner
from .rewards import check_joint_reward, check_reward
from .tasks import check_task

__all__ = ["CheckFailed", "check_joint_reward", "check_learner", "check_reward", "check_task", "tiny_lm"]
