// The emulator's side of `target.cuh`: CUDA's words for a host compiler, and memory that is checked.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>

#define DEVICE inline
#define UNROLL
#define LOOP
#define __shared__ static thread_local
#define INFINITE INFINITY

// A kernel, and its entry in the list of kernels.
#define KERNEL_OF(threads, name, ...)                                                                   \
    static void name(__VA_ARGS__);                                                                      \
    static const emulator::Registered name##_registered{#name, {&emulator::Entry<name>::run, threads}}; \
    static void name(__VA_ARGS__)
#define KERNEL(name, ...) KERNEL_OF(THREADS, name, __VA_ARGS__)
#define CROWDED_KERNEL(blocks, name, ...) KERNEL_OF(THREADS, name, __VA_ARGS__)
#define WIDE_KERNEL(name, ...) KERNEL_OF(WIDE_THREADS, name, __VA_ARGS__)

namespace emulator {

struct Dim {
    unsigned x, y, z;
};

// The thread that runs now.
extern thread_local Dim thread_index, block_index, block_dim, grid_dim;

// Ends the launch with this message.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void barrier();
float exchange(float value, unsigned from);
void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
unsigned char *room(unsigned bytes);
void copy_later(unsigned char *to, const void *from);
void wait_for_copies();
void transpose(const unsigned (&row)[4], unsigned (&words)[4]);

// What the host passes: an address and how many bytes are there, or a number in the low bytes.
struct Argument {
    std::uint64_t value;
    std::uint64_t bytes;
};

}  // namespace emulator

// Memory of the device: a pointer that knows its end.
template <class T>
struct Mem {
    T *base;
    Size bytes;

    void check(Size index, Size width) const {
        const Size end = index * sizeof(T) + width;
        if (end > bytes || end < width) {
            emulator::fail("access to bytes %llu..%llu of %llu", end - width, end, bytes);
        }
        if (reinterpret_cast<std::uintptr_t>(base + index) % width != 0) {
            emulator::fail("access to %llu bytes at an address that is no multiple of it", width);
        }
    }
    T &operator[](Size index) const {
        check(index, sizeof(T));
        return base[index];
    }
    Mem operator+(Size elements) const {
        if (elements * sizeof(T) > bytes) {
            emulator::fail("a pointer to element %llu of %llu", elements, bytes / Size(sizeof(T)));
        }
        return {base + elements, bytes - elements * sizeof(T)};
    }
};

template <class T, unsigned N>
struct Shared {
    T values[N];
    T &operator[](unsigned index) {
        if (index >= N) {
            emulator::fail("access to element %u of %u in shared memory", index, N);
        }
        return values[index];
    }
};

struct uint2 {
    unsigned x, y;
};

template <class V, class T>
V load(Mem<T> memory, Size index) {
    memory.check(index, sizeof(V));
    V value;
    std::memcpy(&value, memory.base + index, sizeof(V));
    return value;
}

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

using Room = Mem<unsigned char>;

DEVICE Room room_of(unsigned bytes) { return {emulator::room(bytes), bytes}; }

DEVICE Mem<const unsigned char> readable(Room room) { return {room.base, room.bytes}; }

template <class V>
void store(Room room, unsigned at, V value) {
    room.check(at, sizeof(V));
    std::memcpy(room.base + at, &value, sizeof(V));
}

DEVICE void fetch_line(Mem<const unsigned char> memory, Size at) { memory.check(at, 1); }

template <class T>
void copy_later(Room room, unsigned at, Mem<T> memory, Size index, bool there) {
    room.check(at, 16);
    if (there) {
        memory.check(index, 16);
    }
    emulator::copy_later(room.base + at, there ? memory.base + index : nullptr);
}

DEVICE void wait_for_copies() { emulator::wait_for_copies(); }

DEVICE void load_transposed(Room room, unsigned at, unsigned (&words)[4]) {
    room.check(at, 16);
    unsigned row[4];
    std::memcpy(row, room.base + at, sizeof row);
    emulator::transpose(row, words);
}

DEVICE unsigned bits_of(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE float float_of(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE Size bits_of(double value) {
    Size bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE double double_of(Size bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE float half_to_float(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 0) {
        const float magnitude = std::ldexp(float(fraction), -24);
        return sign ? -magnitude : magnitude;
    }
    const unsigned wide = exponent == 31 ? 255 : exponent + 112;
    return float_of(sign | wide << 23 | fraction << 13);
}

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_dim
#define gridDim emulator::grid_dim

DEVICE void __syncthreads() { emulator::barrier(); }
DEVICE float from_lane(float value, unsigned lane) { return emulator::exchange(value, lane); }
DEVICE float from_lane_xor(float value, unsigned mask) {
    return emulator::exchange(value, threadIdx.x % WARP ^ mask);
}
DEVICE Size from_lane_xor(Size value, unsigned mask) {
    const Size low = bits_of(from_lane_xor(float_of(static_cast<unsigned>(value)), mask));
    const Size high = bits_of(from_lane_xor(float_of(static_cast<unsigned>(value >> 32)), mask));
    return high << 32 | low;
}
DEVICE double from_lane_xor(double value, unsigned mask) {
    return double_of(from_lane_xor(bits_of(value), mask));
}
DEVICE void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulator::multiply(sums, a, b);
}

namespace emulator {

template <class T>
struct Convert {
    static T from(const Argument &argument) { return static_cast<T>(argument.value); }
};
template <>
struct Convert<float> {
    static float from(const Argument &argument) { return float_of(static_cast<unsigned>(argument.value)); }
};
template <class T>
struct Convert<Mem<T>> {
    static Mem<T> from(const Argument &argument) {
        return {reinterpret_cast<T *>(argument.value), argument.bytes};
    }
};

using Run = void (*)(const Argument *arguments, Size count);

template <auto Kernel>
struct Entry;
template <class... Parameters, void (*Kernel)(Parameters...)>
struct Entry<Kernel> {
    static void run(const Argument *arguments, Size count) {
        if (count != sizeof...(Parameters)) {
            fail("expected %zu arguments, got %llu", sizeof...(Parameters), count);
        }
        // Braces evaluate in order.
        struct {
            const Argument *next;
            const Argument &operator()() { return *next++; }
        } next{arguments};
        call(std::tuple<Parameters...>{Convert<Parameters>::from(next())...});
    }
    static void call(std::tuple<Parameters...> parameters) { std::apply(Kernel, parameters); }
};

// What a kernel's name stands for.
struct Kernel {
    Run run;
    unsigned threads;
};

struct Registered {
    Registered(const char *name, Kernel kernel);
};

}  // namespace emulator
