"""Gossip schemes: which nodes may transmit, when; one paper, one file.

A scheme draws the contacts of one network in one window, exactly and ahead of the device, from the network's updates.
"""

from batchednodes.schemes.age_aware import AgeAware
from batchednodes.schemes.fixed_duration import FixedDuration
from batchednodes.schemes.freshest import Freshest, reach
from batchednodes.schemes.scheme import Scheme, Speech, Stage, Voices
from batchednodes.schemes.uniform import Uniform

__all__ = ["AgeAware", "FixedDuration", "Freshest", "Scheme", "Speech", "Stage", "Uniform", "Voices", "reach"]
