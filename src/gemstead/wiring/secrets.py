"""References to secrets become secrets here and nowhere else; `operate/secrets` reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from gemstead.operate.secrets.keeper import Keeper
from gemstead.operate.secrets.reference import NoSecret
from gemstead.spec.secrets import SecretsSpec

Resolve = Callable[[str | None, str], str]  # a reference and its field's path to the secret; "" for none
LOOK_S = 2.0  # between looks at files; stores are asked when their time has come


class CannotRun(Exception):
    """The service cannot be started as asked. The text is for the user and says what to do."""


def resolved(
    reference: str | None, environ: Mapping[str, str], where: str, keeper: Keeper | None = None
) -> str:
    """The secret that the reference stands for; "" for no reference. `where` is the field's path, for errors.

    Args:
        keeper: who remembers secrets and knows the stores; without one, stores are as their defaults say.

    Raises:
        CannotRun: it is not there, or empty.
    """
    if not reference:
        return ""
    try:
        value = (keeper or Keeper(SecretsSpec(), environ)).get(reference)
    except NoSecret as error:
        raise CannotRun(f"{where}: {error}") from None
    if not value.isascii() or any(letter.isspace() for letter in value):
        raise CannotRun(f"{where}: {reference} holds something that cannot be sent in a header")
    return value


def resolver(environ: Mapping[str, str], keeper: Keeper | None = None) -> Resolve:
    """`resolved`, for whoever keeps secrets."""
    return lambda reference, where: resolved(reference, environ, where, keeper)


async def watch(
    keeper: Callable[[], Keeper], reload: Callable[[], Awaitable[bool]], look_s: float = LOOK_S
) -> None:
    """Until cancelled: have the file put to use anew whenever a secret has changed, and again until that is done.

    Args:
        keeper: whoever reads secrets now.
        reload: whether the change is in force; what hinders it is told by it.
    """
    waiting = False
    while True:
        await asyncio.sleep(look_s)
        waiting = bool(await asyncio.to_thread(keeper().changed)) or waiting
        if waiting:
            waiting = not await reload()
