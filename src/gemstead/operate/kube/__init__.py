"""A Kubernetes cluster as a place: server-side apply, what is ready, what is ours and not wanted any more."""
