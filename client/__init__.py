"""Code that uses the service from outside, on this machine or on AWS.

It reads frames, posts them and collects the answers, enrols people and transfers galleries, and works with the queues,
the logs and the state of a running or deployed stack.
"""
