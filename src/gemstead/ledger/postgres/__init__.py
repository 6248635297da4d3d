"""PostgreSQL as the store of several gateways.

Every gateway goes on working with SQLite files of its own, below `shared/` in its ledger's folder, and a process beside
it keeps them in step with PostgreSQL: keys, denials and sealed secrets come from there, audit records go there. So the
request path is the same with and without a store, never waits for a network, and goes on when the store is away:

- *keys* (`keys.py`, `pull.py`): changed in PostgreSQL, and known to every gateway a moment later (NOTIFY; a look
  twice a second where that does not come through). While the store is away the last keys count, also after a restart.
- *audit records and acts* (`push.py`): sealed into the chain of the gateway that wrote them, then copied with their
  places and links. The local file is the spool: what the store does not have stays in it. There is one chain for each
  gateway, so no two wait for each other, and no record is lost or doubled however often anything is killed.
- *secrets* (`vault.py`): the pepper, the generations of the hash key and the signing key, sealed with a secret that is
  not in the database.

`log.py`, `proof.py` and `prune.py` read, verify and shorten what is there. `link.py` is the one door to asyncpg,
`place.py` says where the store is. The schema is in `ledger/migrations`.
"""
