"""Reads metrics on standard input with Prometheus' own parsers; exits with a traceback when they are not valid.

Prints what it has read, as JSON: the type and the number of samples of each family.
"""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

PARSERS = {
    "classic": parser.text_string_to_metric_families,
    "openmetrics": openmetrics_parser.text_string_to_metric_families,
}

text = sys.stdin.read()
families = list(PARSERS[sys.argv[1]](text))
names = [family.name for family in families]
assert len(names) == len(set(names)), f"a family is there twice: {sorted(names)}"
samples = [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]
assert len(samples) == len(set(samples)), "a series is there twice"
if sys.argv[1] == "classic":
    # What its parser lets pass and the format does not have.
    allowed = ("# HELP ", "# TYPE ")
    comments = [line for line in text.splitlines() if line.startswith("#") and not line.startswith(allowed)]
    assert not comments, comments
    for family in families:
        assert family.type in ("counter", "gauge", "histogram", "summary", "unknown"), family
        assert family.samples, f"{family.name} is described, and has no samples"
print(json.dumps({family.name: {"type": family.type, "samples": len(family.samples)} for family in families}))
