"""The command `faceq`: it talks to people and holds no logic.

Each group of commands has one file, named after the group: `queues_commands` contains `faceq queues ...`,
`stack_commands` contains `up`, `down`, `status` and `env`, `send_command` only `faceq send`. `main` finds the file of a
command. A `..._view` file contains what a group prints. The other files contain what several commands share.
"""
