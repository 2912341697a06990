// Runs kernels on a processor: blocks one after the other, the threads of a block as fibers that take turns at barriers
// and at what a warp does together.
//
// What a GPU would not forgive ends a launch with a message: memory beyond a buffer, a barrier or a warp operation that
// some threads do not reach. Threads and blocks run in ascending or in descending order: a kernel whose threads race
// gives different results.

#include "target.cuh"

#include <algorithm>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <ucontext.h>
#include <vector>

#include "attention.cu"
#include "products.cu"
#include "recurrence.cu"
#include "routing.cu"
#include "small.cu"
#include "wide.cu"

// Kernels with mistakes, for tests of what notices them.
KERNEL(emulator_test_barrier, Mem<const float>, Mem<float>, Size threads) {
    if (threadIdx.x < threads) {
        __syncthreads();
    }
}
KERNEL(emulator_test_warp, Mem<const float> x, Mem<float>, Size threads) {
    if (threadIdx.x < threads) {
        warp_sum(x[0]);
    }
}
KERNEL(emulator_test_race, Mem<const float>, Mem<float> out, Size threads) {
    if (threadIdx.x < threads) {
        out[0] = float(threadIdx.x);
    }
}

WIDE_KERNEL(emulator_test_copy, Mem<const float> x, Mem<float> out, Size waits) {
    const Room room = room_of(WIDE_THREADS * 16);
    copy_later(room, 16 * threadIdx.x, x, 4 * threadIdx.x, threadIdx.x > 0);
    if (waits) {
        wait_for_copies();
    }
    __syncthreads();
    out[threadIdx.x] = load<float>(readable(room), 16 * (threadIdx.x ^ 1));
    __syncthreads();
    wait_for_copies();
}

namespace emulator {

thread_local Dim thread_index, block_index, block_dim, grid_dim;

namespace {

constexpr std::size_t STACK_BYTES = 128 << 10;

enum class State { Ready, InWarp, AtBarrier, Done };

// Sixteen bytes on their way into the room; zeros if they come from nowhere.
struct Copy {
    unsigned char *to;
    const void *from;
};

// What a lane brings to an operation of its warp, and what it takes from it.
struct Lane {
    float value;
    unsigned from;
    unsigned a[4], b[2];
    float sums[4];
};

// An operation of a warp: lanes that arrive early wait for the last one, which computes for all.
struct Warp {
    enum class Kind { Exchange, Multiply, Transpose } kind;
    unsigned arrived = 0;
    // Two, since a lane may bring something to the next operation before others took theirs from this one.
    Lane lanes[2][WARP];
    unsigned turn = 0;
};

struct Fiber {
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    ucontext_t start;
    jmp_buf resume;
    bool started;
    State state;
    std::vector<Copy> copies;
};

struct Launch {
    Kernel kernel;
    const Argument *arguments;
    Size count;
    Fiber fibers[WIDE_THREADS];
    Warp warps[WIDE_THREADS / WARP];
    std::vector<uint4> room;
    jmp_buf scheduler;
    unsigned current;
    std::string error;
};

thread_local std::unique_ptr<Launch> launch;

std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

float product_element(const unsigned *pairs, unsigned index) {
    const unsigned pair = pairs[index / 2];
    return float_of(index % 2 ? pair & 0xffff0000u : pair << 16);
}

// Adds towards zero, as tensor cores may: nothing should rely on better.
float added_towards_zero(float sum, double more) {
    const double exact = sum + more;
    const float near = static_cast<float>(exact);
    return std::fabs(double(near)) > std::fabs(exact) ? std::nextafter(near, 0.0f) : near;
}

// Fragments as the PTX manual gives them for mma.m16n8k16: lane `4 group + member` holds of `a` rows `group` and
// `group + 8`, of `b` column `group`, of the sums columns `2 member` and the next.
void multiply_fragments(Lane *lanes) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < WARP; ++lane) {
        const unsigned group = lane / 4, member = lane % 4;
        for (unsigned i = 0; i < 8; ++i) {
            const unsigned row = group + (i % 4 < 2 ? 0 : 8);
            a[row][2 * member + i % 2 + (i < 4 ? 0 : 8)] = product_element(lanes[lane].a, i);
        }
        for (unsigned i = 0; i < 4; ++i) {
            b[2 * member + i % 2 + (i < 2 ? 0 : 8)][group] = product_element(lanes[lane].b, i);
        }
    }
    // Products of bf16 and a few sums of them are exact in double.
    double products[16][8] = {};
    for (unsigned row = 0; row < 16; ++row) {
        for (unsigned k = 0; k < 16; ++k) {
            for (unsigned column = 0; column < 8; ++column) {
                products[row][column] += double(a[row][k]) * double(b[k][column]);
            }
        }
    }
    for (unsigned lane = 0; lane < WARP; ++lane) {
        for (unsigned i = 0; i < 4; ++i) {
            const double more = products[lane / 4 + (i < 2 ? 0 : 8)][2 * (lane % 4) + i % 2];
            lanes[lane].sums[i] = added_towards_zero(lanes[lane].sums[i], more);
        }
    }
}

[[noreturn]] void to_scheduler() { _longjmp(launch->scheduler, 1); }

void wait(State state) {
    Fiber &fiber = launch->fibers[launch->current];
    fiber.state = state;
    if (_setjmp(fiber.resume) == 0) {
        to_scheduler();
    }
}

// Brings a lane to an operation of its warp and returns when all lanes did.
Lane &together(Warp::Kind kind, const Lane &brought) {
    const unsigned index = launch->current / WARP, number = launch->current % WARP;
    Warp &warp = launch->warps[index];
    Lane *lanes = warp.lanes[warp.turn];
    if (warp.arrived > 0 && warp.kind != kind) {
        fail("the lanes of a warp do different things together");
    }
    warp.kind = kind;
    lanes[number] = brought;
    if (++warp.arrived < WARP) {
        wait(State::InWarp);
        return lanes[number];
    }
    if (kind == Warp::Kind::Multiply) {
        multiply_fragments(lanes);
    }
    warp.arrived = 0;
    warp.turn ^= 1;
    for (unsigned other = 0; other < WARP; ++other) {
        Fiber &fiber = launch->fibers[index * WARP + other];
        if (fiber.state == State::InWarp) {
            fiber.state = State::Ready;
        }
    }
    return lanes[number];
}

void fiber_main() {
    launch->kernel.run(launch->arguments, launch->count);
    if (!launch->fibers[launch->current].copies.empty()) {
        fail("copies that nobody waited for");
    }
    launch->fibers[launch->current].state = State::Done;
    to_scheduler();
}

// Lets one thread run until it waits or ends.
void resume(unsigned number) {
    Fiber &fiber = launch->fibers[number];
    launch->current = number;
    thread_index = {number, 0, 0};
    if (_setjmp(launch->scheduler) != 0) {
        return;
    }
    if (fiber.started) {
        _longjmp(fiber.resume, 1);
    }
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

unsigned count(State state) {
    unsigned count = 0;
    for (unsigned number = 0; number < launch->kernel.threads; ++number) {
        count += launch->fibers[number].state == state;
    }
    return count;
}

// Runs the threads of one block to their end. Whether it could.
bool run_block(bool descending) {
    const unsigned threads = launch->kernel.threads;
    for (Fiber &fiber : launch->fibers) {
        fiber.started = false;
        fiber.state = State::Ready;
        fiber.copies.clear();
    }
    // No number, whoever reads it.
    std::fill(launch->room.begin(), launch->room.end(), uint4{~0u, ~0u, ~0u, ~0u});
    for (Warp &warp : launch->warps) {
        warp.arrived = 0;
    }
    while (count(State::Done) < threads) {
        bool ran = false;
        for (unsigned i = 0; i < threads; ++i) {
            const unsigned number = descending ? threads - 1 - i : i;
            if (launch->fibers[number].state == State::Ready) {
                ran = true;
                resume(number);
                if (!launch->error.empty()) {
                    return false;
                }
            }
        }
        if (ran) {
            continue;
        }
        if (count(State::AtBarrier) < threads) {
            launch->error = "some threads wait for others that do not come";
            return false;
        }
        for (Fiber &fiber : launch->fibers) {
            fiber.state = State::Ready;
        }
    }
    return true;
}

}  // namespace

Registered::Registered(const char *name, Kernel kernel) { kernels()[name] = kernel; }

void fail(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char where[96];
    std::snprintf(where, sizeof where, " (block %u, %u; thread %u)", block_index.x, block_index.y, thread_index.x);
    launch->error = std::string(text) + where;
    to_scheduler();
}

void barrier() { wait(State::AtBarrier); }

unsigned char *room(unsigned bytes) {
    if (bytes != launch->room.size() * sizeof(uint4)) {
        fail("%u bytes of shared memory where the launch has %zu", bytes, launch->room.size() * sizeof(uint4));
    }
    return reinterpret_cast<unsigned char *>(launch->room.data());
}

void transpose(const unsigned (&row)[4], unsigned (&words)[4]) {
    Lane brought{};
    std::memcpy(brought.a, row, sizeof brought.a);
    const unsigned number = launch->current % WARP, group = number / 4, member = number % 4;
    const Lane *lanes = &together(Warp::Kind::Transpose, brought) - number;
    const auto half = [&](unsigned row_of_all) { return lanes[row_of_all].a[group / 2] >> (16 * (group % 2)) & 0xffff; };
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        const unsigned first = 8 * matrix + 2 * member;
        words[matrix] = half(first) | half(first + 1) << 16;
    }
}

// The bytes arrive when the thread waits for them, as late as they may.
void copy_later(unsigned char *to, const void *from) {
    std::memset(to, 0xff, sizeof(uint4));
    launch->fibers[launch->current].copies.push_back({to, from});
}

void wait_for_copies() {
    std::vector<Copy> &copies = launch->fibers[launch->current].copies;
    for (const Copy &copy : copies) {
        if (copy.from) {
            std::memcpy(copy.to, copy.from, sizeof(uint4));
        } else {
            std::memset(copy.to, 0, sizeof(uint4));
        }
    }
    copies.clear();
}

float exchange(float value, unsigned from) {
    Lane brought{};
    brought.value = value;
    brought.from = from % WARP;
    const Lane &lane = together(Warp::Kind::Exchange, brought);
    const Lane *lanes = &lane - launch->current % WARP;
    return lanes[lane.from].value;
}

void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    Lane brought{};
    std::memcpy(brought.a, a, sizeof brought.a);
    std::memcpy(brought.b, b, sizeof brought.b);
    std::memcpy(brought.sums, sums, sizeof brought.sums);
    const Lane &lane = together(Warp::Kind::Multiply, brought);
    std::memcpy(sums, lane.sums, sizeof brought.sums);
}

}  // namespace emulator

// What the host asks for; `Request` in `emulated.rs`.
struct Request {
    const char *kernel;
    const emulator::Argument *arguments;
    std::uint64_t count;
    char *error;
    std::uint64_t error_bytes;
    unsigned grid[2];
    unsigned threads, shared_bytes;
    int descending;
};

// Runs a kernel. Returns 0, or 1 and says in `error` what went wrong.
extern "C" int moebius_emulate(const Request *request) {
    using namespace emulator;
    const auto found = kernels().find(request->kernel);
    if (found == kernels().end()) {
        std::snprintf(request->error, request->error_bytes, "there is no such kernel");
        return 1;
    }
    if (!launch) {
        launch = std::make_unique<Launch>();
    }
    launch->kernel = found->second;
    if (launch->kernel.threads != request->threads) {
        std::snprintf(request->error, request->error_bytes, "expected blocks of %u threads, got %u",
                      launch->kernel.threads, request->threads);
        return 1;
    }
    launch->room.resize(request->shared_bytes / sizeof(uint4));
    launch->arguments = request->arguments;
    launch->count = request->count;
    launch->error.clear();
    const unsigned wide = request->grid[0], high = request->grid[1];
    block_dim = {request->threads, 1, 1};
    grid_dim = {wide, high, 1};
    const Size blocks = Size(wide) * high;
    for (Size i = 0; i < blocks; ++i) {
        const Size block = request->descending ? blocks - 1 - i : i;
        block_index = {unsigned(block % wide), unsigned(block / wide), 0};
        if (!run_block(request->descending)) {
            std::snprintf(request->error, request->error_bytes, "%s", launch->error.c_str());
            return 1;
        }
    }
    return 0;
}
