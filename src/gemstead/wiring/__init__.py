"""The only place that builds live objects from a Spec. Secrets are resolved here.

In reading order: `secrets` (references to values), `files` (where the state lies, and who holds it),
`models` (names to files on this machine), `launches` (a plan to processes), `settings` (a Spec to what
gateway workers are told), `gateway` (the workers and what they say), `head` (the live service), `serve`
(all of it, in order).
"""
