"""`gemstead render --pin`: which images a bundle uses, what their tags stand for now, and the file that keeps it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from gemstead.cli.trouble import Trouble
from gemstead.refused import Refused
from gemstead.render.pins import Pin


def pin(args: argparse.Namespace) -> int:
    """Ask for every image of the target (or of all targets) and write the lock file; 1 when none was found.

    Raises:
        Trouble: the lock file cannot be written.
        Refused: the plan fits nowhere.
    """
    from gemstead.cli.options import file_of, read_spec
    from gemstead.operate.images import Answer, ask
    from gemstead.operate.store.place import Place
    from gemstead.render.pins import digests
    from gemstead.wiring.images import keep, pins

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr if args.json else sys.stdout)

    file = file_of(args)
    known = pins(file)
    place, today = Place.of(read_spec(args), os.environ), f"{datetime.now(UTC):%Y-%m-%d}"
    answers: list[Answer] = []
    while fresh := [
        one for one in images(args, digests(known)) if one not in {said.image for said in answers}
    ]:
        # An image of ours is named by what it is built from: with other digests below it, it is another.
        answers += (round_ := ask(fresh, place, today))
        for one in round_:
            if one.pin is None:
                say(f"  {one.image}: not pinned: {one.trouble}")
                continue
            say(f"  {one.image}: {_change(known.get(one.image), one.pin)}")
            if known.get(one.image, one.pin).digest != one.pin.digest or one.image not in known:
                known[one.image] = one.pin
    found = sum(one.pin is not None for one in answers)
    if found:
        try:
            lock = keep(file, known)
        except OSError as error:
            raise Trouble(f"the lock file cannot be written ({error.strerror or error})") from error
        say(f"{found} of {len(answers)} images are pinned in {lock}")
    else:
        say(f"none of {len(answers)} images could be pinned; files keep their tags")
    return 0 if found else 1


def images(args: argparse.Namespace, known: Mapping[str, str]) -> list[str]:
    """Every image that the target's files name, or that of any target where none was said; `known` are digests."""
    from gemstead.cli.render import chosen
    from gemstead.operate.catalogue import load
    from gemstead.render import TARGETS, target
    from gemstead.wiring.deployment import deployment
    from gemstead.wiring.images import Wanted

    wanted = Wanted(known)
    deployed = deployment(chosen(args), load(os.environ), wanted)
    texts: list[str] = []
    for name in [args.target] if args.target else TARGETS:
        try:
            texts += target(name).render(deployed).files.values()
        except Refused:
            if args.target:
                raise  # of other targets, those that cannot be rendered need no image
    return sorted(image for image in wanted.asked if any(image in text for text in texts))


def _change(before: Pin | None, now: Pin) -> str:
    if before is None:
        return now.digest
    if before.digest == now.digest:
        return f"{now.digest}, as it was"
    return f"{now.digest}; the tag was moved since {before.seen}, from {before.digest}"
