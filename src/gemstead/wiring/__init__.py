"""The only place that builds live objects from a Spec. Secrets are resolved here.

In reading order: `serve` (a start of the service, in order), `desired` (a Spec to what should run) with
`secrets` (references to values) and `models` (names to files on this machine), `wanted` (what should run,
as values), `head` (the live service) with `gateway` (its workers) and `measures` (its metrics),
`addresses`, `files` (where the state lies, and who holds it) and `journal` (logs).
"""
