"""Attacks: nodes that do not follow the protocol; one paper, one file."""

from batchednodes.algorithms.attacks.alie import Alie
from batchednodes.algorithms.attacks.base import Attack, Omniscient, OnData, OwnRows
from batchednodes.algorithms.attacks.dissensus import Dissensus
from batchednodes.algorithms.attacks.ipm import Ipm
from batchednodes.algorithms.attacks.label_flip import LabelFlip
from batchednodes.algorithms.attacks.noise import Noise
from batchednodes.algorithms.attacks.none import NoAttack
from batchednodes.algorithms.attacks.sign_flip import SignFlip

__all__ = [
    "Alie",
    "Attack",
    "Dissensus",
    "Ipm",
    "LabelFlip",
    "NoAttack",
    "Noise",
    "Omniscient",
    "OnData",
    "OwnRows",
    "SignFlip",
]
