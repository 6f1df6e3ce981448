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
# # The instrument
#
# Can the figures of this run be trusted? Five minutes for a reviewer: each section provokes what a
# flaw of the instrument would show in, and sets it beside what theory says. All numbers on this
# page are read from the stored run.

# %%
from IPython.display import display

from bench.analysis.gate_table import gate_table
from bench.experiments import instrument
from bench.report.page import (
    certificate,
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
opened = open_run(run, instrument.NAME)
cells = opened.cells
page = pages(opened, instrument)

# %%
headline(opened)

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## A stopped server: does the recorder see who waits?

# %%
display(*page.section("stopped_server"))

# %% [markdown]
# ## The schedule: do requests leave when they are due?

# %%
display(*page.section("schedule"))

# %% [markdown]
# ## A/A: is the same called the same?

# %%
display(*page.section("same_cell"))

# %% [markdown]
# ## Little's law, over every cell of the run

# %%
display(*page.section("little_all_cells"))

# %% [markdown]
# ## Who was the limit: generator busy against rate

# %%
display(*page.section("generator_busy"))

# %% [markdown]
# ## The warm-up

# %%
display(*page.section("warm_up"))

# %% [markdown]
# ## The link: is it as long as it is set?

# %%
display(*page.section("link_accuracy"))

# %% [markdown]
# ## Every gate, over every cell of the run
#
# How many attempts hold a figure for the gate, how many failed it, and the figure's extremes:
# seconds for `send_lag`, `clock` and `hiccups`, numbers for `operations` and `workers`, shares for
# all others. An attempt that failed was measured once more, and both are kept. `steal`,
# `foreign_cpu`, `foreign_operations` and `hiccups` are reported and never fail a cell.

# %%
table(gate_table(opened.all_cells))

# %% [markdown]
# ## The certificate
#
# What was measured of the instrument in this run: from the cells above, and beside them.

# %%
certificate(opened)

# %% [markdown]
# ## Parts, and invalid cells

# %%
table(instrument.tables(cells))

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
