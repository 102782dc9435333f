#ifndef CAFFE_CHANNEL_SUM_EUCLIDEAN_LOSS_KERNELS_HPP_
#define CAFFE_CHANNEL_SUM_EUCLIDEAN_LOSS_KERNELS_HPP_

// The arithmetic of ChannelSumEuclideanLoss, for CPU and GPU, without Caffe.
//
//   d[n,s]       = sum_c (x1[n,c,s] - x2[n,c,s])
//   loss         = 1/(2N) * sum_{n,s} d[n,s]^2
//   dx1[n,c,s]   = +(w/N) * d[n,s]
//   dx2[n,c,s]   = -(w/N) * d[n,s]
//
// Channels that only one input has are added (x1) or subtracted (x2) alone.
//
// A Plan fixes every order of summation, and nothing but the shape and the
// type decides a Plan: the same input has the same d, loss and diffs, to the
// bit, in every run, on every device, and on the CPU.
//
// The kernels are plain functions of a Thread, so that a host compiler takes
// them too, and a test can run them under its sanitizers. A Thread has
//   int index()      its number in its block
//   int block()      the number of its block
//   int blocks()     how many blocks there are
//   void Sync()      waits for the threads of its block
//   void SyncWarp()  waits for the kWarp threads around it

#ifndef __CUDACC_RTC__
#include <algorithm>
#include <cstring>
#include <vector>
#endif

#ifdef __CUDACC__
#define CHANNEL_SUM_BOTH __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define CHANNEL_SUM_BOTH inline __attribute__((always_inline))
#else
#define CHANNEL_SUM_BOTH inline
#endif

// What the CPU's loops may use: GCC's and Clang's, on x86-64.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define CHANNEL_SUM_LOOP inline __attribute__((always_inline))
#ifdef __x86_64__
#include <emmintrin.h>
#define CHANNEL_SUM_X86
#endif
#else
#define CHANNEL_SUM_LOOP inline
#endif

namespace caffe {
namespace channel_sum {

typedef long long Index;  // NOLINT(runtime/int): NVRTC has no stdint.h

const int kWarp = 32;
const int kThreads = 256;  // of a block; a power of two
const int kMaxBlocks = 4096;
const int kVectorBytes = 16;  // the widest load of all GPUs up to sm_90
const int kAhead = 4;  // channels whose loads are under way at a time

// Measured on the CPU: the sums that fit into a second-level cache beside what
// is added to them, how much of a diff is copied at once, through the caches and
// past them, and from which size it is written past them.
const Index kSumBytes = 1 << 17;
const Index kCopyBytes = 1 << 15;
const Index kStreamBytes = 1 << 12;
const Index kLargeBytes = 1 << 24;

// How the work is laid out. A group of lanes * rows threads makes the d of
// lanes * vector neighbouring positions of one sample: a lane takes `vector`
// of them, a row every rows-th channel. The samples' groups, one behind the
// other, are cut into tiles, one for a block at a time. Threads are numbered
// as memory is: lane first, then row, then group.
struct Plan {
  Index samples;      // N
  Index channels[2];  // C1, C2
  Index positions;    // S, all axes behind the channels in one
  int threads;        // of a block
  int vector;         // positions of a thread
  int lanes;          // a power of two
  int rows;           // a power of two
  Index strips;       // groups that one sample needs
  Index tiles;
  int blocks;
};

// The part of the work that falls to one thread in one tile.
struct Place {
  bool active;
  int row;
  Index sample;
  Index position;  // the first of `vector`
};

// ---------------------------------------------------------------------------
// The mathematics. It is written here only.

// One channel more of a d.
template <typename Dtype>
CHANNEL_SUM_BOTH Dtype Add(Dtype sum, Dtype x1, Dtype x2) {
  return sum + (x1 - x2);
}

// Exact for float. The intrinsic keeps nvcc from fusing the product with the
// sum around it, which would make other bits of a double than the CPU does.
template <typename Dtype>
CHANNEL_SUM_BOTH double Square(Dtype d) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(static_cast<double>(d), static_cast<double>(d));
#else
  return static_cast<double>(d) * static_cast<double>(d);
#endif
}

template <typename Dtype>
CHANNEL_SUM_BOTH Dtype Loss(double squares, Index samples) {
  return static_cast<Dtype>(squares / (2. * static_cast<double>(samples)));
}

template <typename Dtype>
CHANNEL_SUM_BOTH Dtype Scale(Dtype weight, Index samples) {
  return static_cast<Dtype>(static_cast<double>(weight)
                            / static_cast<double>(samples));
}

template <typename Dtype>
CHANNEL_SUM_BOTH Dtype Gradient(Dtype scale, Dtype d) {
  return scale * d;
}

// ---------------------------------------------------------------------------
// The kernels.

// kVector numbers side by side, moved at once where they are aligned to it.
template <typename Dtype, int kVector>
struct Pack {
  Dtype v[kVector];
} __attribute__((aligned(kVector * sizeof(Dtype))));

template <typename Dtype, int kVector, bool kAligned>
CHANNEL_SUM_BOTH void Load(const Dtype* from, Dtype* to) {
  if (kAligned) {
    const Pack<Dtype, kVector> pack =
        *reinterpret_cast<const Pack<Dtype, kVector>*>(from);
    for (int v = 0; v < kVector; ++v) { to[v] = pack.v[v]; }
  } else {
    for (int v = 0; v < kVector; ++v) { to[v] = from[v]; }
  }
}

template <typename Dtype, int kVector, bool kAligned>
CHANNEL_SUM_BOTH void Store(const Dtype* from, Dtype* to) {
  if (kAligned) {
    Pack<Dtype, kVector> pack;
    for (int v = 0; v < kVector; ++v) { pack.v[v] = from[v]; }
    *reinterpret_cast<Pack<Dtype, kVector>*>(to) = pack;
  } else {
    for (int v = 0; v < kVector; ++v) { to[v] = from[v]; }
  }
}

CHANNEL_SUM_BOTH Place PlaceOf(const Plan& plan, Index tile, int thread) {
  const int group_size = plan.lanes * plan.rows;
  const int groups = plan.threads / group_size;
  const Index group = tile * groups + thread / group_size;
  Place place;
  place.row = thread / plan.lanes % plan.rows;
  place.sample = group;
  place.position = thread % plan.lanes * plan.vector;
  if (plan.strips > 1) {
    place.sample = group / plan.strips;
    place.position +=
        (group - place.sample * plan.strips) * plan.lanes * plan.vector;
  }
  place.active = place.sample < plan.samples
      && place.position < plan.positions;
  return place;
}

// Adds the channels c, c + rows, ... below `end` to sum, of the inputs that
// have them. All kAhead loads are issued before the first sum waits for one.
template <typename Dtype, int kVector, bool kAligned, bool kFirst,
          bool kSecond>
CHANNEL_SUM_BOTH void AddChannels(const Plan& plan, const Dtype* x1,
    const Dtype* x2, Index c, Index end, Dtype* sum) {
  const Index stride = plan.rows * plan.positions;
  for (Index offset = c * plan.positions; c < end; c += kAhead * plan.rows) {
    Dtype a[kAhead][kVector];
    Dtype b[kAhead][kVector];
    for (int k = 0; k < kAhead; ++k) {
      for (int v = 0; v < kVector; ++v) { a[k][v] = b[k][v] = 0; }
      if (c + k * plan.rows < end) {
        if (kFirst) { Load<Dtype, kVector, kAligned>(x1 + offset, a[k]); }
        if (kSecond) { Load<Dtype, kVector, kAligned>(x2 + offset, b[k]); }
      }
      offset += stride;
    }
    // Behind `end` this adds 0, which changes no bit: a sum is never -0.
    for (int k = 0; k < kAhead; ++k) {
      for (int v = 0; v < kVector; ++v) {
        sum[v] = Add(sum[v], a[k][v], b[k][v]);
      }
    }
  }
}

// The sum of one value of each thread, in thread 0. shared: threads doubles.
template <typename Thread>
CHANNEL_SUM_BOTH double BlockSum(const Thread& thread, int threads,
    double value, double* shared) {
  const int t = thread.index();
  shared[t] = value;
  for (int half = threads / 2; half > 0; half /= 2) {
    thread.Sync();
    if (t < half) { shared[t] += shared[t + half]; }
  }
  return shared[t];
}

// Makes d, and of each block's part of it the sum of its squares.
// sums: threads * kVector, squares: threads, both shared by the block.
template <typename Dtype, int kVector, bool kAligned, typename Thread>
CHANNEL_SUM_BOTH void ForwardBlock(const Thread& thread, const Plan& plan,
    const Dtype* __restrict__ x1, const Dtype* __restrict__ x2,
    Dtype* __restrict__ d, double* __restrict__ partials, Dtype* sums,
    double* squares) {
  const int t = thread.index();
  const bool in_warp = plan.lanes * plan.rows <= kWarp;
  const Index c1 = plan.channels[0];
  const Index c2 = plan.channels[1];
  double square = 0;
  for (Index tile = thread.block(); tile < plan.tiles;
       tile += thread.blocks()) {
    const Place place = PlaceOf(plan, tile, t);
    Dtype sum[kVector];
    for (int v = 0; v < kVector; ++v) { sum[v] = 0; }
    if (place.active) {
      const Dtype* p1 = x1 + place.sample * c1 * plan.positions
          + place.position;
      const Dtype* p2 = x2 + place.sample * c2 * plan.positions
          + place.position;
      const Index both = c1 < c2 ? c1 : c2;
      AddChannels<Dtype, kVector, kAligned, true, true>(plan, p1, p2,
          place.row, both, sum);
      // This row's first channel from `both` on.
      const Index c =
          both + (place.row - both % plan.rows + plan.rows) % plan.rows;
      if (c1 > c2) {
        AddChannels<Dtype, kVector, kAligned, true, false>(plan, p1, p2,
            c, c1, sum);
      } else if (c1 < c2) {
        AddChannels<Dtype, kVector, kAligned, false, true>(plan, p1, p2,
            c, c2, sum);
      }
    }
    if (plan.rows > 1) {
      for (int v = 0; v < kVector; ++v) { sums[v * plan.threads + t] = sum[v]; }
      for (int half = plan.rows / 2; half > 0; half /= 2) {
        if (in_warp) { thread.SyncWarp(); } else { thread.Sync(); }
        if (place.row < half) {
          for (int v = 0; v < kVector; ++v) {
            sum[v] += sums[v * plan.threads + t + half * plan.lanes];
            sums[v * plan.threads + t] = sum[v];
          }
        }
      }
      // The next tile overwrites what row 0 has just read.
      if (in_warp) { thread.SyncWarp(); } else { thread.Sync(); }
    }
    if (place.active && place.row == 0) {
      Store<Dtype, kVector, kAligned>(sum,
          d + place.sample * plan.positions + place.position);
      for (int v = 0; v < kVector; ++v) { square += Square(sum[v]); }
    }
  }
  square = BlockSum(thread, plan.threads, square, squares);
  if (t == 0) { partials[thread.block()] = square; }
}

// Makes the loss of what ForwardBlock left, in one block.
template <typename Dtype, typename Thread>
CHANNEL_SUM_BOTH void FinishBlock(const Thread& thread, const Plan& plan,
    const double* __restrict__ partials, Dtype* __restrict__ loss,
    double* squares) {
  double square = 0;
  for (int b = thread.index(); b < plan.blocks; b += plan.threads) {
    square += partials[b];
  }
  square = BlockSum(thread, plan.threads, square, squares);
  if (thread.index() == 0) { *loss = Loss<Dtype>(square, plan.samples); }
}

template <typename Dtype, int kVector, bool kAligned>
CHANNEL_SUM_BOTH void StoreChannels(const Plan& plan, const Place& place,
    Index channels, const Dtype* gradient, Dtype* diff) {
  Dtype* to = diff + place.position
      + (place.sample * channels + place.row) * plan.positions;
  for (Index c = place.row; c < channels; c += plan.rows) {
    Store<Dtype, kVector, kAligned>(gradient, to);
    to += plan.rows * plan.positions;
  }
}

// Writes the diffs; dx1 or dx2 is NULL where none is wanted.
template <typename Dtype, int kVector, bool kAligned, typename Thread>
CHANNEL_SUM_BOTH void BackwardBlock(const Thread& thread, const Plan& plan,
    const Dtype* __restrict__ d, const Dtype* __restrict__ weight,
    Dtype* __restrict__ dx1, Dtype* __restrict__ dx2) {
  const Dtype scale = Scale(*weight, plan.samples);
  for (Index tile = thread.block(); tile < plan.tiles;
       tile += thread.blocks()) {
    const Place place = PlaceOf(plan, tile, thread.index());
    if (!place.active) { continue; }
    Dtype g[kVector];
    Load<Dtype, kVector, kAligned>(
        d + place.sample * plan.positions + place.position, g);
    for (int v = 0; v < kVector; ++v) { g[v] = Gradient(scale, g[v]); }
    if (dx1) {
      StoreChannels<Dtype, kVector, kAligned>(plan, place, plan.channels[0],
          g, dx1);
    }
    for (int v = 0; v < kVector; ++v) { g[v] = -g[v]; }
    if (dx2) {
      StoreChannels<Dtype, kVector, kAligned>(plan, place, plan.channels[1],
          g, dx2);
    }
  }
}

// ---------------------------------------------------------------------------
// The kernels on a GPU.

#ifdef __CUDACC__

struct CudaThread {
  __device__ int index() const { return threadIdx.x; }
  __device__ int block() const { return blockIdx.x; }
  __device__ int blocks() const { return gridDim.x; }
  __device__ void Sync() const { __syncthreads(); }
  __device__ void SyncWarp() const { __syncwarp(); }
};

template <typename Dtype, int kVector, bool kAligned>
__global__ void __launch_bounds__(kThreads) ForwardKernel(Plan plan,
    const Dtype* x1, const Dtype* x2, Dtype* d, double* partials) {
  __shared__ Dtype sums[kThreads * kVector];
  __shared__ double squares[kThreads];
  ForwardBlock<Dtype, kVector, kAligned>(CudaThread(), plan, x1, x2, d,
      partials, sums, squares);
}

template <typename Dtype>
__global__ void __launch_bounds__(kThreads) FinishKernel(Plan plan,
    const double* partials, Dtype* loss) {
  __shared__ double squares[kThreads];
  FinishBlock(CudaThread(), plan, partials, loss, squares);
}

template <typename Dtype, int kVector, bool kAligned>
__global__ void __launch_bounds__(kThreads) BackwardKernel(Plan plan,
    const Dtype* d, const Dtype* weight, Dtype* dx1, Dtype* dx2) {
  BackwardBlock<Dtype, kVector, kAligned>(CudaThread(), plan, d, weight, dx1,
      dx2);
}

#endif  // __CUDACC__

// ---------------------------------------------------------------------------
// The plan, and the CPU's loops over it.

#ifndef __CUDACC_RTC__

// threads: of a block, a power of two up to kThreads.
template <typename Dtype>
inline Plan MakePlan(Index samples, Index channels1, Index channels2,
    Index positions, int threads = kThreads) {
  const Index channels = std::max(channels1, channels2);
  Plan plan;
  plan.samples = samples;
  plan.channels[0] = channels1;
  plan.channels[1] = channels2;
  plan.positions = positions;
  plan.threads = threads;
  const int widest = kVectorBytes / sizeof(Dtype);
  plan.vector = positions % widest == 0 ? widest : 1;
  plan.lanes = 1;
  while (plan.lanes < std::min(kWarp, threads)
         && plan.lanes * plan.vector < positions) {
    plan.lanes *= 2;
  }
  const Index wide = plan.lanes * plan.vector;
  plan.strips = (positions + wide - 1) / wide;
  // More rows where the positions alone are too few to read a whole 128-byte
  // line side by side, or to keep a large GPU busy.
  const Index busy = 1 << 18;  // threads
  plan.rows = 1;
  while (plan.lanes * plan.rows * 2 <= threads && plan.rows * 2 <= channels
         && (wide * plan.rows < kWarp
             || samples * plan.strips * plan.lanes * plan.rows < busy)) {
    plan.rows *= 2;
  }
  const Index groups = threads / (plan.lanes * plan.rows);
  plan.tiles = (samples * plan.strips + groups - 1) / groups;
  plan.blocks = static_cast<int>(
      std::max<Index>(std::min<Index>(plan.tiles, kMaxBlocks), 1));
  return plan;
}

inline double TreeSum(std::vector<double>* values) {
  for (size_t half = values->size() / 2; half > 0; half /= 2) {
    for (size_t t = 0; t < half; ++t) { (*values)[t] += (*values)[t + half]; }
  }
  return (*values)[0];
}

// The CPU's inner loops, which a compiler turns into vector code at -O3. Each
// is there for AVX2 and AVX-512 as well, and taken where that runs, whatever
// the flags: it makes the same bits, for nothing is added in another order.

// sum[i], which is 0 before where kFresh, gets number i of kRuns runs, one after
// the other; they begin `stride` apart, in the inputs that have them.
template <typename Dtype, int kRuns, bool kFresh, bool kFirst, bool kSecond>
CHANNEL_SUM_LOOP void AddRunsLoop(const Dtype* __restrict__ x1,
    const Dtype* __restrict__ x2, Index stride, Index count,
    Dtype* __restrict__ sum) {
  for (Index i = 0; i < count; ++i) {
    Dtype all = kFresh ? Dtype(0) : sum[i];
    for (int k = 0; k < kRuns; ++k) {
      const Index at = k * stride + i;
      all = Add(all, kFirst ? x1[at] : Dtype(0), kSecond ? x2[at] : Dtype(0));
    }
    sum[i] = all;
  }
}

// to[i] gets a[i] + b[i]; `to` may be a.
template <typename Dtype>
CHANNEL_SUM_LOOP void FoldLoop(const Dtype* a, const Dtype* b, Index count,
    Dtype* to) {
  for (Index i = 0; i < count; ++i) { to[i] = a[i] + b[i]; }
}

// squares[i] gets the squares of kVector numbers, one after the other.
template <typename Dtype, int kVector>
CHANNEL_SUM_LOOP void AddSquaresLoop(const Dtype* __restrict__ d, Index count,
    double* __restrict__ squares) {
  for (Index i = 0; i < count; ++i) {
    double square = squares[i];
    for (int v = 0; v < kVector; ++v) { square += Square(d[i * kVector + v]); }
    squares[i] = square;
  }
}

template <typename Dtype>
CHANNEL_SUM_LOOP void ScaleLoop(Dtype scale, const Dtype* __restrict__ d,
    Index count, Dtype* __restrict__ diff) {
  for (Index i = 0; i < count; ++i) { diff[i] = Gradient(scale, d[i]); }
}

#ifdef CHANNEL_SUM_X86

#define CHANNEL_SUM_LOOPS_FOR(Processor, features) \
  template <typename Dtype, int kRuns, bool kFresh, bool kFirst, \
            bool kSecond> \
  __attribute__((target(features))) inline void AddRuns##Processor( \
      const Dtype* x1, const Dtype* x2, Index stride, Index count, \
      Dtype* sum) { \
    AddRunsLoop<Dtype, kRuns, kFresh, kFirst, kSecond>(x1, x2, stride, \
        count, sum); \
  } \
  template <typename Dtype> \
  __attribute__((target(features))) inline void Fold##Processor( \
      const Dtype* a, const Dtype* b, Index count, Dtype* to) { \
    FoldLoop(a, b, count, to); \
  } \
  template <typename Dtype> \
  __attribute__((target(features))) inline void Scale##Processor( \
      Dtype scale, const Dtype* d, Index count, Dtype* diff) { \
    ScaleLoop(scale, d, count, diff); \
  }

#ifdef __clang__
#define CHANNEL_SUM_AVX512 "avx512f"
#else  // GCC takes half of AVX-512's width, unless it is told to
#define CHANNEL_SUM_AVX512 "avx512f,prefer-vector-width=512"
#endif
CHANNEL_SUM_LOOPS_FOR(Avx2, "avx2")
CHANNEL_SUM_LOOPS_FOR(Avx512, CHANNEL_SUM_AVX512)

// Not for AVX-512, which can fuse the product with the sum.
template <typename Dtype, int kVector>
__attribute__((target("avx2"))) inline void AddSquaresAvx2(const Dtype* d,
    Index count, double* squares) {
  AddSquaresLoop<Dtype, kVector>(d, count, squares);
}

#define CHANNEL_SUM_CHOOSE(processor, call) \
  if (__builtin_cpu_supports(processor)) { return call; }
#else
#define CHANNEL_SUM_CHOOSE(processor, call)
#endif

template <typename Dtype, int kRuns, bool kFresh, bool kFirst, bool kSecond>
inline void AddRuns(const Dtype* x1, const Dtype* x2, Index stride,
    Index count, Dtype* sum) {
  CHANNEL_SUM_CHOOSE("avx512f",
      (AddRunsAvx512<Dtype, kRuns, kFresh, kFirst, kSecond>(
          x1, x2, stride, count, sum)))
  CHANNEL_SUM_CHOOSE("avx2",
      (AddRunsAvx2<Dtype, kRuns, kFresh, kFirst, kSecond>(
          x1, x2, stride, count, sum)))
  AddRunsLoop<Dtype, kRuns, kFresh, kFirst, kSecond>(x1, x2, stride, count,
      sum);
}

template <typename Dtype>
inline void Fold(const Dtype* a, const Dtype* b, Index count, Dtype* to) {
  CHANNEL_SUM_CHOOSE("avx512f", FoldAvx512(a, b, count, to))
  CHANNEL_SUM_CHOOSE("avx2", FoldAvx2(a, b, count, to))
  FoldLoop(a, b, count, to);
}

template <typename Dtype, int kVector>
inline void AddSquares(const Dtype* d, Index count, double* squares) {
  CHANNEL_SUM_CHOOSE("avx2",
      (AddSquaresAvx2<Dtype, kVector>(d, count, squares)))
  AddSquaresLoop<Dtype, kVector>(d, count, squares);
}

template <typename Dtype>
inline void ScaleNumbers(Dtype scale, const Dtype* d, Index count,
    Dtype* diff) {
  CHANNEL_SUM_CHOOSE("avx512f", ScaleAvx512(scale, d, count, diff))
  CHANNEL_SUM_CHOOSE("avx2", ScaleAvx2(scale, d, count, diff))
  ScaleLoop(scale, d, count, diff);
}

// Copies past the caches: memory that is written only is not read first.
// to: aligned to 4 bytes, of which `bytes` is a multiple.
inline void Stream(const void* from, Index bytes, void* to) {
#ifdef CHANNEL_SUM_X86
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  char* const end = target + bytes;
  while (target < end) {
    if (reinterpret_cast<size_t>(target) % 16 == 0 && end - target >= 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(target),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
      source += 16;
      target += 16;
    } else {
      int four;
      std::memcpy(&four, source, 4);
      _mm_stream_si32(reinterpret_cast<int*>(target), four);
      source += 4;
      target += 4;
    }
  }
#else
  std::memcpy(to, from, bytes);
#endif
}

// Adds kRuns channels to each row, from the first row on, `step` rows at once.
template <typename Dtype, int kRuns, bool kFirst, bool kSecond>
inline void SumRuns(const Plan& plan, const Dtype* x1, const Dtype* x2,
    Index c, Index step, Index width, Dtype* sums) {
  const Index stride = plan.rows * plan.positions;
  for (Index r = 0; r < plan.rows; r += step) {
    const Index at = (c + r) * plan.positions;
    (c == 0 ? AddRuns<Dtype, kRuns, true, kFirst, kSecond>
            : AddRuns<Dtype, kRuns, false, kFirst, kSecond>)(
        x1 + at, x2 + at, stride, step * width, sums + r * width);
  }
}

// Adds channels c to end - 1 of `width` positions of one sample to the sums of
// their rows, in the order of ForwardBlock, but read along memory; up to six
// channels of a row at once. A row's first channel makes its sums, rows * width.
template <typename Dtype, bool kFirst, bool kSecond>
inline void SumChannels(const Plan& plan, const Dtype* x1, const Dtype* x2,
    Index c, Index end, Index width, Dtype* sums) {
  const Index rows = plan.rows;
  // Whole samples are contiguous: then as many channels in a run as are rows.
  const Index step = width == plan.positions ? rows : 1;
  while (c < end) {
    const Index row = c % rows;
    if (row == 0 && end - c >= 6 * rows) {
      SumRuns<Dtype, 6, kFirst, kSecond>(plan, x1, x2, c, step, width, sums);
      c += 6 * rows;
    } else if (row == 0 && end - c >= 2 * rows) {
      SumRuns<Dtype, 2, kFirst, kSecond>(plan, x1, x2, c, step, width, sums);
      c += 2 * rows;
    } else {
      const bool fresh = c < rows;
      const Index count = std::min(step - c % step, end - c);
      const Index at = c * plan.positions;
      (fresh ? AddRuns<Dtype, 1, true, kFirst, kSecond>
             : AddRuns<Dtype, 1, false, kFirst, kSecond>)(
          x1 + at, x2 + at, 0, count * width, sums + row * width);
      c += count;
    }
  }
}

// Makes d of the samples `first` to last - 1: the bits that ForwardBlock makes.
template <typename Dtype>
inline void MakeDifference(const Plan& plan, Index first, Index last,
    const Dtype* x1, const Dtype* x2, Dtype* d) {
  const Index c1 = plan.channels[0];
  const Index c2 = plan.channels[1];
  const Index both = std::min(c1, c2);
  // The longest runs of memory whose sums stay in the second-level cache.
  const Index room = kSumBytes / sizeof(Dtype) / plan.rows;
  const Index chunk = std::min(plan.positions, room);
  std::vector<Dtype> sums(chunk * plan.rows);
  for (Index n = first; n < last; ++n) {
    for (Index s = 0; s < plan.positions; s += chunk) {
      const Index width = std::min(chunk, plan.positions - s);
      const Dtype* a = x1 + n * c1 * plan.positions + s;
      const Dtype* b = x2 + n * c2 * plan.positions + s;
      SumChannels<Dtype, true, true>(plan, a, b, 0, both, width, &sums[0]);
      SumChannels<Dtype, true, false>(plan, a, b, both, c1, width, &sums[0]);
      SumChannels<Dtype, false, true>(plan, a, b, both, c2, width, &sums[0]);
      for (Index half = plan.rows / 2; half > 0; half /= 2) {
        Fold(&sums[0], &sums[half * width], half * width, &sums[0]);
      }
      std::copy(sums.begin(), sums.begin() + width,
                d + n * plan.positions + s);
    }
  }
}

// Makes partials[first] to partials[last - 1], as those blocks make them.
template <typename Dtype>
inline void SumSquares(const Plan& plan, int first, int last, const Dtype* d,
    double* partials) {
  const Index groups = plan.threads / (plan.lanes * plan.rows);
  const Index wide = plan.lanes * plan.vector;
  const Index all = plan.samples * plan.strips;
  // Of row 0 alone, which has the sums: those of the other rows are 0.
  std::vector<double> squares(groups * plan.lanes);
  for (int block = first; block < last; ++block) {
    std::fill(squares.begin(), squares.end(), 0.);
    for (Index tile = block; tile < plan.tiles; tile += plan.blocks) {
      const Index begin = tile * groups;
      for (Index group = begin; group < std::min(begin + groups, all);
           ++group) {
        const Index position = group % plan.strips * wide;
        const Index count = std::min(wide, plan.positions - position);
        const Dtype* from =
            d + group / plan.strips * plan.positions + position;
        double* to = &squares[(group - begin) * plan.lanes];
        if (plan.vector == 1) {
          AddSquares<Dtype, 1>(from, count, to);
        } else {
          const int kWidest = kVectorBytes / sizeof(Dtype);
          AddSquares<Dtype, kWidest>(from, count / kWidest, to);
        }
      }
    }
    partials[block] = TreeSum(&squares);
  }
}

// The loss of what SumSquares left, as FinishBlock makes it.
template <typename Dtype>
inline Dtype Finish(const Plan& plan, const double* partials) {
  std::vector<double> totals(plan.threads);
  for (int block = 0; block < plan.blocks; ++block) {
    totals[block % plan.threads] += partials[block];
  }
  return Loss<Dtype>(TreeSum(&totals), plan.samples);
}

// Makes d and returns the loss: the bits that the kernels make.
template <typename Dtype>
inline Dtype ForwardCPU(const Plan& plan, const Dtype* x1, const Dtype* x2,
    Dtype* d) {
  std::vector<double> partials(plan.blocks);
  MakeDifference(plan, 0, plan.samples, x1, x2, d);
  SumSquares(plan, 0, plan.blocks, d, &partials[0]);
  return Finish<Dtype>(plan, &partials[0]);
}

// Writes the diff of one input for the samples `first` to last - 1, scaled by
// `scale`: Scale(), or its negative. A diff of `large` bytes is streamed.
template <typename Dtype>
inline void MakeDiff(const Plan& plan, Index channels, Dtype scale,
    Index first, Index last, const Dtype* d, Dtype* diff, Index large) {
  const Index size = channels * plan.positions;  // of a sample
  if (size == 0) { return; }
  const Index bytes = plan.samples * size * sizeof(Dtype);
  const bool stream = bytes >= large;
  // A few channels in one piece, so that no copy is short.
  const Index enough = stream ? kStreamBytes : kCopyBytes;
  const Index few = std::max<Index>(
      enough / (plan.positions * sizeof(Dtype)), 1);
  const Index whole = std::min(few, channels) * plan.positions;
  std::vector<Dtype> piece(stream ? whole : 0);
  for (Index n = first; n < last; ++n) {
    Dtype* to = diff + n * size;
    // The first channels are copied over and over: out of the caches, also
    // where they are the beginning of the diff itself.
    Dtype* from = stream ? &piece[0] : to;
    ScaleNumbers(scale, d + n * plan.positions, plan.positions, from);
    for (Index have = plan.positions; have < whole; have *= 2) {
      std::memcpy(from + have, from,
                  std::min(have, whole - have) * sizeof(Dtype));
    }
    for (Index i = stream ? 0 : whole; i < size; i += whole) {
      const Index count = std::min(whole, size - i) * sizeof(Dtype);
      if (stream) {
        Stream(from, count, to + i);
      } else {
        std::memcpy(to + i, from, count);
      }
    }
  }
#ifdef CHANNEL_SUM_X86
  _mm_sfence();  // what was streamed is there for other threads, too
#endif
}

// The same for all samples.
template <typename Dtype>
inline void BackwardCPU(const Plan& plan, Index channels, Dtype scale,
    const Dtype* d, Dtype* diff, Index large = kLargeBytes) {
  MakeDiff(plan, channels, scale, 0, plan.samples, d, diff, large);
}

#endif  // __CUDACC_RTC__

}  // namespace channel_sum
}  // namespace caffe

#undef CHANNEL_SUM_BOTH
#undef CHANNEL_SUM_LOOP
#undef CHANNEL_SUM_AVX512
#undef CHANNEL_SUM_X86
#undef CHANNEL_SUM_LOOPS_FOR
#undef CHANNEL_SUM_CHOOSE

#endif  // CAFFE_CHANNEL_SUM_EUCLIDEAN_LOSS_KERNELS_HPP_
