"""Idle eviction."""

from bench.experiments.idle_eviction.lanes import NAME, TIME_SCALE, plan

QUESTION = "Which defence stops which trap?"


def tables(cells):
    return None


def claims(cells, store):
    return []


def figures(cells, store):
    return {}


def findings(cells, store):
    return {}


def prose(cells, store):
    return {}
