// Products with packed weights for many inputs: a block computes 128 outputs of 128 inputs from shared memory.
//
// A stage is 64 columns. While the tensor cores work on one stage, inputs of the next one and packed weights of the one after
// are copied, and each warp turns a panel's packed weights of the next one into fragments (a scaled format's codes, its
// scales beside them), once for all inputs; bf16 needs no unpacking. A warp computes 64 outputs of 32 inputs.
//
// Shapes: as in products.cu. Room: two stages of packed weights, then two of what is multiplied; `wide_bytes` on the host.
// Invariants: every sum has the bits that products.cu gives it: quarters of the columns, chunks in order, runs scaled alike.

#include "products.cuh"

constexpr unsigned WIDE_WARPS = WIDE_THREADS / WARP;
// What a block computes: a panel for each warp to stage, inputs for four warps side by side.
constexpr unsigned WIDE_PANELS = WIDE_WARPS;
constexpr unsigned WIDE_INPUTS = 128;
constexpr unsigned WARP_PANELS = 4;
constexpr unsigned WARP_TILES = 4;
// Multiplications of sixteen columns in a stage.
constexpr unsigned STEPS = 4;
// Bytes of a fragment: sixteen weights of sixteen columns.
constexpr unsigned FRAGMENT = 512;
// Bytes of an input in a stage.
constexpr unsigned INPUT_BYTES = STEPS * 32;

// How a format shares the room.
template <class Format, unsigned TERMS>
struct Floor {
    static constexpr unsigned CHUNKS = STEPS / Format::STEPS;
    static constexpr unsigned PIECES = (Format::HEADER + Format::DATA) / 16;
    // What is multiplied as it is packed is copied to where it is multiplied.
    static constexpr unsigned PACKED = Format::IS_FRAGMENT ? 0 : WIDE_PANELS * CHUNKS * PIECES * 16;
    static constexpr unsigned RUNS = Format::RUN ? STEPS / (Format::RUN ? Format::RUN : 1) : 0;
    static constexpr unsigned SCALES = RUNS * WIDE_PANELS * PANEL * 4;
    static constexpr unsigned TOTALS = Format::HAS_MINIMA ? RUNS * WIDE_INPUTS * 4 : 0;
    // From the begin of a stage on.
    static constexpr unsigned INPUTS_AT = WIDE_PANELS * STEPS * FRAGMENT;
    static constexpr unsigned SCALES_AT = INPUTS_AT + TERMS * WIDE_INPUTS * INPUT_BYTES;
    static constexpr unsigned MINIMA_AT = SCALES_AT + SCALES;
    static constexpr unsigned TOTALS_AT = MINIMA_AT + (Format::HAS_MINIMA ? SCALES : 0);
    static constexpr unsigned STAGE = TOTALS_AT + TOTALS;
    // In the end there are sums; neighbouring inputs have theirs in different banks.
    static constexpr unsigned SUMS_OF_INPUT = WIDE_PANELS * PANEL + 4;
    static constexpr unsigned SUMS = WIDE_INPUTS * SUMS_OF_INPUT * 4;
    static constexpr unsigned BYTES = 2 * (PACKED + STAGE) > SUMS ? 2 * (PACKED + STAGE) : SUMS;
};

// The stages of all columns, none of which crosses a quarter.
template <class Format>
struct Walk {
    unsigned chunks, quarter, chunk, count;

    DEVICE explicit Walk(Size cols)
        : chunks(static_cast<unsigned>((cols + Format::CHUNK - 1) / Format::CHUNK)), quarter(0), chunk(0), count(0) {
        find();
    }
    DEVICE unsigned end() const { return static_cast<unsigned>(Size(chunks) * (quarter + 1) / WARPS); }
    DEVICE bool is_done() const { return chunk >= chunks; }
    DEVICE bool ends_quarter() const { return chunk + count == end(); }
    DEVICE Walk next() const {
        Walk after = *this;
        after.chunk += count;
        after.find();
        return after;
    }
    DEVICE void find() {
        constexpr unsigned most = STEPS / Format::STEPS;
        while (chunk < chunks && chunk == end()) {
            ++quarter;
        }
        const unsigned left = is_done() ? 0 : end() - chunk;
        count = left < most ? left : most;
    }
};

// A reader that keeps what a panel's chunks become, instead of multiplying it.
template <class Format, unsigned TERMS>
struct Stager {
    using Plan = Floor<Format, TERMS>;
    static constexpr unsigned TILES = 1;
    static constexpr bool STAGED = true;
    Room room;
    // Where the stage begins.
    unsigned stage, panel, group, member;
    unsigned step, run;

    DEVICE bool has_column(Size) const { return true; }
    template <unsigned>
    DEVICE void multiply(const unsigned (&a)[4], Size, float (&)[1][4]) {
        const unsigned at = (panel * STEPS + step++) * FRAGMENT + (4 * group + member) * 16;
        store(room, stage + at, uint4{a[0], a[1], a[2], a[3]});
    }
    DEVICE void add_scaled(const float (&)[1][4], float scale, float next_scale, float (&)[1][4]) {
        keep(Plan::SCALES_AT, scale, next_scale);
        ++run;
    }
    template <unsigned>
    DEVICE void subtract(Size, float minimum, float next_minimum, float (&)[1][4]) {
        --run;
        keep(Plan::MINIMA_AT, minimum, next_minimum);
        ++run;
    }
    DEVICE void keep(unsigned from, float of_row, float of_next) const {
        if (member == 0) {
            const unsigned at = ((run * WIDE_PANELS + panel) * PANEL + 2 * group) * 4;
            store(room, stage + from + at, uint2{bits_of(of_row), bits_of(of_next)});
        }
    }
};

// Panels side by side, of which a block takes four; beyond the last one comes the last one again.
struct Four {
    Mem<const unsigned char> bytes;
    Size count;

    DEVICE Size at(unsigned index) const { return index < count ? index : count - 1; }
};

// What a block multiplies.
struct Eight {
    Four lower, upper;
};

// The panels of a matrix from a byte on, of which there are `count`.
DEVICE Eight eight_of(Mem<const unsigned char> matrix, Size count, Size from, Size panel_bytes) {
    const Size behind = count > WARP_PANELS ? WARP_PANELS : count - 1;
    return {{matrix + from, count}, {matrix + (from + behind * panel_bytes), count - behind}};
}

template <class Format, unsigned TERMS>
struct Wide {
    using Plan = Floor<Format, TERMS>;
    const Batch &batch;
    Room room;
    Eight panels;
    // The rows of the inputs that this thread copies.
    unsigned rows[WIDE_INPUTS * 8 / WIDE_THREADS];

    DEVICE Wide(const Batch &batch, Eight panels) : batch(batch), room(room_of(Plan::BYTES)), panels(panels) {
        UNROLL
        for (unsigned i = 0; i < WIDE_INPUTS * 8 / WIDE_THREADS; ++i) {
            rows[i] = static_cast<unsigned>(batch.row(threadIdx.x / 8 + i * (WIDE_THREADS / 8)));
        }
    }

    DEVICE static unsigned packed_at(unsigned buffer) {
        return Format::IS_FRAGMENT ? stage_at(buffer) : buffer * Plan::PACKED;
    }
    DEVICE static unsigned stage_at(unsigned buffer) { return 2 * Plan::PACKED + buffer * Plan::STAGE; }

    DEVICE Mem<const unsigned char> panel(unsigned slot) const {
        const Four &four = slot < WARP_PANELS ? panels.lower : panels.upper;
        return four.bytes + four.at(slot % WARP_PANELS) * Format::panel_bytes(batch.cols);
    }

    // Packed weights of a stage, sixteen bytes at a time; zeros beyond a panel.
    DEVICE void copy_weights(const Walk<Format> &walk, unsigned buffer) const {
        constexpr unsigned all = WIDE_PANELS * Plan::CHUNKS * Plan::PIECES;
        const Size panel_bytes = Format::panel_bytes(batch.cols);
        LOOP
        for (unsigned i = threadIdx.x; i < all; i += WIDE_THREADS) {
            const unsigned slot = i / Plan::PIECES, chunk = slot % Plan::CHUNKS;
            if (chunk >= walk.count) {
                continue;
            }
            const Mem<const unsigned char> own = panel(slot / Plan::CHUNKS);
            const unsigned piece = Format::piece(i % Plan::PIECES);
            const Size number = walk.chunk + chunk, block = number / Format::CHUNKS * Format::UNIT;
            const Size of_data = piece * 16 + 16 <= Format::HEADER ? 0 : number % Format::CHUNKS * Format::DATA;
            const Size from = block + of_data + piece * 16;
            copy_later(room, packed_at(buffer) + i * 16, own, from, from + 16 <= panel_bytes);
        }
    }

    // Terms of the inputs of a stage; four inputs side by side have their columns in different banks.
    DEVICE void copy_inputs(const Walk<Format> &walk, unsigned buffer) const {
        const unsigned piece = threadIdx.x % 8, step = piece / 2;
        if (step / Format::STEPS >= walk.count) {
            return;
        }
        const Size column = Format::column(walk.chunk + step / Format::STEPS, step % Format::STEPS) + piece % 2 * 8;
        UNROLL
        for (unsigned i = 0; i < WIDE_INPUTS * 8 / WIDE_THREADS; ++i) {
            const unsigned input = threadIdx.x / 8 + i * (WIDE_THREADS / 8);
            // A warp's inputs are all there or all of no interest.
            if (input / (WARP_TILES * TILE) * (WARP_TILES * TILE) >= batch.count) {
                break;
            }
            UNROLL
            for (unsigned term = 0; term < TERMS; ++term) {
                const unsigned to = (term * WIDE_INPUTS + input) * INPUT_BYTES + (piece ^ 2 * (input % 4)) * 16;
                const Size from = (term * batch.rows + rows[i]) * batch.padded() + column;
                copy_later(room, stage_at(buffer) + Plan::INPUTS_AT + to, batch.terms, from, true);
            }
        }
    }

    // Turns the packed weights of a stage into what is multiplied: each warp those of a panel.
    DEVICE void unpack(const Walk<Format> &walk, unsigned from, unsigned to) const {
        const unsigned lane = threadIdx.x % WARP, slot = threadIdx.x / WARP;
        Stager<Format, TERMS> stager = {room, stage_at(to), slot, lane / 4, lane % 4, 0, 0};
        float none[1][4] = {};
        LOOP
        for (unsigned chunk = 0; chunk < walk.count; ++chunk) {
            const unsigned at = packed_at(from) + (slot * Plan::CHUNKS + chunk) * Plan::PIECES * 16;
            const Mem<const unsigned char> header = readable(room + at);
            Format::add(Chunk{header, header + Format::HEADER}, walk.chunk + chunk, stager, none);
        }
        if constexpr (Format::HAS_MINIMA) {
            total(walk, to);
        }
    }

    // What the inputs of each run add up to, which minima are multiplied with.
    DEVICE void total(const Walk<Format> &walk, unsigned buffer) const {
        constexpr unsigned per_chunk = Plan::RUNS / Plan::CHUNKS, run_steps = Format::RUN;
        for (unsigned i = threadIdx.x; i < Plan::RUNS * WIDE_INPUTS; i += WIDE_THREADS) {
            const unsigned run = i / WIDE_INPUTS, input = i % WIDE_INPUTS, chunk = run / per_chunk;
            if (chunk >= walk.count) {
                return;
            }
            const Size column = Format::column(walk.chunk + chunk, run % per_chunk * run_steps);
            const Size first = batch.row(input) * (batch.cols / 16) + column / 16;
            const float sum = run_steps == 1 ? batch.sums[first] : batch.sums[first] + batch.sums[first + 1];
            store(room, stage_at(buffer) + Plan::TOTALS_AT + i * 4, sum);
        }
    }

    // Which panel is a warp's `index`th: two of the lower ones and two of the upper ones.
    DEVICE static unsigned slot_of(unsigned warp, unsigned index) {
        return warp % 2 * 2 + index % 2 + index / 2 * WARP_PANELS;
    }

    // Where one term of an input's sixteen columns is that a lane multiplies.
    DEVICE static unsigned input_at(unsigned term, unsigned input, unsigned step, unsigned member) {
        const unsigned piece = (2 * step + member / 2) ^ 2 * (input % 4);
        return (term * WIDE_INPUTS + input) * INPUT_BYTES + piece * 16 + member % 2 * 8;
    }

    DEVICE void fragment_of(unsigned stage, unsigned slot, unsigned step, unsigned (&a)[4]) const {
        const unsigned lane = threadIdx.x % WARP, at = stage + (slot * STEPS + step) * FRAGMENT;
        if constexpr (Format::IS_FRAGMENT) {
            // Matrices are halves of the panel's rows, and halves of the columns.
            load_transposed(room, at + (lane / 8 % 2 * 16 + lane / 16 * 8 + lane % 8) * 16, a);
            return;
        }
        const uint4 words = load<uint4>(readable(room), at + lane * 16);
        a[0] = words.x;
        a[1] = words.y;
        a[2] = words.z;
        a[3] = words.w;
    }

    // Adds the products of a step, whatever its scale is.
    DEVICE void add_step(unsigned stage, unsigned step, float (&sums)[WARP_PANELS][WARP_TILES][4]) const {
        const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        unsigned a[WARP_PANELS][4];
        UNROLL
        for (unsigned panel = 0; panel < WARP_PANELS; ++panel) {
            fragment_of(stage, slot_of(warp, panel), step, a[panel]);
        }
        UNROLL
        for (unsigned term = TERMS; term-- > 0;) {
            UNROLL
            for (unsigned tile = 0; tile < WARP_TILES; ++tile) {
                const unsigned input = (warp / 2 * WARP_TILES + tile) * TILE + lane / 4;
                const unsigned at = stage + Plan::INPUTS_AT + input_at(term, input, step, lane % 4);
                const uint2 words = load<uint2>(readable(room), at);
                const unsigned b[2] = {words.x, words.y};
                UNROLL
                for (unsigned panel = 0; panel < WARP_PANELS; ++panel) {
                    multiply_add(sums[panel][tile], a[panel], b);
                }
            }
        }
    }

    // Adds the products of a run, scaled.
    DEVICE void add_run(unsigned stage, unsigned run, float (&sums)[WARP_PANELS][WARP_TILES][4]) const {
        constexpr unsigned run_steps = Format::RUN;
        const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const Mem<const unsigned char> memory = readable(room);
        unsigned b[run_steps][TERMS][WARP_TILES][2];
        UNROLL
        for (unsigned i = 0; i < run_steps * TERMS * WARP_TILES; ++i) {
            const unsigned tile = i % WARP_TILES, term = i / WARP_TILES % TERMS, step = i / WARP_TILES / TERMS;
            const unsigned input = (warp / 2 * WARP_TILES + tile) * TILE + lane / 4;
            const unsigned at = Plan::INPUTS_AT + input_at(term, input, run * run_steps + step, lane % 4);
            const uint2 words = load<uint2>(memory, stage + at);
            b[step][term][tile][0] = words.x;
            b[step][term][tile][1] = words.y;
        }
        UNROLL
        for (unsigned panel = 0; panel < WARP_PANELS; ++panel) {
            const unsigned slot = slot_of(warp, panel);
            unsigned a[run_steps][4];
            UNROLL
            for (unsigned step = 0; step < run_steps; ++step) {
                fragment_of(stage, slot, run * run_steps + step, a[step]);
            }
            const unsigned rows_at = stage + ((run * WIDE_PANELS + slot) * PANEL + lane / 4 * 2) * 4;
            const uint2 scales = load<uint2>(memory, Plan::SCALES_AT + rows_at);
            const uint2 minima = Format::HAS_MINIMA ? load<uint2>(memory, Plan::MINIMA_AT + rows_at) : uint2{0, 0};
            UNROLL
            for (unsigned tile = 0; tile < WARP_TILES; ++tile) {
                float of_run[4] = {};
                UNROLL
                for (unsigned step = 0; step < run_steps; ++step) {
                    UNROLL
                    for (unsigned term = TERMS; term-- > 0;) {
                        multiply_add(of_run, a[step], b[step][term][tile]);
                    }
                }
                UNROLL
                for (unsigned i = 0; i < 4; ++i) {
                    float &sum = sums[panel][tile][i];
                    sum = fmaf(float_of(i < 2 ? scales.x : scales.y), of_run[i], sum);
                    if (Format::HAS_MINIMA) {
                        const unsigned input = (warp / 2 * WARP_TILES + tile) * TILE + lane % 4 * 2 + i % 2;
                        const unsigned at = Plan::TOTALS_AT + (run * WIDE_INPUTS + input) * 4;
                        sum = fmaf(-float_of(i < 2 ? minima.x : minima.y), load<float>(memory, stage + at), sum);
                    }
                }
            }
        }
    }

    DEVICE void compute(const Walk<Format> &walk, unsigned buffer, float (&sums)[WARP_PANELS][WARP_TILES][4]) const {
        const unsigned stage = stage_at(buffer), steps = walk.count * Format::STEPS;
        // Warps without an input have nothing to do.
        if (threadIdx.x / WARP / 2 * (WARP_TILES * TILE) >= batch.count) {
            return;
        }
        if constexpr (Format::RUN == 0) {
            LOOP
            for (unsigned step = 0; step < steps; ++step) {
                add_step(stage, step, sums);
            }
        } else {
            LOOP
            for (unsigned run = 0; run * Format::RUN < steps; ++run) {
                add_run(stage, run, sums);
            }
        }
    }

    // Computes all sums. All threads call it.
    DEVICE void multiply() const {
        float totals[WARP_PANELS][WARP_TILES][4], sums[WARP_PANELS][WARP_TILES][4] = {};
        Walk<Format> now(batch.cols), ahead = now.next();
        // A quarter without columns adds +0, and -0 adds nothing.
        const float nothing = now.chunks < WARPS ? 0.0f : -0.0f;
        for_each([&](float &total, float &) { total = nothing; }, totals, sums);
        copy_weights(now, 0);
        copy_inputs(now, 0);
        wait_for_copies();
        __syncthreads();
        if constexpr (!Format::IS_FRAGMENT) {
            copy_weights(ahead, 1);
            unpack(now, 0, 0);
            wait_for_copies();
            __syncthreads();
        }
        for (unsigned buffer = 0; !now.is_done(); buffer ^= 1) {
            copy_inputs(ahead, buffer ^ 1);
            if constexpr (Format::IS_FRAGMENT) {
                copy_weights(ahead, buffer ^ 1);
            } else {
                copy_weights(ahead.next(), buffer);
                unpack(ahead, buffer ^ 1, buffer ^ 1);
            }
            compute(now, buffer, sums);
            if (now.ends_quarter()) {
                for_each([](float &total, float &sum) { total += sum, sum = 0.0f; }, totals, sums);
            }
            wait_for_copies();
            __syncthreads();
            now = ahead;
            ahead = now.next();
        }
        keep(totals);
    }

    template <class Do>
    DEVICE static void for_each(Do action, float (&totals)[WARP_PANELS][WARP_TILES][4],
                                float (&sums)[WARP_PANELS][WARP_TILES][4]) {
        UNROLL
        for (unsigned i = 0; i < WARP_PANELS * WARP_TILES * 4; ++i) {
            action(totals[i / 4 / WARP_TILES][i / 4 % WARP_TILES][i % 4], sums[i / 4 / WARP_TILES][i / 4 % WARP_TILES][i % 4]);
        }
    }

    // Where the sum of an input and an output is in the end.
    DEVICE static unsigned sum_at(unsigned input, unsigned output) {
        return (input * Plan::SUMS_OF_INPUT + output) * 4;
    }
    DEVICE float sum_of(unsigned input, unsigned output) const {
        return load<float>(readable(room), sum_at(input, output));
    }

    // Leaves the sums where everybody finds them. All threads call it.
    DEVICE void keep(const float (&sums)[WARP_PANELS][WARP_TILES][4]) const {
        const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, group = lane / 4;
        UNROLL
        for (unsigned i = 0; i < WARP_PANELS * WARP_TILES * 2; ++i) {
            const unsigned panel = i / 2 / WARP_TILES, tile = i / 2 % WARP_TILES, next = i % 2;
            const unsigned first = slot_of(warp, panel) * PANEL;
            const unsigned input = (warp / 2 * WARP_TILES + tile) * TILE + lane % 4 * 2 + next;
            const float of_group = sums[panel][tile][next], of_next = sums[panel][tile][2 + next];
            if constexpr (Format::IS_FRAGMENT) {
                store(room, sum_at(input, first + group), of_group);
                store(room, sum_at(input, first + 8 + group), of_next);
            } else {
                // Unpacked fragments have neighbouring rows in a lane.
                store(room, sum_at(input, first + 2 * group), uint2{bits_of(of_group), bits_of(of_next)});
            }
        }
        __syncthreads();
    }
};

// Grid [tiles of inputs, eights of panels], or fours of them, if there is a gate.
template <class Format, unsigned TERMS>
DEVICE void wide_product(Task task, Batch batch) {
    if (!task.begin(batch, WIDE_INPUTS)) {
        return;
    }
    const Size panel_bytes = Format::panel_bytes(batch.cols), panels = panels_of(task.width);
    const Size matrix = task.matrix * panels * panel_bytes;
    const bool has_gate = task.has_gate();
    const Size first = Size(blockIdx.y) * (has_gate ? WARP_PANELS : WIDE_PANELS);
    const Eight eight = has_gate ? Eight{{task.first + (matrix + first * panel_bytes), panels - first},
                                         {task.second + (matrix + first * panel_bytes), panels - first}}
                                 : eight_of(task.first + matrix, panels - first, first * panel_bytes, panel_bytes);
    const Wide<Format, TERMS> wide(batch, eight);
    wide.multiply();
    const unsigned outputs = (has_gate ? WARP_PANELS : WIDE_PANELS) * PANEL;
    LOOP
    for (unsigned i = threadIdx.x; i < outputs * batch.count; i += WIDE_THREADS) {
        const unsigned output = i % outputs, input = i / outputs;
        const Size row = first * PANEL + output;
        if (row < task.written()) {
            // Gates lie before what they gate.
            const float sum = wide.sum_of(input, has_gate ? output + outputs : output);
            task.finish(batch, row, input, has_gate ? wide.sum_of(input, output) : 0.0f, sum);
        }
    }
}

// With inputs as they are, and with rounded ones.
#define WIDE_KERNELS(format, Format)                                                                                \
    WIDE_KERNEL(product_##format##_wide, PRODUCT_PARAMETERS) { wide_product<Format, Format::TERMS>(TASK, BATCH); }  \
    WIDE_KERNEL(product_##format##_wide_rounded, PRODUCT_PARAMETERS) { wide_product<Format, 1>(TASK, BATCH); }

OF_TENSOR_FORMATS(WIDE_KERNELS)
