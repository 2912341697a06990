// What kernels are written in: a part of CUDA C++ that a host compiler takes too, so that the emulator runs the same text.
//
// Memory comes as `Mem<T>`, shared arrays are `Shared<T, N>`, a kernel is written `KERNEL(name, parameters) { ... }`. On
// the device they are a pointer, an array and a __global__ function; in the emulator every access is checked.
//
// Kernels whose threads share more than a few numbers have a `Room`: shared memory of as many bytes as the launch says, which
// is filled by copies that run while threads compute.
//
// Invariants: 128 threads in a block, 256 of a wide kernel; no atomics; multiply-adds are spelled (`fmaf`), since both compilers are told not
// to make their own, so that device and emulator round alike.
#pragma once

using Size = unsigned long long;

constexpr unsigned WARP = 32;
constexpr unsigned WARPS = 4;
constexpr unsigned THREADS = WARP * WARPS;
constexpr unsigned WIDE_THREADS = 256;

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define LOOP _Pragma("unroll 1")
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(THREADS) name(__VA_ARGS__)
// A kernel that takes no more registers than `blocks` of them on a multiprocessor have.
#define CROWDED_KERNEL(blocks, name, ...)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks) name(__VA_ARGS__)
#define WIDE_KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(WIDE_THREADS) name(__VA_ARGS__)
#define INFINITE __int_as_float(0x7f800000)

template <class T>
using Mem = T *__restrict__;

template <class T, unsigned N>
struct Shared {
    T values[N];
    DEVICE T &operator[](unsigned index) { return values[index]; }
};

// The bytes at a place as one value of a type that is as large as its alignment.
template <class V, class T>
DEVICE V load(const T *memory, Size index) {
    return *reinterpret_cast<const V *>(memory + index);
}

using Room = unsigned char *;

// The room of a block, which must be as large as this.
DEVICE Room room_of(unsigned) {
    extern __shared__ uint4 room[];
    return reinterpret_cast<Room>(room);
}

DEVICE Mem<const unsigned char> readable(Room room) { return room; }

template <class V>
DEVICE void store(Room room, unsigned at, V value) {
    *reinterpret_cast<V *>(room + at) = value;
}

// Asks for the line of memory that a byte is in, which is then near when it is read.
DEVICE void fetch_line(const unsigned char *memory, Size at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(memory + at));
}

// Copies sixteen bytes into the room, or zeros unless they are `there`; nobody may look before `wait_for_copies`.
template <class T>
DEVICE void copy_later(Room room, unsigned at, const T *memory, Size index, bool there) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(room + at));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(memory + index), "r"(there ? 16 : 0)
                 : "memory");
}

// Four matrices of eight rows of eight numbers of two bytes, of which lane `8 matrix + row` brings a row: lane
// `4 group + member` gets of each the numbers `group` of rows `2 member` and the next.
DEVICE void load_transposed(Room room, unsigned at, unsigned (&words)[4]) {
    const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(room + at));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
}

// Waits for this thread's copies; a barrier makes them everybody's.
DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

DEVICE unsigned bits_of(float value) { return __float_as_uint(value); }
DEVICE float float_of(unsigned bits) { return __uint_as_float(bits); }

DEVICE Size bits_of(double value) { return Size(__double_as_longlong(value)); }
DEVICE double double_of(Size bits) { return __longlong_as_double(static_cast<long long>(bits)); }

DEVICE float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE float from_lane(float value, unsigned lane) { return __shfl_sync(~0u, value, lane); }
// A float, a double or a Size.
template <class T>
DEVICE T from_lane_xor(T value, unsigned mask) {
    return __shfl_xor_sync(~0u, value, mask);
}

// sums[16, 8] += a[16, 16] b[16, 8]: bf16 products, f32 sums; which lane holds what is in the PTX manual under
// mma.m16n8k16, and in the emulator.
DEVICE void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

#include "emulator.h"

#endif

// The number of this thread among all of a launch in one dimension.
DEVICE Size thread_number() { return Size(blockIdx.x) * THREADS + threadIdx.x; }

// The sum over a warp, the same bits in every lane.
template <class T>
DEVICE T warp_sum(T value) {
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) {
        value += from_lane_xor(value, mask);
    }
    return value;
}

// The largest value of a warp, in every lane.
DEVICE float warp_max(float value) {
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) {
        value = fmaxf(value, from_lane_xor(value, mask));
    }
    return value;
}

// What `join` makes of the values of a block, in the order of its warps. All threads call it.
template <class T, class Join>
DEVICE T of_warps_joined(T value, Join join) {
    __shared__ Shared<T, WARPS> of_warps;
    if (threadIdx.x % WARP == 0) {
        of_warps[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    const T joined = join(join(join(of_warps[0], of_warps[1]), of_warps[2]), of_warps[3]);
    __syncthreads();
    return joined;
}

// The sum over a block, the same bits in every thread. All threads call it.
template <class T>
DEVICE T block_sum(T value) {
    return of_warps_joined(warp_sum(value), [](T a, T b) { return a + b; });
}

// The largest value of a block, in every thread. All threads call it.
DEVICE float block_max(float value) {
    return of_warps_joined(warp_max(value), [](float a, float b) { return fmaxf(a, b); });
}

// The smallest value of a block, in every thread. All threads call it.
DEVICE Size block_min(Size value) {
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) {
        const Size other = from_lane_xor(value, mask);
        value = other < value ? other : value;
    }
    return of_warps_joined(value, [](Size a, Size b) { return b < a ? b : a; });
}
