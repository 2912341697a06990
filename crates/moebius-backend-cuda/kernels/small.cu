// What stands between the products: inputs split for tensor cores, experts combined, norms, rotations, activations.
//
// Shapes: [rows, width] unless said; a thread for each element, or a block for each row where a row is summed.

#include "activation.cuh"

// Columns of a run whose sum a minimum is multiplied with.
constexpr unsigned RUN = 16;

// The nearest bf16, ties to even; towards zero where that would be infinite. A NaN stays one.
DEVICE unsigned nearest_bf16(float value) {
    const unsigned bits = bits_of(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) {
        return bits >> 16 | (bits & 0xffff ? 0x40 : 0);
    }
    const unsigned upper = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (upper & 0x7f80) == 0x7f80 ? bits >> 16 : upper;
}

// x as a sum of three bf16, which is exact, of two, which is off by a part in 2^17 at most, or of one, which rounds: terms
// [term_count, rows, padded], zero beyond `cols`. sums [rows, cols / 16] of what is multiplied, if wanted. Grid [rows,
// blocks of padded].
KERNEL(split_inputs, Mem<const float> x, Mem<unsigned short> terms, Mem<float> sums, Size rows, Size cols, Size padded,
       unsigned term_count, unsigned wants_sums) {
    const Size row = blockIdx.x, col = Size(blockIdx.y) * THREADS + threadIdx.x;
    float rest = col < cols ? x[row * cols + col] : 0.0f;
    if (wants_sums) {
        float sum = term_count == 1 ? float_of(nearest_bf16(rest) << 16) : rest;
        for (unsigned mask = RUN / 2; mask > 0; mask /= 2) {
            sum += from_lane_xor(sum, mask);
        }
        if (col % RUN == 0 && col < cols) {
            sums[row * (cols / RUN) + col / RUN] = sum;
        }
    }
    if (col >= padded) {
        return;
    }
    for (unsigned term = 0; term < term_count; ++term) {
        const unsigned upper = nearest_bf16(rest);
        const bool finite = (upper & 0x7f80) != 0x7f80;
        terms[(term * rows + row) * padded + col] = static_cast<unsigned short>(upper);
        rest = finite ? rest - float_of(upper << 16) : 0.0f;
    }
}

// out[token] = the sum of its pairs, which come in ascending expert; ~0 in a list is no pair. `starts` is [tokens + 1]. Grid
// [tokens, blocks of width].
KERNEL(combine, Mem<const float> of_pairs, Mem<const unsigned> starts, Mem<const unsigned> pairs, Mem<float> out,
       Size width) {
    const Size token = blockIdx.x, col = Size(blockIdx.y) * THREADS + threadIdx.x;
    if (col < width) {
        float sum = 0.0f;
        for (Size at = starts[token]; at < starts[token + 1]; ++at) {
            const unsigned pair = pairs[at];
            sum += pair == ~0u ? 0.0f : of_pairs[Size(pair) * width + col];
        }
        out[token * width + col] = sum;
    }
}

// Grid [rows].
KERNEL(rms_norm, Mem<const float> x, Mem<const float> weight, Mem<float> out, Size width, float eps) {
    const Mem<const float> row = x + blockIdx.x * width;
    float squares = 0.0f;
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        squares = fmaf(row[col], row[col], squares);
    }
    const float factor = 1.0f / sqrtf(block_sum(squares) / float(width) + eps);
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        out[blockIdx.x * width + col] = row[col] * factor * weight[col];
    }
}

// Grid [rows].
KERNEL(layer_norm, Mem<const float> x, Mem<const float> weight, Mem<const float> bias, unsigned has_bias,
       Mem<float> out, Size width, float eps) {
    const Mem<const float> row = x + blockIdx.x * width;
    float sum = 0.0f, squares = 0.0f;
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        sum += row[col];
    }
    const float mean = block_sum(sum) / float(width);
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        squares = fmaf(row[col] - mean, row[col] - mean, squares);
    }
    const float factor = 1.0f / sqrtf(block_sum(squares) / float(width) + eps);
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        const float normed = (row[col] - mean) * factor * weight[col];
        out[blockIdx.x * width + col] = has_bias ? normed + bias[col] : normed;
    }
}

// x [tokens, heads, head_dim], cos and sin [tokens, pairs]: the first `2 pairs` elements of a head are turned.
KERNEL(rope, Mem<const float> x, Mem<const float> cos, Mem<const float> sin, Mem<float> out, Size tokens, Size heads,
       Size head_dim, Size pairs, unsigned interleaved) {
    const Size place = thread_number();
    if (place >= tokens * heads * head_dim) {
        return;
    }
    const Size element = place % head_dim, head = place - element, token = place / head_dim / heads;
    if (element >= 2 * pairs) {
        out[place] = x[place];
        return;
    }
    const Size pair = interleaved ? element / 2 : element % pairs;
    const Size first = head + (interleaved ? 2 * pair : pair), second = first + (interleaved ? 1 : pairs);
    const float c = cos[token * pairs + pair], s = sin[token * pairs + pair];
    out[place] = place == first ? x[first] * c - x[second] * s : x[second] * c + x[first] * s;
}

KERNEL(activate, Mem<const float> x, Mem<float> out, Size count, unsigned kind) {
    const Size place = thread_number();
    if (place < count) {
        out[place] = activated(kind, x[place]);
    }
}

KERNEL(glu, Mem<const float> gate, Mem<const float> up, Mem<float> out, Size count, unsigned kind, float limit) {
    const Size place = thread_number();
    if (place < count) {
        out[place] = gated(kind, limit, gate[place], up[place]);
    }
}

KERNEL(softplus, Mem<const float> x, Mem<float> out, Size count) {
    const Size place = thread_number();
    if (place < count) {
        out[place] = fmaxf(x[place], 0.0f) + log1pf(expf(-fabsf(x[place])));
    }
}
