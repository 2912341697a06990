// What stands between the products: inputs split for tensor cores, experts combined, norms, rotations, activations.
//
// Shapes: [rows, width] unless said; a thread for each element, or a block for each row where a row is summed.

#include "activation.cuh"
#include "terms.cuh"

// Columns of a run whose sum a minimum is multiplied with.
constexpr unsigned RUN = 16;

// Where a row's terms and sums go.
struct Split {
    Mem<unsigned short> terms;
    Mem<float> sums;
    Size rows, cols, padded;
    unsigned term_count, wants_sums;

    // Neighbouring lanes bring neighbouring columns, from a multiple of 32 on, and zeros beyond `cols`.
    DEVICE void write(Size row, Size col, float value) const {
        if (wants_sums) {
            float sum = term_count == 1 ? float_of(nearest_bf16(value) << 16) : value;
            for (unsigned mask = RUN / 2; mask > 0; mask /= 2) {
                sum += from_lane_xor(sum, mask);
            }
            if (col % RUN == 0 && col < cols) {
                sums[row * (cols / RUN) + col / RUN] = sum;
            }
        }
        if (col < padded) {
            write_terms(terms, row * padded + col, rows * padded, term_count, value);
        }
    }
};

// x as a sum of three bf16, which is exact, of two, which is off by a part in 2^17 at most, or of one, which rounds: terms
// [term_count, rows, padded], zero beyond `cols`. sums [rows, cols / 16] of what is multiplied, if wanted. Grid [rows,
// blocks of padded].
KERNEL(split_inputs, Mem<const float> x, Mem<unsigned short> terms, Mem<float> sums, Size rows, Size cols, Size padded,
       unsigned term_count, unsigned wants_sums) {
    const Size row = blockIdx.x, col = Size(blockIdx.y) * THREADS + threadIdx.x;
    const Split split = {terms, sums, rows, cols, padded, term_count, wants_sums};
    split.write(row, col, col < cols ? x[row * cols + col] : 0.0f);
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

// What a row is multiplied with before its weights. All threads call it.
DEVICE float norm_factor(Mem<const float> row, Size width, float eps) {
    float squares = 0.0f;
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        squares = fmaf(row[col], row[col], squares);
    }
    return 1.0f / sqrtf(block_sum(squares) / float(width) + eps);
}

// Grid [rows].
KERNEL(rms_norm, Mem<const float> x, Mem<const float> weight, Mem<float> out, Size width, float eps) {
    const Mem<const float> row = x + blockIdx.x * width;
    const float factor = norm_factor(row, width, eps);
    for (Size col = threadIdx.x; col < width; col += THREADS) {
        out[blockIdx.x * width + col] = row[col] * factor * weight[col];
    }
}

// The same, and at once what split_inputs makes of it for the products that follow. Grid [rows].
KERNEL(rms_norm_split, Mem<const float> x, Mem<const float> weight, Mem<float> out, Mem<unsigned short> terms,
       Mem<float> sums, Size rows, Size width, Size padded, unsigned term_count, unsigned wants_sums, float eps) {
    const Mem<const float> row = x + blockIdx.x * width;
    const float factor = norm_factor(row, width, eps);
    const Split split = {terms, sums, rows, width, padded, term_count, wants_sums};
    for (Size first = 0; first < padded; first += THREADS) {
        const Size col = first + threadIdx.x;
        const float value = col < width ? row[col] * factor * weight[col] : 0.0f;
        if (col < width) {
            out[blockIdx.x * width + col] = value;
        }
        split.write(blockIdx.x, col, value);
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
