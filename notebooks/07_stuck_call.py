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
# # Does a stuck Redis take the service down?
#
# Half of a service's requests need Redis, which stops answering; the other half needs a thread for
# a moment and nothing else. With which time-outs, and how many threads, are they still served?
# All numbers on this page are read from the stored run.

# %%
from IPython.display import display

from bench.experiments import stuck_call
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
opened = open_run(run, stuck_call.NAME)
cells = opened.cells
page = pages(opened, stuck_call)

# %%
headline(opened)

# %% [markdown]
# ## While Redis does not answer

# %%
display(*page.section("stuck_timeline"))

# %% [markdown]
# ## The tipping point, predicted and measured

# %%
display(*page.section("stuck_tipping"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## Every combination, and invalid cells

# %%
table(stuck_call.tables(cells), "No cell was measured.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
