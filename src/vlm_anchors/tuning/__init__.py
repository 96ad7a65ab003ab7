"""Searches a method's parameters on some images of a benchmark and reports the choice on the others.

Settings come from a grid, from random draws of the ranges that parameters declare, or both (`space`). Images are divided once
into a validation and a held-out part (`split`). Rounds of growing size answer validation questions, and settings that are
surely worse are dropped between them (`search`). What is chosen is answered on the held-out part (`tune`, `result`).
"""
