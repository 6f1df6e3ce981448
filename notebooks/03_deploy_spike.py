# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does a big pool absorb a deploy?
#
# Callers come back all at once, as when a deploy empties their caches: what do pools of 20, 50 and
# 5,000 connections make of it, and where do the requests queue? All numbers on this page are read
# from the stored run.

# %%
from IPython.display import Markdown, display

from bench.experiments import deploy_spike
from bench.report.page import (
    environment,
    headline,
    invalid_cells,
    open_run,
    show,
    table,
    verdicts,
)

# %% tags=["parameters"]
run = "../results/reference"

# %%
opened = open_run(run, deploy_spike.NAME)
cells, store = opened.cells, opened.store
findings = deploy_spike.findings(cells, store)
prose = deploy_spike.prose(cells, store)
figures = deploy_spike.figures(cells, store)


def section(name):
    """A figure and the paragraph below it, or that this run does not hold it."""
    if name not in figures:
        display(Markdown("Not measured in this run."))
        return
    display(show(figures[name], findings[name]), Markdown(prose[name]))


# %%
headline(opened)

# %% [markdown]
# ## Latency while the spike lasts, and after

# %%
section("spike_latency")

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## What queues where

# %%
section("spike_queues")

# %% [markdown]
# ## A large pool against a small one

# %%
section("spike_recover")

# %% [markdown]
# ## Every combination, and invalid cells

# %%
table(deploy_spike.tables(cells), "No cell was measured.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
