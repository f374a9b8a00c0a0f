"""What computes, and knows arrays and rows only: no graph, no model, no event.

Random draws by address (rng), settings with one value a node (values), traced and compiled minibatch steps (fx_program,
cuda_graphs, tape), convolutions of stacked models, and care for threads, memory and the modes of PyTorch.
"""
