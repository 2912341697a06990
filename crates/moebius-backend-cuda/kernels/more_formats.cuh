// Formats of five bits and of two, and one whose codes name entries of a table.
#pragma once

#include "formats.cuh"

// The upper bits of four neighbouring columns of two rows, each where it is joined with lower bits: bit `j` of byte `b` of
// a row belongs to column `4 j + b`.
DEVICE void join_upper_bits(uint2 &words, uint2 upper, unsigned quad) {
    words.x |= (upper.x >> quad & 0x01010101u) << 4;
    words.y |= (upper.y >> quad & 0x01010101u) << 4;
}

// Blocks of 32 with a scale and a minimum, which is added: scales, minima, upper bits, then nibbles as in Q4_0.
struct Q5_1 : CodesInOrder<32> {
    static constexpr Size MINIMA = 32, UPPER = 64, LOWER = 128;
    static constexpr Size HEADER = 0, DATA = LOWER + 4 * 64, UNIT = DATA;
    static constexpr unsigned CHUNKS = 1, STEPS = 2, RUN = 2, TERMS = 2;
    static constexpr bool HAS_MINIMA = true;

    DEVICE static Size panel_bytes(Size cols) { return cols / CHUNK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return half_at(unit, 2 * row); }
    DEVICE static float minimum(Mem<const unsigned char> unit, unsigned row) { return half_at(unit, MINIMA + 2 * row); }
    DEVICE static float code(unsigned byte) { return float(byte); }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / CHUNK * UNIT;
        const Size in_unit = col % CHUNK;
        const unsigned lower = unit[LOWER + in_unit % 16 / 4 * 64 + 4 * row + in_unit % 4] >> (in_unit < 16 ? 0 : 4) & 15;
        const unsigned upper = unit[UPPER + 4 * row + in_unit % 4] >> (in_unit / 4) & 1;
        return scale(unit, row) * code(lower | upper << 4) + minimum(unit, row);
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Mem<const unsigned char> unit = at.data;
        const uint2 upper = load<uint2>(unit, UPPER + 8 * reader.group);
        const uint2 lower = load<uint2>(unit, LOWER + reader.member * 64 + 8 * reader.group);
        float run[Reader::TILES][4] = {};
        UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            uint2 words = shifted(lower, 4 * half, NIBBLES);
            join_upper_bits(words, upper, 4 * half + reader.member);
            unsigned a[4];
            fragment(words, code, a);
            reader.template multiply<TERMS>(a, column(chunk, half), run);
        }
        const unsigned row = 2 * reader.group;
        reader.add_scaled(run, scale(unit, row), scale(unit, row + 1), sums);
        reader.template subtract<RUN>(chunk, -minimum(unit, row), -minimum(unit, row + 1), sums);
    }
};

// Blocks of 256 as in Q4K, with upper bits: quads of two runs at a time, the upper bits of each first. A chunk is two runs.
struct Q5K : CodesInOrder<64> {
    static constexpr Size BLOCK = 256, PAIR = (2 + 8) * 64;
    static constexpr Size HEADER = Q4K::QUADS, DATA = PAIR, UNIT = HEADER + 4 * DATA;
    static constexpr unsigned CHUNKS = 4, STEPS = 4, RUN = 2, TERMS = 2;
    static constexpr bool HAS_MINIMA = true;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size run = col % BLOCK / 32, quad = col % 32 / 4, at = 4 * row + col % 4;
        const Mem<const unsigned char> pair = unit + (Q4K::QUADS + run / 2 * PAIR);
        const unsigned lower = pair[(2 + quad) * 64 + at] >> (4 * (run % 2)) & 15;
        const unsigned upper = pair[run % 2 * 64 + at] >> quad & 1;
        return Q4K::scale(unit, run, row) * Q4K::code(lower | upper << 4) - Q4K::minimum(unit, run, row);
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Mem<const unsigned char> unit = at.header;
        const unsigned row = 2 * reader.group;
        UNROLL
        for (unsigned second = 0; second < 2; ++second) {
            const uint2 upper = load<uint2>(at.data, second * 64 + 8 * reader.group);
            float sums_of_run[Reader::TILES][4] = {};
            UNROLL
            for (unsigned half = 0; half < 2; ++half) {
                const unsigned quad = 4 * half + reader.member;
                uint2 words = shifted(load<uint2>(at.data, (2 + quad) * 64 + 8 * reader.group), 4 * second, NIBBLES);
                join_upper_bits(words, upper, quad);
                unsigned a[4];
                fragment(words, Q4K::code, a);
                reader.template multiply<TERMS>(a, column(chunk, 2 * second + half), sums_of_run);
            }
            const Size run = 2 * (chunk % 4) + second;
            reader.add_scaled(sums_of_run, Q4K::scale(unit, run, row), Q4K::scale(unit, run, row + 1), sums);
            const float minima[2] = {Q4K::minimum(unit, run, row), Q4K::minimum(unit, run, row + 1)};
            reader.template subtract<RUN>(2 * chunk + second, minima[0], minima[1], sums);
        }
    }
};

// Blocks of 256 in runs of 32, each with a scale; codes are entries of a table. Scales of the block, those of the runs, then
// nibbles of each run as in Q4_0. A chunk is a run.
struct Iq4Xs : CodesInOrder<32> {
    static constexpr Size BLOCK = 256, RUN_SCALES = 32;
    static constexpr Size HEADER = 160, DATA = 4 * 64, UNIT = HEADER + 8 * DATA;
    static constexpr unsigned CHUNKS = 8, STEPS = 2, RUN = 2, TERMS = 2;
    static constexpr bool HAS_MINIMA = false;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, Size run, unsigned row) {
        const float of_run = float(static_cast<signed char>(unit[RUN_SCALES + run * PANEL + row]));
        return half_at(unit, 2 * row) * of_run;
    }
    // Four entries of the table in a word: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
    DEVICE static float code(unsigned code) {
        const unsigned lower = code & 4 ? 0xf6eaddcfu : 0xbfad9881u, upper = code & 4 ? 0x71594535u : 0x26190d01u;
        return signed_byte(code & 8 ? upper : lower, code & 3);
    }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size run = col % BLOCK / CHUNK, in_run = col % CHUNK;
        const unsigned byte = unit[HEADER + run * DATA + in_run % 16 / 4 * 64 + 4 * row + in_run % 4];
        return scale(unit, run, row) * code(byte >> (in_run < 16 ? 0 : 4) & 15);
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Size run = chunk % 8;
        const uint2 quads = load<uint2>(at.data, reader.member * 64 + 8 * reader.group);
        float sums_of_run[Reader::TILES][4] = {};
        UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            unsigned a[4];
            fragment(shifted(quads, 4 * half, NIBBLES), code, a);
            reader.template multiply<TERMS>(a, column(chunk, half), sums_of_run);
        }
        const unsigned row = 2 * reader.group;
        reader.add_scaled(sums_of_run, scale(at.header, run, row), scale(at.header, run, row + 1), sums);
    }
};

// Blocks of 256 in sixteen runs of 16, each with a scale and a minimum. Scales and minima of the block, those of the runs,
// then for sixteen neighbouring columns the codes of four strands in a byte. A chunk is such a stretch: four runs.
struct Q2K : CodesInStrands {
    static constexpr Size BLOCK = 256;
    static constexpr Size MINIMA = 32, RUN_SCALES = 64, RUN_MINIMA = 320, QUADS = 576;
    static constexpr Size HEADER = QUADS, DATA = 4 * 64, UNIT = HEADER + 4 * DATA;
    static constexpr unsigned CHUNKS = 4, STEPS = 4, RUN = 1, TERMS = 2;
    static constexpr bool HAS_MINIMA = true;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, Size run, unsigned row) {
        return half_at(unit, 2 * row) * float(unit[RUN_SCALES + run * PANEL + row]);
    }
    DEVICE static float minimum(Mem<const unsigned char> unit, Size run, unsigned row) {
        return half_at(unit, MINIMA + 2 * row) * float(unit[RUN_MINIMA + run / 2 * 32 + 2 * row + run % 2]);
    }
    DEVICE static float code(unsigned byte) { return float(byte); }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size in_block = col % BLOCK, run = in_block / 16, strand = in_block % 128 / 32;
        const Size quad = in_block / 128 * 8 + in_block % 32 / 4;
        const unsigned byte = unit[QUADS + quad * 64 + 4 * row + in_block % 4];
        return scale(unit, run, row) * code(byte >> (2 * strand) & 3) - minimum(unit, run, row);
    }
    template <class Reader>
    DEVICE static void add(Chunk at, Size chunk, Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Mem<const unsigned char> unit = at.header;
        const uint2 quads = load<uint2>(at.data, reader.member * 64 + 8 * reader.group);
        const unsigned row = 2 * reader.group;
        UNROLL
        for (unsigned strand = 0; strand < 4; ++strand) {
            unsigned a[4];
            fragment(shifted(quads, 2 * strand, 0x03030303u), code, a);
            const Size run = run_of_strand(chunk, strand);
            float sums_of_run[Reader::TILES][4] = {};
            reader.template multiply<TERMS>(a, column(chunk, strand), sums_of_run);
            reader.add_scaled(sums_of_run, scale(unit, run, row), scale(unit, run, row + 1), sums);
            const float minima[2] = {minimum(unit, run, row), minimum(unit, run, row + 1)};
            reader.template subtract<RUN>(chunk / 4 * 16 + run, minima[0], minima[1], sums);
        }
    }
};
