"""Who may do what, over the admin API: the access review, the reports for frameworks, and the roles in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from gemstead.console.asked import Asked, Witness, Wrong, answering
from gemstead.console.door import Door
from gemstead.operate.compliance.access import rows_of
from gemstead.operate.compliance.evidence import REVIEWED, Evidence, counted
from gemstead.operate.compliance.judge import as_json, frameworks, judged
from gemstead.traffic.roles import RIGHTS, ROLE_SAYS


class Review:
    """The routes. `evidence` reads what this installation can show, `secrets` says which secrets can be read."""

    def __init__(
        self,
        door: Door,
        evidence: Callable[[], Evidence],
        secrets: Callable[[], list[dict[str, Any]]],
        witness: Witness,
    ) -> None:
        self._door, self._evidence, self._secrets, self._witness = door, evidence, secrets, witness

    def routes(self) -> list[Route]:
        acts: dict[str, Callable[[Asked], Any]] = {
            "GET /admin/access-review": self.review,
            "POST /admin/access-review": self.record,
            "GET /admin/compliance/{framework}": self.report,
            "GET /admin/roles": self.roles,
            "POST /admin/secrets/check": self.secrets,
        }
        return [
            Route(route.partition(" ")[2], answering(route, act), methods=[route.partition(" ")[0]])
            for route, act in acts.items()
        ]

    def review(self, asked: Asked) -> Any:
        """Every way in, with what it may do and when it was last used."""
        found = self._whole()
        return {"at": found.now, "access": rows_of(found)}

    def record(self, asked: Asked) -> Any:
        """That it was reviewed now, by whoever asks."""
        found = self._whole()
        rows = rows_of(found)
        said = counted(rows)
        self._witness.saw(asked, REVIEWED, "", said)
        return {"at": found.now, **said}

    def report(self, asked: Asked) -> Any:
        """Each control of a framework as this installation stands."""
        name, known = asked.path["framework"], frameworks()
        if name not in known:
            raise Wrong(404, f"there is no framework {name!r}; there are {', '.join(known)}")
        found = self._evidence()
        said = {"framework": name, **known[name], "at": found.now, "trouble": found.trouble}
        return {**said, "controls": as_json(judged(name, found)), "access": rows_of(found)}

    def roles(self, asked: Asked) -> Any:
        """Every role with its rights, and what each right is."""
        roles = self._door.roles.by_name
        return {
            "roles": [
                {"name": name, "says": ROLE_SAYS.get(name, "of the file"), "rights": sorted(rights)}
                for name, rights in roles.items()
            ],
            "rights": RIGHTS,
        }

    def secrets(self, asked: Asked) -> Any:
        """Which secrets of the file can be read now, from where it says; none is told."""
        return {"secrets": self._secrets()}

    def _whole(self) -> Evidence:
        """The evidence, all of it: a list that lacks some of those who may come in is worse than none."""
        found = self._evidence()
        if found.trouble:
            raise Wrong(503, "; ".join(found.trouble))
        return found
