"""What other programs, PyTorch, gossipy, Flower and decentralizepy among them, call the settings of this one."""

_WORDS = {
    "local": "optim optimiser optimizer_params solver sgd train trainer training train_params",
    "local.lr": "lr learning_rate local_lr client_lr base_lr lr0 eta eta_l step_size stepsize",
    "local.momentum": "momentum beta1",
    "local.weight_decay": "weight_decay wd decay l2 l2_reg l2_penalty lambda",
    "local.batch_size": "batch_size batch batchsize bs minibatch minibatch_size mini_batch_size local_batch_size "
    "train_batch_size",
    "local.epochs": "epochs epoch num_epochs n_epochs nb_epochs local_epochs num_local_epochs local_ep full_epochs",
    "local.steps": "steps local_steps num_steps n_steps local_iterations local_updates num_local_steps",
    "local.compile": "compile torch_compile",
    "task.loss": "criterion loss_fn loss_function loss_class objective",
    "task.data": "data dataset datasets dataset_name dataset_class dataset_params data_dir data_path dataloader",
    "task.data.test_fraction": "test_size test_ratio test_fraction val_size",
    "task.model": "model net arch architecture model_name model_class model_proto model_handler",
    "task.model={kind: mlp, hidden: [...]}": "hidden hidden_size hidden_sizes hidden_dim hidden_dims hidden_layers",
    "task.partition": "partition partitioner partitioning split splitter heterogeneity non_iid noniid niid "
    "data_dispatcher dispatcher data_distribution",
    "task.partition={kind: iid}": "iid",
    "task.partition={kind: dirichlet, alpha: ...}": "alpha dirichlet dirichlet_alpha alpha_dirichlet",
    "task.partition={kind: dirichlet_per_class, alpha: ...}": "beta dirichlet_beta",
    "task.partition={kind: shards, shards_per_node: ...}": "shards shards_per_node num_shards n_shards",
    "network.nodes": "nodes n n_nodes num_nodes nb_nodes node_count clients n_clients num_clients nb_clients "
    "total_clients agents n_agents num_agents workers n_workers num_workers users n_users num_users peers n_peers "
    "num_peers devices n_devices num_devices world_size num_supernodes supernodes num_partitions population size "
    "min_available_clients",
    "network.topology": "topology graph graph_type net_graph network_topology overlay",
    "network.topology={kind: k_regular, degree: ...}": "degree graph_degree n_neighbors num_neighbors neighbors",
    "network.weights": "weights mixing_matrix mixing_weights gossip_matrix",
    "network.availability={kind: per_message, probability: ...}": "online_prob availability participation "
    "participation_rate client_fraction fraction_fit fraction_train frac sample_rate",
    "network.attack": "attack attacker attackers byzantine adversary adversaries malicious poisoning byz n_byzantine "
    "num_byzantine",
    "update.clock": "update_clock compute_time computation_time training_time update_rate speed speeds",
    "gossip": "communication sharing comm",
    "gossip.clock.rate": "rate gossip_rate capacity gossip_capacity communication_rate contact_rate",
    "gossip.exchange": "exchange protocol anti_entropy_protocol gossip_protocol",
    "gossip.delay": "delay delays latency message_delay network_delay",
    "gossip.loss={kind: independent, probability: ...}": "drop_prob drop_rate loss_prob loss_rate packet_loss "
    "message_loss",
    "gossip.merge": "merge aggregation aggregator aggregate strategy averaging",
    "gossip.on_receipt": "on_receipt create_model_mode model_mode",
    "gossip.flow": "flow token_account utility_fun flow_control",
    "gossip.scheme": "scheme gossip_scheme",
    "timing={kind: rounds, steps: ...}": "delta round_len round_length sync synchronous asynchronous",
    "run.until": "until rounds round num_rounds n_rounds nb_rounds max_rounds total_rounds global_rounds comm_rounds "
    "communication_rounds num_server_rounds global_epochs iterations n_iterations num_iterations max_iterations "
    "iters horizon duration sim_time max_time end_time t_max time",
    "run.mark_every": "mark_every log_every log_interval eval_every eval_interval eval_freq evaluate_every "
    "evaluation_interval report_every test_after test_every",
    "run.eval_nodes": "eval_nodes sampling_eval eval_clients n_eval fraction_evaluate fraction_eval "
    "min_evaluate_clients",
    "run.threads": "threads num_threads n_threads n_jobs num_cpus n_cpus cpus",
    "run.checkpoint_every": "checkpoint_every checkpoint checkpoints checkpoint_interval checkpoint_freq save_every "
    "save_interval",
    "run.start_from": "start_from init_from resume_from warm_start pretrained load_from",
    "staleness.track": "track tracked",
    "device": "cuda gpu gpus use_cuda use_gpu accelerator",
    "dtype": "precision default_dtype float_type",
    "seed": "random_seed rng_seed manual_seed random_state",
    "name": "experiment experiment_name exp_name run_name title",
    "replicas": "trials num_trials n_trials repeats repetitions n_runs num_runs num_seeds n_seeds",
    "sweep": "grid grid_search param_grid hyperparameters search_space",
}
"""What a message suggests: the key of a setting or section, or a whole override -> words for it, where another section
has none of that name."""

SYNONYMS = {word: meant for meant, words in _WORDS.items() for word in words.split()}
"""Word -> what a message suggests in its place."""
