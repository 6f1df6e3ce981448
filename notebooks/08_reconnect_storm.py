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
# # What does a reconnect storm cost, and whom?
#
# The server is restarted, or the path is cut and heals, under pools of several sizes. How long
# until requests are as quick as before, what does the server have to take, and what is lost?
# All numbers on this page are read from the stored run.

# %%
from IPython.display import display

from bench.experiments import reconnect_storm
from bench.report.page import (
    environment,
    headline,
    invalid_cells,
    open_run,
    pages,
    table,
)

# %% tags=["parameters"]
run = "../results/reference"

# %%
opened = open_run(run, reconnect_storm.NAME)
cells = opened.cells
page = pages(opened, reconnect_storm)

# %%
headline(opened)

# %% [markdown]
# ## Requests meanwhile

# %%
display(*page.section("storm_latency"))

# %% [markdown]
# ## What the server had to take

# %%
display(*page.section("storm_server"))

# %% [markdown]
# ## Every combination, and invalid cells

# %%
table(reconnect_storm.tables(cells), "No cell was measured.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
