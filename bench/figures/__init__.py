"""The plots: the house style, and what every experiment draws in it.

`style` says how things look and `sheet` holds a figure's title, small print and files; `axes`,
`curves`, `distributions` and `intervals` draw plain numbers; `cells` and `audit` draw stored cells.
Figures are made without pyplot: drawing leaves no state behind and needs no display. Values come in
base units; the axes show pretty ones (`units`).
"""
