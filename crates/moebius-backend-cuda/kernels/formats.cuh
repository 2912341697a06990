// Weight formats: panels of sixteen rows, as moebius-expert-kernels packs them, one struct each.
//
// A chunk is the columns that a format takes together: `STEPS` multiplications of 16 columns, of which `RUN` have a scale
// in common (0: there are no scales). `add` shows a chunk to a reader, step by step and run by run: one that adds its
// products to the sums of a panel's 16 rows with 8 inputs for each of `TILES` tiles, or one that keeps it for others.
// `value` is one weight, with the bits that the processor's kernels give it.
//
// A panel is blocks of `UNIT` bytes: `HEADER` that chunks have in common, then `DATA` for each of `CHUNKS` chunks.
//
// Formats on tensor cores: weights become bf16, exactly, and an input is the sum of two or three bf16 terms (split_inputs).
// Within 16 columns the order is free, so lane `4 group + member` takes columns `4 member..4 member + 4` as elements
// `2 member, 2 member + 1, 2 member + 8, 2 member + 9` of an mma, and rows `2 group` and `2 group + 1` as its rows `group`
// and `group + 8`: so that what a lane needs lies together.
#pragma once

#include "target.cuh"

constexpr unsigned PANEL = 16;
// Inputs side by side in one tile.
constexpr unsigned TILE = 8;

// Some rows of the inputs of a product.
struct Batch {
    // [rows, cols]
    Mem<const float> x;
    // [terms, rows, padded]: each input as a sum of bf16 values, largest first.
    Mem<const unsigned short> terms;
    // [rows, cols / 16]: the sum of each run of inputs.
    Mem<const float> sums;
    // Which rows; all of them in order, unless `gathered`.
    Mem<const unsigned> numbers;
    bool gathered;
    Size rows, cols;
    // How many of the terms are multiplied.
    unsigned term_count;
    // Rows of heads take turns, and these are of one.
    Size heads, head;
    Size first, count;

    DEVICE Size padded() const { return (cols + 15) / 16 * 16; }
    // Takes what this block of a grid [heads * tiles of tokens] is for, `most` tokens at most.
    DEVICE void take_heads_in_turn(Size most) {
        const Size tokens = rows / heads, tiles = (tokens + most - 1) / most;
        head = blockIdx.x / tiles;
        first = blockIdx.x % tiles * most;
        count = tokens - first < most ? tokens - first : most;
    }
    // Whether a tile has an input; all threads of a block agree.
    DEVICE bool has(unsigned tile) const { return tile * TILE < count; }
    // The row of one of the inputs; those beyond the last one are the last one again, and nobody keeps what they give.
    DEVICE Size row(unsigned input) const {
        const Size at = first + (input < count ? input : count - 1);
        return gathered ? Size(numbers[at]) : at * heads + head;
    }
};

// One panel of weights.
struct Panel {
    Mem<const unsigned char> bytes;
    Size cols;
};

// Where a chunk is: what its block has in common, and its own.
struct Chunk {
    Mem<const unsigned char> header, data;
};

// Where in a panel a chunk begins, but for the header.
template <class Format>
DEVICE Size place_of(Size chunk) {
    return chunk / Format::CHUNKS * Format::UNIT + Format::HEADER + chunk % Format::CHUNKS * Format::DATA;
}

template <class Format>
DEVICE Chunk chunk_of(Panel panel, Size chunk) {
    return {panel.bytes + chunk / Format::CHUNKS * Format::UNIT, panel.bytes + place_of<Format>(chunk)};
}

DEVICE unsigned pair_of(float low, float high) { return bits_of(low) >> 16 | (bits_of(high) & 0xffff0000u); }

DEVICE float signed_byte(unsigned word, unsigned index) {
    return float(static_cast<signed char>(word >> (8 * index) & 255));
}

DEVICE float half_at(Mem<const unsigned char> bytes, Size at) {
    return half_to_float(load<unsigned short>(bytes, at));
}

// What a lane reads on the way through a panel on tensor cores.
template <unsigned TILES_>
struct TensorReader {
    static constexpr unsigned TILES = TILES_;
    // Chunks lie where they were packed.
    static constexpr bool STAGED = false;
    const Batch &batch;
    unsigned group, member;
    // For each tile, the row of the input that this lane holds, and those of the sums that it holds.
    Size held[TILES], summed[TILES][2];

    DEVICE TensorReader(const Batch &batch, unsigned lane) : batch(batch), group(lane / 4), member(lane % 4) {
        for (unsigned tile = 0; tile < TILES; ++tile) {
            held[tile] = batch.row(tile * TILE + group);
            summed[tile][0] = batch.row(tile * TILE + 2 * member);
            summed[tile][1] = batch.row(tile * TILE + 2 * member + 1);
        }
    }

    DEVICE bool has_column(Size column) const { return column < batch.cols; }

    // Adds the products of 16 columns. Small terms come first.
    template <unsigned TERMS>
    DEVICE void multiply(const unsigned (&a)[4], Size column, float (&sums)[TILES][4]) const {
        const Size padded = batch.padded();
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            if (!batch.has(tile)) {
                continue;
            }
            UNROLL
            for (unsigned term = TERMS; term-- > 0;) {
                if (term >= batch.term_count) {
                    continue;
                }
                const Size at = (term * batch.rows + held[tile]) * padded + column + 4 * member;
                const uint2 quad = load<uint2>(batch.terms, at);
                const unsigned b[2] = {quad.x, quad.y};
                multiply_add(sums[tile], a, b);
            }
        }
    }

    // Adds the sums of a run, each row of the panel with its scale.
    DEVICE void add_scaled(const float (&run)[TILES][4], float scale, float next_scale, float (&sums)[TILES][4]) const {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            UNROLL
            for (unsigned i = 0; i < 4; ++i) {
                sums[tile][i] = fmaf(i < 2 ? scale : next_scale, run[tile][i], sums[tile][i]);
            }
        }
    }

    // Takes away what the minima of a run of `16 * PARTS` columns add up to.
    template <unsigned PARTS>
    DEVICE void subtract(Size run, float minimum, float next_minimum, float (&sums)[TILES][4]) const {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            for (unsigned i = 0; i < 2; ++i) {
                const Size first = summed[tile][i] * (batch.cols / 16) + PARTS * run;
                const float total = PARTS == 1 ? batch.sums[first] : batch.sums[first] + batch.sums[first + 1];
                sums[tile][i] = fmaf(-minimum, total, sums[tile][i]);
                sums[tile][2 + i] = fmaf(-next_minimum, total, sums[tile][2 + i]);
            }
        }
    }

    // Where a sum of this lane belongs in [16 rows, 8 inputs].
    DEVICE static unsigned place(unsigned lane, unsigned i) {
        return (2 * (lane / 4) + i / 2) * TILE + 2 * (lane % 4) + i % 2;
    }
};

// What a lane reads on the way through a panel of f32: one row of it, four of a tile's inputs.
template <unsigned TILES_>
struct PlainReader {
    static constexpr unsigned TILES = TILES_;
    const Batch &batch;
    unsigned row;
    Size inputs[TILES][4];

    DEVICE PlainReader(const Batch &batch, unsigned lane) : batch(batch), row(lane % PANEL) {
        for (unsigned tile = 0; tile < TILES; ++tile) {
            for (unsigned i = 0; i < 4; ++i) {
                inputs[tile][i] = batch.row(tile * TILE + 4 * (lane / PANEL) + i) * batch.cols;
            }
        }
    }

    DEVICE bool has_column(Size column) const { return column < batch.cols; }
    DEVICE void multiply(float weight, Size column, float (&sums)[TILES][4]) const {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            if (!batch.has(tile)) {
                continue;
            }
            UNROLL
            for (unsigned i = 0; i < 4; ++i) {
                sums[tile][i] = fmaf(weight, batch.x[inputs[tile][i] + column], sums[tile][i]);
            }
        }
    }

    DEVICE static unsigned place(unsigned lane, unsigned i) {
        return lane % PANEL * TILE + 4 * (lane / PANEL) + i;
    }
};

// Sixteen f32 for each column.
struct F32 {
    template <unsigned TILES>
    using Reader = PlainReader<TILES>;
    static constexpr Size HEADER = 0, DATA = 16 * PANEL * 4, UNIT = DATA;
    static constexpr unsigned CHUNKS = 1;
    static constexpr Size CHUNK = 16;

    DEVICE static Size panel_bytes(Size cols) { return cols * PANEL * 4; }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        return load<float>(panel.bytes, (col * PANEL + row) * 4);
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, const Reader &reader, float (&sums)[Reader::TILES][4]) {
        for (Size col = 0; col < CHUNK && reader.has_column(chunk * CHUNK + col); ++col) {
            const float weight = load<float>(at.data, (col * PANEL + reader.row) * 4);
            reader.multiply(weight, chunk * CHUNK + col, sums);
        }
    }
};

// Sixteen numbers of two bytes for each column, which are sums of `STEPS` bf16. Three terms make an input exact.
template <class Stored>
struct Halves {
    template <unsigned TILES>
    using Reader = TensorReader<TILES>;
    static constexpr Size CHUNK = 16, HEADER = 0, DATA = CHUNK * PANEL * 2, UNIT = DATA;
    static constexpr unsigned CHUNKS = 1, STEPS = Stored::PARTS, RUN = 0, TERMS = 3;
    static constexpr bool HAS_MINIMA = false;

    DEVICE static Size panel_bytes(Size cols) { return cols * PANEL * 2; }
    DEVICE static Size column(Size chunk, unsigned) { return chunk * CHUNK; }
    // One bf16 is what is multiplied, once it is transposed.
    static constexpr bool IS_FRAGMENT = STEPS == 1;
    // Which sixteen bytes of a chunk, half a column, are at a place once it is staged, so that lanes that read together find
    // them in different banks: columns in the order of an mma, for each half; else halves of every fourth column.
    DEVICE static unsigned piece(unsigned slot) {
        if (IS_FRAGMENT) {
            const unsigned k = slot % 16;
            return 2 * (k % 8 / 2 * 4 + k / 8 * 2 + k % 2) + slot / 16;
        }
        return slot % 8 / 2 * 8 + slot / 8 * 2 + slot % 2;
    }
    DEVICE static unsigned slot(unsigned piece) { return piece / 2 % 4 * 8 + piece / 8 * 2 + piece % 2; }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        return Stored::widen(load<unsigned short>(panel.bytes, (col * PANEL + row) * 2));
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        unsigned rows[4];
        UNROLL
        for (unsigned j = 0; j < 4; ++j) {
            const unsigned col = 4 * reader.member + j, piece = 2 * col + reader.group / 4;
            const unsigned place = Reader::STAGED ? slot(piece) : piece;
            rows[j] = reader.has_column(chunk * CHUNK + col) ? load<unsigned>(at.data, 16 * place + 4 * (reader.group % 4)) : 0;
        }
        const unsigned words[4] = {
            (rows[0] & 0xffff) | rows[1] << 16,
            rows[0] >> 16 | (rows[1] & 0xffff0000u),
            (rows[2] & 0xffff) | rows[3] << 16,
            rows[2] >> 16 | (rows[3] & 0xffff0000u),
        };
        UNROLL
        for (unsigned part = 0; part < STEPS; ++part) {
            unsigned a[4];
            UNROLL
            for (unsigned i = 0; i < 4; ++i) {
                a[i] = Stored::part(words[i], part);
            }
            reader.template multiply<TERMS>(a, chunk * CHUNK, sums);
        }
    }
};

struct StoredBf16 {
    static constexpr unsigned PARTS = 1;
    DEVICE static float widen(unsigned short bits) { return float_of(unsigned(bits) << 16); }
    DEVICE static unsigned part(unsigned pair, unsigned) { return pair; }
};
// An f16 is the sum of two bf16, of which the smaller one comes first.
struct StoredF16 {
    static constexpr unsigned PARTS = 2;
    DEVICE static float widen(unsigned short bits) { return half_to_float(bits); }
    DEVICE static unsigned part(unsigned pair, unsigned part) {
        const float low = widen(static_cast<unsigned short>(pair)), high = widen(static_cast<unsigned short>(pair >> 16));
        return part == 0 ? pair_of(rest(low), rest(high)) : pair_of(low, high);
    }
    // What a bf16 cuts off; nothing of what is not finite.
    DEVICE static float rest(float value) {
        const float upper = float_of(bits_of(value) & 0xffff0000u);
        return fabsf(value) < INFINITE ? value - upper : 0.0f;
    }
};
using Bf16 = Halves<StoredBf16>;
using F16 = Halves<StoredF16>;

// Weights of 16 columns from two words, four columns each of a row and the next: `value(byte)` of every byte.
template <class Value>
DEVICE void fragment(uint2 words, Value value, unsigned (&a)[4]) {
    a[0] = pair_of(value(words.x & 255), value(words.x >> 8 & 255));
    a[1] = pair_of(value(words.y & 255), value(words.y >> 8 & 255));
    a[2] = pair_of(value(words.x >> 16 & 255), value(words.x >> 24));
    a[3] = pair_of(value(words.y >> 16 & 255), value(words.y >> 24));
}

DEVICE uint2 shifted(uint2 words, unsigned bits, unsigned mask) {
    words.x = words.x >> bits & mask;
    words.y = words.y >> bits & mask;
    return words;
}

constexpr unsigned NIBBLES = 0x0f0f0f0fu;

// What formats have alike whose codes become fragments of an mma when they are unpacked.
struct Codes {
    template <unsigned TILES>
    using Reader = TensorReader<TILES>;
    static constexpr bool IS_FRAGMENT = false;
    DEVICE static unsigned piece(unsigned slot) { return slot; }
};

// Those whose chunks are columns in their order.
template <Size COLUMNS>
struct CodesInOrder : Codes {
    static constexpr Size CHUNK = COLUMNS;
    DEVICE static Size column(Size chunk, unsigned step) { return chunk * CHUNK + 16 * step; }
};

// Blocks of 32 with a scale: scales, then quads of four columns of sixteen rows.
template <class Code>
struct Blocks32 : CodesInOrder<32> {
    static constexpr Size HEADER = 0, DATA = Code::UNIT, UNIT = DATA;
    static constexpr unsigned CHUNKS = 1, STEPS = 2, RUN = 2, TERMS = 2;
    static constexpr bool HAS_MINIMA = false;

    DEVICE static Size panel_bytes(Size cols) { return cols / CHUNK * UNIT; }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / CHUNK * Code::UNIT;
        return Code::scale(unit, row) * Code::value(Code::code(unit, row, col % CHUNK));
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        float run[Reader::TILES][4] = {};
        UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            unsigned a[4];
            fragment(Code::quads(at.data, half, reader.member, reader.group), Code::value, a);
            reader.template multiply<TERMS>(a, column(chunk, half), run);
        }
        const unsigned row = 2 * reader.group;
        reader.add_scaled(run, Code::scale(at.data, row), Code::scale(at.data, row + 1), sums);
    }
};

struct CodeQ8 {
    static constexpr Size UNIT = 32 + 8 * 64;
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return half_at(unit, 2 * row); }
    DEVICE static float value(unsigned code) { return float(static_cast<signed char>(code)); }
    DEVICE static unsigned code(Mem<const unsigned char> unit, unsigned row, Size col) {
        return unit[32 + col / 4 * 64 + 4 * row + col % 4];
    }
    DEVICE static uint2 quads(Mem<const unsigned char> unit, unsigned half, unsigned member, unsigned group) {
        return load<uint2>(unit, 32 + (4 * half + member) * 64 + 8 * group);
    }
};

// Four bits a weight, after `SCALES` bytes of scales: the first sixteen columns in lower halves of bytes.
template <Size SCALES>
struct Nibbles {
    static constexpr Size UNIT = SCALES + 4 * 64;
    DEVICE static unsigned code(Mem<const unsigned char> unit, unsigned row, Size col) {
        return unit[SCALES + col % 16 / 4 * 64 + 4 * row + col % 4] >> (col < 16 ? 0 : 4) & 15;
    }
    DEVICE static uint2 quads(Mem<const unsigned char> unit, unsigned half, unsigned member, unsigned group) {
        return shifted(load<uint2>(unit, SCALES + member * 64 + 8 * group), 4 * half, NIBBLES);
    }
};

struct CodeQ4 : Nibbles<32> {
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return half_at(unit, 2 * row); }
    DEVICE static float value(unsigned code) { return float(int(code) - 8); }
};

struct CodeMxfp4 : Nibbles<16> {
    // The exponent 0 counts as zero.
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return float_of(unsigned(unit[row]) << 23); }
    DEVICE static float value(unsigned code) {
        // One bit of fraction and two of exponent; without an exponent the fraction is a half.
        const unsigned exponent = code >> 1 & 3, fraction = code & 1;
        const float magnitude =
            exponent == 0 ? 0.5f * float(fraction) : float((2 + fraction) << exponent) * 0.25f;
        return code & 8 ? 0.0f - magnitude : magnitude;
    }
};

using Q8_0 = Blocks32<CodeQ8>;
using Q4_0 = Blocks32<CodeQ4>;
using Mxfp4 = Blocks32<CodeMxfp4>;

// Blocks of 256 in runs of 32, each with a scale and a minimum. Scales and minima of the block, those of the runs, quads
// of two runs at a time. A chunk is two runs, which share their bytes.
struct Q4K : CodesInOrder<64> {
    static constexpr Size BLOCK = 256;
    static constexpr Size MINIMA = 32, RUN_SCALES = 64, RUN_MINIMA = 192, QUADS = 320;
    static constexpr Size HEADER = QUADS, DATA = 8 * 64, UNIT = HEADER + 4 * DATA;
    static constexpr unsigned CHUNKS = 4, STEPS = 4, RUN = 2, TERMS = 2;
    static constexpr bool HAS_MINIMA = true;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, Size run, unsigned row) {
        return half_at(unit, 2 * row) * float(unit[RUN_SCALES + run * PANEL + row]);
    }
    DEVICE static float minimum(Mem<const unsigned char> unit, Size run, unsigned row) {
        return half_at(unit, MINIMA + 2 * row) * float(unit[RUN_MINIMA + run / 2 * 32 + 2 * row + run % 2]);
    }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size run = col % BLOCK / 32, in_run = col % 32;
        const unsigned byte = unit[QUADS + (run / 2 * 8 + in_run / 4) * 64 + 4 * row + in_run % 4];
        return scale(unit, run, row) * float(byte >> (4 * (run % 2)) & 15) - minimum(unit, run, row);
    }
    DEVICE static float code(unsigned byte) { return float(byte); }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Size pair = chunk % 4;
        const unsigned row = 2 * reader.group;
        UNROLL
        for (unsigned upper = 0; upper < 2; ++upper) {
            float sums_of_run[Reader::TILES][4] = {};
            UNROLL
            for (unsigned half = 0; half < 2; ++half) {
                const uint2 words = load<uint2>(at.data, (4 * half + reader.member) * 64 + 8 * reader.group);
                unsigned a[4];
                fragment(shifted(words, 4 * upper, NIBBLES), code, a);
                reader.template multiply<TERMS>(a, column(chunk, 2 * upper + half), sums_of_run);
            }
            const Size run = 2 * pair + upper;
            reader.add_scaled(sums_of_run, scale(at.header, run, row), scale(at.header, run, row + 1), sums);
            const float minima[2] = {minimum(at.header, run, row), minimum(at.header, run, row + 1)};
            reader.template subtract<RUN>(2 * chunk + upper, minima[0], minima[1], sums);
        }
    }
};

// In blocks of sixteen runs of 16 a chunk is a stretch of columns in four strands: which run of the block a strand is, and
// where it begins.
DEVICE Size run_of_strand(Size chunk, unsigned strand) {
    const Size stretch = chunk % 4;
    return 8 * (stretch / 2) + 2 * strand + stretch % 2;
}
DEVICE Size column_of_strand(Size chunk, unsigned strand) {
    return chunk / 4 * 256 + 16 * run_of_strand(chunk, strand);
}

// Those whose chunks are four strands of sixteen columns.
struct CodesInStrands : Codes {
    static constexpr Size CHUNK = 64;
    DEVICE static Size column(Size chunk, unsigned step) { return column_of_strand(chunk, step); }
};

// Blocks of 256 in sixteen runs of 16, each with a scale. Scales of the block, those of the runs, then for sixteen
// neighbouring columns in four strands the upper two bits and two lots of lower four. A chunk is such a stretch: four runs.
struct Q6K : CodesInStrands {
    static constexpr Size BLOCK = 256;
    static constexpr Size RUN_SCALES = 32, QUADS = 288;
    static constexpr Size HEADER = QUADS, DATA = 4 * 3 * 64, UNIT = HEADER + 4 * DATA;
    static constexpr unsigned CHUNKS = 4, STEPS = 4, RUN = 1, TERMS = 2;
    static constexpr bool HAS_MINIMA = false;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, Size run, unsigned row) {
        const float of_run = float(static_cast<signed char>(unit[RUN_SCALES + run * PANEL + row]));
        return half_at(unit, 2 * row) * of_run;
    }
    DEVICE static float code(unsigned byte) { return float(int(byte) - 32); }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size run = col % BLOCK / 16, in_run = col % 16;
        const Size stretch = 2 * (run / 8) + run % 2, strand = run % 8 / 2;
        const Size quad = QUADS + (stretch * 4 + in_run / 4) * 3 * 64 + 4 * row + in_run % 4;
        const unsigned lower = unit[quad + (1 + strand % 2) * 64] >> (4 * (strand / 2)) & 15;
        const unsigned upper = unit[quad] >> (2 * strand) & 3;
        return scale(unit, run, row) * code(lower | upper << 4);
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        const unsigned quad = reader.member * 3 * 64 + 8 * reader.group;
        const uint2 upper = load<uint2>(at.data, quad);
        const uint2 lower[2] = {load<uint2>(at.data, quad + 64), load<uint2>(at.data, quad + 128)};
        const unsigned row = 2 * reader.group;
        UNROLL
        for (unsigned strand = 0; strand < 4; ++strand) {
            uint2 words = shifted(lower[strand % 2], 4 * (strand / 2), NIBBLES);
            const uint2 bits = shifted(upper, 2 * strand, 0x03030303u);
            words.x |= bits.x << 4;
            words.y |= bits.y << 4;
            unsigned a[4];
            fragment(words, code, a);
            const Size run = run_of_strand(chunk, strand);
            float sums_of_run[Reader::TILES][4] = {};
            reader.template multiply<TERMS>(a, column(chunk, strand), sums_of_run);
            reader.add_scaled(sums_of_run, scale(at.header, run, row), scale(at.header, run, row + 1), sums);
        }
    }
};
