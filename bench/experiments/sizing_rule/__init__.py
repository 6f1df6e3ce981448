"""The sizing rule: does the pool a service needs follow its concurrency, or its request rate?

Open loop through the link, prefilled. The same mean in flight L is reached by different rates, and
the same rate by different L. In each window up to three pods, a worker each with a pool of its own,
take arrivals at the same rate side by side: five pool sizes around the one to be expected, and a
pool of more than 4 L, in which W₀ and the number in flight are measured (the control). So all sizes
see the same moments of the machine, and a block holds every size once: its N* is one replicate.
"""

from bench.experiments.sizing_rule.figures import figures, own_curve
from bench.experiments.sizing_rule.loads import NAME, plan
from bench.experiments.sizing_rule.needs import (
    answer_table,
    answers,
    cores,
    rule_table,
    rules,
    tables,
)
from bench.experiments.sizing_rule.verdicts import CLAIMS, claims
from bench.experiments.sizing_rule.words import findings, prose

QUESTION = "Does the pool a service needs follow its concurrency or its request rate?"

__all__ = [
    "CLAIMS", "NAME", "QUESTION", "answer_table", "answers", "claims", "cores", "figures",
    "findings", "own_curve", "plan", "prose", "rule_table", "rules", "tables",
]  # fmt: skip
