"""Operations of the tests' small model, written out by hand."""

T, N, D, E, P = 4, 4, 16, 8, 16  # frames, patches, width, embedding, patch size
S, W, M, MLP = 1 + N, 32, 32, 4 * D  # tokens of a frame, words, text MLP, vision MLP
A = 6 - 1  # words that the longest answer is read from: all but its end


def linear(rows: int, width_in: int, width_out: int) -> int:
    """Two operations for each weight and row; biases, norms and activations are not counted."""
    return 2 * rows * width_in * width_out


def attention(batch: int, queries: int, keys: int, width: int) -> int:
    """Scores and mixtures, over all heads; the softmax is not counted."""
    return 2 * (2 * batch * queries * keys * width)


def flops_of_clip(has_temporal: bool) -> int:
    """One layer over T frames, and the patches before it."""
    spatial = linear(T * S, D, 3 * D) + linear(T * S, D, D) + attention(T, S, S, D)
    temporal = linear(T * N, D, 3 * D) + linear(T * N, D, D) + attention(N, T, T, D)
    mlp = linear(T * S, D, MLP) + linear(T * S, MLP, D)
    layer = spatial + mlp + (temporal if has_temporal else 0)
    return linear(T * N, 3 * P * P, D) + layer


def flops_of_text(num_words: int, num_tokens: int = 0, computed: int | None = None) -> int:
    """One text layer, alone or attending to num_tokens of which keys and values are known.

    computed: how many of the words are of interest; None for all.
    """
    asked = num_words if computed is None else computed
    own = 2 * linear(asked, D, D) + 2 * linear(num_words, D, D) + attention(1, asked, num_words, D)
    cross = 2 * linear(asked, D, D) + attention(1, asked, num_tokens, D)
    mlp = linear(asked, D, M) + linear(asked, M, D)
    return own + mlp + (cross if num_tokens else 0)


def flops_of_reading(num_tokens: int) -> int:
    """Keys and values of num_tokens."""
    return 2 * linear(num_tokens, D, D)


def flops_of_clip_read(num_tokens: int, weighs: bool) -> int:
    """What texts share of a clip: keys, values and the projections of frames and patches."""
    return flops_of_reading(num_tokens) + (linear(T + N, D, E) if weighs else 0)


def flops_of_pooling(weighs: bool) -> int:
    """The text's projection, and its cosines with frames and patches."""
    return linear(1, D, E) + linear(1, E, T + N) if weighs else 0


def flops_of_pair(num_tokens: int, weighs: bool) -> int:
    """A text layer that attends to num_tokens of the clip, pooling before and the head after."""
    return flops_of_pooling(weighs) + flops_of_text(W, num_tokens, 1) + linear(1, D, 2)


def flops_of_answer(num_tokens: int, weighs: bool, vocab_size: int) -> int:
    """The question alone, then grounded in the clip, then the decoder with its head."""
    question = flops_of_text(W, 0, 1) + flops_of_pooling(weighs) + flops_of_text(W, num_tokens)
    decoder = flops_of_reading(W) + flops_of_text(A, W)
    return question + decoder + linear(A, D, D) + linear(A, D, vocab_size)


VARIANTS = [
    ("full", True, 1 + T + N, True),
    ("no-temporal-attention", False, 1 + T + N, True),
    ("mean-pooling", True, 1 + T + N, False),
    ("concat-pooling", True, T * S, False),
]
