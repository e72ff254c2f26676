"""What several metrics do with networks: run them, fold their BatchNorm, look at points of weight
space.
"""
