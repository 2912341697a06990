// Causal attention of one sequence, a block for each row and head, with an online softmax (arXiv 1805.02867).
//
// Shapes: q [tokens, heads, head_dim], keys [kv_heads, capacity, head_dim], values with strides of their own, out
// [tokens, heads, value_dim].
// Invariants: keys are taken in stretches of 64 from multiples of 64, in ascending order, so the bits of a row depend on
// its position and what it sees, never on how the prompt was cut; keys that a row does not see are not read.

#include "target.cuh"

constexpr unsigned MAX_HEAD = 1024;
constexpr unsigned STRETCH = 64;

// Grid [rows of the sequence, heads].
KERNEL(attention, Mem<const float> q, Mem<const float> keys, Mem<const float> values, Mem<const float> sinks,
       Mem<float> out, Size first_row, Size first_position, Size kv_heads, Size head_dim, Size value_dim, Size capacity,
       Size value_head_stride, Size value_stride, Size window, Size chunk, float scale, unsigned has_sinks) {
    __shared__ Shared<float, MAX_HEAD> query;
    __shared__ Shared<float, STRETCH> scores, shares;
    const Size heads = gridDim.y, head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const Size row = first_row + blockIdx.x, position = first_position + blockIdx.x;
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // The first key that the row sees; no window and no chunk are 0.
    Size oldest = window > 0 && position + 1 > window ? position + 1 - window : 0;
    if (chunk > 0 && position - position % chunk > oldest) {
        oldest = position - position % chunk;
    }
    for (Size i = threadIdx.x; i < head_dim; i += THREADS) {
        query[unsigned(i)] = q[(row * heads + head) * head_dim + i];
    }
    __syncthreads();

    float largest = has_sinks ? sinks[head] : -INFINITE;
    float total = has_sinks ? 1.0f : 0.0f;
    float sums[MAX_HEAD / THREADS] = {};
    for (Size first = oldest / STRETCH * STRETCH; first <= position; first += STRETCH) {
        for (unsigned i = warp; i < STRETCH; i += WARPS) {
            const Size key = first + i;
            float score = -INFINITE;
            if (key >= oldest && key <= position) {
                const Mem<const float> of_key = keys + (kv_head * capacity + key) * head_dim;
                float dot = 0.0f;
                for (Size j = lane; j < head_dim; j += WARP) {
                    dot = fmaf(query[unsigned(j)], of_key[j], dot);
                }
                score = warp_sum(dot) * scale;
            }
            if (lane == 0) {
                scores[i] = score;
            }
        }
        __syncthreads();
        const float low = scores[lane], high = scores[lane + WARP];
        const float next = fmaxf(largest, warp_max(fmaxf(low, high)));
        const float shrink = expf(largest - next), low_share = expf(low - next), high_share = expf(high - next);
        total = total * shrink + warp_sum(low_share + high_share);
        largest = next;
        if (warp == 0) {
            shares[lane] = low_share;
            shares[lane + WARP] = high_share;
        }
        __syncthreads();
        const Size begin = first > oldest ? first : oldest;
        const Size end = first + STRETCH - 1 < position ? first + STRETCH - 1 : position;
        for (unsigned i = 0; i < MAX_HEAD / THREADS; ++i) {
            const Size element = i * THREADS + threadIdx.x;
            if (element >= value_dim) {
                break;
            }
            float sum = sums[i] * shrink;
            for (Size key = begin; key <= end; ++key) {
                const float share = shares[unsigned(key - first)];
                sum = fmaf(share, values[kv_head * value_head_stride + key * value_stride + element], sum);
            }
            sums[i] = sum;
        }
    }
    for (unsigned i = 0; i < MAX_HEAD / THREADS; ++i) {
        const Size element = i * THREADS + threadIdx.x;
        if (element < value_dim) {
            out[(row * heads + head) * value_dim + element] = sums[i] / total;
        }
    }
}
