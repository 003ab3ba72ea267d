"""The networks as ONNX graphs: they compute what their architectures describe; errors name the unsuitable weight."""

import numpy as np
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper

from adapters.models import facenet_graph, mtcnn_graph
from pipeline.errors import SetupError

# The layers of the three networks, described independently of the code: channels, kernel and pooling window of each
# convolution; values in and out of the dense layer; outputs.
ARCHITECTURES = {
    "pnet": ([(10, 3, 2), (16, 3, 0), (32, 3, 0)], None, {"4_2": 4, "4_1": 2}),
    "rnet": ([(28, 3, 3), (48, 3, 3), (64, 2, 0)], (576, 128), {"5_2": 4, "5_1": 2}),
    "onet": ([(32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)], (1152, 256), {"6_2": 4, "6_3": 10, "6_1": 2}),
}
NAMES = list(ARCHITECTURES)
PIXELS = {"pnet": (1, 3, 21, 26), "rnet": (3, 3, 24, 24), "onet": (2, 3, 48, 48)}


def mtcnn_weights(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    convolutions, dense, heads = ARCHITECTURES[name]
    weights: dict[str, np.ndarray] = {}

    def layer(key: str, *shape: int) -> None:
        weights[f"{key}.weight"] = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights[f"{key}.bias"] = random.standard_normal(shape[0]) / 4

    channels = 3
    for number, (wide, kernel, _) in enumerate(convolutions, start=1):
        layer(f"conv{number}", wide, channels, kernel, kernel)
        weights[f"prelu{number}.weight"] = random.standard_normal(wide)
        channels = wide
    if dense:
        layer(f"dense{number + 1}", dense[1], dense[0])
        weights[f"prelu{number + 1}.weight"] = random.standard_normal(dense[1])
    for key, values in heads.items():
        if dense:
            layer(f"dense{key}", values, dense[1])
        else:
            layer(f"conv{key}", values, channels, 1, 1)
    return {key: values.astype(np.float32) for key, values in weights.items()}


def convolved(x: np.ndarray, weights: dict[str, np.ndarray], key: str) -> np.ndarray:
    weight, bias = weights[f"{key}.weight"], weights[f"{key}.bias"]
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, np.newaxis, np.newaxis]


def pooled(x: np.ndarray, window: int) -> np.ndarray:
    """Return the maximum of every second window; the last windows may reach over the border."""
    rows, columns = (range(0, side - window + 2, 2) for side in x.shape[2:])
    return np.stack(
        [np.stack([x[:, :, r : r + window, c : c + window].max((2, 3)) for c in columns], 2) for r in rows], 2
    )


def computed(name: str, weights: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """Run a network with numpy alone, in float64."""
    convolutions, dense, heads = ARCHITECTURES[name]
    weights = {key: values.astype(np.float64) for key, values in weights.items()}
    x = x.astype(np.float64)

    def prelu(x: np.ndarray, number: int) -> np.ndarray:
        slope = weights[f"prelu{number}.weight"].reshape(-1, *(1,) * (x.ndim - 2))
        return np.where(x > 0, x, slope * x)

    for number, (_, _, window) in enumerate(convolutions, start=1):
        x = prelu(convolved(x, weights, f"conv{number}"), number)
        x = pooled(x, window) if window else x
    if dense:
        x = x.transpose(0, 3, 2, 1).reshape(len(x), -1)
        x = prelu(x @ weights[f"dense{number + 1}.weight"].T + weights[f"dense{number + 1}.bias"], number + 1)
    outputs = []
    for key in heads:
        if dense:
            out = x @ weights[f"dense{key}.weight"].T + weights[f"dense{key}.bias"]
        else:
            out = convolved(x, weights, f"conv{key}")
        if key.endswith("_1"):
            out = np.exp(out) / np.exp(out).sum(axis=1, keepdims=True)
        outputs.append(out)
    return outputs


def run(model: object, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def pictures(count: int) -> np.ndarray:
    """Return pictures of soft, coloured patches, (count, 3, 160, 160)."""
    coarse = np.random.default_rng(3).uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32)
    return coarse.repeat(20, axis=2).repeat(20, axis=3)


class TestMtcnn:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_computes_what_its_layers_describe(self, name: str) -> None:
        weights = mtcnn_weights(name)
        x = np.random.default_rng(1).uniform(-1, 1, PIXELS[name]).astype(np.float32)
        outputs, expected = run(mtcnn_graph.build(name, weights), x), computed(name, weights, x)
        assert len(outputs) == len(expected)
        for output, values in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, values, atol=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_outputs_are_in_the_order_that_the_cascade_expects(self, name: str) -> None:
        model = mtcnn_graph.build(name, mtcnn_weights(name))
        names = [output.name for output in model.graph.output]
        assert names == ["offsets", *(["landmarks"] if name == "onet" else []), "probabilities"]

    def test_pnet_accepts_pictures_of_any_size_from_11_pixels(self) -> None:
        model = mtcnn_graph.build("pnet", mtcnn_weights("pnet"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for height, width in ((11, 11), (12, 30), (57, 44)):
            offsets, probabilities = session.run(None, {"pixels": np.zeros((1, 3, height, width), np.float32)})
            cells = tuple((side - 1) // 2 - 4 for side in (height, width))
            assert offsets.shape == (1, 4, *cells)
            assert probabilities.shape == (1, 2, *cells)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_missing_weight_is_named(self, name: str) -> None:
        for key in mtcnn_weights(name):
            weights = mtcnn_weights(name)
            del weights[key]
            with pytest.raises(SetupError, match=key):
                mtcnn_graph.build(name, weights)

    @pytest.mark.parametrize(
        "values",
        [np.zeros((10, 3, 3), np.float32), np.zeros((10, 3, 3, 3)), np.full((10, 3, 3, 3), np.nan, np.float32)],
        ids=["shape", "type", "not a number"],
    )
    def test_an_unsuitable_weight_is_named(self, values: np.ndarray) -> None:
        with pytest.raises(SetupError, match=r"conv1\.weight") as caught:
            mtcnn_graph.build("pnet", mtcnn_weights("pnet") | {"conv1.weight": values})
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return facenet_graph.stand_in_weights()


@pytest.fixture(scope="module")
def model(weights: dict[str, np.ndarray]) -> object:
    return facenet_graph.build(weights)


@pytest.fixture(scope="module")
def embed(model: object):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda faces: session.run(["embeddings"], {"faces": faces})[0]


class TestFacenet:
    def test_vectors_have_length_1(self, embed) -> None:
        vectors = embed(pictures(3))
        assert vectors.shape == (3, 512)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    def test_a_face_has_the_same_vector_alone_and_among_others(self, embed) -> None:
        faces = pictures(3)
        alone = np.concatenate([embed(face[np.newaxis]) for face in faces])
        np.testing.assert_allclose(embed(faces), alone, atol=1e-5)

    def test_the_stand_in_distinguishes_similar_pictures_from_others(self, embed) -> None:
        faces = pictures(6)
        noisy = faces + np.random.default_rng(4).uniform(-0.01, 0.01, faces.shape).astype(np.float32)
        vectors, near = embed(faces), embed(noisy)
        distances = np.linalg.norm(vectors[:, np.newaxis] - near, axis=2)
        assert distances.diagonal().max() < 0.05
        assert distances[~np.eye(6, dtype=bool)].min() > 0.1

    def test_the_stand_in_is_always_the_same(self, weights: dict[str, np.ndarray]) -> None:
        again = facenet_graph.stand_in_weights()
        assert list(again) == list(weights)
        assert all(np.array_equal(again[name], weights[name]) for name in weights)

    @pytest.mark.parametrize(
        ("convolution", "norm", "folded"),
        [
            ("conv2d_1a.conv", "conv2d_1a.bn", "conv2d_1a.conv"),
            ("repeat_2.4.branch1.1.conv", "repeat_2.4.branch1.1.bn", "repeat_2.4.branch1.1.conv"),
            ("last_linear", "last_bn", "last_linear"),
        ],
    )
    def test_batchnorm_is_folded_into_the_layer_before_it(
        self, convolution: str, norm: str, folded: str, weights: dict[str, np.ndarray], model: object
    ) -> None:
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weight = weights[f"{convolution}.weight"].astype(np.float64)
        weight = weight.reshape(len(weight), -1)
        gamma, beta, mean, variance = (
            weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = np.random.default_rng(2).standard_normal(weight.shape[1])
        expected = (weight @ x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        computed_values = constants[f"{folded}.weight"].reshape(weight.shape) @ x + constants[f"{folded}.bias"]
        np.testing.assert_allclose(computed_values, expected, atol=1e-5)

    def test_the_network_has_the_published_number_of_parameters(self) -> None:
        """InceptionResnetV1 of facenet-pytorch without `logits` and batch counters, with running statistics."""
        shapes = facenet_graph.shapes()
        assert len(shapes) == 602
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == 23_512_224

    def test_tensors_that_only_training_needs_are_ignored(self, weights: dict[str, np.ndarray], model: object) -> None:
        more = {"logits.weight": np.zeros((9, 512)), "last_bn.num_batches_tracked": np.array(5)}
        assert facenet_graph.build(weights | more) == model

    @pytest.mark.parametrize(
        "name", ["conv2d_1a.conv.weight", "repeat_1.0.conv2d.bias", "block8.branch1.2.bn.running_var", "last_bn.bias"]
    )
    def test_a_missing_or_unsuitable_weight_is_named(self, name: str, weights: dict[str, np.ndarray]) -> None:
        missing = {key: values for key, values in weights.items() if key != name}
        shorter, unknown = weights[name][1:], weights[name] * np.float32(np.nan)
        for changed in (missing, weights | {name: shorter}, weights | {name: unknown}):
            with pytest.raises(SetupError, match=name) as caught:
                facenet_graph.build(changed)
            assert "\n" not in str(caught.value)

    def test_a_negative_variance_is_refused(self, weights: dict[str, np.ndarray]) -> None:
        name = "conv2d_1a.bn.running_var"
        with pytest.raises(SetupError, match=name):
            facenet_graph.build(weights | {name: -weights[name]})
