"""When what happens: clocks, gossip schemes, links, merge weights; the timeline, and its waves."""
