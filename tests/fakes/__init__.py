"""Stand-ins with the protocols of finetune_operator.ports: they can crash, lie and lag on purpose."""
