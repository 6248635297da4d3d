"""The commented gemstead.yaml that `gemstead init` writes: what a newcomer reads first and changes by deleting a `#`.

Everything that is not the default of this machine is a comment. The commented lines are real settings: with the
`#` taken off they are valid too, and a test takes it off.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.spec.schema import FILE as SCHEMA_FILE


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was found out about the machine and chosen for it, as plain values."""

    machine: str  # a sentence: "8 CPUs and 15.5 GiB of memory"
    name: str  # the model's canonical name
    title: str  # "Gemma 4 E2B"
    download: str  # "3.3 GB"
    context: int
    longest_context: int
    slots: int
    threads: int
    others: tuple[str, ...] = ()  # sentences on the sizes that were not chosen


def commented(fitted: Fitted) -> str:
    """The file's text. The same facts always give the same text."""
    others = "\n".join(f"  #   {line}" for line in fitted.others)
    return f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
#
# What Gemstead runs. Written for a machine with {fitted.machine}.
# Everything is optional, and what is commented out shows its default or an example.
# Check a change with `gemstead validate`, apply it to a running service with `gemstead reload`.

version: 1

models:
  # {fitted.title}: {fitted.download} to download once. Other sizes:
{others}
  - name: {fitted.name}
    context: {fitted.context}  # longest prompt plus answer, in tokens; this model allows {fitted.longest_context}
    slots: {fitted.slots}  # requests answered at once; each may be as long as `context`
    threads: {fitted.threads}
    # thinking: true  # think before answering, unless a request says otherwise
    # aliases: [assistant]  # further names that callers may use
    # file: /models/mine.gguf  # a GGUF file of yours instead of the download

  # An engine that already runs elsewhere, under a name of your choice:
  # - name: big
  #   endpoints:
  #     - url: http://10.0.0.5:8000
  #       dialect: vllm
  #       api_key: env:VLLM_API_KEY  # a reference; secrets are never written here

gateway:
  listen: 127.0.0.1:4367  # 0.0.0.0:4367 lets other machines call; keys are required either way
  # keys: required
  # workers: 1
  # cors_origins: [https://chat.example.com]
  # tls:
  #   certificate: /etc/gemstead/tls.crt
  #   key: /etc/gemstead/tls.key

# Health, metrics and control. Keep it on this machine, or on a network of your own.
admin:
  listen: 127.0.0.1:4368

# Limits of every key that has none of its own (`gemstead keys create`).
# limits:
#   requests_per_minute: 600
#   tokens_per_minute: 200000
#   concurrent: 16

# What happens to calls when their audit records cannot be written: allow, or refuse.
# ledger:
#   on_error: allow

# Whether models may be fetched from the hub; with false, only files at hand are used.
# hub: true
"""
