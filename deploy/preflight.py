"""Why an image and a template must not be deployed, found out without a call to AWS."""

from collections.abc import Iterator

from adapters.models.catalogue import STAND_IN
from deploy.function_image import LAMBDA_BYTES, Image
from template.model import ServiceTemplate
from template.resources import Template
from template.rules import Severity, findings

#: Lambda's names for processor architectures, and Docker's names for the platforms.
_PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}


def template_refusals(template: Template, service: ServiceTemplate) -> list[str]:
    """Return why a template must not be deployed, each with what puts it right; empty if it may.

    What AWS takes is refused too where it would lose frames or cost money without end.
    """
    return [finding.sentence for finding in findings(template, service) if finding.severity is not Severity.ADVISED]


def image_refusals(service: ServiceTemplate, image: Image, *, stand_in: bool) -> Iterator[str]:
    """Yield why the functions cannot run an image, each with what puts it right.

    Parameters
    ----------
    stand_in : bool
        Whether the user accepts a model that recognises nobody.

    """
    build = f"Build it with: faceq image build --tag {image.tags[0] if image.tags else 'TAG'}"
    if image.bytes > LAMBDA_BYTES:
        yield (
            f"The image has {image.bytes / 2**30:.1f} GiB without compression; Lambda takes 10. Build it with another "
            f"model or engine: ENGINE=onnx is the smallest."
        )
    if any("index of manifests" in warning for warning in image.warnings):
        yield f"The image is an index of manifests; Lambda takes a plain manifest only. {build}"
    for architecture in sorted({function.architecture for function in service.functions.values()}):
        platform = _PLATFORMS.get(architecture, architecture)
        if image.platform != platform:
            yield (
                f"The image is for {image.platform} and the functions are {architecture}. {build} --platform "
                f"{platform}, or set the parameter Architecture."
            )
    model = image.labels.get("faceq.model", "")
    if not model:
        yield f"Model not found: the image has no label faceq.model, which names it. {build}"
    elif model == STAND_IN and not stand_in:
        yield f"The image has the stand-in model, which is for tests and recognises nobody. {build} --model auto"
