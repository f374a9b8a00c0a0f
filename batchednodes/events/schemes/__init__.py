"""Gossip schemes: which nodes may transmit, when; one paper, one file.

A scheme draws the contacts of one network in one window, exactly and ahead of the device, from the network's updates.
"""

from batchednodes.events.schemes.age_aware import AgeAware
from batchednodes.events.schemes.base import ContactList, Scheme, SchemeState, SchemeWindow
from batchednodes.events.schemes.fixed_duration import FixedDuration
from batchednodes.events.schemes.freshest import Freshest, reach
from batchednodes.events.schemes.uniform import Uniform

__all__ = [
    "AgeAware",
    "ContactList",
    "FixedDuration",
    "Freshest",
    "Scheme",
    "SchemeState",
    "SchemeWindow",
    "Uniform",
    "reach",
]
