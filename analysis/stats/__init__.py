"""Aggregate seeds to cells: means, errors, intervals, comparisons. Pure: tables in, tables out."""
