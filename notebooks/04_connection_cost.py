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
# # What does a connection cost?
#
# Opened phase by phase, with TLS and AUTH and without; opened anew for every request; kept, and
# sent many commands at once; or many of them for the same rate. All numbers on this page are read
# from the stored run.

# %%
from IPython.display import display

from bench.experiments import connection_per_request, connection_setup, pipelining
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
opened = open_run(run, connection_setup.NAME, connection_per_request.NAME, pipelining.NAME)
cells = opened.cells
setup, tax, pipeline = (
    pages(opened, module) for module in (connection_setup, connection_per_request, pipelining)
)

# %%
headline(opened)

# %% [markdown]
# ## Opening one, phase by phase

# %%
display(*setup.section("setup_phases"))

# %% [markdown]
# ## Verdicts

# %%
verdicts(opened)

# %% [markdown]
# ## What opening costs in CPU

# %%
display(*setup.section("setup_cpu"))

# %% [markdown]
# ## A connection per request: the tax on every read

# %%
display(*tax.section("tax_latency"))

# %% [markdown]
# ## A connection per request: CPU

# %%
display(*tax.section("tax_cpu"))

# %% [markdown]
# ## Local ports that run out

# %%
display(*tax.section("tax_ports"))

# %% [markdown]
# ## Many commands over one connection

# %%
display(*pipeline.section("pipeline_depth"))

# %% [markdown]
# ## One rate over one connection, or several

# %%
display(*pipeline.section("pipeline_split"))

# %% [markdown]
# ## Every combination

# %%
table(connection_setup.tables(cells[cells["experiment"] == connection_setup.NAME]), "Not measured.")

# %%
table(
    connection_per_request.tables(cells[cells["experiment"] == connection_per_request.NAME]),
    "Not measured.",
)

# %%
table(pipelining.tables(cells[cells["experiment"] == pipelining.NAME]), "Not measured.")

# %% [markdown]
# ## Invalid cells

# %%
table(invalid_cells(cells), "Every cell passed its gates at the first attempt.")

# %% [markdown]
# ## The run

# %%
environment(opened.manifest)
