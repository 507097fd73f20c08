"""The model that a phase with [preserve] trains: cross-entropy plus the loss of evidence.

For images x_n with one-hot targets t_n, references R_n and k_n = 1 where image n takes part (else 0):

    L = H(t, z) + weight / N sum_n k_n (1 - s(M_n, R_n)),    M_n = relu(CAM(A_n, G_n)),    G = d(sum_n t_n z'_n) / dA

H is the cross-entropy of the logits z as the phase trains them (dropout, BatchNorm as configured); A and z' are
activations and logits in inference mode, in which maps are measured afterwards: without dropout, which would make G
noise, and with BatchNorm's moving statistics, without which the map of an image would depend on its batch. The gradient
of L by the weights passes through A and through G: a gradient of a gradient, by nested tapes (as Ross et al. 2017,
arXiv 1703.03717, for input gradients).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.config import Phase, Preserve
from training.evidence import EMPTY, SIMILARITIES, evidence_maps
from training.framework import keras, tf
from training.model import HEAD, inference_view, runs_as_in_inference, view_with_tensors


@dataclass(frozen=True)
class Evidence:
    """A network that returns (logits to train, A, logits in inference mode), and what is made of A and of G."""

    network: Any
    method: str
    similarity: str

    def losses(self, images: Any, targets: Any, references: Any, training: bool = False) -> tuple[Any, Any]:
        """Logits to train (N, K), and 1 - s(M, R) of each image, (N,)."""
        logits, maps = self.maps(images, targets, training)
        return logits, 1 - SIMILARITIES[self.similarity](maps, references)

    def maps(self, images: Any, targets: Any, training: bool = False) -> tuple[Any, Any]:
        """Logits to train (N, K), and the maps M (N, h, w) of the true classes."""
        with tf.GradientTape() as tape:
            tape.watch(images)  # else nothing of a frozen backbone would be recorded
            logits, activations, still = self.network(images, training=training)
            score = tf.reduce_sum(still * targets)  # images do not mix in inference mode, so one sum serves all
        return logits, evidence_maps(self.method, activations, tape.gradient(score, activations))


def evidence_of(classifier: Any, layer: str, preserve: Preserve) -> Evidence:
    """The evidence of a classifier in inference mode, whatever `training` says."""
    still = inference_view(classifier, layer)
    activations, logits = still.output
    return Evidence(keras.Model(still.input, [logits, activations, logits]), preserve.method, preserve.term)


class PreservingView(keras.Model):
    """`training_view` with the loss above; data are (images, (targets, R, k), weights of the images).

    With `live`, the evidence of the reference checkpoint, R is computed of the images and not read from the data.
    """

    def __init__(self, classifier: Any, phase: Phase, layer: str, preserve: Preserve, live: Evidence | None) -> None:
        view, tensors = view_with_tensors(classifier, lambda item: runs_as_in_inference(item, phase))
        super().__init__(inputs=view.input, outputs=view.output)
        network = _joined(classifier, view, tensors, layer, phase)
        self.evidence = Evidence(network, preserve.method, preserve.term)
        self.live, self.weight = live, preserve.weight
        self.total = keras.metrics.Mean("total")
        self.cross_entropy = keras.metrics.Mean("cross_entropy")
        self.preserve = keras.metrics.Mean("preserve")

    def fit(self, batches: Any, **options: Any) -> Any:
        """`keras.Model.fit`. On several devices Keras builds loss and metrics from (images, targets, weights) alone."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            images, (targets, _, _), weights = batches[0]
            self.test_on_batch(images, targets, weights)
        return super().fit(batches, **options)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimiser; returns the means of the epoch so far (`get_metrics_result`)."""
        images, (targets, _, _), weights = data
        gradients, logits = self.gradients(data)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(images, targets, logits, weights)

    def get_metrics_result(self) -> dict[str, Any]:
        """`loss` L, `cross_entropy` H, `preserve`: the mean of 1 - s over the images that take part, and `accuracy`."""
        found = super().get_metrics_result()
        return found | {"loss": found["total"]}

    def gradients(self, data: Any) -> tuple[list[Any], Any]:
        """dL / d(trainable variables), and the logits (N, K)."""
        images, (targets, _, _), weights = data
        references, kept = self.references(data)
        count, replicas = tf.cast(tf.shape(images)[0], tf.float32), self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits, lost = self.evidence.losses(images, targets, references, training=True)
            cross_entropy = self.compute_loss(images, targets, logits, weights)  # divided by the replicas
            loss = cross_entropy + self.weight * tf.reduce_sum(kept * lost) / count / replicas
        self.total.update_state(loss * replicas, count)
        self.cross_entropy.update_state(cross_entropy * replicas, count)
        self.preserve.update_state(lost, kept)
        return tape.gradient(loss, self.trainable_variables), logits

    def references(self, data: Any) -> tuple[Any, Any]:
        """R (N, h, w) and k (N,) of a batch; a reference without any evidence takes no part."""
        images, (targets, references, kept), _ = data
        if self.live is not None:
            references = tf.stop_gradient(self.live.maps(images, targets)[1])
        return references, kept * tf.cast(tf.reduce_max(references, axis=(1, 2)) > EMPTY, kept.dtype)

    def plain_gradients(self, data: Any) -> tuple[list[Any], Any]:
        """`gradients` of the cross-entropy alone, as a plain phase computes them."""
        images, (targets, _, _), weights = data
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            loss = self.compute_loss(images, targets, logits, weights)
        return tape.gradient(loss, self.trainable_variables), logits


def _joined(classifier: Any, view: Any, tensors: dict[str, Any], layer: str, phase: Phase) -> Any:
    """A view with A and the logits in inference mode.

    The layers before the head run once for both, unless one of them differs between training and inference.
    """
    before = [item for item in classifier.layers if item.name not in HEAD]
    if all(runs_as_in_inference(item, phase) for item in before):
        activations, logits = tensors[layer], classifier.get_layer("logits")(tensors["gap"])
    else:
        activations, logits = inference_view(classifier, layer)(view.input)
    return keras.Model(view.input, [view.output, activations, logits])
