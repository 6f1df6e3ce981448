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
# # How many connections does a Redis pool need?
#
# As many as calls are in flight at the peak, or in proportion to the request rate? Engineers guess,
# mostly from the rate, and the guess comes back months later as an incident in which Redis itself
# looks healthy. This page tells what was measured about it, in ten minutes; every other notebook
# has one part of it in full. All numbers are read from the stored run: a sentence that the data do
# not support says so itself.

# %%
from IPython.display import display

from bench.experiments import connection_setup, idle_eviction, pool_sweep, sizing_rule
from bench.report.page import claims, environment, headline, open_run, pages, runs
from bench.sizing.advice import advise
from bench.sizing.question import Asked, checked
from bench.sizing.show import show

# %% tags=["parameters"]
run = "../results/reference"

# %% [markdown]
# Your own run: put its path into the cell above, and run all cells. Beside this one there is:

# %%
runs(run)

# %%
opened = open_run(run)
sweep, rule, idle, setup = (
    pages(opened, module) for module in (pool_sweep, sizing_rule, idle_eviction, connection_setup)
)
headline(opened)

# %% [markdown]
# ## What holds, and how sure that is
#
# Each claim is judged by a rule, most of them written before the data; those that were changed say
# so. An interval is of 95 %, unless its rule says otherwise. *Undecided* means that the interval
# holds the limit; beside it stands what would decide it. Reasons, rules and cells are in the run's
# `report.html`.

# %%
claims(opened)

# %% [markdown]
# ## The incident
#
# A pool lies idle for longer than something on its path allows, and a burst strikes it. The
# server's dashboard has nothing to show. `06_idle_eviction` has the whole of it.

# %%
display(*idle.section("idle_timeline"))

# %% [markdown]
# ## Concurrency against requests per second
#
# Below its size a pool makes no difference; a pool that binds bends its curve flat.
# `01_pool_sweep` has what else it costs.

# %%
display(*sweep.section("concurrency_qps"))

# %% [markdown]
# ## What decides the size: calls in flight, or the rate?
#
# The same number in flight is reached by different rates, and the same rate by different numbers in
# flight. For each, the smallest pool that meets the objective was measured (N\*).
# `03_sizing_rule` has the rest.

# %%
display(*rule.section("sizing_rule"))

# %% [markdown]
# ## What more connections than that cost

# %%
display(*sweep.section("cost_pool_size"))

# %% [markdown]
# ## What opening one costs
#
# A pool that is too small, or that closes what it will need again, pays this once more each time.
# `04_connection_cost` has it with and without TLS, and for a connection per request.

# %%
display(*setup.section("setup_phases"))

# %% [markdown]
# ## Which defence stops which trap

# %%
display(*idle.section("idle_matrix"))

# %% [markdown]
# ## What to do
#
# Size the pool for the calls in flight at the peak with room for chance, close connections before
# the path does, and bound every wait. For your own numbers edit and run the cell below, or
# `bench size --help`, which knows other clients, paths and distributions.

# %%
rate, latency = "10000/s", "1ms"
show(advise(checked(Asked(rate, latency=latency, client="redis-py"), None)))

# %% [markdown]
# ## What this cannot tell
#
# Absolute figures belong to one machine: what carries over are ratios within one run, and shapes.
# Generator, link, server and workers share that machine, and every cell says which of them was its
# limit. How common such incidents are, and what sizing a pool costs a team, is not tested here.
# `02_instrument` is for whoever doubts the figures.

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
