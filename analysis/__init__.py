"""Make figures, tables and phases from the content of a store. Needs neither torch nor ray: a
laptop draws everything.
"""
