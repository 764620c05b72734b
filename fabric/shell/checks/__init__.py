"""What `fabric doctor` looks at: one module a kind of question to the network, each answer a finding."""
