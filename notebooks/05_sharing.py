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
# # A pool for each process, or a pooler for all?
#
# The same requests, by one, two and four workers: with a pool each, straight to the server; or
# through a pooler that they share (Envoy, twemproxy), which keeps the connections to the server.
# All numbers on this page are read from the stored run.

# %%
from IPython.display import display

from bench.experiments import shared_pool
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
opened = open_run(run, shared_pool.NAME)
cells = opened.cells
page = pages(opened, shared_pool)

# %%
headline(opened)

# %% [markdown]
# ## What sharing costs, and what it saves

# %%
display(*page.section("sharing_cost"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## What one worker's burst, or a restart, does to its neighbour

# %%
display(*page.section("sharing_neighbours"))

# %% [markdown]
# ## Every combination, and invalid cells

# %%
table(shared_pool.tables(cells), "No cell was measured.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
