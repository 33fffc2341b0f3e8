// What generated CUDA kernels use, on a CPU: every thread of a block is a fiber, which runs up to its next barrier.
// Included before a generated source; EMULATED(name) after it makes a kernel known to the driver in driver.cpp.
#pragma once
#include <immintrin.h>
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __restrict__
#define __align__(n) alignas(n)
using uint = unsigned;
using uchar = unsigned char;
using ushort = unsigned short;

struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

// ---- fibers

struct Fiber {
  ucontext_t first;
  jmp_buf at;
  bool begun = false, done = false;
  Dim place;
};
static std::vector<Fiber> fibers;
static std::vector<char*> stacks;
static jmp_buf scheduler;
static unsigned current, live, arrived, generation;
struct Warp { unsigned live, arrived, generation; unsigned long long slots[32]; };
static std::vector<Warp> warps;
static void (*entry)(void**);
static void** arguments;
static const size_t kStack = 256 << 10;

static void yield() {
  if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
}

static void release() {
  if (live && arrived == live) { arrived = 0; ++generation; }
}

static void release(Warp& warp) {
  if (warp.live && warp.arrived == warp.live) { warp.arrived = 0; ++warp.generation; }
}

static void body() {
  entry(arguments);
  fibers[current].done = true;
  --live;
  --warps[current / 32].live;
  release();
  release(warps[current / 32]);
  _longjmp(scheduler, 1);
}

static void __syncthreads() {
  unsigned mine = generation;
  ++arrived;
  release();
  while (generation == mine) yield();
}

static void __syncwarp(unsigned = 0) {
  Warp& warp = warps[current / 32];
  unsigned mine = warp.generation;
  ++warp.arrived;
  release(warp);
  while (warp.generation == mine) yield();
}

static unsigned __activemask() { return 0xffffffffu; }

template <class T>
static T shuffle(T value, int source) {
  Warp& warp = warps[current / 32];
  std::memcpy(&warp.slots[current % 32], &value, sizeof(T));
  __syncwarp();
  T found;
  std::memcpy(&found, &warp.slots[source & 31], sizeof(T));
  __syncwarp();
  return found;
}

template <class T>
static T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  int own = current % 32;
  return shuffle(value, own / width * width + lane % width);
}

template <class T>
static T __shfl_down_sync(unsigned, T value, int by, int width = 32) {
  int own = current % 32, source = own + by;
  return shuffle(value, source / width == own / width ? source : own);
}

static void run_block() {
  unsigned count = blockDim.x * blockDim.y * blockDim.z;
  fibers.assign(count, Fiber());
  warps.assign((count + 31) / 32, Warp());
  live = count, arrived = generation = 0;
  while (stacks.size() < count) stacks.push_back(static_cast<char*>(std::malloc(kStack)));
  for (unsigned i = 0; i < count; ++i) {
    fibers[i].place = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    ++warps[i / 32].live;
    getcontext(&fibers[i].first);
    fibers[i].first.uc_stack.ss_sp = stacks[i];
    fibers[i].first.uc_stack.ss_size = kStack;
    makecontext(&fibers[i].first, body, 0);
  }
  while (live) {
    for (volatile unsigned i = 0; i < count; ++i) {
      if (fibers[i].done) continue;
      current = i;
      threadIdx = fibers[i].place;
      if (_setjmp(scheduler) != 0) continue;
      if (fibers[i].begun) _longjmp(fibers[i].at, 1);
      fibers[i].begun = true;
      setcontext(&fibers[i].first);
    }
  }
}

template <class... A, std::size_t... I>
static void unpack(void (*kernel)(A...), void** given, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<A>*>(given[I])...);
}
template <class... A>
static void call(void (*kernel)(A...), void** given) {
  unpack(kernel, given, std::index_sequence_for<A...>());
}

static std::map<std::string, void (*)(void**)>& kernels() {
  static std::map<std::string, void (*)(void**)> found;
  return found;
}
#define EMULATED(name) \
  static bool known_##name = (kernels()[#name] = [](void** given) { call(&name, given); }, true);

extern "C" void* emulated_find(const char* name) {
  auto at = kernels().find(name);
  return at == kernels().end() ? nullptr : reinterpret_cast<void*>(at->second);
}
extern "C" void emulated_launch(void* kernel, const unsigned* grid, const unsigned* block, void** given) {
  entry = reinterpret_cast<void (*)(void**)>(kernel);
  arguments = given;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        run_block();
      }
}

// ---- 16-bit floats: every operation rounds

template <class Format>
struct Narrow {
  std::uint16_t bits = 0;
  Narrow() = default;
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
  Narrow(T value) : bits(Format::narrow(static_cast<float>(value))) {}
  operator float() const { return Format::wide(bits); }
};
struct Half {
  static std::uint16_t narrow(float x) { return _cvtss_sh(x, 0); }
  static float wide(std::uint16_t x) { return _cvtsh_ss(x); }
};
struct Brain {
  static std::uint16_t narrow(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
  static float wide(std::uint16_t x) {
    std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
  }
};
using half = Narrow<Half>;
using __half = half;
using nv_bfloat16 = Narrow<Brain>;
using __nv_bfloat16 = nv_bfloat16;
#define NARROW_OPERATOR(op)                                                       \
  template <class F>                                                              \
  static Narrow<F> operator op(Narrow<F> a, Narrow<F> b) { return Narrow<F>(float(a) op float(b)); }
NARROW_OPERATOR(+) NARROW_OPERATOR(-) NARROW_OPERATOR(*) NARROW_OPERATOR(/)
static half __float2half_rn(float x) { return half(x); }
static nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
template <class F>
static Narrow<F> max(Narrow<F> a, Narrow<F> b) { return float(a) > float(b) ? a : b; }
template <class F>
static Narrow<F> min(Narrow<F> a, Narrow<F> b) { return float(a) < float(b) ? a : b; }
template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
static T max(T a, T b) { return a > b ? a : b; }
template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
static T min(T a, T b) { return a < b ? a : b; }
#define CUDART_INF_F INFINITY
#define CUDART_INF static_cast<double>(INFINITY)
#define CUDART_INF_FP16 half(INFINITY)

// ---- matrix units: the first lane of a warp holds the whole fragment and does all of the work

namespace nvcuda::wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major; struct col_major;
enum layout_t { mem_row_major, mem_col_major };
static bool first() { return current % 32 == 0; }
template <class Use, int M, int N, int K, class T, class Order = row_major>
struct fragment { T x[256]; };
template <class F, class T>
static void fill_fragment(F& f, T value) {
  if (first()) for (auto& x : f.x) x = value;
}
template <class Use, class T, class Order, class S>
static void load_matrix_sync(fragment<Use, 16, 16, 16, T, Order>& f, const S* from, unsigned stride) {
  if (!first()) return;
  bool rows = std::is_same_v<Order, row_major>;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) f.x[i * 16 + j] = rows ? from[i * stride + j] : from[j * stride + i];
}
template <class T, class A, class B, class P, class Q>
static void mma_sync(fragment<accumulator, 16, 16, 16, T>& d, const fragment<matrix_a, 16, 16, 16, A, P>& a,
                     const fragment<matrix_b, 16, 16, 16, B, Q>& b, const fragment<accumulator, 16, 16, 16, T>& c) {
  if (!first()) return;
  float left[256], right[256], sums[256];
  for (int i = 0; i < 256; ++i) left[i] = a.x[i], right[i] = b.x[i], sums[i] = c.x[i];
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 16; ++j) sums[i * 16 + j] += left[i * 16 + k] * right[k * 16 + j];
  for (int i = 0; i < 256; ++i) d.x[i] = sums[i];
}
template <class T, class S>
static void store_matrix_sync(S* to, const fragment<accumulator, 16, 16, 16, T>& f, unsigned stride, layout_t) {
  if (!first()) return;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) to[i * stride + j] = f.x[i * 16 + j];
}
}  // namespace nvcuda::wmma
