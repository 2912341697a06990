// Products with packed weights: dense projections, the two halves of experts, and rows of an embedding table.
//
// Shapes: inputs [rows, cols], outputs [rows, width]; a block computes 16 outputs of 8 or 32 inputs.
// Invariants: a sum depends on its weights and its own input alone, never on how many inputs a block takes.

#include "products.cuh"

// How far a warp asks for weights ahead of where it multiplies, so that enough are on their way whatever a warp waits for.
constexpr unsigned LINE = 128, LINES_AHEAD = 16;

// Asks for `lines` of a panel from a byte on, as far as there are any.
DEVICE void fetch_lines(Panel panel, Size from, Size end, unsigned lines) {
    const unsigned lane = threadIdx.x % WARP;
    const Size at = from + lane * LINE;
    if (lane < lines && at < end) {
        fetch_line(panel.bytes, at);
    }
}

// Sums of a panel's 16 rows with the inputs of a batch: thread `8 row + input` gets `out[tile]`. Each warp walks a quarter
// of the columns, whatever the batch, and the quarters are added in order. All threads call it.
template <class Format, unsigned TILES>
DEVICE void panel_sums(Mem<const unsigned char> weights, Size panel, const Batch &batch, float (&out)[TILES]) {
    __shared__ Shared<float, WARPS * TILES * THREADS> quarters;
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    typename Format::template Reader<TILES> reader(batch, lane);
    const Panel own = {weights + panel * Format::panel_bytes(batch.cols), batch.cols};
    const Size chunks = (batch.cols + Format::CHUNK - 1) / Format::CHUNK;
    const Size first = chunks * warp / WARPS, last = chunks * (warp + 1) / WARPS;
    const Size begin = place_of<Format>(first), bytes = Format::panel_bytes(batch.cols);
    const Size end = last < chunks ? place_of<Format>(last) : bytes;
    fetch_lines(own, begin, end, LINES_AHEAD);
    float sums[TILES][4] = {};
    for (Size chunk = first; chunk < last; ++chunk) {
        fetch_lines(own, place_of<Format>(chunk) + LINES_AHEAD * LINE, end, (Format::DATA + LINE - 1) / LINE);
        Format::add(chunk_of<Format>(own, chunk), chunk, reader, sums);
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

// Grid [tiles of inputs, panels of outputs].
template <class Format, unsigned TILES>
DEVICE void product(Task task, Batch batch) {
    if (!task.begin(batch, TILES * TILE)) {
        return;
    }
    const Size panel = task.matrix * panels_of(task.width) + blockIdx.y;
    // Of a gate, and of what it gates.
    float gates[TILES] = {}, sums[TILES] = {};
    LOOP
    for (unsigned matrix = 0; matrix < (task.has_gate() ? 2 : 1); ++matrix) {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            gates[tile] = sums[tile];
        }
        panel_sums<Format, TILES>(matrix == 0 ? task.first : task.second, panel, batch, sums);
    }
    const Size row = Size(blockIdx.y) * PANEL + threadIdx.x / TILE;
    UNROLL
    for (unsigned tile = 0; tile < TILES; ++tile) {
        const unsigned input = tile * TILE + threadIdx.x % TILE;
        if (row < task.written() && input < batch.count) {
            task.finish(batch, row, input, gates[tile], sums[tile]);
        }
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

#define FORMAT_KERNELS(format, Format)                                                                              \
    CROWDED_KERNEL(6, product_##format##_1, PRODUCT_PARAMETERS) { product<Format, 1>(TASK, BATCH); }                \
    CROWDED_KERNEL(3, product_##format##_4, PRODUCT_PARAMETERS) { product<Format, 4>(TASK, BATCH); }                \
    KERNEL(rows_##format, Mem<const unsigned char> weights, Mem<const unsigned> ids, Mem<float> out, Size count,    \
           Size cols) {                                                                                             \
        rows<Format>(weights, ids, out, count, cols);                                                               \
    }

OF_FORMATS(FORMAT_KERNELS)
