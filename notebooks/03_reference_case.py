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
# # 10,000 requests a second at 1 ms
#
# The case people argue about: how many connections does it need, and what does a pool of 5,000 add?
# All numbers on this page are read from the stored run.

# %%
from IPython.display import display

from bench.experiments import reference_case
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
opened = open_run(run, reference_case.NAME)
cells = opened.cells
page = pages(opened, reference_case)

# %%
headline(opened)

# %% [markdown]
# ## Who finds the pool empty, and how long that takes

# %%
display(*page.section("reference_wait"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## How many calls are in flight

# %%
display(*page.section("reference_in_flight"))

# %% [markdown]
# ## 20 against 5,000

# %%
display(*page.section("reference_cost"))

# %% [markdown]
# ## Where the same rig stops carrying more

# %%
display(*page.section("reference_knee"))

# %% [markdown]
# ## Every combination, and invalid cells

# %%
table(reference_case.tables(cells), "No cell was measured.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
