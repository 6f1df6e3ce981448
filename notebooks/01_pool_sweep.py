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
# # Pool sweep
#
# What do pools of 5 to 5000 connections do to throughput, waiting and cost? Locust workers drove a
# real Redis in a closed loop: a fixed number of users, each sending its next request after the last
# reply. All numbers on this page are read from the stored run; a sentence that the data do not
# support says so itself.

# %%
from IPython.display import display

from bench.experiments import pool_sweep
from bench.report.page import (
    bullets,
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
opened = open_run(run, pool_sweep.NAME)
cells = opened.cells
page = pages(opened, pool_sweep)

# %%
headline(opened)

# %%
bullets(list(page.findings.values()))

# %% [markdown]
# ## Concurrency against throughput

# %%
display(*page.section("concurrency_qps"))

# %% [markdown]
# A knee is where the rate stops rising with the users, in multiples of the pool's size, with its
# 95 % interval over the replicates. *hinge*: fitted as min(aN, X) to the pool's own points and, up
# to its size, to those of pools that do not bind. *beside pools that do not bind*: too few
# concurrencies for a fit; it is where the pool's rate meets what larger pools served to as many
# users.

# %%
table(pool_sweep.knee_table(cells), "No pool had more users than connections.")

# %% [markdown]
# ## Latency against pool size

# %%
display(*page.section("latency_pool_size"))

# %% [markdown]
# ## What a large pool costs

# %%
display(*page.section("cost_pool_size"))

# %% [markdown]
# ## Can the figures be trusted? Little's law

# %%
display(*page.section("little_audit"))

# %% [markdown]
# ## The best of each pool
#
# Medians over replicates, for the number of users at which the pool served most.

# %%
table(pool_sweep.tables(cells), "No cell is valid.")

# %% [markdown]
# ## Invalid cells
#
# A cell that fails a gate is measured once more, and both attempts are kept. The last one is drawn:
# crossed out where it failed again, and then no sentence above rests on it.

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
