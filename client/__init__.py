"""What stands outside the service and uses it, on this machine or on AWS: frames, posts, answers, enrolment, queues."""
