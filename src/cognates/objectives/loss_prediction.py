r"""Loss prediction: learn how large an image's loss will be, as an uncertainty.

References:
    Learning Loss for Active Learning (Yoo and Kweon, 2019), https://arxiv.org/abs/1905.03677.
    Pretrained Visual Uncertainties (Kirchhof, Collier, Oh and Kasneci, 2024),
    https://arxiv.org/abs/2402.16569.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError
from cognates.types import Terms


def loss_prediction(
    predicted: Float[Tensor, "v n"], losses: Float[Tensor, "v n"], *, weight: float = 1.0
) -> Terms:
    r"""Return the squared error of predicted losses; no gradient reaches the losses.

    Formula: L = weight x mean over views and images of (u - sg(l))^2.

    Args:
        predicted: u, of every view.
        losses: l, what each view's own loss turned out to be.
        weight: at least 0.

    Returns:
        `loss_prediction`: the square of the losses' unit; a mean over views and images, in float32
        or better whatever autocast says.

    Raises:
        ConfigError: the shapes differ.

    Notes:
        The best prediction is the expected loss given what the predictor sees: 0 is reached only
        where the loss is a function of that.

    References:
        Pretrained Visual Uncertainties (Kirchhof, Collier, Oh and Kasneci, 2024),
        https://arxiv.org/abs/2402.16569: on features that no gradient of this term reaches, as it
        is at odds with the task's.

    Example:
        >>> loss_prediction(torch.tensor([[0.5], [0.5]]), torch.tensor([[0.5], [1.5]]))
        {'loss_prediction': tensor(0.5000)}
    """
    if predicted.shape != losses.shape:
        raise ConfigError(
            f"Expected one prediction per loss, got {tuple(predicted.shape)} and "
            f"{tuple(losses.shape)}."
        )
    dtype = torch.promote_types(torch.promote_types(predicted.dtype, losses.dtype), torch.float32)
    with torch.autocast(predicted.device.type, enabled=False):
        error = predicted.to(dtype) - losses.detach().to(dtype)
        return {"loss_prediction": weight * error.square().mean()}
