"""The command `faceq`: it talks to people and holds no logic.

Each group of commands has one file, named after the group: `queues_commands` holds `faceq queues ...`, `stack_commands`
holds `up`, `down`, `status` and `env`, `send_command` holds `faceq send` alone. `main` finds the file of a command. The
other files hold what several commands share.
"""
