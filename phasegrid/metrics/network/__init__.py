"""Shared operations of metrics on networks: run them, fold their BatchNorm, evaluate points of
weight space.
"""
