"""Where a client reaches the service, on this machine or on AWS."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceAddresses:
    """What a client of the service needs to know.

    Parameters
    ----------
    function_url : str
        Takes the frames.
    request_queue_url, response_queue_url : str
        The URLs of the two queues of the contract.
    dead_letter_queue_url : str
        The queue of frames that failed on every attempt; empty if the template has no dead-letter queue.
    region : str
        The AWS region of the queues and of the function URL's signature.

    """

    function_url: str
    request_queue_url: str
    response_queue_url: str
    dead_letter_queue_url: str
    region: str

    def exports(self) -> dict[str, str]:
        """Return the environment variables that point a client written for AWS at this service."""
        return {
            "FUNCTION_URL": self.function_url,
            "REQUEST_QUEUE_URL": self.request_queue_url,
            "RESPONSE_QUEUE_URL": self.response_queue_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }
