r"""Objectives of two encoders: which image belongs to which text of the batch?

References:
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
    https://arxiv.org/abs/2103.00020, figure 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cognates.errors import ConfigError
from cognates.types import Terms

# The floor of torch.nn.CosineSimilarity: far below any norm a network gives, and a zero vector gets
# a finite value and gradient.
_SMALLEST_NORM = 1e-8


def clip(
    image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, temperature: float | Tensor
) -> Terms:
    r"""Return CLIP's objective: the cross-entropy of finding the other half of each pair.

    Formula: s_ij = cos(image_i, text_j) / temperature;
    image_to_text = -1/(2n) sum_i log softmax_j(s_ij)[i],
    text_to_image = -1/(2n) sum_j log softmax_i(s_ij)[j].

    Args:
        image: features of n images, of any length; rows are normalised here.
        text: features of their n texts, or of another kind of image, in the same order.
        temperature: above 0; a scalar tensor learns.

    Returns:
        `image_to_text` and `text_to_image`: in nats, means over the pairs, each with the weight
        1/2. Computed in float32 or better, whatever autocast says.

    Raises:
        ConfigError: the shapes differ, there is no pair, or the temperature is not above 0.

    Notes:
        Features that are all equal give log n in all. Each term is at least
        log(1 + (n - 1) exp(-2 / temperature)) / 2, which opposite directions would give; it
        couples all pairs: give it the global batch. Exchanging the arguments exchanges the terms.

    References:
        Learning Transferable Visual Models From Natural Language Supervision (Radford et al.,
        2021), https://arxiv.org/abs/2103.00020, figure 3.

    Example:
        >>> same = clip(torch.ones(4, 2), torch.ones(4, 2), temperature=0.07)
        >>> {name: round(term.item(), 4) for name, term in same.items()}
        {'image_to_text': 0.6931, 'text_to_image': 0.6931}
    """
    if image.shape != text.shape or image.ndim != 2 or not len(image):
        raise ConfigError(
            "Expected image and text features of one shape (n, d) with at least one pair, got "
            f"{tuple(image.shape)} and {tuple(text.shape)}: project both to one width."
        )
    if isinstance(temperature, float | int) and not temperature > 0:
        raise ConfigError(f"Expected a temperature above 0, got {temperature}.")
    with torch.autocast(image.device.type, enabled=False):
        scores = _unit(image) @ _unit(text).T / temperature
        own = torch.arange(len(scores), device=scores.device)
        return {
            "image_to_text": functional.cross_entropy(scores, own) / 2,
            "text_to_image": functional.cross_entropy(scores.T, own) / 2,
        }


def _unit(x: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
