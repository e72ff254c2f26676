"""Packs as Ray Core tasks."""
