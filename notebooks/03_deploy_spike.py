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
from IPython.display import display

from bench.experiments import deploy_spike
from bench.report.page import (
    environment,
    headline,
    invalid_cells,
    open_run,
    pages,
    table,
    verdicts,
)

# %% tags=["parameters"]
run = "../results/reference"

# %%
opened = open_run(run, deploy_spike.NAME)
cells = opened.cells
page = pages(opened, deploy_spike)

# %%
headline(opened)

# %% [markdown]
# ## Latency while the spike lasts, and after

# %%
display(*page.section("spike_latency"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## What queues where

# %%
display(*page.section("spike_queues"))

# %% [markdown]
# ## A large pool against a small one

# %%
display(*page.section("spike_recover"))

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
