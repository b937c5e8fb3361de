"""Figures of benchmarks: a table's row for people (stderr), one JSON object a line for programs
(stdout)."""

import json
import statistics
import sys


def report(figure, value, unit, goal, detail, most=True):
    """A measured value beside its goal, which is the most it may be, or the least (most=False).
    The ratio is of value and goal."""
    met = value <= goal if most else value >= goal
    sign = "≤" if most else "≥"
    print(f"| {figure} | {sign} {goal:g} {unit} | {value:.4g} {unit}{'' if met else ' (**missed**)'} "
          f"| {value / goal:.2f} | {detail} |", file=sys.stderr, flush=True)
    print(json.dumps({"figure": figure, "value": round(value, 3), "unit": unit,
                      "goal": f"{'<=' if most else '>='} {goal:g}", "ratio": round(value / goal, 3),
                      "met": met, "detail": detail}), flush=True)


def say(text):
    """What is being done, for who waits."""
    print(f"-- {text}", file=sys.stderr, flush=True)


def heading():
    print("| figure | goal | measured | ratio | beside what |\n|---|---|---|---|---|",
          file=sys.stderr, flush=True)


def spread(values):
    """Median, and the least and the most in brackets."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
