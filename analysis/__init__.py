"""Figures, tables and phases of what a store holds. Needs neither torch nor ray: a laptop draws
everything.
"""
