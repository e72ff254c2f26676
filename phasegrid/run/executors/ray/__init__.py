"""Execute packs as Ray Core tasks."""
