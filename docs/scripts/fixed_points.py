"""Where each KL shaping rule leads a policy that is free to be anything: the table of
docs/rewards_and_kl.md.

    python docs/scripts/fixed_points.py

One idea: with three tokens and at most three steps all 15 responses can be written down, so the
gradient that a policy-gradient learner estimates is here a sum without noise, and what remains is
the rule itself. What is paid comes from `coevo_env.game.kl`. Takes some seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from coevo_env.game.kl import estimate, full_kl, shaping

BETA = 0.3
STEPS, RATE = 800, 0.1
REFERENCE = torch.tensor([[0.3, 0.8, -0.2], [0.0, -0.5, 0.4], [0.2, 0.6, 0.0]], dtype=torch.float64).log_softmax(
    -1
)  # by last token

RESPONSES = [(0,)] + [(a, 0) for a in (1, 2)] + [(a, b, c) for a in (1, 2) for b in (1, 2) for c in (0, 1, 2)]
PREFIXES = sorted({row[:t] for row in RESPONSES for t in range(len(row))})
STATE = torch.tensor([[PREFIXES.index(row[: min(t, len(row) - 1)]) for t in range(3)] for row in RESPONSES])  # (R, T)
TOKEN = torch.tensor([[row[min(t, len(row) - 1)] for t in range(3)] for row in RESPONSES])  # (R, T)
MASK = torch.tensor([[float(t < len(row)) for t in range(3)] for row in RESPONSES], dtype=torch.float64)  # (R, T)
REWARD = torch.tensor(
    [0.4 * row.count(2) + 0.7 * sum(a == 2 and b == 1 for a, b in pairwise(row)) for row in RESPONSES]
).double()  # (R,)
REF = torch.stack([REFERENCE[prefix[-1] if prefix else 0] for prefix in PREFIXES])  # (S, V)

Table = torch.Tensor
"""Log-probs of a policy, (S, V): a row for each prefix."""


def picked(table: Table) -> torch.Tensor:
    """The table's log-prob of each token of each response, (R, T), 0 behind the end."""
    return table[STATE, TOKEN] * MASK


def value(table: Table) -> tuple[float, float, float]:
    """J = E[R] - beta KL, KL and entropy of a policy, the last two of whole responses in nats."""
    log_policy, log_ref = picked(table).sum(1), picked(REF).sum(1)
    probability = log_policy.exp()
    kl = float((probability * (log_policy - log_ref)).sum())
    return float((probability * REWARD).sum()) - BETA * kl, kl, float(-(probability * log_policy).sum())


def best() -> tuple[float, float, float]:
    """The optimum in closed form: pi*(y) ~ pi_ref(y) exp(R(y) / beta)."""
    log_ref = picked(REF).sum(1)
    tilted = log_ref + REWARD / BETA
    log_policy = tilted - tilted.logsumexp(0)
    kl = float((log_policy.exp() * (log_policy - log_ref)).sum())
    return BETA * float(tilted.logsumexp(0)), kl, float(-(log_policy.exp() * log_policy).sum())


def learn(pay: Callable[[Table], torch.Tensor] | None, loss: Callable[[Table], torch.Tensor] | None = None) -> Table:
    """Ascends the expectation that a policy-gradient learner samples from.

    Args:
        pay: What KL shaping pays at each token, (R, T), given the policy; a reward, so no gradient
            flows through it.
        loss: A term of the learner's own loss for each prefix, (S,), differentiated at the prefixes
            that the policy visits.
    """
    theta = torch.zeros(len(PREFIXES), 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=RATE)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        table = theta.log_softmax(-1)
        log_policy = picked(table).sum(1)
        probability = log_policy.exp().detach()
        earned = REWARD if pay is None else REWARD + (pay(table.detach()) * MASK).sum(1)
        objective = (probability * log_policy * earned).sum()
        if loss is not None:
            objective = objective - (probability * (loss(table)[STATE] * MASK).sum(1)).sum()
        optimizer.zero_grad()
        (-objective).backward()
        optimizer.step()
    return theta.log_softmax(-1).detach()


def sampled(estimator: str) -> Callable[[Table], torch.Tensor]:
    """Mode "reported" with a sampled estimator."""
    return lambda table: torch.as_tensor(
        shaping("reported", BETA, estimate(estimator, picked(table).numpy(), picked(REF).numpy()), None)
    )


def whole(table: Table) -> torch.Tensor:
    """Mode "reported" with the estimator "full"."""
    return torch.as_tensor(shaping("reported", BETA, np.asarray(full_kl(table.numpy(), REF.numpy())), None))[STATE]


def half(table: Table) -> torch.Tensor:
    """Mode "reference": what the environment pays without a report."""
    return torch.as_tensor(shaping("reference", BETA, 0.0, picked(REF).numpy()))


def entropy_bonus(table: Table) -> torch.Tensor:
    return BETA * (table.exp() * table).sum(-1)


def exact_loss(table: Table) -> torch.Tensor:
    """Mode "loss": beta times the exact KL at each visited state."""
    return BETA * (table.exp() * (table - REF)).sum(-1)


RULES: dict[str, Callable[[], Table]] = {
    "`reported`, `k1`": lambda: learn(sampled("k1")),
    "`reported`, `k2`": lambda: learn(sampled("k2")),
    "`reported`, `k3`": lambda: learn(sampled("k3")),
    "`reported`, `full`": lambda: learn(whole),
    "`loss`": lambda: learn(None, exact_loss),
    "`reference`, learner adds an entropy bonus of β": lambda: learn(half, entropy_bonus),
    "`reference`, learner adds nothing": lambda: learn(half),
}


def rows() -> list[tuple[str, float, float, float]]:
    """(rule, J, KL, entropy) for the optimum, every rule, and the reference itself."""
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other
    learned = [(name, *value(rule())) for name, rule in RULES.items()]
    return [("optimum, in closed form", *best()), *learned, ("the reference policy itself", *value(REF))]


def main() -> None:
    assert math.isclose(float(picked(REF).sum(1).exp().sum()), 1.0)
    print("| rule | J | KL, nats | entropy, nats |\n|---|---|---|---|")
    for name, *numbers in rows():
        print(f"| {name} | {' | '.join(f'{number:.3f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
