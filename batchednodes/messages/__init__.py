"""Messages between nodes: how long they take, which are lost, and what a node does with those that come."""

from batchednodes.messages.availability import (
    Always,
    Availability,
    Churn,
    Diurnal,
    Markov,
    PerMessage,
    Presence,
    TraceAvailability,
)
from batchednodes.messages.delays import (
    Bandwidth,
    Constant,
    Delay,
    Delays,
    ExponentialDelay,
    Instant,
    LogNormalDelay,
    TraceDelay,
    UniformDelay,
)
from batchednodes.messages.flow import Accounts, Flow, Generalized, Randomized, Simple, Unlimited
from batchednodes.messages.links import LINK, Links
from batchednodes.messages.load import Load
from batchednodes.messages.losses import Bursts, Independent, Loss, NoLoss
from batchednodes.messages.merging import (
    AgeWeighted,
    Fixed,
    Limited,
    Mean,
    Merge,
    Partitioned,
    Sampled,
    StalenessWeighted,
    Weighing,
)
from batchednodes.messages.rehearsal import forecast
from batchednodes.messages.rounds import Calendar, Continuous, Rounds, Timing
from batchednodes.messages.traffic import RECEIPTS, Forecast, Traffic, accounts

__all__ = [
    "LINK",
    "RECEIPTS",
    "Accounts",
    "AgeWeighted",
    "Always",
    "Availability",
    "Bandwidth",
    "Bursts",
    "Calendar",
    "Churn",
    "Constant",
    "Continuous",
    "Delay",
    "Delays",
    "Diurnal",
    "ExponentialDelay",
    "Fixed",
    "Flow",
    "Forecast",
    "Generalized",
    "Independent",
    "Instant",
    "Limited",
    "Links",
    "Load",
    "LogNormalDelay",
    "Loss",
    "Markov",
    "Mean",
    "Merge",
    "NoLoss",
    "Partitioned",
    "PerMessage",
    "Presence",
    "Randomized",
    "Rounds",
    "Sampled",
    "Simple",
    "StalenessWeighted",
    "Timing",
    "TraceAvailability",
    "TraceDelay",
    "Traffic",
    "UniformDelay",
    "Unlimited",
    "Weighing",
    "accounts",
    "forecast",
]
