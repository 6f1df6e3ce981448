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
# # The sizing rule
#
# How many connections does a service need: does that follow its request rate, or what it has in
# flight? The same number in flight is reached by different rates, and the same rate by calls that
# take longer; for each the smallest pool that meets the objective is measured (N\*). All numbers on
# this page are read from the stored run. `bench size` applies the answer to your own numbers.

# %%
from IPython.display import display

from bench.experiments import reference_case, sizing_rule
from bench.report.page import (
    environment,
    headline,
    invalid_cells,
    open_run,
    pages,
    show,
    table,
    verdicts,
)

# %% tags=["parameters"]
run = "../results/reference"

# %%
opened = open_run(run, sizing_rule.NAME)
cells, store = opened.cells, opened.store
page = pages(opened, sizing_rule)
told = sizing_rule.answers(cells, store)

# %%
headline(opened)

# %% [markdown]
# ## N\* against concurrency, and against the rate

# %%
display(*page.section("sizing_rule"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## Predicted against measured

# %%
display(*page.section("predicted_measured"))

# %%
table(sizing_rule.answer_table(told), "No load has a measured N\\*.")

# %%
table(
    sizing_rule.rule_table(sizing_rule.rules(told, sizing_rule.cores(store))), "No rule is judged."
)

# %% [markdown]
# ## What every pool size showed

# %%
display(*page.section("pool_steps"))

# %% [markdown]
# ## Bursts: the headroom they need

# %%
display(*page.section("burstiness"))

# %% [markdown]
# ## In flight, beside Poisson's law

# %%
display(*page.section("in_flight"))

# %% [markdown]
# ## Where the hold time rises with the load

# %%
display(*page.section("server_work"))

# %% [markdown]
# ## 20 against 5,000
#
# The case people argue about, 10,000 requests a second at 1 ms, has a page of its own.

# %%
display(*pages(opened, reference_case).section("reference_cost"))

# %% [markdown]
# ## Your own numbers
#
# Set the peak rate of one pod and how long a call keeps its connection, and run the cell. For
# timeouts, other distributions and settings to paste: `bench size --rate 10000/s --latency 1ms`.

# %%
requests_per_second = 10_000
hold_seconds = 0.001
own = sizing_rule.own_curve(requests_per_second, hold_seconds)
show(own, own.get_suptitle())

# %% [markdown]
# ## Little's law, in every cell of this page

# %%
display(*page.section("little_audit_rule"))

# %% [markdown]
# ## Every size, and invalid cells

# %%
table(sizing_rule.tables(cells), "No cell is evidence.")

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
