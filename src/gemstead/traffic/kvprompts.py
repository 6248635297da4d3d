"""Which of the prompts that we sent an engine it still has, by its own events instead of our guess.

The prefix index knows prompts by hashes of their text, an engine knows blocks by hashes of its tokens, and the gateway
does not tokenize. The two are brought together by name: vLLM (0.32) says with each block that is stored which session
stored it, and takes the session from a header, so the gateway names each call there by the call's own id. When a call
has ended, the blocks that were stored under its name are those of its prompt and answer, in order; where they hang on
blocks that were there already, those are known by the same chain. Tokens and text advance together along a prompt
(`reach`), so each block of text lies at a place of the chain. No tokenizer is needed, and no time has to be compared.

    nodes      the engine's blocks as a tree, each with its depth in tokens and the groups of layers that have it
    prompts    of each call that was placed: its blocks of text, and the node where what is cached of it ends

Gemma 4 has groups of layers that keep everything and groups that keep a window. A prompt can be taken up at a node that
all of the former have back to the root, and of which the latter have the window before it: vLLM keeps that at the ends
of prompts and where prompts have parted. Where such a node goes, a prompt is cut back to the last one that can still be
taken up, and the blocks of text that no prompt reaches any more are forgotten (`take` returns them). Blocks of text
that two prompts share are held by both.

What stays a guess: calls that stored nothing, because all of their prompt was there; calls whose client names a session
in the body; engines whose events name none. They leave as the index's own room runs out. A prompt that leaves another
one midway is credited with what they share, and may find less.

Numbers of messages are followed here, too. A number that is too low is an engine that has begun anew, and one that is
too high a gap: `Follow` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from gemstead.traffic.kvevents import FULL_KINDS, Cleared, Event, Removed, Stored

MOST_NODES = 1 << 18  # about 60 MB; an engine with more blocks is followed anew from the next ones on
MOST_SESSIONS = 8192  # calls whose blocks were stored and whose end has not been heard of
SLACK = 0.02  # of a prompt: text and tokens do not advance quite evenly


@dataclass(slots=True, eq=False)
class Ended:
    """A call that an engine has answered."""

    name: str
    texts: Sequence[int]  # its blocks of text, by their hashes
    text_tokens: int  # what its prompt was estimated to have
    block_tokens: int  # of a block of text, in the same estimate
    prompt_tokens: int = 0  # as the engine counted; 0: it did not
    output_tokens: int = 0


class Node:
    """One of the engine's blocks."""

    __slots__ = ("children", "depth", "groups", "name", "parent", "prompts")

    def __init__(self, name: int | bytes, parent: Node | None, depth: int) -> None:
        self.name, self.parent, self.depth = name, parent, depth
        self.groups = 0  # bits of those that have it
        self.children: dict[int | bytes, Node] = {}
        self.prompts: set[Prompt] = set()


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt that was placed."""

    texts: Sequence[int]
    ends: Sequence[int]  # where each block of text ends, in tokens
    node: Node
    reach: int = 0  # blocks of text that can be taken up


class Prompts:
    """What one engine has of our prompts."""

    def __init__(self, most_nodes: int = MOST_NODES) -> None:
        self._most = most_nodes
        self.clear()

    def clear(self) -> None:
        """The engine's cache is empty, or nothing is known of it any more."""
        self._nodes: dict[int | bytes, Node] = {}
        self._full = 0  # bits of groups that keep everything
        self._windows: dict[int, int] = {}  # of the others: bit and window
        self._sessions: dict[str, Node] = {}  # the deepest node that each call has stored
        self._held: dict[int, int] = {}  # blocks of text: by how many prompts
        self._prompts: dict[int, Prompt] = {}  # by the last block of text
        self._unheard: dict[int | bytes, int] = {}  # stored in groups with windows before in the others

    @property
    def blocks(self) -> int:
        """Blocks of the engine that are known."""
        return len(self._nodes)

    @property
    def prompts(self) -> int:
        """Prompts that are placed."""
        return len(self._prompts)

    def knows(self, text: int) -> bool:
        """Whether the engine has this block of text, by its own word."""
        return text in self._held

    # -- what the engine says -----------------------------------------------------------------------------

    def take(self, events: Iterable[Event]) -> tuple[list[int], bool]:
        """Follow one message: blocks of text that it has no more, and whether it has cleared everything."""
        gone: list[int] = []
        cleared = False
        for event in events:
            if isinstance(event, Cleared):
                self.clear()
                gone, cleared = [], True
            elif isinstance(event, Removed):
                if not event.medium or event.medium.upper() == "GPU":
                    for name in event.hashes:
                        self._removed(name, 1 << event.group, gone)
            elif not event.medium or event.medium.upper() == "GPU":
                self._stored(event)
        return gone, cleared

    def _stored(self, event: Stored) -> None:
        bit = 1 << event.group
        if event.kind not in FULL_KINDS:
            self._windows[bit] = event.window
            for name in event.hashes:
                if (node := self._nodes.get(name)) is not None:
                    node.groups |= bit
                else:
                    self._unheard[name] = self._unheard.get(name, 0) | bit
            if len(self._unheard) > MOST_SESSIONS:
                self._unheard.clear()
            return
        self._full |= bit
        parent: Node | None = None
        if event.parent is not None and (parent := self._nodes.get(event.parent)) is None:
            return  # behind a block that we never heard of: it cannot be placed
        if len(self._nodes) > self._most:
            self.clear()
            return
        depth = parent.depth if parent is not None else 0
        for name in event.hashes:
            depth += event.block_tokens
            node = self._nodes.get(name)
            if node is None:
                node = self._nodes[name] = Node(name, parent, depth)
                node.groups = self._unheard.pop(name, 0)
                if parent is not None:
                    parent.children[name] = node
            node.groups |= bit
            parent = node
        if event.session and parent is not None:
            self._sessions.pop(event.session, None)
            if len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[event.session] = parent

    def _removed(self, name: int | bytes, bit: int, gone: list[int]) -> None:
        if (node := self._nodes.get(name)) is None:
            return
        node.groups &= ~bit
        if bit & self._full:
            self._cut_below(node, gone)
        else:
            for prompt in list(node.prompts):
                self._cut(prompt, gone)
        self._prune(node)

    def _cut_below(self, node: Node, gone: list[int]) -> None:
        """A block is gone that everything behind it needs."""
        below = [node]
        while below:
            one = below.pop()
            below.extend(one.children.values())
            for prompt in list(one.prompts):
                self._cut(prompt, gone)

    def _prune(self, node: Node | None) -> None:
        while node is not None and not node.groups and not node.children and not node.prompts:
            del self._nodes[node.name]
            if node.parent is not None:
                del node.parent.children[node.name]
            node = node.parent

    # -- our calls ------------------------------------------------------------------------------------------

    def ended(self, call: Ended) -> tuple[bool, list[int]]:
        """Place the prompt of a call: whether that could be done, and blocks of its text that the engine has not."""
        deepest = self._sessions.pop(call.name, None)
        if deepest is None or not call.texts:
            return False, []
        tokens = call.prompt_tokens or max(deepest.depth - call.output_tokens, 1)
        node: Node | None = deepest
        while node is not None and node.depth > tokens:
            node = node.parent
        if node is None:
            return False, []
        scale = tokens / max(call.text_tokens, 1)
        ends = [int((place + 1) * call.block_tokens * scale) for place in range(len(call.texts))]
        gone: list[int] = []
        if (old := self._prompts.pop(call.texts[-1], None)) is not None:
            self._let_go(old, 0, gone)
        prompt = Prompt(call.texts, ends, node)
        node.prompts.add(prompt)
        self._prompts[call.texts[-1]] = prompt
        self._settle(prompt, self._usable(node), gone)
        return True, [text for text in [*gone, *call.texts[prompt.reach :]] if text not in self._held]

    def _cut(self, prompt: Prompt, gone: list[int]) -> None:
        """Something of a prompt has gone: it reaches as far as it still can be taken up."""
        self._settle(prompt, self._usable(prompt.node), gone)

    def _settle(self, prompt: Prompt, node: Node | None, gone: list[int]) -> None:
        if node is not prompt.node:
            prompt.node.prompts.discard(prompt)
            if node is not None:
                prompt.node = node
                node.prompts.add(prompt)
        reach = 0
        if node is not None:
            most = node.depth * (1.0 + SLACK)
            while reach < len(prompt.ends) and prompt.ends[reach] <= most:
                reach += 1
        if reach > prompt.reach:
            for text in prompt.texts[prompt.reach : reach]:
                self._held[text] = self._held.get(text, 0) + 1
            prompt.reach = reach
        else:
            self._let_go(prompt, reach, gone)
        if not reach:
            prompt.node.prompts.discard(prompt)
            if self._prompts.get(prompt.texts[-1]) is prompt:
                del self._prompts[prompt.texts[-1]]

    def _let_go(self, prompt: Prompt, reach: int, gone: list[int]) -> None:
        """A prompt reaches less far than it did; what no prompt reaches is gone."""
        for text in prompt.texts[reach : prompt.reach]:
            if (left := self._held[text] - 1) > 0:
                self._held[text] = left
            else:
                del self._held[text]
                gone.append(text)
        prompt.reach = reach
        if not reach:
            prompt.node.prompts.discard(prompt)

    def _usable(self, node: Node | None) -> Node | None:
        """The deepest node from here to the root at which a prompt can be taken up."""
        found: Node | None = None
        back = node
        while back is not None:  # all layers that keep everything need all of it
            if back.groups & self._full != self._full:
                found = None
            elif found is None and self._has_windows(back):
                found = back
            back = back.parent
        return found

    def _has_windows(self, node: Node) -> bool:
        size = node.depth - (node.parent.depth if node.parent is not None else 0)
        for bit, window in self._windows.items():
            back: Node | None = node
            for _ in range(ceil(max(window - 1, 1) / max(size, 1))):
                if back is None:
                    break
                if not back.groups & bit:
                    return False
                back = back.parent
        return True


class Follow:
    """The numbers of one engine's messages: what a message with a number means."""

    IN_ORDER, GAP, ANEW = "in order", "gap", "anew"

    def __init__(self) -> None:
        self.next = 0  # the number that comes next; an engine begins at 0

    def told(self, number: int) -> str:
        """IN_ORDER: take it. GAP: messages from `next` on are missing before it. ANEW: the engine has begun anew."""
        if number == self.next:
            self.next += 1
            return self.IN_ORDER
        return self.GAP if number > self.next else self.ANEW

    def go_on(self, number: int) -> None:
        """Whatever was missed, this one is taken."""
        self.next = number + 1
