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
# # Which defence keeps idle connections from failing?
#
# A pool is filled, lies idle for longer than something on the path allows, and a burst strikes it.
# The traps are real: Redis' own settings, a network that drops what is idle, load balancers, and a
# kernel's firewall. The defences are the client's, each alone and together. Time runs faster by one
# factor for everything at once. Traps, gaps and timers are named by their times in the world;
# latencies and time axes are as they were measured, where a socket time-out of 5 s is shorter too.
# All numbers on this page are read from the stored run.

# %%
from IPython.display import display

from bench.experiments import idle_eviction
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
opened = open_run(run, idle_eviction.NAME)
cells = opened.cells
page = pages(opened, idle_eviction)

# %%
headline(opened)

# %% [markdown]
# ## The incident, before the fix and after it

# %%
display(*page.section("idle_timeline"))

# %% [markdown]
# ## Which defence stops which trap

# %%
display(*page.section("idle_matrix"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## What the first command meets, and what retries make of it

# %%
display(*page.section("idle_first_commands"))

# %% [markdown]
# ## What the server felt of it

# %%
display(*page.section("idle_server"))

# %% [markdown]
# ## Every combination, and invalid cells

# %%
table(idle_eviction.tables(cells), "No cell was measured.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
