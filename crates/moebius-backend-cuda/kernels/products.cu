// Products with packed weights: dense projections, the two halves of experts, and rows of an embedding table.
//
// Shapes: inputs [rows, cols], outputs [rows, width]; a block computes 16 outputs of 8 or 32 inputs.
// Invariants: a sum depends on its weights and its own input alone, never on how many inputs a block takes.

#include "activation.cuh"
#include "formats.cuh"
#include "more_formats.cuh"

// Sums of a panel's 16 rows with the inputs of a batch: thread `8 row + input` gets `out[tile]`. Each warp walks a quarter
// of the columns, whatever the batch, and the quarters are added in order. All threads call it.
template <class Format, unsigned TILES>
DEVICE void panel_sums(Mem<const unsigned char> weights, Size panel, const Batch &batch, float (&out)[TILES]) {
    __shared__ Shared<float, WARPS * TILES * THREADS> quarters;
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const typename Format::template Reader<TILES> reader(batch, lane);
    const Panel own = {weights + panel * Format::panel_bytes(batch.cols), batch.cols};
    const Size chunks = (batch.cols + Format::CHUNK - 1) / Format::CHUNK;
    float sums[TILES][4] = {};
    for (Size chunk = chunks * warp / WARPS; chunk < chunks * (warp + 1) / WARPS; ++chunk) {
        Format::add(own, chunk, reader, sums);
    }
    for (unsigned tile = 0; tile < TILES; ++tile) {
        for (unsigned i = 0; i < 4; ++i) {
            quarters[(warp * TILES + tile) * THREADS + reader.place(lane, i)] = sums[tile][i];
        }
    }
    __syncthreads();
    for (unsigned tile = 0; tile < TILES; ++tile) {
        float sum = quarters[tile * THREADS + threadIdx.x];
        for (unsigned other = 1; other < WARPS; ++other) {
            sum += quarters[(other * TILES + tile) * THREADS + threadIdx.x];
        }
        out[tile] = sum;
    }
    // Whoever calls this again writes there.
    __syncthreads();
}

enum ExpertFlags : unsigned { HAS_GATE = 1, HAS_BIAS = 2, WEIGHTS_INPUT = 4 };

// What a block of experts works on; nothing, if it has no pairs.
struct Piece {
    Size expert, first, count;

    DEVICE Piece(Mem<const unsigned> pieces, Size index)
        : expert(pieces[3 * index]), first(pieces[3 * index + 1]), count(pieces[3 * index + 2]) {}
};

DEVICE Size panels_of(Size rows) { return (rows + PANEL - 1) / PANEL; }

// Each head's rows with its own matrix; a plain product has one head. Grid [heads * tiles of tokens, panels of outputs].
template <class Format, unsigned TILES>
DEVICE void dense(Mem<const unsigned char> weights, Batch batch, Mem<const float> bias, unsigned has_bias,
                  Mem<float> out, Size outputs) {
    const Size tokens = batch.rows / batch.heads, tiles = (tokens + TILES * TILE - 1) / (TILES * TILE);
    batch.head = blockIdx.x / tiles;
    batch.first = blockIdx.x % tiles * TILES * TILE;
    batch.count = tokens - batch.first < TILES * TILE ? tokens - batch.first : TILES * TILE;
    float sums[TILES];
    panel_sums<Format, TILES>(weights, batch.head * panels_of(outputs) + blockIdx.y, batch, sums);
    const Size row = Size(blockIdx.y) * PANEL + threadIdx.x / TILE;
    for (unsigned tile = 0; tile < TILES; ++tile) {
        const unsigned input = tile * TILE + threadIdx.x % TILE;
        if (row < outputs && input < batch.count) {
            const Size place = ((batch.first + input) * batch.heads + batch.head) * outputs + row;
            out[place] = has_bias ? sums[tile] + bias[row] : sums[tile];
        }
    }
}

// hidden[pair] = act(gate x) (up x), or act(up x). Grid [pieces, panels of the intermediate width].
template <class Format, unsigned TILES>
DEVICE void experts_up(const Piece &piece, Mem<const unsigned char> gate, Mem<const unsigned char> up, Batch batch,
                       Mem<const float> weights, Mem<const float> gate_bias, Mem<const float> up_bias,
                       Mem<float> hidden, Size intermediate, unsigned flags, unsigned kind, float limit) {
    if (piece.count == 0) {
        return;
    }
    batch.first = piece.first;
    batch.count = piece.count;
    const Size panel = piece.expert * panels_of(intermediate) + blockIdx.y;
    float gates[TILES], ups[TILES];
    if (flags & HAS_GATE) {
        panel_sums<Format, TILES>(gate, panel, batch, gates);
    }
    panel_sums<Format, TILES>(up, panel, batch, ups);
    const Size row = Size(blockIdx.y) * PANEL + threadIdx.x / TILE;
    for (unsigned tile = 0; tile < TILES; ++tile) {
        const unsigned input = tile * TILE + threadIdx.x % TILE;
        if (row >= intermediate || input >= piece.count) {
            continue;
        }
        const Size pair = piece.first + input;
        const float weight = flags & WEIGHTS_INPUT ? weights[pair] : 1.0f;
        float of_up = weight * ups[tile], of_gate = flags & HAS_GATE ? weight * gates[tile] : 0.0f;
        if (flags & HAS_BIAS) {
            of_up += up_bias[piece.expert * intermediate + row];
            of_gate += flags & HAS_GATE ? gate_bias[piece.expert * intermediate + row] : 0.0f;
        }
        hidden[pair * intermediate + row] =
            flags & HAS_GATE ? gated(kind, limit, of_gate, of_up) : activated(kind, of_up);
    }
}

// out[pair] = weight (down hidden[pair]). Grid [pieces, panels of the hidden width].
template <class Format, unsigned TILES>
DEVICE void experts_down(const Piece &piece, Mem<const unsigned char> down, Batch batch, Mem<const float> weights,
                         Mem<const float> bias, Mem<float> out, Size width, unsigned flags) {
    if (piece.count == 0) {
        return;
    }
    batch.first = piece.first;
    batch.count = piece.count;
    float sums[TILES];
    panel_sums<Format, TILES>(down, piece.expert * panels_of(width) + blockIdx.y, batch, sums);
    const Size row = Size(blockIdx.y) * PANEL + threadIdx.x / TILE;
    for (unsigned tile = 0; tile < TILES; ++tile) {
        const unsigned input = tile * TILE + threadIdx.x % TILE;
        if (row >= width || input >= piece.count) {
            continue;
        }
        const Size pair = piece.first + input;
        const float value = flags & HAS_BIAS ? sums[tile] + bias[piece.expert * width + row] : sums[tile];
        out[pair * width + row] = flags & WEIGHTS_INPUT ? value : weights[pair] * value;
    }
}

// Rows of a matrix as f32: out[i] = weights[ids[i]]. A thread for each element.
template <class Format>
DEVICE void rows(Mem<const unsigned char> weights, Mem<const unsigned> ids, Mem<float> out, Size count, Size cols) {
    const Size place = thread_number();
    if (place < count * cols) {
        const Size row = ids[place / cols];
        const Panel panel = {weights + row / PANEL * Format::panel_bytes(cols), cols};
        out[place] = Format::value(panel, unsigned(row % PANEL), place % cols);
    }
}

#define INPUTS                                                                                                      \
    Mem<const float> x, Mem<const unsigned short> terms, Mem<const float> sums, Size tokens, Size cols, unsigned term_count
#define ALL_ROWS(heads) Batch{x, terms, sums, Mem<const unsigned>{}, false, tokens, cols, term_count, heads, 0, 0, 0}
#define SOME_ROWS Batch{x, terms, sums, numbers, true, tokens, cols, term_count, 1, 0, 0, 0}

#define TILED_KERNELS(format, Format, TILES)                                                                        \
    KERNEL(dense_##format##_##TILES, Mem<const unsigned char> weights, INPUTS, Mem<const float> bias,               \
           unsigned has_bias, Mem<float> out, Size outputs, Size heads) {                                           \
        dense<Format, TILES>(weights, ALL_ROWS(heads), bias, has_bias, out, outputs);                               \
    }                                                                                                               \
    KERNEL(experts_up_##format##_##TILES, Mem<const unsigned> pieces, Mem<const unsigned char> gate,                \
           Mem<const unsigned char> up, INPUTS, Mem<const unsigned> numbers, Mem<const float> weights,              \
           Mem<const float> gate_bias, Mem<const float> up_bias, Mem<float> hidden, Size intermediate,              \
           unsigned flags, unsigned kind, float limit) {                                                            \
        experts_up<Format, TILES>(Piece(pieces, blockIdx.x), gate, up, SOME_ROWS, weights, gate_bias, up_bias,      \
                                  hidden, intermediate, flags, kind, limit);                                        \
    }                                                                                                               \
    KERNEL(experts_down_##format##_##TILES, Mem<const unsigned> pieces, Mem<const unsigned char> down, INPUTS,      \
           Mem<const float> weights, Mem<const float> bias, Mem<float> out, Size width, unsigned flags) {           \
        experts_down<Format, TILES>(Piece(pieces, blockIdx.x), down, ALL_ROWS(1), weights, bias, out, width, flags); \
    }

#define FORMAT_KERNELS(format, Format)                                                                              \
    TILED_KERNELS(format, Format, 1)                                                                                \
    TILED_KERNELS(format, Format, 4)                                                                                \
    KERNEL(rows_##format, Mem<const unsigned char> weights, Mem<const unsigned> ids, Mem<float> out, Size count,    \
           Size cols) {                                                                                             \
        rows<Format>(weights, ids, out, count, cols);                                                               \
    }

FORMAT_KERNELS(f32, F32)
FORMAT_KERNELS(f16, F16)
FORMAT_KERNELS(bf16, Bf16)
FORMAT_KERNELS(q8_0, Q8_0)
FORMAT_KERNELS(q4_0, Q4_0)
FORMAT_KERNELS(q4_k, Q4K)
FORMAT_KERNELS(q6_k, Q6K)
FORMAT_KERNELS(mxfp4, Mxfp4)
FORMAT_KERNELS(q5_1, Q5_1)
FORMAT_KERNELS(q5_k, Q5K)
FORMAT_KERNELS(iq4_xs, Iq4Xs)
FORMAT_KERNELS(q2_k, Q2K)
