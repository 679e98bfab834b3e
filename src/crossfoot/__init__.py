"""Crossfoot: every message ends in exactly one provable fate, and the books balance."""

from crossfoot.app import Crossfoot
from crossfoot.effects.proof import Noop
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import CrossfootError
from crossfoot.message import Message
from crossfoot.worker.retry import Retry

__all__ = ["Crossfoot", "CrossfootError", "InOrder", "Message", "Noop", "Retry"]
