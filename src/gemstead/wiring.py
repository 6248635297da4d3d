"""The only place that builds live objects from a Spec. Secrets are resolved here."""
